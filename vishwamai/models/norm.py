"""The norms of a model: their weights declared and applied. What kind they are is the configuration's.

D the axis that is normalised.
"""

import jax

from vishwamai.models.config import ModelConfig
from vishwamai.ops.norms import layer_norm, rms_norm
from vishwamai.weights.spec import Param, pytree

Array = jax.Array


@pytree
class Norm:
    """What a norm multiplies by and adds, where the model's norms have either."""

    scale: Array | None  # [D]
    bias: Array | None  # [D]


def specs(cfg: ModelConfig, width: int, axis: str) -> Norm:
    """The weights of a norm over an axis, declared."""
    return Norm(
        scale=Param((width,), (axis,), value=1.0 - cfg.norm_offset) if cfg.norm_scale else None,
        bias=Param((width,), (axis,), value=0.0) if cfg.norm_bias else None,
    )


def apply_norm(w: Norm | None, x: Array, cfg: ModelConfig) -> Array:
    """`x` normed over its last axis; as it is where the model has no norm in this place."""
    if w is None:
        return x
    if cfg.norm == "layer":
        return layer_norm(x, w.scale, w.bias, eps=cfg.norm_eps)
    return rms_norm(x, w.scale, eps=cfg.norm_eps, offset=cfg.norm_offset)
