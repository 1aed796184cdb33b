"""Weights from NumPy's numbers: nothing is compiled to draw them."""

import jax.numpy as jnp
import numpy as np

from vishwamai.weights import spec


def random_weights(specs, seed: int = 0):
    """Every weight off its starting value, so that none is idle."""
    rng = np.random.default_rng(seed)

    def drawn(p: spec.Param):
        start = p.gain / p.fan_in**0.5 * rng.standard_normal(p.shape) if p.contract else p.value
        return jnp.asarray(start + 0.1 * rng.standard_normal(p.shape), p.dtype)

    return spec.map_params(drawn, specs)
