"""A decoder-only transformer: its weights declared, and its forward pass. Read this file first.

B batch, T positions, D d_model, F d_ff, V vocab, L repeats of a stack's pattern.

It knows no file format, optimiser or sampling. Layers that differ are places in a stack's pattern, and each place's
weights carry a leading axis of the repeats that a scan walks. Training, prefill and decoding are one function: they
differ by shapes and by the `attend` that is passed in.
"""

import dataclasses
from collections.abc import Callable
from functools import partial

import jax
import jax.numpy as jnp

from vishwamai.models import cache as kv
from vishwamai.models import feedforward, latent, moe, norm
from vishwamai.models.attention import (
    Attention,
    Context,
    Turn,
    attend_cached,
    attend_whole,
    attention_specs,
    self_attention,
)
from vishwamai.models.cache import KVCache
from vishwamai.models.config import Layer, ModelConfig, Rope
from vishwamai.models.feedforward import FeedForward, feed_forward
from vishwamai.models.latent import LatentAttention, latent_attention
from vishwamai.models.norm import Norm, normed
from vishwamai.ops import rope
from vishwamai.ops.moe import RouterSums, check_implementation
from vishwamai.parallel.sharding import SINGLE, Sharding
from vishwamai.weights import spec
from vishwamai.weights.linear import biased, einsum, layout, lookup, plain
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
    """The model's weights, declared."""
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


def block(w: Block, x, turn: Turn | None, c: Context, cfg: ModelConfig, layer: Layer, attend: Callable):
    """One layer. Returns (residual stream [B, T, D], the layers' cache, its router's sums or None)."""
    before = normed(w.attn_norm, x, cfg)
    attention = self_attention if cfg.latent is None else latent_attention
    a, place = attention(w.attn, before, turn, c, cfg, layer, attend)
    after = x + _added(w.attn_post_norm, a, cfg)
    y, sums = before if cfg.parallel else normed(w.ffn_norm, after, cfg), None
    if layer.moe:
        f, sums = moe.mixture(w.ffn, y, c.counts, cfg, c.sharding, c.experts)
    else:
        f = feed_forward(w.ffn, y, cfg)
    x = after + _added(w.ffn_post_norm, f, cfg)
    return c.sharding.constrain(x, "batch", "seq", "embed"), place, sums


def _added(post_norm: Norm | None, x: Array, cfg: ModelConfig) -> Array:
    """What a part of a layer adds to the residual stream."""
    x = normed(post_norm, x, cfg)
    return x if cfg.residual_scale is None else x * jnp.asarray(cfg.residual_scale, x.dtype)


def hidden(
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
    attention: str | None = None,
    experts: str | None = None,
) -> tuple[Array, RouterSums]:
    """The normed residual stream after the last layer, `[B, T, D]`, and the routers' sums over all layers.

    For packed rows give `segments` (0: padding) and `positions` that restart in each segment; of others row b has
    `lengths[b]` tokens (None: all T), the rest is padding at the right. `dtype` is that of the activations, `remat` one
    of `REMAT`; `attention` and `experts` name implementations.
    """
    if positions_BT is None:
        positions_BT = jnp.broadcast_to(jnp.arange(tokens_BT.shape[1], dtype=jnp.int32)[None], tokens_BT.shape)
    if segments_BT is not None:
        counts, lengths = (segments_BT > 0).astype(jnp.int32), _segment_lengths(positions_BT, segments_BT)
    else:
        lengths = (jnp.max(positions_BT, 1) + 1 if lengths_B is None else lengths_B)[:, None]
        counts = (positions_BT < lengths).astype(jnp.int32)
    c = Context(positions_BT, lengths, segments_BT, counts, sharding, attention, experts)
    x, _, sums = _layers(w, tokens_BT, cfg, c, None, attend_whole, dtype, remat)
    return x, sums


