"""A decoder-only transformer: its weights declared, and its forward pass. Read this file first.

B batch, T positions, D d_model, F d_ff, V vocab, L repeats of a stack's pattern.

It knows no file format, optimiser or sampling. Layers that differ are places in a stack's pattern, and each place's
weights carry a leading axis of the repeats that a scan walks. Training, prefill and decoding are one function: they
differ by shapes and by the `attend` that is passed in.
"""

from collections.abc import Callable
from functools import partial

import jax
import jax.numpy as jnp

from vishwamai.models import cache as kv
from vishwamai.models import moe
from vishwamai.models.attention import (
    Attention,
    Context,
    attend_cached,
    attend_whole,
    attention_specs,
    biased,
    norm,
    norm_spec,
    self_attention,
)
from vishwamai.models.cache import KVCache
from vishwamai.models.config import Layer, ModelConfig, Rope
from vishwamai.ops import rope
from vishwamai.ops.moe import RouterSums
from vishwamai.parallel.sharding import SINGLE, Sharding
from vishwamai.weights import spec
from vishwamai.weights.linear import einsum
from vishwamai.weights.spec import Param, pytree

Array = jax.Array

ACTIVATIONS = {"silu": jax.nn.silu, "gelu_tanh": partial(jax.nn.gelu, approximate=True)}
REMAT = {  # what the forward pass keeps for the backward pass; the rest is computed again
    "none": None,
    "full": jax.checkpoint_policies.nothing_saveable,
    "dots": jax.checkpoint_policies.dots_with_no_batch_dims_saveable,
    "attention": jax.checkpoint_policies.save_only_these_names("attention"),
}


@pytree
class FeedForward:
    """A gated feed-forward network."""

    gate: Array  # [D, F]
    up: Array  # [D, F]
    down: Array  # [F, D]
    gate_bias: Array | None  # [F]
    up_bias: Array | None  # [F]
    down_bias: Array | None  # [D]


@pytree
class Block:
    """One layer: attention and feed-forward, each on a normed residual."""

    attn_norm: Array  # [D]
    attn: Attention
    attn_post_norm: Array | None  # [D]
    ffn_norm: Array  # [D]
    ffn: FeedForward | moe.MoE
    ffn_post_norm: Array | None  # [D]


@pytree
class Transformer:
    """All weights of a model."""

    embed: Array  # [V, D]
    stacks: tuple[tuple[Block, ...], ...]  # one block for each place in each pattern, every leaf [L, ...]
    final_norm: Array  # [D]
    lm_head: Array | None  # [D, V]; None when tied to embed


def specs(cfg: ModelConfig) -> Transformer:
    """The model's weights, declared."""
    D, V = cfg.d_model, cfg.vocab_size
    return Transformer(
        embed=Param((V, D), ("vocab", "embed"), contract=("embed",)),
        stacks=tuple(tuple(spec.stack(_block_specs(cfg, x), s.repeats) for x in s.pattern) for s in cfg.stacks),
        final_norm=norm_spec(cfg, D, "embed"),
        lm_head=None if cfg.tie_embeddings else Param((D, V), ("embed", "vocab"), contract=("embed",)),
    )


def _block_specs(cfg: ModelConfig, layer: Layer) -> Block:
    scale = partial(norm_spec, cfg, cfg.d_model, "embed")
    return Block(
        attn_norm=scale(),
        attn=attention_specs(cfg),
        attn_post_norm=scale() if cfg.post_norms else None,
        ffn_norm=scale(),
        ffn=moe.specs(cfg) if layer.moe else _feed_forward_specs(cfg),
        ffn_post_norm=scale() if cfg.post_norms else None,
    )


def _feed_forward_specs(cfg: ModelConfig) -> FeedForward:
    D, F = cfg.d_model, cfg.d_ff

    def bias(width: int, axis: str) -> Param | None:
        return Param((width,), (axis,), value=0.0) if cfg.mlp_bias else None

    return FeedForward(
        gate=Param((D, F), ("embed", "mlp"), contract=("embed",)),
        up=Param((D, F), ("embed", "mlp"), contract=("embed",)),
        down=Param((F, D), ("mlp", "embed"), contract=("mlp",)),
        gate_bias=bias(F, "mlp"),
        up_bias=bias(F, "mlp"),
        down_bias=bias(D, "embed"),
    )


def feed_forward(w: FeedForward, x: Array, activation: Callable) -> Array:
    """The gated feed-forward network, `[B, T, D]` to `[B, T, D]`."""
    gate = biased(einsum("BTD,DF->BTF", x, w.gate), w.gate_bias)
    up = biased(einsum("BTD,DF->BTF", x, w.up), w.up_bias)
    return biased(einsum("BTF,FD->BTD", activation(gate) * up, w.down), w.down_bias)


