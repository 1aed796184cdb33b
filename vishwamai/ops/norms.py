"""Normalisation over the last axis, in float32. It knows no model.

D the axis that is normalised; `...` any leading axes.
"""

import jax
import jax.numpy as jnp

Array = jax.Array


def rms_norm(x: Array, scale_D: Array | None, *, eps: float, offset: float = 0.0) -> Array:
    """`x / rms(x) * (offset + scale)` in `x`'s dtype and shape `[..., D]` (Zhang and Sennrich, 2019).

    `offset=1` is Gemma's form, whose stored scale is a distance from one. `scale_D=None` scales by nothing.
    """
    x32 = x.astype(jnp.float32)
    y = x32 * jax.lax.rsqrt(jnp.mean(jnp.square(x32), -1, keepdims=True) + eps)
    return (y if scale_D is None else y * _expand_to(offset + scale_D.astype(jnp.float32), y)).astype(x.dtype)


def layer_norm(x: Array, scale_D: Array | None, bias_D: Array | None = None, *, eps: float) -> Array:
    """`(x - mean) / std * scale + bias` in `x`'s dtype and shape `[..., D]` (Ba et al., 2016)."""
    x32 = x.astype(jnp.float32)
    centred = x32 - jnp.mean(x32, -1, keepdims=True)
    y = centred * jax.lax.rsqrt(jnp.mean(jnp.square(centred), -1, keepdims=True) + eps)
    y = y if scale_D is None else y * _expand_to(scale_D.astype(jnp.float32), y)
    return (y if bias_D is None else y + _expand_to(bias_D.astype(jnp.float32), y)).astype(x.dtype)


def _expand_to(v_D: Array, like: Array) -> Array:
    return v_D.reshape((1,) * (like.ndim - 1) + v_D.shape)
