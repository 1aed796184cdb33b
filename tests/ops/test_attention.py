"""Attention's signature and its reference, against the float64 definition in conftest."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vishwamai.errors import InputError
from vishwamai.ops.attention import attention

B, N, K, H = 2, 4, 2, 8
SINKS = np.array([0.5, -1.0, 2.0, 0.0])
FEATURES = {
    "causal": {},
    "both ways": {"causal": False, "sinks": True},
    "window": {"window": 5},
    "window both ways": {"window": 5, "causal": False},
    "softcap": {"softcap": 0.7},
    "scale": {"scale": 1.3},
    "segments": {"segments": True},
    "all": {"segments": True, "window": 4, "softcap": 1.1, "scale": 0.9, "sinks": True},
}


@pytest.mark.parametrize("name", FEATURES)
def test_reference_is_the_definition(name, check_attention, packed):
    features = dict(FEATURES[name])
    sinks = SINKS if features.pop("sinks", False) else None
    if features.pop("segments", False):
        features["q_segments_BT"] = packed(23)
    check_attention(23, features, sinks=sinks, implementation="reference")


def cached(T, S, seed=1):
    """Positions of a cache whose slots are in any order, some of them empty; the queries at its tail or its head."""
    rng = np.random.default_rng(seed)
    kv = np.stack([rng.permutation(np.where(np.arange(S) < S - 6, np.arange(S), -1)) for _ in range(B)])
    return {"q_positions_BT": np.stack([np.arange(T) + S - T - 6, np.arange(T)]), "kv_positions_BS": kv}


@pytest.mark.parametrize("T, features", [(1, {"softcap": 2.0}), (9, {}), (9, {"window": 3})])
def test_positions_of_a_cache(T, features, check_attention):
    check_attention(T, features | cached(T, 19), S=19, sinks=SINKS)


def test_keys_of_other_segments(check_attention):
    segments = {"q_segments_BT": np.arange(10).reshape(2, 5) % 3, "kv_segments_BS": np.arange(14).reshape(2, 7) % 4}
    places = {"q_positions_BT": np.tile(np.arange(5) + 2, (2, 1)), "kv_positions_BS": np.tile(np.arange(7), (2, 1))}
    check_attention(5, places | segments, S=7)


@pytest.mark.parametrize("implementation", ["reference", "blockwise"])
def test_bfloat16_keeps_the_softmax_in_float32(implementation):
    q, k, v = (jnp.asarray(np.random.default_rng(0).standard_normal((B, 70, 4, 8)), jnp.bfloat16) for _ in range(3))
    run = jax.jit(functools.partial(attention, implementation=implementation))
    out, want = run(q, k, v), run(*(x.astype(jnp.float32) for x in (q, k, v)))
    assert out.dtype == jnp.bfloat16
    np.testing.assert_allclose(np.asarray(out, np.float32), want, atol=0.02)


@pytest.mark.parametrize(
    "change, words",
    [
        ({"implementation": "fast"}, "not known"),
        ({"window": 0}, "window 0"),
        ({"q_positions_BT": jnp.zeros((B, 4), jnp.int32)}, "positions of both"),
        ({"kv_segments_BS": jnp.zeros((B, 4), jnp.int32)}, "segments"),
        ({"k": jnp.zeros((B, 5, K, H)), "v": jnp.zeros((B, 5, K, H))}, "4 queries and 5 keys"),
        ({"k": jnp.zeros((B, 4, 3, H)), "v": jnp.zeros((B, 4, 3, H))}, "not a multiple of 3"),
        ({"v": jnp.zeros((B, 4, K, 1))}, "takes q"),
    ],
)
def test_arguments_that_do_not_fit(change, words):
    x = jnp.zeros((B, 4, K, H))
    given = {"q": jnp.zeros((B, 4, N, H)), "k": x, "v": x} | change
    with pytest.raises(InputError, match=words):
        attention(given.pop("q"), given.pop("k"), given.pop("v"), **given)


def test_rows_that_cores_share_give_what_they_give_together(monkeypatch):
    monkeypatch.setattr("vishwamai.ops.attention.os.cpu_count", lambda: 2)
    rng = np.random.default_rng(0)
    q, k, v = (jnp.asarray(rng.normal(size=(4, 80, heads, H)), jnp.float32) for heads in (N, K, K))
    segments = jnp.asarray(np.sort(rng.integers(1, 4, (4, 80)), 1))

    def results(implementation):
        def loss(q, k, v):
            options = {"q_segments_BT": segments, "sinks_N": jnp.asarray(SINKS), "window": 9}
            return jnp.sum(jnp.sin(attention(q, k, v, implementation=implementation, **options)))

        return jax.jit(jax.value_and_grad(loss, (0, 1, 2)))(q, k, v)

    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-5), results(None), results("reference")
    )
