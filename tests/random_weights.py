"""Weights from NumPy's numbers: nothing is compiled to draw them."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np

from vishwamai.weights import quantize, spec


def random_weights(specs, seed: int = 0):
    """Every weight off its starting value, so that none is idle."""
    rng = np.random.default_rng(seed)

    def drawn(p: spec.Param):
        start = p.gain / p.fan_in**0.5 * rng.standard_normal(p.shape) if p.contract else p.value
        return jnp.asarray(start + 0.1 * rng.standard_normal(p.shape), p.dtype)

    return spec.map_params(drawn, specs)


def with_offsets(weights):
    """The weights, each quantised one with an offset beside each of its scales."""

    def one(w):
        if not quantize.is_quantized(w):
            return w
        drawn = np.random.default_rng(w.scale.size).standard_normal(w.scale.shape, np.float32)
        return dataclasses.replace(w, offset=w.scale.astype("float32") * 4 * drawn)

    return jax.tree.map(one, weights, is_leaf=quantize.is_quantized)
