"""Cross-entropy in chunks against the whole, in float64."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vishwamai.ops.losses import chunked_cross_entropy, cross_entropy

RNG = np.random.default_rng(0)
X, HEAD = RNG.normal(size=(2, 7, 5)), RNG.normal(size=(5, 11))
TARGETS, WEIGHTS = RNG.integers(0, 11, (2, 7)), RNG.uniform(size=(2, 7)) * (RNG.uniform(size=(2, 7)) > 0.3)


def multiply(head, x):
    return x @ head


def want(x, head):
    """(sum of nll, of z, of hits, of weights), float64."""
    logits = x @ head
    log_z = np.log(np.exp(logits).sum(-1))
    nll = log_z - np.take_along_axis(logits, TARGETS[..., None], -1)[..., 0]
    hits = logits.argmax(-1) == TARGETS
    return [(WEIGHTS * a).sum() for a in (nll, log_z**2, hits, np.ones_like(nll))]


@pytest.mark.parametrize("chunks", [1, 2, 3, 7, 100])
def test_chunks_add_up_to_the_whole(chunks):
    x, head, w = (jnp.asarray(a, jnp.float32) for a in (X, HEAD, WEIGHTS))
    loss, sums = chunked_cross_entropy(x, head, multiply, jnp.asarray(TARGETS), w, z_loss=0.1, chunks=chunks)
    np.testing.assert_allclose(sums, want(X, HEAD), rtol=1e-5)
    np.testing.assert_allclose(loss, sums.nll + 0.1 * sums.z, rtol=1e-6)


@pytest.mark.parametrize("trained", [(0, 1), (0,), (1,)], ids=["both", "input", "head"])
def test_gradients_equal_those_of_the_whole(trained):
    head, targets, w = jnp.asarray(HEAD, jnp.float32), jnp.asarray(TARGETS), jnp.asarray(WEIGHTS, jnp.float32)

    def chunked(x, head):
        return 3.0 * chunked_cross_entropy(x, head, multiply, targets, w, z_loss=0.1, chunks=3)[0] + jnp.sum(x)

    def whole(x, head):
        sums = cross_entropy(x @ head, targets, w)
        return 3.0 * (sums.nll + 0.1 * sums.z) + jnp.sum(x)

    x = jnp.asarray(X, jnp.float32)
    got, exact = (jax.jit(jax.grad(f, trained))(x, head) for f in (chunked, whole))
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-5), got, exact)


def count_matmuls(trained):
    """Of the loss's compiled gradient, before XLA changes it: once for each piece."""

    def loss(x, head):
        return chunked_cross_entropy(x, head, multiply, jnp.asarray(TARGETS), jnp.asarray(WEIGHTS), chunks=7)[0]

    x, head = jnp.asarray(X, jnp.float32), jnp.asarray(HEAD, jnp.float32)
    return jax.jit(jax.grad(loss, trained)).lower(x, head).as_text().count("stablehlo.dot_general")


def test_logits_are_computed_once_and_a_head_that_is_not_trained_gets_no_gradient():
    assert (count_matmuls((0, 1)), count_matmuls(0)) == (3, 2)


def test_a_tie_is_no_right_prediction():
    logits = jnp.asarray([[[1.0, 1.0, 0.0], [0.0, 2.0, 1.0], [0.0, 1.0, 2.0]]])
    assert cross_entropy(logits, jnp.asarray([[0, 1, 1]]), jnp.ones((1, 3))).correct == 1


def test_the_gradient_is_softmax_minus_target():
    logits = jnp.asarray(X @ HEAD, jnp.float32)
    w = jnp.asarray(WEIGHTS, jnp.float32)
    got = jax.jit(jax.grad(lambda a: cross_entropy(a, jnp.asarray(TARGETS), w).nll))(logits)
    exact = (np.exp(X @ HEAD) / np.exp(X @ HEAD).sum(-1, keepdims=True) - np.eye(11)[TARGETS]) * WEIGHTS[..., None]
    np.testing.assert_allclose(got, exact, atol=1e-5)


def test_all_logits_are_never_in_memory():
    def loss(x, head):
        targets = jnp.zeros((1, 4096), jnp.int32)
        return chunked_cross_entropy(x, head, multiply, targets, jnp.ones((1, 4096)), chunks=16)[0]

    args = jax.ShapeDtypeStruct((1, 4096, 16), jnp.float32), jax.ShapeDtypeStruct((16, 8192), jnp.float32)
    memory = jax.jit(jax.grad(loss, (0, 1))).lower(*args).compile().memory_analysis()
    assert memory.temp_size_in_bytes < 4096 * 8192 * 4 / 3
