"""A decoder-only transformer: its weights declared, and its forward pass. Read this file first.

B batch, T positions, D d_model, F d_ff, V vocab, L repeats of a stack's pattern.

It knows no file format, optimiser or sampling. Layers that differ are places in a stack's pattern, and each place's
weights carry a leading axis of the repeats that a scan walks. `hidden_states` is for training and scoring,
`cached_hidden_states` for prefill and decoding: both run the same layers, with another `attend` in `LayerInputs`.
"""

import dataclasses
from collections.abc import Callable
from functools import partial

import jax
import jax.numpy as jnp

from vishwamai.models import cache as kv
from vishwamai.models import feedforward, latent, moe, norm
from vishwamai.models.attention import (
    BY_PLATFORM,
    Attention,
    Implementations,
    LayerCacheView,
    LayerInputs,
    RopeAngles,
    attend_cached,
    attend_uncached,
    attention_specs,
    self_attention,
)
from vishwamai.models.cache import KVCache
from vishwamai.models.config import Layer, ModelConfig, Rope, Stack
from vishwamai.models.feedforward import FeedForward, feed_forward
from vishwamai.models.latent import LatentAttention, latent_attention
from vishwamai.models.norm import Norm, apply_norm
from vishwamai.ops import rope
from vishwamai.ops.moe import RouterSums, check_implementation
from vishwamai.parallel.sharding import SINGLE, Sharding
from vishwamai.weights import spec
from vishwamai.weights.linear import add_bias, einsum, layout, lookup_rows, materialize
from vishwamai.weights.spec import Param, pytree

Array = jax.Array

REMAT = {  # what the forward pass keeps for the backward pass; the rest is computed again
    "none": None,
    "full": jax.checkpoint_policies.nothing_saveable,
    "dots": jax.checkpoint_policies.dots_with_no_batch_dims_saveable,
    "attention": jax.checkpoint_policies.save_only_these_names("attention"),
}


@pytree
class Block:
    """One layer: attention and feed-forward, with the norms that the model has before and after each."""

    attn_norm: Norm | None  # [D]
    attn: Attention | LatentAttention
    attn_post_norm: Norm | None  # [D]
    ffn_norm: Norm | None  # [D]
    ffn: FeedForward | moe.MoE
    ffn_post_norm: Norm | None  # [D]


@pytree
class Transformer:
    """All weights of a model."""

    embed: Array  # [V, D]
    positions: Array | None  # [max_length, D], learned ones
    embed_norm: Norm | None  # [D]
    stacks: tuple[tuple[Block, ...], ...]  # one block for each place in each pattern, every leaf [L, ...]
    final_norm: Norm  # [D]
    lm_head: Array | None  # [D, V]; None when tied to embed
    head_bias: Array | None  # [V]


def specs(cfg: ModelConfig) -> Transformer:
    """Returns the specs of the model's weights."""
    D, V = cfg.d_model, cfg.vocab_size
    table = partial(Param, contract=("embed",))
    return Transformer(
        embed=table((V, D), ("vocab", "embed")),
        positions=table((cfg.max_length, D), (None, "embed")) if cfg.learned_positions else None,
        embed_norm=norm.specs(cfg, D, "embed") if cfg.embed_norm else None,
        stacks=tuple(tuple(spec.stack(_block_specs(cfg, x), s.repeats) for x in s.pattern) for s in cfg.stacks),
        final_norm=norm.specs(cfg, D, "embed"),
        lm_head=None if cfg.tie_embeddings else table((D, V), ("embed", "vocab")),
        head_bias=Param((V,), ("vocab",), value=0.0) if cfg.head_bias else None,
    )


