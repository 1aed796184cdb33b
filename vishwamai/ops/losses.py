"""Cross-entropy over a vocabulary whose logits are never all in memory at once. It knows no model.

B batch, T positions, D width, V vocabulary. Everything is a sum, with the sum of weights beside it, so that parts of
a batch add up to the same number however the batch is cut.
"""

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

Array = jax.Array


class LossSums(NamedTuple):
    """Scalars, float32: divide the first three by `weight` for means over tokens."""

    nll: Array  # negative log-likelihood of the targets, in nats
    z: Array  # squared log-partition function
    correct: Array  # targets that are more likely than any other token
    weight: Array  # the weights' own sum


def cross_entropy(logits_BTV: Array, targets_BT: Array, weights_BT: Array) -> LossSums:
    """The sums over all positions, in float32. A position of weight 0 counts for nothing."""
    logits = logits_BTV.astype(jnp.float32)
    log_z = jax.nn.logsumexp(logits, -1)
    chosen = jnp.take_along_axis(logits, targets_BT[..., None], -1)
    hit = (jnp.sum((logits >= chosen).astype(jnp.float32), -1) == 1).astype(jnp.float32)
    w = weights_BT.astype(jnp.float32)
    return LossSums(
        nll=jnp.sum(w * (log_z - chosen[..., 0])),
        z=jnp.sum(w * jnp.square(log_z)),
        correct=jnp.sum(w * hit),
        weight=jnp.sum(w),
    )


def chunked_cross_entropy(
    x_BTD: Array,
    head: Any,
    project: Callable[[Any, Array], Array],
    targets_BT: Array,
    weights_BT: Array,
    *,
    z_loss: float = 0.0,
    chunks: int = 8,
) -> tuple[Array, LossSums]:
    """(loss, sums): `cross_entropy(project(head, x), targets, weights)` in `chunks` pieces of the sequence.

    The loss is `nll + z_loss * z`, and what is differentiable in x and `head`, a tree of arrays. Only `[B, T / chunks,
    V]` logits exist at a time, and are made once: where a gradient is asked for, each piece makes its part of it too.
    `project` maps `[B, t, D]` to logits `[B, t, V]` and must not look across positions. A T that does not divide is
    padded with positions of weight 0.
    """
    loss, sums = _chunked((project, z_loss, chunks), x_BTD, head, targets_BT, weights_BT)
    return loss, jax.lax.stop_gradient(sums)


@partial(jax.custom_vjp, nondiff_argnums=(0,))
def _chunked(how, x_BTD: Array, head, targets_BT: Array, weights_BT: Array) -> tuple[Array, LossSums]:
    return _sum_chunks(how, x_BTD, head, targets_BT, weights_BT, ())[0]


def _chunked_forward(how, *operands):
    """Makes the gradients already, for a loss of 1, and that of the head only where it is trained."""
    x, head, *rest = jax.tree.map(lambda leaf: leaf.value, operands, is_leaf=_is_primal)
    trains_head = any(leaf.perturbed for leaf in jax.tree.leaves(operands[1], is_leaf=_is_primal))
    return _sum_chunks(how, x, head, *rest, (0, 1) if trains_head else (0,))


def _chunked_backward(how, gradients, cotangents):
    dx, d_head = jax.tree.map(lambda g: g * cotangents[0].astype(g.dtype), gradients)
    return dx, d_head, None, None


_chunked.defvjp(_chunked_forward, _chunked_backward, symbolic_zeros=True)


def _is_primal(x) -> bool:
    return isinstance(x, jax.custom_derivatives.CustomVJPPrimal)


def _sum_chunks(how, x_BTD: Array, head, targets_BT: Array, weights_BT: Array, argnums: tuple[int, ...]):
    """((loss, sums), (gradient in x, gradient in head)); None for what is not in `argnums`."""
    project, z_loss, chunks = how
    B, T = targets_BT.shape
    chunks = max(1, min(chunks, T))

    def split(a: Array) -> Array:
        a = jnp.pad(a, ((0, 0), (0, -T % chunks)) + ((0, 0),) * (a.ndim - 2))
        return a.reshape(B, chunks, -1, *a.shape[2:]).swapaxes(0, 1)

    def piece(carry, part):
        x, targets, weights = part

        def loss_sums(x, head):
            sums = cross_entropy(project(head, x), targets, weights)
            return sums.nll + z_loss * sums.z, sums

        if not argnums:
            return jax.tree.map(jnp.add, carry, (loss_sums(x, head), None)), None
        new, (dx, *d_head) = jax.value_and_grad(loss_sums, argnums, has_aux=True)(x, head)
        return jax.tree.map(jnp.add, carry, (new, d_head[0] if d_head else None)), dx

    zero = jnp.zeros((), jnp.float32)
    start = (zero, LossSums(zero, zero, zero, zero)), jax.tree.map(jnp.zeros_like, head) if 1 in argnums else None
    (sums, d_head), dx = jax.lax.scan(piece, start, (split(x_BTD), split(targets_BT), split(weights_BT)))
    return sums, (None if dx is None else dx.swapaxes(0, 1).reshape(B, -1, *x_BTD.shape[2:])[:, :T], d_head)
