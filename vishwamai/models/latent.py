"""Latent attention: keys and values of all heads come from one narrow vector (DeepSeek-V2, 2024, section 2.1).

B batch, T positions, D d_model, N heads, R a latent's width; of a head's H numbers the last few turn, the others do
not, and values may be narrower or wider. It knows no layer around it.
"""

import jax
import jax.numpy as jnp

from vishwamai.models.attention import LayerCacheView, LayerInputs, apply_rope
from vishwamai.models.config import Layer, ModelConfig
from vishwamai.ops.norms import rms_norm
from vishwamai.weights.linear import add_bias, einsum
from vishwamai.weights.spec import Param, pytree

Array = jax.Array
EPS = 1e-6  # of the latents' norms, whatever the model's other norms have


@pytree
class LatentAttention:
    """Projections to latents, from them to the heads, and back."""

    q: Array | None  # [D, N, H], where queries have no latent
    q_down: Array | None  # [D, R]
    q_down_bias: Array | None  # [R]
    q_norm: Array | None  # [R]
    q_up: Array | None  # [R, N, H]
    kv_down: Array  # [D, R + what turns]
    kv_down_bias: Array | None
    kv_norm: Array  # [R]
    kv_up: Array  # [R, N, what does not turn + values]
    o: Array  # [N, values, D]
    o_bias: Array | None  # [D]


def specs(cfg: ModelConfig) -> LatentAttention:
    """Returns the specs of one layer's latent attention weights."""
    D, N, H, m = cfg.d_model, cfg.n_heads, cfg.head_dim, cfg.latent
    narrow = m.kv_rank + m.d_turned

    def down(width: int) -> Param:
        return Param((D, width), ("embed", None), contract=("embed",))

    def up(rank: int, width: int) -> Param:
        return Param((rank, N, width), ("rank", "heads", "head_dim"), contract=("rank",))

    def vector(width: int, value: float, there_is_one: bool = True) -> Param | None:
        return Param((width,), (None,), value=value) if there_is_one else None

    queries = m.q_rank is not None
    return LatentAttention(
        q=None if queries else Param((D, N, H), ("embed", "heads", "head_dim"), contract=("embed",)),
        q_down=down(m.q_rank) if queries else None,
        q_down_bias=vector(m.q_rank, 0.0, cfg.attn_bias) if queries else None,
        q_norm=vector(m.q_rank, 1.0) if queries else None,
        q_up=up(m.q_rank, H) if queries else None,
        kv_down=down(narrow),
        kv_down_bias=vector(narrow, 0.0, cfg.attn_bias),
        kv_norm=vector(m.kv_rank, 1.0),
        kv_up=up(m.kv_rank, H - m.d_turned + m.d_value),
        o=Param((N, m.d_value, D), ("heads", "head_dim", "embed"), contract=("heads", "head_dim")),
        o_bias=Param((D,), ("embed",), value=0.0) if cfg.o_bias else None,
    )


def latent_attention(
    w: LatentAttention, x, inputs: LayerInputs, view: LayerCacheView | None, cfg: ModelConfig, layer: Layer
):
    """Applies one layer's attention, as `self_attention`. The cache holds whole keys and values, not the latents."""
    angles, still = inputs.angles[layer.rope], cfg.head_dim - cfg.latent.d_turned
    q = _queries(w, x)
    down = add_bias(einsum("BTD,DR->BTR", x, w.kv_down), w.kv_down_bias)
    latent, shared = jnp.split(down, [cfg.latent.kv_rank], -1)
    k, v = jnp.split(einsum("BTR,RNH->BTNH", rms_norm(latent, w.kv_norm, eps=EPS), w.kv_up), [still], -1)
    shared = jnp.broadcast_to(apply_rope(shared[:, :, None], angles), (*k.shape[:3], cfg.latent.d_turned))
    q = jnp.concatenate([q[..., :still], apply_rope(q[..., still:], angles)], -1)
    k = jnp.concatenate([k, shared], -1)
    q, k, v = (jnp.pad(x, [(0, 0)] * 3 + [(0, cfg.d_cache - x.shape[-1])]) for x in (q, k, v))  # attention wants one
    scale = cfg.head_dim**-0.5 if cfg.attn_scale is None else cfg.attn_scale
    out, cache = inputs.attend(q, k, v, inputs, view, window=layer.window, softcap=cfg.attn_softcap, scale=scale)
    return add_bias(einsum("BTNH,NHD->BTD", out[..., : cfg.latent.d_value], w.o), w.o_bias), cache


def _queries(w: LatentAttention, x: Array) -> Array:
    if w.q is not None:
        return einsum("BTD,DNH->BTNH", x, w.q)
    down = add_bias(einsum("BTD,DR->BTR", x, w.q_down), w.q_down_bias)
    return einsum("BTR,RNH->BTNH", rms_norm(down, w.q_norm, eps=EPS), w.q_up)