def _block_specs(cfg: ModelConfig, layer: Layer) -> Block:
    def here(there_is_one: bool) -> Norm | None:
        return norm.specs(cfg, cfg.d_model, "embed") if there_is_one else None

    return Block(
        attn_norm=here(cfg.pre_norms),
        attn=attention_specs(cfg) if cfg.latent is None else latent.specs(cfg),
        attn_post_norm=here(cfg.post_norms),
        ffn_norm=here(cfg.pre_norms and not cfg.parallel),
        ffn=moe.specs(cfg) if layer.moe else feedforward.specs(cfg, cfg.d_ff, bias=cfg.mlp_bias),
        ffn_post_norm=here(cfg.post_norms),
    )


def block(w: Block, x, view: LayerCacheView | None, inputs: LayerInputs, cfg: ModelConfig, layer: Layer):
    """Applies one layer. Returns (residual stream [B, T, D], the layer's cache, its router's sums or None)."""
    attention = self_attention if cfg.latent is None else latent_attention
    before = apply_norm(w.attn_norm, x, cfg)
    a, cache = attention(w.attn, before, inputs, view, cfg, layer)
    after = x + _post_norm_and_scale(w.attn_post_norm, a, cfg)
    y, sums = before if cfg.parallel else apply_norm(w.ffn_norm, after, cfg), None
    if layer.moe:
        experts = inputs.implementations.experts
        f, sums = moe.mixture_of_experts(w.ffn, y, inputs.token_mask, cfg, inputs.sharding, experts)
    else:
        f = feed_forward(w.ffn, y, cfg)
    x = after + _post_norm_and_scale(w.ffn_post_norm, f, cfg)
    return inputs.sharding.constrain(x, "batch", "seq", "embed"), cache, sums


def _post_norm_and_scale(post_norm: Norm | None, x: Array, cfg: ModelConfig) -> Array:
    """Returns what a part of a layer adds to the residual stream."""
    x = apply_norm(post_norm, x, cfg)
    return x if cfg.residual_scale is None else x * jnp.asarray(cfg.residual_scale, x.dtype)


def hidden_states(
    w: Transformer,
    tokens_BT: Array,
    cfg: ModelConfig,
    *,
    positions_BT: Array | None = None,
    segments_BT: Array | None = None,
    lengths_B: Array | None = None,
    sharding: Sharding = SINGLE,
    dtype="float32",
    remat: str = "none",
    implementations: Implementations = BY_PLATFORM,
) -> tuple[Array, RouterSums]:
    """Returns the normed residual stream after the last layer, `[B, T, D]`, and the routers' sums over all layers.

    For packed rows, pass `segments_BT` (0: padding) and `positions_BT` that restart in each segment. Otherwise row b
    has `lengths_B[b]` tokens (None: T) and is padded on the right. `dtype` is that of the activations, `remat` one
    of `REMAT`.
    """
    if positions_BT is None:
        positions_BT = jnp.broadcast_to(jnp.arange(tokens_BT.shape[1], dtype=jnp.int32)[None], tokens_BT.shape)
    if segments_BT is not None:
        mask, lengths = (segments_BT > 0).astype(jnp.int32), _segment_lengths(positions_BT, segments_BT)
    else:
        lengths = (jnp.max(positions_BT, 1) + 1 if lengths_B is None else lengths_B)[:, None]
        mask = (positions_BT < lengths).astype(jnp.int32)
    inputs = LayerInputs(
        positions=positions_BT, seq_lengths=lengths, segments=segments_BT, token_mask=mask, attend=attend_uncached,
        sharding=sharding, implementations=implementations,
    )  # fmt: skip
    x, _, sums = _run_layers(w, tokens_BT, cfg, inputs, None, dtype, remat)
    return x, sums


