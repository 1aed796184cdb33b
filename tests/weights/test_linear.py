"""`einsum` of an activation and an array: its gradients, and what XLA makes of them on a CPU."""

import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vishwamai.weights.linear import einsum

RNG = np.random.default_rng(0)
CASES = {
    "BTD,DF->BTF": ((2, 5, 8), (8, 12)),
    "BTD,DNH->BTNH": ((2, 5, 8), (8, 3, 4)),
    "BTNH,NHD->BTD": ((2, 5, 3, 4), (3, 4, 8)),
    "BTD,VD->BTV": ((2, 5, 8), (9, 8)),
    "NTH,NHD->NTD": ((3, 5, 4), (3, 4, 8)),  # a matrix for each head
}


@pytest.mark.parametrize("eqn", CASES)
def test_gradients_equal_those_of_numpys_einsum(eqn):
    x, w = (RNG.normal(size=shape).astype(np.float32) for shape in CASES[eqn])
    inputs, out = eqn.split("->")
    x_axes, w_axes = inputs.split(",")
    ct = RNG.normal(size=np.einsum(eqn, x, w).shape).astype(np.float32)
    y, pull = jax.vjp(lambda x, w: einsum(eqn, x, w), jnp.asarray(x), jnp.asarray(w))
    dx, dw = pull(jnp.asarray(ct))
    np.testing.assert_allclose(y, np.einsum(eqn, x, w), atol=1e-5)
    np.testing.assert_allclose(dx, np.einsum(f"{out},{w_axes}->{x_axes}", ct, w), atol=1e-5)
    np.testing.assert_allclose(dw, np.einsum(f"{out},{x_axes}->{w_axes}", ct, x), atol=1e-5)


def test_second_derivatives_pass():
    x, w = (jnp.asarray(RNG.normal(size=shape), jnp.float32) for shape in CASES["BTD,DF->BTF"])

    def square(w):
        return jnp.sum(einsum("BTD,DF->BTF", x, w) ** 2)

    got = jax.jvp(jax.grad(square), (w,), (w,))[1]  # the gradient is linear in w
    np.testing.assert_allclose(got, jax.grad(square)(w), rtol=1e-4)


def test_a_weights_gradient_sums_over_one_axis_on_a_cpu():
    def loss(w, x):
        return jnp.sum(einsum("BTD,DF->BTF", x, w) ** 2)

    args = (jnp.zeros((8, 12)), jnp.zeros((2, 5, 8)))
    dots = re.findall(r"dot_general .*", jax.jit(jax.grad(loss)).lower(*args).as_text())
    assert len(dots) == 2
    assert not [dot for dot in dots if re.search(r"contracting_dims = \[\d, \d", dot)]
