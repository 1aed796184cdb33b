"""Which query sees which key, and how a score is shaped: what every attention implementation here agrees on.

It knows no model and no implementation.

B batch (or 1, where all rows agree), T query positions, S key positions.
"""

import dataclasses
from typing import NamedTuple

import jax
import jax.numpy as jnp

Array = jax.Array

MASKED = -1e30  # a score that no other is below; finite, so that no difference of two of them is NaN
EMPTY = -1  # the key position of a cache slot that holds nothing


@dataclasses.dataclass(frozen=True)
class MaskRule:
    """What is known when a program is traced. `indexed` says that positions are row indices, the same in all rows."""

    scale: float
    causal: bool = True
    window: int | None = None
    softcap: float | None = None
    indexed: bool = False


class MaskInputs(NamedTuple):
    """Where queries and keys stand: positions `[B, T]` and `[B, S]`, and the segments that they belong to, or None."""

    q_positions: Array
    kv_positions: Array
    q_segments: Array | None = None
    kv_segments: Array | None = None


def make_attention_mask(rule: MaskRule, places: MaskInputs) -> Array:
    """`[B, T, S]` bool: key not `EMPTY`, same segment, not later (if causal), less than `window` behind."""
    q, kv = places.q_positions[:, :, None], places.kv_positions[:, None, :]
    seen = kv != EMPTY
    if rule.causal:
        seen = seen & (kv <= q)
    if rule.window is not None:
        seen = seen & (q - kv < rule.window)
    if places.q_segments is not None and places.kv_segments is not None:
        seen = seen & (places.q_segments[:, :, None] == places.kv_segments[:, None, :])
    return jnp.broadcast_to(seen, (seen.shape[0], q.shape[1], kv.shape[2]))


def scale_scores(rule: MaskRule, dots: Array) -> Array:
    """Scores from dot products: scaled, and bent by `softcap * tanh(score / softcap)` if there is one."""
    scores = dots * rule.scale
    return scores if rule.softcap is None else jnp.tanh(scores / rule.softcap) * rule.softcap


def score_gradient(rule: MaskRule, scores: Array) -> Array | float:
    """The derivative of `scale_scores` with respect to the dot product, from the scaled scores."""
    if rule.softcap is None:
        return rule.scale
    return (1.0 - jnp.square(scores / rule.softcap)) * rule.scale


def score_dtype(x: Array) -> jnp.dtype:
    """The dtype that scores and sums of `x` are kept in: float32, or float64 for float64."""
    return jnp.dtype(jnp.float64 if x.dtype == jnp.float64 else jnp.float32)
