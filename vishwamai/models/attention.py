"""Self-attention: its weights, its forward pass, and the two ways in which keys and values reach it.

B batch, T positions, S key positions, D d_model, N query heads, K kv heads, H head_dim. It knows no layer around it.
"""

from collections.abc import Callable, Mapping
from typing import NamedTuple

import jax
import jax.numpy as jnp

from vishwamai.models import cache as kv
from vishwamai.models import norm
from vishwamai.models.cache import LayerCache
from vishwamai.models.config import Layer, ModelConfig, Rope
from vishwamai.models.norm import Norm, apply_norm
from vishwamai.ops import rope
from vishwamai.parallel.attention import sharded_attention
from vishwamai.parallel.sharding import SINGLE, Sharding
from vishwamai.weights.linear import add_bias, einsum
from vishwamai.weights.spec import Param, pytree

Array = jax.Array


@pytree
class Attention:
    """The projections to and from the heads."""

    q: Array  # [D, N, H]
    k: Array  # [D, K, H]
    v: Array  # [D, K, H]
    o: Array  # [N, H, D]
    q_norm: Norm | None  # [H], or [N H]
    k_norm: Norm | None  # [H], or [K H]
    q_bias: Array | None  # [N, H]
    k_bias: Array | None  # [K, H]
    v_bias: Array | None  # [K, H]
    o_bias: Array | None  # [D]
    sinks: Array | None  # [N]


def attention_specs(cfg: ModelConfig) -> Attention:
    """Returns the specs of one layer's attention weights."""
    D, N, K, H = cfg.d_model, cfg.n_heads, cfg.n_kv_heads, cfg.head_dim
    kv_axes = ("embed", "kv_heads", "head_dim")

    def bias(heads: int, axis: str) -> Param | None:
        return Param((heads, H), (axis, "head_dim"), value=0.0) if cfg.attn_bias else None

    def qk_norm(heads: int) -> Norm | None:
        if not cfg.qk_norm:
            return None
        return norm.specs(cfg, heads * H, None) if cfg.qk_norm_whole else norm.specs(cfg, H, "head_dim")

    return Attention(
        q=Param((D, N, H), ("embed", "heads", "head_dim"), contract=("embed",)),
        k=Param((D, K, H), kv_axes, contract=("embed",)),
        v=Param((D, K, H), kv_axes, contract=("embed",)),
        o=Param((N, H, D), ("heads", "head_dim", "embed"), contract=("heads", "head_dim")),
        q_norm=qk_norm(N),
        k_norm=qk_norm(K),
        q_bias=bias(N, "heads"),
        k_bias=bias(K, "kv_heads"),
        v_bias=bias(K, "kv_heads"),
        o_bias=Param((D,), ("embed",), value=0.0) if cfg.o_bias else None,
        sinks=Param((N,), ("heads",), value=0.0) if cfg.attn_sinks else None,
    )


class RopeAngles(NamedTuple):
    """Sines and cosines of every position of a batch, for layers with one kind of rotary positions."""

    sin: Array  # [B, T, R]
    cos: Array  # [B, T, R]
    interleaved: bool


class Implementations(NamedTuple):
    """Which implementation of an operation runs; None chooses by platform."""

    attention: str | None = None
    experts: str | None = None


BY_PLATFORM = Implementations()


class LayerInputs(NamedTuple):
    """What every layer is given besides its weights, the residual stream and its cache."""

    positions: Array  # [B, T] each token's position in its own sequence
    seq_lengths: Array  # [B, T] how long that sequence is, these tokens included; [B, 1] where a row has one
    segments: Array | None  # [B, T] which packed sequence a token is of; 0 is padding
    token_mask: Array  # [B, T] int32, 1 where a token is no padding
    attend: Callable  # attend_uncached or attend_cached
    angles: Mapping[Rope | None, RopeAngles | None] = {}  # of each kind of rotary positions in the model
    sharding: Sharding = SINGLE
    implementations: Implementations = BY_PLATFORM


class LayerCacheView(NamedTuple):
    """Where a layer's keys and values are written: layer `index` of a `LayerCache`, at these slots."""

    cache: LayerCache
    index: Array  # []
    slots: Array  # [B, T]

    def write(self, k: Array, v: Array) -> LayerCache:
        """Returns the cache with new keys and values `[B, T, K, H]` in it."""
        return kv.write_layer(self.cache, self.index, self.slots, k, v)


