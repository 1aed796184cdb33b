"""Rotary position embeddings (Su et al., 2021), the halves rotated as in Llama. It knows no configuration.

B batch, T positions, N heads (of any kind), H head_dim, R = H / 2 rotation frequencies.
"""

import math

import jax
import jax.numpy as jnp
import numpy as np

Array = jax.Array


def frequencies(head_dim: int, theta: float) -> np.ndarray:
    """The angle per position of each pair, `[R]` float32: `theta ** (-2i / head_dim)`."""
    exponents = np.arange(0, head_dim, 2, dtype=np.float32) / np.float32(head_dim)
    return (1.0 / np.float32(theta) ** exponents).astype(np.float32)


def linear(freq_R: np.ndarray, factor: float) -> np.ndarray:
    """Positions interpolated: every frequency divided by `factor` (Chen et al., 2023)."""
    return (freq_R / np.float32(factor)).astype(np.float32)


def llama3(freq_R: np.ndarray, factor: float, low: float, high: float, original_length: int) -> np.ndarray:
    """Llama 3.1's scaling: long wavelengths divided by `factor`, short ones kept, those between blended.

    `low` and `high` bound the blend, in periods per `original_length` positions.
    """
    periods = original_length * freq_R / (2 * math.pi)
    blend = np.clip((periods - low) / (high - low), 0.0, 1.0)
    return ((1 - blend) * freq_R / factor + blend * freq_R).astype(np.float32)


def angles(positions_BT: Array, freq_R: np.ndarray) -> tuple[Array, Array]:
    """`(sin, cos)` of every position's angles, each `[B, T, R]` float32."""
    angle_BTR = positions_BT[..., None].astype(jnp.float32) * jnp.asarray(freq_R)[None, None]
    return jnp.sin(angle_BTR), jnp.cos(angle_BTR)


def rotate(x_BTNH: Array, sin_BTR: Array, cos_BTR: Array) -> Array:
    """`x` with its first and second half rotated as pairs, in `x`'s dtype."""
    sin, cos = sin_BTR[:, :, None], cos_BTR[:, :, None]
    a, b = jnp.split(x_BTNH.astype(jnp.float32), 2, -1)
    return jnp.concatenate([a * cos - b * sin, b * cos + a * sin], -1).astype(x_BTNH.dtype)