def cached_hidden_states(
    w: Transformer,
    tokens_BT: Array,
    cfg: ModelConfig,
    cache: KVCache,
    *,
    attend: Callable = attend_cached,
    n_new_B: Array | None = None,
    sharding: Sharding = SINGLE,
    dtype="float32",
) -> tuple[Array, KVCache]:
    """Returns the `hidden_states` of tokens that continue `cache`, and the cache after them.

    Row b has `n_new_B[b]` tokens (None: all T), the rest is padding at the right. `attend=attend_uncached` is for an
    empty cache, and then uses the kernels for whole rows.
    """
    B, T = tokens_BT.shape
    n_new_B = jnp.full((B,), T, jnp.int32) if n_new_B is None else n_new_B
    start_B, end_B = cache.length, cache.length + n_new_B
    inputs = _continued_inputs(start_B, T, n_new_B, end_B)
    inputs = inputs._replace(attend=attend, sharding=sharding)
    if kv.can_cross_rope_switch(cache, cfg) and attend is not attend_uncached:
        cache = _recompute_keys(w, cfg, cache, n_new_B, inputs, dtype)
    x, stacks, _ = _run_layers(w, tokens_BT, cfg, inputs, cache, dtype)
    switch = cache.rope_switch
    switch = None if switch is None else kv.note_tokens(switch, tokens_BT, inputs.positions, end_B)
    return x, KVCache(stacks=stacks, length=end_B, rope_switch=switch)


def _continued_inputs(start_B: Array, T: int, n_new_B: Array, seq_lengths_B: Array) -> LayerInputs:
    """Returns the inputs of T positions of each row from `start` on, of which the first `n_new` are no padding."""
    offsets_1T = jnp.arange(T, dtype=jnp.int32)[None]
    mask_BT = (offsets_1T < n_new_B[:, None]).astype(jnp.int32)
    return LayerInputs(start_B[:, None] + offsets_1T, seq_lengths_B[:, None], None, mask_BT, attend_uncached)


def _recompute_keys(
    w: Transformer, cfg: ModelConfig, cache: KVCache, n_new_B: Array, inputs: LayerInputs, dtype
) -> KVCache:
    """Recomputes the cached keys of rows that cross the rope switch, because `n_new` tokens take them past it or
    because they were cropped back below it.

    Crossing changes the rotation of every position, so everything that is cached of such a row is wrong (`generate` in
    transformers reads it again too). It is recomputed once, from all the tokens that the cache has stored for it.
    """
    tokens_BT, longest_B = cache.rope_switch.tokens, cache.rope_switch.longest
    switch, end_B = tokens_BT.shape[1], cache.length + n_new_B
    crosses_B = ((longest_B > switch) != (end_B > switch)) & (n_new_B > 0) & (cache.length > 0)

    def reread(cache: KVCache) -> KVCache:
        kept_B = jnp.where(crosses_B, jnp.minimum(cache.length, switch), 0)
        first = _continued_inputs(jnp.zeros_like(kept_B), switch, kept_B, end_B)
        first = first._replace(sharding=inputs.sharding)
        _, stacks, _ = _run_layers(w, tokens_BT, cfg, first, cache, dtype)
        return dataclasses.replace(cache, stacks=stacks)

    return jax.lax.cond(jnp.any(crosses_B), reread, lambda cache: cache, cache)


def _segment_lengths(positions_BT: Array, segments_BT: Array) -> Array:
    """Returns the length of the sequence that each token belongs to, `[B, T]`."""

    def row(positions_T: Array, segments_T: Array) -> Array:
        return jax.ops.segment_max(positions_T, segments_T, num_segments=segments_T.shape[0] + 1)[segments_T] + 1

    return jax.vmap(row)(positions_BT, segments_BT)


def compute_logits(w: Transformer, x_BTD: Array, cfg: ModelConfig, sharding: Sharding = SINGLE) -> Array:
    """Returns logits `[B, T, V]`, float32, of normed residuals."""
    return apply_lm_head(lm_head(w, sharding), x_BTD, cfg)


def lm_head(w: Transformer, sharding: Sharding = SINGLE) -> tuple[Array, Array | None]:
    """Returns the output matrix, gathered over all but the vocabulary, and its bias. Take it before a loop.

    It is `[D, V]`, or `[V, D]` where it is the embedding table, which is not transposed in memory.
    """
    head, axes = (materialize(w.embed), ("vocab", None)) if w.lm_head is None else (w.lm_head, (None, "vocab"))
    return sharding.constrain(head, *axes) if isinstance(head, jax.Array) else head, w.head_bias


