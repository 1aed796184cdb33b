"""A hash of a model's weights, computed where they lie: what belongs to one set of weights is known again by it."""

import jax
import jax.numpy as jnp

from vishwamai.models import transformer
from vishwamai.models.config import ModelConfig

Array = jax.Array


def fingerprint_model(weights, *, cfg: ModelConfig) -> Array:
    """Returns the `fingerprint` of a model's weights, the same for stacked layers and for layers one by one."""
    stacks = cfg.stacked.stacks
    return fingerprint(weights if stacks == cfg.stacks else transformer.restack(weights, cfg, stacks))


def fingerprint(weights) -> Array:
    """Returns `[2]` uint32 that different weights are unlikely to share: a sum of hashes of all numbers, in any layout.

    Each number's hash mixes its bits with its index, so that swapping two layers or experts changes the sum.
    """
    total = jnp.zeros((2,), jnp.uint32)
    for leaf in jax.tree.leaves(weights):
        index = jnp.zeros(leaf.shape, jnp.uint32)
        for axis, n in enumerate(leaf.shape):
            index = index * jnp.uint32(n) + jax.lax.broadcasted_iota(jnp.uint32, leaf.shape, axis)
        if jnp.issubdtype(leaf.dtype, jnp.floating):
            leaf = jax.lax.bitcast_convert_type(leaf, f"uint{jnp.finfo(leaf.dtype).bits}")
        hashes = _mix(leaf.astype(jnp.uint32) ^ _mix(index))
        total = total * jnp.uint32(40503) + jnp.stack([hashes.sum(), _mix(hashes + index).sum()])
    return total


def _mix(x: Array) -> Array:
    """Returns each uint32 as another one, in which all bits of the first have a part."""
    for shift in (16, 13, 15):
        x = (x ^ (x >> shift)) * jnp.uint32(2654435761)
    return x ^ (x >> 16)
