"""Self-attention: its weights, its forward pass, and the two ways in which keys and values reach it.

B batch, T positions, S key positions, D d_model, N query heads, K kv heads, H head_dim. It knows no layer around it.
"""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp

from vishwamai.models import cache as kv
from vishwamai.models import norm
from vishwamai.models.cache import LayerCache
from vishwamai.models.config import Layer, ModelConfig
from vishwamai.models.norm import Norm, normed
from vishwamai.ops import rope
from vishwamai.parallel.attention import sharded_attention
from vishwamai.parallel.sharding import Sharding
from vishwamai.weights.linear import biased, einsum
from vishwamai.weights.spec import Param, pytree

Array = jax.Array


@pytree
class Attention:
    """Projections to and from the heads."""

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
    """The weights of one layer's attention, declared."""
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


class Turn(NamedTuple):
    """The rotation of every position of a batch, for layers with one kind of rotary positions."""

    sin: Array  # [B, T, R]
    cos: Array  # [B, T, R]
    interleaved: bool


class Context(NamedTuple):
    """What every layer is given besides its weights and the residual stream."""

    positions: Array  # [B, T] each token's position in its own sequence
    lengths: Array  # [B, T] how long that sequence is, these tokens included; [B, 1] where a row has one
    segments: Array | None  # [B, T] which packed sequence a token is of; 0 is padding
    counts: Array  # [B, T] 1 where a token is no padding
    sharding: Sharding
    attention: str | None  # implementation, None: by platform
    experts: str | None  # implementation, None: by platform


def attend_whole(q, k, v, c: Context, place: LayerCache | None, index, slots, **mask):
    """Attention of whole rows over themselves: training, and the prefill of an empty cache, which it fills."""
    segments = {} if c.segments is None else {"q_segments_BT": c.segments, "kv_segments_BS": c.segments}
    out = sharded_attention(q, k, v, c.sharding, implementation=c.attention, **segments, **mask)
    return out, None if place is None else kv.write(place, index, slots, k, v)


def attend_cached(q, k, v, c: Context, place: LayerCache, index, slots, **mask):
    """Attention of new positions over the cache and themselves: decoding, and text that continues a cache."""
    new = kv.write(place, index, slots, k, v)
    if q.shape[1] == 1:
        keys, values, positions = new.k[index], new.v[index], kv.write_positions(place, slots, c.positions).positions
    else:  # a ring may lose, to the last of several new positions, what the first of them still sees
        keys, values = (jnp.concatenate([o[index], n.astype(o.dtype)], 1) for o, n in ((place.k, k), (place.v, v)))
        positions = jnp.concatenate([place.positions, jnp.where(c.counts > 0, c.positions, -1)], 1)
    places = {"q_positions_BT": c.positions, "kv_positions_BS": positions}
    keys, values = keys.astype(q.dtype), values.astype(q.dtype)
    return sharded_attention(q, keys, values, c.sharding, implementation=c.attention, **places, **mask), new


def self_attention(w: Attention, x, turn: Turn | None, c: Context, cfg: ModelConfig, layer: Layer, attend: Callable):
    """One layer's attention: `attend(q, k, v, c, window=..., ...)` does the rest. Returns (output [B, T, D], cache)."""
    q = biased(einsum("BTD,DNH->BTNH", x, w.q), w.q_bias)
    k = biased(einsum("BTD,DKH->BTKH", x, w.k), w.k_bias)
    v = biased(einsum("BTD,DKH->BTKH", x, w.v), w.v_bias)
    if not cfg.qk_norm_late:
        q, k = (head_norm(n, y, cfg) for n, y in ((w.q_norm, q), (w.k_norm, k)))
    q, k, v = (clipped(y, cfg.attn_clip) for y in (q, k, v))
    q, k = turned(q, turn), turned(k, turn)
    if cfg.qk_norm_late:
        q, k = (head_norm(n, y, cfg) for n, y in ((w.q_norm, q), (w.k_norm, k)))
    q = warmed(q, c.positions, cfg)
    mask = {"window": layer.window, "softcap": cfg.attn_softcap, "scale": cfg.attn_scale, "sinks_N": w.sinks}
    out, place = attend(q, k, v, c, **mask)
    return biased(einsum("BTNH,NHD->BTD", out, w.o), w.o_bias), place


def head_norm(w: Norm | None, x_BTNH: Array, cfg: ModelConfig) -> Array:
    """Queries or keys normed in each head, or over all of them together."""
    if not cfg.qk_norm_whole:
        return normed(w, x_BTNH, cfg)
    return normed(w, x_BTNH.reshape(*x_BTNH.shape[:2], -1), cfg).reshape(x_BTNH.shape)


def turned(x_BTNH: Array, turn: Turn | None) -> Array:
    """Queries or keys turned by their positions; as they are in a layer without positions."""
    return x_BTNH if turn is None else rope.rotate(x_BTNH, turn.sin, turn.cos, interleaved=turn.interleaved)


def warmed(q_BTNH: Array, positions_BT: Array, cfg: ModelConfig) -> Array:
    """Queries that grow with the logarithm of their position (Ministral 3, after Llama 4)."""
    if not cfg.attn_temperature:
        return q_BTNH
    steps_BT = jnp.floor(positions_BT.astype(jnp.float32) / cfg.attn_temperature_length)
    warmth_BT = 1.0 + cfg.attn_temperature * jnp.log1p(steps_BT)
    return q_BTNH * warmth_BT[..., None, None].astype(q_BTNH.dtype)


def clipped(x: Array, limit: float | None) -> Array:
    """`x` within +- the limit, where there is one."""
    return x if limit is None else jnp.clip(x, -limit, limit)