def apply_lm_head(head: tuple[Array, Array | None], x_BTD: Array, cfg: ModelConfig) -> Array:
    """Returns logits `[B, T, V]`, float32, from what `lm_head` gives."""
    eqn = "BTD,VD->BTV" if cfg.tie_embeddings else "BTD,DV->BTV"
    out = add_bias(einsum(eqn, x_BTD, head[0], preferred_element_type=jnp.float32), head[1])
    out = out if cfg.logit_scale is None else out * cfg.logit_scale
    return out if cfg.final_softcap is None else jnp.tanh(out / cfg.final_softcap) * cfg.final_softcap


def untie_embeddings(w: Transformer, cfg: ModelConfig, sharding: Sharding = SINGLE) -> tuple[Transformer, ModelConfig]:
    """Gives the model an output matrix of its own, so that it and the embedding can be changed apart."""
    cfg = dataclasses.replace(cfg, tie_embeddings=False)
    layout = sharding.named("embed", "vocab", shape=(cfg.d_model, cfg.vocab_size))
    head = jax.jit(lambda table: materialize(table).T, out_shardings=layout)(w.embed)
    return dataclasses.replace(w, lm_head=head), cfg


def restack(w: Transformer, cfg: ModelConfig, stacks: tuple[Stack, ...]) -> Transformer:
    """Returns the weights with the same layers in other stacks."""
    pairs = zip(cfg.stacks, w.stacks, strict=True)
    layers = [jax.tree.map(lambda x, i=i: x[i], b) for s, blocks in pairs for i in range(s.repeats) for b in blocks]
    stacked = []
    for s in stacks:
        n = len(s.pattern)
        mine, layers = layers[: n * s.repeats], layers[n * s.repeats :]
        stacked.append(tuple(jax.tree.map(lambda *xs: jnp.stack(xs), *mine[i::n]) for i in range(n)))
    return dataclasses.replace(w, stacks=tuple(stacked))


def forward(w: Transformer, tokens_BT: Array, cfg: ModelConfig, **options) -> tuple[Array, RouterSums]:
    """Returns logits `[B, T, V]`, float32, and the routers' sums; `options` are those of `hidden_states`."""
    x, sums = hidden_states(w, tokens_BT, cfg, **options)
    return compute_logits(w, x, cfg, options.get("sharding", SINGLE)), sums


def forward_cached(w: Transformer, tokens_BT: Array, cfg: ModelConfig, cache: KVCache, **options):
    """Returns logits `[B, T, V]`, float32, and the cache after; `options` are those of `cached_hidden_states`."""
    x, cache = cached_hidden_states(w, tokens_BT, cfg, cache, **options)
    return compute_logits(w, x, cfg, options.get("sharding", SINGLE)), cache


def _run_layers(w: Transformer, tokens_BT, cfg: ModelConfig, inputs: LayerInputs, cache, dtype, remat: str = "none"):
    """Embeds and runs every stack. Returns (normed residuals, the stacks' caches, the routers' sums)."""
    check_implementation(inputs.implementations.experts)
    constrain = inputs.sharding.constrain
    table = jax.tree.map(lambda x, names: constrain(x, *names), w.embed, layout(w.embed, ("vocab", None)))
    x = lookup_rows(table, tokens_BT, dtype)
    if cfg.embed_scale is not None:
        x = x * jnp.asarray(cfg.embed_scale, dtype)
    if w.positions is not None:
        x = x + w.positions[inputs.positions].astype(dtype)
    x = constrain(apply_norm(w.embed_norm, x, cfg), "batch", "seq", "embed")
    angles = {r: _rope_angles(r, inputs, cfg.d_turned) for r in {layer.rope for layer in cfg.layers}}
    inputs, sums, stacks = inputs._replace(angles=angles), _zero_router_sums(cfg), []
    for i, stack in enumerate(cfg.stacks):
        caches = None if cache is None else cache.stacks[i]
        x, caches, sums = _run_stack(w.stacks[i], (x, caches, sums), stack, inputs, cfg, REMAT[remat])
        stacks.append(caches)
    return apply_norm(w.final_norm, x, cfg), tuple(stacks), sums


