"""The blockwise form against the float64 definition, in blocks small enough that every edge is crossed."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vishwamai.ops import flash
from vishwamai.ops.attention import attention
from vishwamai.ops.masks import MaskRule

LONGEST = flash.BLOCK
SINKS = np.array([0.5, -1.0, 2.0, 0.0])


@pytest.fixture(autouse=True)
def short_blocks(monkeypatch):
    monkeypatch.setattr(flash, "BLOCK", 8)


@pytest.mark.by_turns
@pytest.mark.parametrize(
    "features",
    [
        {},
        {"causal": False, "sinks": True},
        {"window": 1},
        {"window": 8, "sinks": True},
        {"window": 10},
        {"window": 11, "causal": False},
        {"softcap": 0.7, "sinks": True},
        {"scale": 1.3},
        {"segments": True, "causal": False},
        {"segments": True, "window": 6, "softcap": 1.1, "scale": 0.9, "sinks": True},
    ],
    ids=str,
)
def test_values_and_gradients(features, check_attention, packed):
    features = dict(features)
    sinks = SINKS if features.pop("sinks", False) else None
    if features.pop("segments", False):
        features["q_segments_BT"] = packed(27)
    check_attention(27, features, sinks=sinks, implementation="blockwise")


@pytest.mark.parametrize("causal", [True, False])
@pytest.mark.parametrize("window", [1, 2, 7, 8, 9, 10, 16, 17])
def test_a_window_opens_the_blocks_that_it_reaches_and_no_others(window, causal):
    """The bounds against every pair of positions; a block more would be masked and seen in no value."""
    rule, t = MaskRule(scale=1.0, causal=causal, window=window, indexed=True), np.arange(40)
    seen = (t[:, None] - t[None] < window) & ((t[None] <= t[:, None]) | (not causal))
    blocks = seen.reshape(5, 8, 5, 8).any((1, 3))
    for i in range(5):
        for bounds, reached in ((flash._key_block_range, blocks[i]), (flash._query_block_range, blocks[:, i])):
            first, end = map(int, bounds(rule, jnp.int32(i), 8, 8, 5))
            assert list(range(first, end)) == np.flatnonzero(reached).tolist()


def test_blocks_as_long_as_they_are_used(check_attention, monkeypatch):
    monkeypatch.setattr(flash, "BLOCK", LONGEST)
    check_attention(LONGEST + 70, {"window": LONGEST - 1}, B=1, N=2, K=1, sinks=SINKS[:2], implementation="blockwise")


def test_whole_blocks(check_attention):
    check_attention(32, {"window": 9}, implementation="blockwise")


@pytest.mark.by_turns
@pytest.mark.parametrize("N, K", [(4, 4), (3, 1)])
def test_groups_of_heads(N, K, check_attention):
    check_attention(19, {}, N=N, K=K, sinks=SINKS[:N], implementation="blockwise")


@pytest.mark.by_turns
@pytest.mark.parametrize(
    "T, S, features", [(10, 31, {}), (1, 13, {"window": 4}), (20, 9, {"causal": False, "softcap": 1.0})]
)
def test_positions_of_a_cache(T, S, features, check_attention):
    rng = np.random.default_rng(3)
    kv = np.stack([rng.permutation(np.where(rng.random(S) < 0.7, np.arange(S), -1)) for _ in range(2)])
    positions = {"q_positions_BT": np.stack([np.arange(T) + S // 2, np.arange(T)]), "kv_positions_BS": kv}
    check_attention(T, features | positions, S=S, sinks=SINKS, implementation="blockwise")


@pytest.mark.by_turns
@pytest.mark.parametrize("implementation, sinks", [("reference", None), ("blockwise", None), ("blockwise", SINKS)])
def test_a_query_that_sees_nothing_is_zero(implementation, sinks, check_attention):
    positions = {"q_positions_BT": np.full((2, 9), 3), "kv_positions_BS": np.stack([np.full(13, -1), np.arange(13)])}
    out, dq, dk, dv = check_attention(9, positions, S=13, sinks=sinks, implementation=implementation)[:4]
    assert not any(x[0].any() for x in (out, dq, dk, dv))


def test_large_scores_do_not_overflow(check_attention):
    check_attention(20, {"scale": 300.0}, implementation="blockwise", tolerance=1e-3)


def test_blocks_shrink_for_large_batches(monkeypatch):
    monkeypatch.setattr(flash, "BLOCK", 512)
    assert flash.block_size(8, 100_000) == 512
    assert flash.block_size(512, 100_000) == 256
    assert flash.block_size(100_000, 100_000) == flash.LEAST
    assert flash.block_size(8, 30) == 30


def test_under_vmap_and_rematerialisation(check_attention):
    def mapped(q, k, v, sinks_N):
        one = jax.checkpoint(lambda q, k, v: attention(q, k, v, sinks_N=sinks_N, implementation="blockwise"))
        return jax.vmap(one)(q[:, None], k[:, None], v[:, None])[:, 0]

    check_attention(20, {}, mapped, sinks=SINKS)


def compiled_bytes(T, implementation):
    """Temporary memory of forward and gradient at 4 heads of 64, without running them."""
    x = jax.ShapeDtypeStruct((1, T, 4, 64), jnp.float32)
    loss = jax.grad(lambda q, k, v: jnp.sum(attention(q, k, v, implementation=implementation)), (0, 1, 2))
    return jax.jit(loss).lower(x, x, x).compile().memory_analysis().temp_size_in_bytes


def test_memory_is_linear_in_length_and_far_under_the_reference(monkeypatch):
    monkeypatch.setattr(flash, "BLOCK", 256)
    at_32k = compiled_bytes(32768, "blockwise")
    assert at_32k < compiled_bytes(32768, "reference") / 20
    assert at_32k < 2.2 * compiled_bytes(16384, "blockwise")
