"""Fingerprints of weights: equal for equal weights alone, in every dtype, and spread over all bits."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vishwamai.models import transformer
from vishwamai.models.config import Layer, ModelConfig, Stack
from vishwamai.models.fingerprint import fingerprint
from vishwamai.weights import quantize, spec

CFG = ModelConfig(
    vocab_size=61, d_model=16, d_ff=24, n_heads=4, n_kv_heads=2, head_dim=8, max_length=64, learned_positions=True,
    n_experts=4, n_experts_per_token=2, d_expert=16,
    stacks=(Stack(pattern=(Layer(window=8, moe=True), Layer()), repeats=1),),
)  # fmt: skip


def weights():
    """Made in NumPy, which compiles nothing."""
    shapes, rng = jax.eval_shape(lambda: spec.init(transformer.specs(CFG), jax.random.key(0))), np.random.default_rng(7)
    return jax.tree.map(lambda x: jnp.asarray(rng.normal(0, 0.3, x.shape), jnp.float32), shapes)


PRINT = jax.jit(fingerprint)


def prints(tree) -> tuple[int, ...]:
    return tuple(PRINT(tree).tolist())


def test_a_fingerprint_is_that_of_equal_weights_alone():
    w = weights()
    assert prints(jax.tree.map(jnp.array, w)) == prints(w) and PRINT(w).dtype == jnp.uint32
    others, (leaves, tree) = [w], jax.tree.flatten(w)
    for i, leaf in enumerate(leaves):
        for place in (0, leaf.size - 1):
            new = np.array(leaf)
            new.reshape(-1)[place] = np.nextafter(new.reshape(-1)[place], np.float32(9))
            others.append(tree.unflatten([*leaves[:i], new, *leaves[i + 1 :]]))
        for j in range(i):
            if leaf.shape == leaves[j].shape:
                swapped = list(leaves)
                swapped[i], swapped[j] = leaves[j], leaf
                others.append(tree.unflatten(swapped))
    assert len(others) > 60 and len({prints(other) for other in others}) == len(others)


@pytest.mark.parametrize("dtype", ["bfloat16", "float32", "int8", "int4", "float8_e4m3fn", "float4_e2m1fn"])
def test_a_fingerprint_tells_layers_that_changed_places(dtype):
    """Layers lie powers of two apart, and the low bits of numbers that were once bfloat16 are zeros."""
    x = np.random.default_rng(1).normal(0, 3, (4, 64, 1024)).astype(jnp.bfloat16).astype(dtype)
    found = {
        prints([jnp.asarray(x[list(order)])]) for order in ((0, 1, 2, 3), (1, 0, 2, 3), (0, 1, 3, 2), (2, 3, 0, 1))
    }
    assert [len(set(column)) for column in zip(*found, strict=True)] == [4, 4]


def test_fingerprints_are_spread():
    x, one = np.arange(1 << 12, dtype=np.float32).reshape(64, 64), np.eye(64, dtype=np.float32)
    found = np.asarray([prints([x + one[i]]) for i in range(64)])
    assert [len(set(column)) for column in found.T.tolist()] == [64, 64]
    assert 0.45 < np.unpackbits(found.astype(np.uint32).view(np.uint8)).mean() < 0.55


@pytest.mark.parametrize("scheme", ["int8", "int4"])
def test_quantised_weights_have_fingerprints(scheme):
    how = quantize.Scheme.named(scheme)
    w = np.random.default_rng(2).normal(0, 1, (2, 64, 8)).astype(np.float32)
    one, again, other = (quantize.round_to_scheme(jnp.asarray(x), (2, 2, 8), how) for x in (w, w.copy(), w[::-1]))
    assert prints(one) == prints(again) != prints(other)
    assert prints(dataclasses.replace(one, scale=one.scale * 2)) != prints(one)
