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


def yarn(
    freq_R: np.ndarray,
    dim: int,
    theta: float,
    factor: float,
    fast: float,
    slow: float,
    original_length: int,
    *,
    truncate: bool,
) -> np.ndarray:
    """YaRN (Peng et al., 2023): low frequencies interpolated, high ones kept, a ramp between.

    The ramp's ends are the pairs that turn `fast` and `slow` times in `original_length` positions.
    """  # fmt: skip

    def pair(turns: float) -> float:
        return dim * math.log(original_length / (turns * 2 * math.pi)) / (2 * math.log(theta))

    low, high = pair(fast), pair(slow)
    low, high = (math.floor(low), math.ceil(high)) if truncate else (low, high)
    low, high = max(low, 0), min(high, dim - 1)
    ramp = np.clip((np.arange(dim // 2, dtype=np.float32) - low) / (max(high - low, 0.001)), 0, 1)
    return (freq_R / factor * ramp + freq_R * (1 - ramp)).astype(np.float32)


def longrope(
    freq_R: np.ndarray, short: tuple[float, ...], long: tuple[float, ...], original_length: int, lengths_BT: Array
) -> Array:
    """LongRoPE (Ding et al., 2024): each frequency divided by a factor of its own, `[B, T, R]`.

    `short` are the factors in texts of up to `original_length` tokens, `long` those in longer ones; `lengths` says of
    which length the text of each token is (`[B, 1]`: one text a row).
    """
    short_R, long_R = (jnp.asarray((freq_R / np.asarray(f, np.float32)).astype(np.float32)) for f in (short, long))
    return jnp.where((lengths_BT > original_length)[..., None], long_R[None, None], short_R[None, None])


def dynamic(freq_R: np.ndarray, factor: float, original_length: int, lengths_BT: Array) -> Array:
    """Dynamic NTK scaling: theta grows with the length of a text past `original_length`, `[B, T, R]`.

    Theta is multiplied by `(factor * length / original - (factor - 1)) ** (2R / (2R - 2))`, by the length itself.
    """
    R = len(freq_R)
    ratio_BT = jnp.maximum(lengths_BT, original_length).astype(jnp.float32) / original_length
    exponents_R = jnp.asarray(np.arange(R, dtype=np.float32) / np.float32(max(R - 1, 1)))
    return jnp.asarray(freq_R)[None, None] * (factor * ratio_BT - (factor - 1.0))[..., None] ** -exponents_R[None, None]


def angles(positions_BT: Array, freq_BTR: Array) -> tuple[Array, Array]:
    """`(sin, cos)` of every position's angles, each `[B, T, R]` float32; frequencies may be `[1, 1, R]`."""
    angle_BTR = positions_BT[..., None].astype(jnp.float32) * freq_BTR
    return jnp.sin(angle_BTR), jnp.cos(angle_BTR)


def rotate(x_BTNH: Array, sin_BTR: Array, cos_BTR: Array, *, interleaved: bool = False) -> Array:
    """`x` with the first 2R numbers of each head turned, its halves (or its neighbours) as pairs, in `x`'s dtype."""
    sin, cos, turned = sin_BTR[:, :, None], cos_BTR[:, :, None], 2 * sin_BTR.shape[-1]
    x, rest = x_BTNH[..., :turned].astype(jnp.float32), x_BTNH[..., turned:]
    a, b = (x[..., 0::2], x[..., 1::2]) if interleaved else jnp.split(x, 2, -1)
    a, b = a * cos - b * sin, b * cos + a * sin
    out = jnp.stack([a, b], -1).reshape(x.shape) if interleaved else jnp.concatenate([a, b], -1)
    return jnp.concatenate([out.astype(x_BTNH.dtype), rest], -1)
