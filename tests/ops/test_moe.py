"""Routing, dispatch and grouped matmuls against loops over tokens and experts."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vishwamai.errors import BackendError
from vishwamai.models.moe import experts
from vishwamai.ops import moe

pytestmark = pytest.mark.by_turns

CASES = [(20, 4, [3, 0, 9, 8]), (20, 4, [3, 0, 9, 2]), (2, 4, [0, 1, 1, 0]), (300, 3, [299, 1, 0]), (300, 3, [0, 0, 5])]


def normal(seed, *shape):
    return jnp.asarray(np.random.default_rng(seed).standard_normal(shape), jnp.float32)


@pytest.mark.parametrize("implementation", ["reference", "ragged", "blocked", None])
@pytest.mark.parametrize(("rows", "n_experts", "sizes"), CASES)
def test_grouped_matmul_equals_a_loop_in_value_and_gradient(implementation, rows, n_experts, sizes):
    x, w = normal(0, rows, 6), normal(1, n_experts, 6, 5)
    group = np.repeat(np.arange(n_experts + 1), [*sizes, rows - sum(sizes)])

    def loop(x, w):
        return jnp.sum(jnp.sin(jnp.einsum("gd,gdf->gf", x, jnp.concatenate([w, jnp.zeros((1, 6, 5))])[group])))

    def ours(x, w):
        s = jnp.array(sizes, jnp.int32)
        return jnp.sum(jnp.sin(moe.grouped_matmul(x, w, s, implementation=implementation)))

    want = jax.jit(jax.value_and_grad(loop, (0, 1)))(x, w)
    got = jax.jit(jax.value_and_grad(ours, (0, 1)))(x, w)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=2e-5, rtol=1e-5), got, want)


def test_an_unknown_implementation_is_refused():
    with pytest.raises(BackendError, match="use reference, ragged, blocked"):
        moe.grouped_matmul(normal(0, 2, 2), normal(1, 1, 2, 2), jnp.array([2]), implementation="magic")


def test_routing_picks_the_best_and_normalises_on_request():
    logits = jnp.array([[1.0, 3.0, 2.0, -1.0]])
    probs = np.exp([1, 3, 2, -1]) / np.exp([1, 3, 2, -1]).sum()
    plain = moe.route(logits, 2, normalize=False)
    np.testing.assert_array_equal(plain.experts, [[1, 2]])
    np.testing.assert_allclose(plain.weights[0], probs[[1, 2]], rtol=1e-6)
    np.testing.assert_allclose(
        moe.route(logits, 2, normalize=True).weights[0], probs[[1, 2]] / probs[[1, 2]].sum(), rtol=1e-6
    )


@pytest.mark.parametrize("implementation", ["reference", "ragged", "blocked"])
def test_experts_equal_the_dense_form_and_drop_nothing(implementation):
    x, gate, up, down = normal(0, 17, 6), normal(1, 4, 6, 5), normal(2, 4, 6, 5), normal(3, 4, 5, 6)
    routing = moe.route(normal(4, 17, 4), 2, normalize=True)
    z = np.einsum("md,edf->mef", x, gate)
    every = np.einsum("mef,efd->med", z / (1 + np.exp(-z)) * np.einsum("md,edf->mef", x, up), down)
    chosen = np.asarray(routing.experts)
    want = sum(np.asarray(routing.weights)[:, i, None] * every[np.arange(17), chosen[:, i]] for i in range(2))
    w = {"gate": gate, "up": up, "down": down}
    options = {
        "n_experts": 4,
        "gated_activation": lambda gate, up: jax.nn.silu(gate) * up,
        "implementation": implementation,
    }
    got = jax.jit(partial(experts, **options))(x, routing.experts, routing.weights, w)
    np.testing.assert_allclose(got, want, atol=2e-5)


def test_a_token_sent_to_no_expert_contributes_nothing():
    x, w = normal(0, 3, 6), normal(1, 2, 6, 6)
    chosen = jnp.array([[0, 2], [2, 2], [1, 2]], jnp.int32)
    w = {name: w for name in ("gate", "up", "down")} | {"up_bias": normal(2, 2, 6), "down_bias": normal(3, 2, 6)}
    got = experts(x, chosen, jnp.ones((3, 2)), w, n_experts=2, gated_activation=jnp.multiply, implementation="blocked")
    np.testing.assert_array_equal(got[1], np.zeros(6))
    assert float(jnp.abs(got[0]).min()) > 0


@partial(jax.jit, static_argnames=("k", "kind"))
def routed_sums(logits, counts, k: int, kind: str = "softmax"):
    return moe.router_sums(logits, moe.route(logits, k, kind=kind, normalize=True), counts)


def test_router_sums_are_even_at_one_and_add_up_over_rows():
    even = jnp.tile(jnp.eye(4) * 5.0, (1, 2, 1)).reshape(1, 8, 4)
    sums = routed_sums(even, jnp.ones((1, 8)), k=1)
    assert float(sums.balance / sums.tokens) == pytest.approx(1.0, rel=1e-5)
    np.testing.assert_allclose(sums.load, [2, 2, 2, 2])

    logits, counts = (
        normal(5, 6, 8, 4),
        (jnp.arange(8)[None] < jnp.array([8, 3, 0, 5, 8, 1])[:, None]).astype(jnp.int32),
    )
    whole = routed_sums(logits, counts, k=2)
    parts = [routed_sums(logits[i : i + 2], counts[i : i + 2], k=2) for i in (0, 2, 4)]
    jax.tree.map(lambda a, *b: np.testing.assert_allclose(a, sum(b), rtol=1e-5), whole, *parts)
    assert float(whole.load.sum()) == 2 * float(counts.sum())


def test_one_expert_taking_all_costs_the_number_of_experts():
    logits = jnp.tile(jnp.array([20.0, 0, 0, 0]), (1, 8, 1))
    sums = routed_sums(logits, jnp.ones((1, 8)), k=1)
    assert float(sums.balance / sums.tokens) == pytest.approx(4.0, rel=1e-4)


@pytest.mark.parametrize("kind", ["softmax", "sigmoid"])
def test_router_sums_equal_a_loop_over_the_tokens_that_count(kind):
    logits, lengths = np.asarray(normal(6, 3, 8, 4), np.float64) * 2 - 1, [8, 3, 0]
    counts = jnp.asarray(np.arange(8)[None] < np.array(lengths)[:, None], jnp.int32)
    sums = routed_sums(jnp.asarray(logits, jnp.float32), counts, k=2, kind=kind)
    probs = 1 / (1 + np.exp(-logits)) if kind == "sigmoid" else np.exp(logits) / np.exp(logits).sum(-1, keepdims=True)
    balance, z, load = 0.0, 0.0, np.zeros(4)
    for row, row_probs, n in zip(logits, probs, lengths, strict=True):
        share, mean = np.zeros(4), np.zeros(4)
        for t in range(n):
            share[np.argsort(-row_probs[t])[:2]] += 1 / (2 * n)
            mean += row_probs[t] / n
            z += np.log(np.exp(row[t]).sum()) ** 2
        balance += 4 * n * float(share @ mean)  # Fedus et al. (2021), eq. 4, for this row
        load += 2 * n * share
    np.testing.assert_allclose(sums.balance, balance, rtol=1e-5)
    np.testing.assert_allclose(sums.z, z, rtol=1e-5)
    np.testing.assert_allclose(sums.load, load, rtol=1e-5)
    assert float(sums.tokens) == 11