def cached_hidden(
    w: Transformer,
    tokens_BT: Array,
    cfg: ModelConfig,
    cache: KVCache,
    *,
    attend: Callable = attend_cached,
    lengths_B: Array | None = None,
    sharding: Sharding = SINGLE,
    dtype="float32",
    attention: str | None = None,
    experts: str | None = None,
) -> tuple[Array, KVCache]:
    """`hidden` of tokens that continue `cache`, and the cache after them.

    Row b has `lengths[b]` tokens (None: all T), the rest is padding at the right. `attend=attend_whole` is for an empty
    cache, and then uses the kernels for whole rows.
    """
    B, T = tokens_BT.shape
    lengths_B = jnp.full((B,), T, jnp.int32) if lengths_B is None else lengths_B
    options = {"sharding": sharding, "dtype": dtype, "attention": attention, "experts": experts}
    if kv.can_cross(cache, cfg) and attend is not attend_whole:
        cache = _read_anew(w, cfg, cache, lengths_B, options)
    c = _context(cache.length, T, lengths_B, cache.length + lengths_B, options)
    x, stacks, _ = _layers(w, tokens_BT, cfg, c, cache, attend, dtype, "none")
    end_B = cache.length + lengths_B
    border = None if cache.border is None else kv.noted(cache.border, tokens_BT, c.positions, end_B)
    return x, KVCache(stacks=stacks, length=end_B, border=border)


def _context(start_B: Array, T: int, counts_B: Array, lengths_B: Array, options) -> Context:
    """T positions of each row from `start` on, of which the first `counts` are no padding."""
    offsets_1T = jnp.arange(T, dtype=jnp.int32)[None]
    counts_BT = (offsets_1T < counts_B[:, None]).astype(jnp.int32)
    names = ("sharding", "attention", "experts")
    return Context(start_B[:, None] + offsets_1T, lengths_B[:, None], None, counts_BT, *(options[n] for n in names))


def _read_anew(w: Transformer, cfg: ModelConfig, cache: KVCache, lengths_B: Array, options) -> KVCache:
    """The cache with those rows read again that `lengths` more tokens take over the border, or that were cut behind it.

    All of their positions turn otherwise then, so nothing that was read before them is right (`generate` in
    transformers reads them again too). A row is read again once, with all that the cache has of it.
    """
    tokens_BT, longest_B = cache.border.tokens, cache.border.longest
    T, after_B = tokens_BT.shape[1], cache.length + lengths_B
    crosses_B = ((longest_B > T) != (after_B > T)) & (lengths_B > 0) & (cache.length > 0)

    def again(cache: KVCache) -> KVCache:
        kept_B = jnp.where(crosses_B, jnp.minimum(cache.length, T), 0)
        c = _context(jnp.zeros_like(kept_B), T, kept_B, after_B, options)
        _, stacks, _ = _layers(w, tokens_BT, cfg, c, cache, attend_whole, options["dtype"], "none")
        return dataclasses.replace(cache, stacks=stacks)

    return jax.lax.cond(jnp.any(crosses_B), again, lambda cache: cache, cache)


def _segment_lengths(positions_BT: Array, segments_BT: Array) -> Array:
    """How long the sequence is that each token is of, `[B, T]`."""

    def row(positions_T: Array, segments_T: Array) -> Array:
        return jax.ops.segment_max(positions_T, segments_T, num_segments=segments_T.shape[0] + 1)[segments_T] + 1

    return jax.vmap(row)(positions_BT, segments_BT)


def project(w: Transformer, x_BTD: Array, cfg: ModelConfig, sharding: Sharding = SINGLE) -> Array:
    """Logits `[B, T, V]`, float32, of normed residuals."""
    return logits(lm_head(w, sharding), x_BTD, cfg)


def lm_head(w: Transformer, sharding: Sharding = SINGLE) -> tuple[Array, Array | None]:
    """The output matrix `[D, V]`, gathered over everything but the vocabulary, and its bias. Take it before a loop."""
    head = plain(w.embed).T if w.lm_head is None else w.lm_head
    return sharding.constrain(head, None, "vocab") if isinstance(head, jax.Array) else head, w.head_bias


def untied(w: Transformer, cfg: ModelConfig, sharding: Sharding = SINGLE) -> tuple[Transformer, ModelConfig]:
    """The same model with an output matrix of its own, so that it and the embedding can be changed apart."""
    cfg = dataclasses.replace(cfg, tie_embeddings=False)
    place = sharding.named("embed", "vocab", shape=(cfg.d_model, cfg.vocab_size))
    head = jax.jit(lambda table: plain(table).T, out_shardings=place)(w.embed)
    return dataclasses.replace(w, lm_head=head), cfg


def logits(head: tuple[Array, Array | None], x_BTD: Array, cfg: ModelConfig) -> Array:
    """Logits `[B, T, V]`, float32, from what `lm_head` gives."""
    out = biased(einsum("BTD,DV->BTV", x_BTD, head[0], preferred_element_type=jnp.float32), head[1])
    out = out if cfg.logit_scale is None else out * cfg.logit_scale
    return out if cfg.final_softcap is None else jnp.tanh(out / cfg.final_softcap) * cfg.final_softcap


