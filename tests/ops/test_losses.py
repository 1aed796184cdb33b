"""Cross-entropy in chunks against the whole, in float64."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vishwamai.ops.losses import chunked_cross_entropy, cross_entropy

RNG = np.random.default_rng(0)
X, HEAD = RNG.normal(size=(2, 7, 5)), RNG.normal(size=(5, 11))
TARGETS, WEIGHTS = RNG.integers(0, 11, (2, 7)), RNG.uniform(size=(2, 7)) * (RNG.uniform(size=(2, 7)) > 0.3)


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
    sums = chunked_cross_entropy(x, lambda x: x @ head, jnp.asarray(TARGETS), w, chunks=chunks)
    np.testing.assert_allclose(sums, want(X, HEAD), rtol=1e-5)


def test_gradients_equal_those_of_the_whole():
    head, targets, w = jnp.asarray(HEAD, jnp.float32), jnp.asarray(TARGETS), jnp.asarray(WEIGHTS, jnp.float32)

    def chunked(x, head):
        sums = chunked_cross_entropy(x, lambda x: x @ head, targets, w, chunks=3)
        return sums.nll + 0.1 * sums.z

    def whole(x, head):
        sums = cross_entropy(x @ head, targets, w)
        return sums.nll + 0.1 * sums.z

    x = jnp.asarray(X, jnp.float32)
    got, exact = (jax.jit(jax.grad(f, (0, 1)))(x, head) for f in (chunked, whole))
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-5), got, exact)


def test_the_gradient_is_softmax_minus_target():
    logits = jnp.asarray(X @ HEAD, jnp.float32)
    w = jnp.asarray(WEIGHTS, jnp.float32)
    got = jax.jit(jax.grad(lambda a: cross_entropy(a, jnp.asarray(TARGETS), w).nll))(logits)
    exact = (np.exp(X @ HEAD) / np.exp(X @ HEAD).sum(-1, keepdims=True) - np.eye(11)[TARGETS]) * WEIGHTS[..., None]
    np.testing.assert_allclose(got, exact, atol=1e-5)


def test_all_logits_are_never_in_memory():
    def loss(x, head):
        targets = jnp.zeros((1, 4096), jnp.int32)
        return chunked_cross_entropy(x, lambda x: x @ head, targets, jnp.ones((1, 4096)), chunks=16).nll

    args = jax.ShapeDtypeStruct((1, 4096, 16), jnp.float32), jax.ShapeDtypeStruct((16, 8192), jnp.float32)
    memory = jax.jit(jax.grad(loss, (0, 1))).lower(*args).compile().memory_analysis()
    assert memory.temp_size_in_bytes < 4096 * 8192 * 4 / 3