def _run_stack(blocks, carry, stack: Stack, inputs: LayerInputs, cfg: ModelConfig, remat):
    """Runs one stack on `carry`: (residuals, the stack's caches or None, the routers' sums). Returns the carry after.

    The cache rides in the carry, where it is updated in place; as a scanned input it would be copied.
    """
    end_B = inputs.positions[:, 0] + inputs.token_mask.sum(1)
    slots = None if carry[1] is None else [kv.slots(cache, inputs.positions, end_B) for cache in carry[1]]

    def run_pattern(carry, blocks_and_index):
        (x, caches, sums), (blocks, index) = carry, blocks_and_index
        updated = []
        for i, layer in enumerate(stack.pattern):
            run = partial(block, inputs=inputs, cfg=cfg, layer=layer)
            if remat is not None:  # in a scan nothing is common to the two passes
                run = jax.checkpoint(run, policy=remat, prevent_cse=stack.repeats == 1)
            x, cache, routed = run(blocks[i], x, None if slots is None else LayerCacheView(caches[i], index, slots[i]))
            sums = sums if routed is None else RouterSums(*(a + b for a, b in zip(sums, routed, strict=True)))
            updated.append(cache)
        return (x, None if slots is None else tuple(updated), sums), None

    if stack.repeats == 1:  # a scan would copy the weights out of the stack in every iteration
        carry, _ = run_pattern(carry, (jax.tree.map(lambda w: w[0], blocks), jnp.zeros((), jnp.int32)))
    else:
        carry, _ = jax.lax.scan(run_pattern, carry, (blocks, jnp.arange(stack.repeats)))
    return carry


def _rope_angles(r: Rope | None, inputs: LayerInputs, width: int) -> RopeAngles | None:
    if r is None:
        return None
    sin, cos = rope.angles(inputs.positions, rope_frequencies(r, width, inputs.seq_lengths))
    return RopeAngles(sin * (-r.magnitude if r.reversed else r.magnitude), cos * r.magnitude, r.interleaved)


def rope_frequencies(r: Rope, width: int, lengths_BT: Array) -> Array:
    """Returns the rotation frequencies of a layer, one for each pair of numbers: `[1, 1, R]`, or `[B, T, R]`.

    `lengths` is the sequence length for each token `[B, T]`, or for each row `[B, 1]`.
    """
    dim = r.rotary_dim(width)
    freq = rope.frequencies(dim, r.theta)
    match r.scaling:
        case "longrope":
            return rope.longrope(freq, r.short_factors, r.long_factors, r.original_max_length, lengths_BT)
        case "dynamic":
            return rope.dynamic(freq, r.factor, r.original_max_length, lengths_BT)
        case "linear":
            freq = rope.linear(freq, r.factor)
        case "llama3":
            freq = rope.llama3(freq, r.factor, r.low_freq_factor, r.high_freq_factor, r.original_max_length)
        case "yarn":
            ramp = r.factor, r.beta_fast, r.beta_slow, r.original_max_length
            freq = rope.yarn(freq, dim, r.theta, *ramp, truncate=r.truncate)
    return jnp.asarray(freq)[None, None]


def _zero_router_sums(cfg: ModelConfig) -> RouterSums:
    zero = jnp.zeros((), jnp.float32)
    return RouterSums(balance=zero, z=zero, load=jnp.zeros((cfg.n_experts,), jnp.float32), tokens=zero)