def block(w: Block, x, sin, cos, c: Context, cfg: ModelConfig, layer: Layer, attend: Callable):
    """One layer. Returns (residual stream [B, T, D], the layers' cache, its router's sums or None)."""
    a, place = self_attention(w.attn, norm(x, w.attn_norm, cfg), sin, cos, c, cfg, layer, attend)
    x = x + (norm(a, w.attn_post_norm, cfg) if cfg.post_norms else a)
    y, sums = norm(x, w.ffn_norm, cfg), None
    if layer.moe:
        f, sums = moe.mixture(w.ffn, y, c.counts, cfg, ACTIVATIONS[cfg.activation], c.sharding, c.experts)
    else:
        f = feed_forward(w.ffn, y, ACTIVATIONS[cfg.activation])
    x = x + (norm(f, w.ffn_post_norm, cfg) if cfg.post_norms else f)
    return c.sharding.constrain(x, "batch", "seq", "embed"), place, sums


def hidden(
    w: Transformer,
    tokens_BT: Array,
    cfg: ModelConfig,
    *,
    positions_BT: Array | None = None,
    segments_BT: Array | None = None,
    sharding: Sharding = SINGLE,
    dtype="float32",
    remat: str = "none",
    attention: str | None = None,
    experts: str | None = None,
) -> tuple[Array, RouterSums]:
    """The normed residual stream after the last layer, `[B, T, D]`, and the routers' sums over all layers.

    For packed rows give `segments` (0: padding) and `positions` that restart in each segment. `dtype` is that of the
    activations, `remat` one of `REMAT`; `attention` and `experts` name implementations.
    """
    if positions_BT is None:
        positions_BT = jnp.broadcast_to(jnp.arange(tokens_BT.shape[1], dtype=jnp.int32)[None], tokens_BT.shape)
    counts = jnp.ones_like(tokens_BT) if segments_BT is None else (segments_BT > 0).astype(jnp.int32)
    c = Context(positions_BT, segments_BT, counts, sharding, attention, experts)
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
    offsets_1T = jnp.arange(T, dtype=jnp.int32)[None]
    counts = (offsets_1T < lengths_B[:, None]).astype(jnp.int32)
    c = Context(cache.length[:, None] + offsets_1T, None, counts, sharding, attention, experts)
    x, stacks, _ = _layers(w, tokens_BT, cfg, c, cache, attend, dtype, "none")
    return x, KVCache(stacks=stacks, length=cache.length + lengths_B)


def project(w: Transformer, x_BTD: Array, cfg: ModelConfig, sharding: Sharding = SINGLE) -> Array:
    """Logits `[B, T, V]`, float32, of normed residuals."""
    head = lm_head(w, sharding)
    return logits(head, x_BTD, cfg)


def lm_head(w: Transformer, sharding: Sharding = SINGLE) -> Array:
    """The output matrix `[D, V]`, gathered over everything but the vocabulary. Take it once, before a loop."""
    head = w.embed.T if w.lm_head is None else w.lm_head
    return sharding.constrain(head, None, "vocab") if isinstance(head, jax.Array) else head


def logits(head, x_BTD: Array, cfg: ModelConfig) -> Array:
    """Logits `[B, T, V]`, float32, from the output matrix."""
    out = einsum("BTD,DV->BTV", x_BTD, head, preferred_element_type=jnp.float32)
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
    table = c.sharding.constrain(w.embed, "vocab", None)
    x = table[tokens_BT].astype(dtype)
    if cfg.embed_scale is not None:
        x = x * jnp.asarray(cfg.embed_scale, dtype)
    x = c.sharding.constrain(x, "batch", "seq", "embed")
    turns = {r: rope.angles(c.positions, frequencies(r, cfg.head_dim)) for r in {layer.rope for layer in cfg.layers}}
    sums, stacks = _no_sums(cfg), []
    for i, s in enumerate(cfg.stacks):
        places = None if cache is None else cache.stacks[i]
        x, places, sums = _scan(w.stacks[i], s.pattern, x, places, sums, turns, c, cfg, attend, remat)
        stacks.append(places)
    return norm(x, w.final_norm, cfg), tuple(stacks), sums


def _scan(blocks, pattern, x, places, sums, turns, c: Context, cfg: ModelConfig, attend, remat):
    """One stack. The cache rides in the carry, where it is updated in place; as a scanned input it would be copied."""
    end_B = c.positions[:, 0] + c.counts.sum(1)
    slots = [None] * len(pattern) if places is None else [kv.slots(p, c.positions, end_B) for p in places]

    def run(block_weights, x, place, index, layer, slots):
        bound = partial(attend, place=place, index=index, slots=slots)
        return block(block_weights, x, *turns[layer.rope], c, cfg, layer, bound)

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


def frequencies(r: Rope, head_dim: int):
    """The rotation frequencies `[H / 2]` of a layer."""
    freq = rope.frequencies(head_dim, r.theta)
    match r.scaling:
        case "linear":
            return rope.linear(freq, r.factor)
        case "llama3":
            return rope.llama3(freq, r.factor, r.low_freq_factor, r.high_freq_factor, r.original_max_length)
    return freq


def _no_sums(cfg: ModelConfig) -> RouterSums:
    zero = jnp.zeros((), jnp.float32)
    return RouterSums(balance=zero, z=zero, load=jnp.zeros((cfg.n_experts,), jnp.float32), tokens=zero)