def forward(w: Transformer, tokens_BT: Array, cfg: ModelConfig, **options) -> tuple[Array, RouterSums]:
    """Logits `[B, T, V]`, float32, and the routers' sums; `options` are those of `hidden`."""
    x, sums = hidden(w, tokens_BT, cfg, **options)
    return project(w, x, cfg, options.get("sharding", SINGLE)), sums


def forward_cached(w: Transformer, tokens_BT: Array, cfg: ModelConfig, cache: KVCache, **options):
    """Logits `[B, T, V]`, float32, and the cache after these tokens; `options` are those of `cached_hidden`."""
    x, cache = cached_hidden(w, tokens_BT, cfg, cache, **options)
    return project(w, x, cfg, options.get("sharding", SINGLE)), cache


def _layers(w: Transformer, tokens_BT, cfg: ModelConfig, c: Context, cache, attend, dtype, remat):
    """Embeds, then scans every stack. Returns (normed residuals, the stacks' caches, the routers' sums)."""
    check_implementation(c.experts)
    axes = layout(w.embed, ("vocab", None))
    table = jax.tree.map(lambda x, names: c.sharding.constrain(x, *names), w.embed, axes)
    x = lookup(table, tokens_BT, dtype)
    if cfg.embed_scale is not None:
        x = x * jnp.asarray(cfg.embed_scale, dtype)
    if w.positions is not None:
        x = x + w.positions[c.positions].astype(dtype)
    x = c.sharding.constrain(normed(w.embed_norm, x, cfg), "batch", "seq", "embed")
    turns = {r: _turn(r, c, cfg.d_turned) for r in {layer.rope for layer in cfg.layers}}
    sums, stacks = _no_sums(cfg), []
    for i, s in enumerate(cfg.stacks):
        places = None if cache is None else cache.stacks[i]
        x, places, sums = _scan(w.stacks[i], s.pattern, x, places, sums, turns, c, cfg, attend, remat)
        stacks.append(places)
    return normed(w.final_norm, x, cfg), tuple(stacks), sums


def _scan(blocks, pattern, x, places, sums, turns, c: Context, cfg: ModelConfig, attend, remat):
    """One stack. The cache rides in the carry, where it is updated in place; as a scanned input it would be copied."""
    end_B = c.positions[:, 0] + c.counts.sum(1)
    slots = [None] * len(pattern) if places is None else [kv.slots(p, c.positions, end_B) for p in places]

    def run(block_weights, x, place, index, layer, slots):
        bound = partial(attend, place=place, index=index, slots=slots)
        return block(block_weights, x, turns[layer.rope], c, cfg, layer, bound)

    def step(carry, xs):
        x, places, sums = carry
        blocks, index = xs
        after = []
        for i, layer in enumerate(pattern):
            one = partial(run, layer=layer)
            one = one if REMAT[remat] is None else jax.checkpoint(one, policy=REMAT[remat], prevent_cse=False)
            x, place, new = one(blocks[i], x, None if places is None else places[i], index, slots=slots[i])
            sums = sums if new is None else RouterSums(*(a + b for a, b in zip(sums, new, strict=True)))
            after.append(place)
        return (x, None if places is None else tuple(after), sums), None

    n = jax.tree.leaves(blocks)[0].shape[0]
    (x, places, sums), _ = jax.lax.scan(step, (x, places, sums), (blocks, jnp.arange(n)))
    if places is not None:
        places = tuple(kv.write_positions(p, s, c.positions) for p, s in zip(places, slots, strict=True))
    return x, places, sums


def _turn(r: Rope | None, c: Context, width: int) -> Turn | None:
    if r is None:
        return None
    sin, cos = rope.angles(c.positions, frequencies(r, width, c.lengths))
    return Turn(sin * (-r.magnitude if r.reversed else r.magnitude), cos * r.magnitude, r.interleaved)


def frequencies(r: Rope, width: int, lengths_BT: Array) -> Array:
    """The rotation frequencies of a layer, one for each pair of numbers that is turned: `[1, 1, R]`, or of each token.

    `lengths` says how long the text of each token is, or `[B, 1]` of each row.
    """
    dim = r.turned(width)
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


def _no_sums(cfg: ModelConfig) -> RouterSums:
    zero = jnp.zeros((), jnp.float32)
    return RouterSums(balance=zero, z=zero, load=jnp.zeros((cfg.n_experts,), jnp.float32), tokens=zero)
