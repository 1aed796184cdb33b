"""Cross-entropy over a vocabulary whose logits are never all in memory at once. It knows no model.

B batch, T positions, D width, V vocabulary. Everything is a sum, with the sum of weights beside it, so that parts of
a batch add up to the same number however the batch is cut.
"""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp

Array = jax.Array


class LossSums(NamedTuple):
    """Scalars, float32: divide the first three by `weight` for means over tokens."""

    nll: Array  # negative log-likelihood of the targets, in nats
    z: Array  # squared log-partition function
    correct: Array  # targets that are the most likely token
    weight: Array  # the weights' own sum


def cross_entropy(logits_BTV: Array, targets_BT: Array, weights_BT: Array) -> LossSums:
    """The sums over all positions, in float32. A position of weight 0 counts for nothing."""
    logits = logits_BTV.astype(jnp.float32)
    log_z = jax.nn.logsumexp(logits, -1)
    chosen = jnp.take_along_axis(logits, targets_BT[..., None], -1)[..., 0]
    hit = (jnp.argmax(logits, -1) == targets_BT).astype(jnp.float32)
    w = weights_BT.astype(jnp.float32)
    return LossSums(
        nll=jnp.sum(w * (log_z - chosen)), z=jnp.sum(w * jnp.square(log_z)), correct=jnp.sum(w * hit), weight=jnp.sum(w)
    )


def chunked_cross_entropy(
    x_BTD: Array, project: Callable[[Array], Array], targets_BT: Array, weights_BT: Array, *, chunks: int = 8
) -> LossSums:
    """`cross_entropy(project(x), targets, weights)` in `chunks` pieces of the sequence.

    Only `[B, T / chunks, V]` logits exist at a time, in the backward pass too: each piece is computed again there.
    `project` maps `[B, t, D]` to logits `[B, t, V]` and must not look across positions. A T that does not divide is
    padded with positions of weight 0.
    """
    B, T = targets_BT.shape
    chunks = max(1, min(chunks, T))
    pad = -T % chunks
    x = jnp.pad(x_BTD, ((0, 0), (0, pad), (0, 0)))
    targets, weights = (jnp.pad(a, ((0, 0), (0, pad))) for a in (targets_BT, weights_BT))

    @jax.checkpoint
    def piece(sums: LossSums, part):
        x, targets, weights = part
        new = cross_entropy(project(x), targets, weights)
        return LossSums(*(a + b for a, b in zip(sums, new, strict=True))), None

    def split(a: Array) -> Array:
        return a.reshape(B, chunks, -1, *a.shape[2:]).swapaxes(0, 1)

    zero = jnp.zeros((), jnp.float32)
    sums, _ = jax.lax.scan(piece, LossSums(zero, zero, zero, zero), (split(x), split(targets), split(weights)))
    return sums