def attend_uncached(q, k, v, inputs: LayerInputs, view: LayerCacheView | None, **mask):
    """Attends over the rows themselves, as in training and the prefill of an empty cache, which it fills."""
    segments = inputs.segments
    packed = {} if segments is None else {"q_segments_BT": segments, "kv_segments_BS": segments}
    out = sharded_attention(q, k, v, inputs.sharding, implementation=inputs.implementations.attention, **packed, **mask)
    return out, None if view is None else view.write(k, v)


def attend_cached(q, k, v, inputs: LayerInputs, view: LayerCacheView, **mask):
    """Attends from new positions over the cache and themselves, as in decoding and in text that continues a cache."""
    old, i, new = view.cache, view.index, view.write(k, v)
    start_B = inputs.positions[:, 0]
    if q.shape[1] == 1:
        keys, values = (x[i].swapaxes(1, 2) for x in (new.k, new.v))
        positions = kv.slot_positions(old, start_B + inputs.token_mask[:, 0])
    else:  # writing the last new tokens into a ring may overwrite keys that the first ones attend to
        pairs = (old.k, k), (old.v, v)
        keys, values = (jnp.concatenate([o[i].swapaxes(1, 2), n.astype(o.dtype)], 1) for o, n in pairs)
        new_positions = jnp.where(inputs.token_mask > 0, inputs.positions, -1)
        positions = jnp.concatenate([kv.slot_positions(old, start_B), new_positions], 1)
    mask |= {"q_positions_BT": inputs.positions, "kv_positions_BS": positions}
    keys, values = keys.astype(q.dtype), values.astype(q.dtype)
    implementation = inputs.implementations.attention
    return sharded_attention(q, keys, values, inputs.sharding, implementation=implementation, **mask), new


def self_attention(w: Attention, x, inputs: LayerInputs, view: LayerCacheView | None, cfg: ModelConfig, layer: Layer):
    """Applies one layer's attention. Returns (output [B, T, D], the layer's cache or None)."""
    q = add_bias(einsum("BTD,DNH->BTNH", x, w.q), w.q_bias)
    k = add_bias(einsum("BTD,DKH->BTKH", x, w.k), w.k_bias)
    v = add_bias(einsum("BTD,DKH->BTKH", x, w.v), w.v_bias)
    if not cfg.qk_norm_late:
        q, k = (head_norm(n, y, cfg) for n, y in ((w.q_norm, q), (w.k_norm, k)))
    q, k, v = (clip_qkv(y, cfg.attn_clip) for y in (q, k, v))
    angles = inputs.angles[layer.rope]
    q, k = apply_rope(q, angles), apply_rope(k, angles)
    if cfg.qk_norm_late:
        q, k = (head_norm(n, y, cfg) for n, y in ((w.q_norm, q), (w.k_norm, k)))
    q = scale_queries(q, inputs.positions, cfg)
    mask = {"window": layer.window, "softcap": cfg.attn_softcap, "scale": cfg.attn_scale, "sinks_N": w.sinks}
    out, cache = inputs.attend(q, k, v, inputs, view, **mask)
    return add_bias(einsum("BTNH,NHD->BTD", out, w.o), w.o_bias), cache


def head_norm(w: Norm | None, x_BTNH: Array, cfg: ModelConfig) -> Array:
    """Normalises queries or keys in each head, or over all of them together."""
    if not cfg.qk_norm_whole:
        return apply_norm(w, x_BTNH, cfg)
    return apply_norm(w, x_BTNH.reshape(*x_BTNH.shape[:2], -1), cfg).reshape(x_BTNH.shape)


def apply_rope(x_BTNH: Array, angles: RopeAngles | None) -> Array:
    """Rotates queries or keys by their positions; without angles they stay as they are."""
    return x_BTNH if angles is None else rope.rotate(x_BTNH, angles.sin, angles.cos, interleaved=angles.interleaved)


def scale_queries(q_BTNH: Array, positions_BT: Array, cfg: ModelConfig) -> Array:
    """Scales queries with the logarithm of their position (Ministral 3, after Llama 4)."""
    if not cfg.attn_temperature:
        return q_BTNH
    steps_BT = jnp.floor(positions_BT.astype(jnp.float32) / cfg.attn_temperature_length)
    scale_BT = 1.0 + cfg.attn_temperature * jnp.log1p(steps_BT)
    return q_BTNH * scale_BT[..., None, None].astype(q_BTNH.dtype)


def clip_qkv(x: Array, limit: float | None) -> Array:
    """Bounds `x` to +- the limit, where there is one."""
    return x if limit is None else jnp.clip(x, -limit, limit)
