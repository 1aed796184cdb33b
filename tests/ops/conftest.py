"""Attention's definition in float64 NumPy, value and gradients, and the comparison that its tests share."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vishwamai.ops.attention import attention


def visible_pairs(B, T, S, *, causal=True, window=None, q_positions_BT=None, kv_positions_BS=None, **segments):
    """Which query sees which key, one pair at a time."""
    q_segments, kv_segments = (segments.get(n) for n in ("q_segments_BT", "kv_segments_BS"))
    kv_segments = q_segments if kv_segments is None else kv_segments
    seen = np.zeros((B, T, S), bool)
    for b, i, j in np.ndindex(seen.shape):
        p = i if q_positions_BT is None else q_positions_BT[b, i]
        r = j if kv_positions_BS is None else kv_positions_BS[b, j]
        same = q_segments is None or q_segments[b, i] == kv_segments[b, j]
        seen[b, i, j] = r >= 0 and same and (not causal or r <= p) and (window is None or p - r < window)
    return seen


def defined(q, k, v, do, sinks, seen, *, scale=None, softcap=None):
    """The output, and the gradients of `sum(output * do)` for q, k, v and (where there are any) sinks."""
    (B, S, K, _), N = k.shape, q.shape[2]
    k, v = (np.repeat(x, N // K, 2) for x in (k, v))
    scale = q.shape[-1] ** -0.5 if scale is None else scale
    s = np.einsum("btnh,bsnh->bnts", q, k) * scale
    bend = np.ones_like(s) if softcap is None else 1 - np.tanh(s / softcap) ** 2
    s = s if softcap is None else softcap * np.tanh(s / softcap)
    sink = np.full(N, -np.inf) if sinks is None else sinks
    s = np.where(seen[:, None], s, -np.inf)
    top = np.maximum(s.max(-1, keepdims=True), sink[None, :, None, None])
    top[np.isneginf(top)] = 0
    e, e_sink = np.exp(s - top), np.exp(sink[None, :, None, None] - top)
    total = e.sum(-1, keepdims=True) + e_sink
    total[total == 0] = 1
    p = e / total
    out = np.einsum("bnts,bsnh->btnh", p, v)
    dp = np.einsum("btnh,bsnh->bnts", do, v)
    mean = (p * dp).sum(-1, keepdims=True)
    ds = p * (dp - mean) * bend * scale
    dk, dv = np.einsum("bnts,btnh->bsnh", ds, q), np.einsum("bnts,btnh->bsnh", p, do)
    dk, dv = (x.reshape(B, S, K, N // K, -1).sum(3) for x in (dk, dv))
    grads = [np.einsum("bnts,bsnh->btnh", ds, k), dk, dv]
    return [out, *grads, *([] if sinks is None else [-(e_sink / total * mean).sum((0, 2, 3))])]


def computed(q, k, v, do, sinks, features, fn):
    q, k, v, do, sinks = (None if x is None else jnp.asarray(x, jnp.float32) for x in (q, k, v, do, sinks))
    features = {n: jnp.asarray(x, jnp.int32) if isinstance(x, np.ndarray) else x for n, x in features.items()}

    @jax.jit
    def run(q, k, v, do, sinks):
        out, pull = jax.vjp(lambda q, k, v, s: fn(q, k, v, sinks_N=s, **features), q, k, v, sinks)
        return [out, *(g for g in pull(do) if g is not None)]

    return [np.asarray(x) for x in run(q, k, v, do, sinks)]


def check(T, features, fn=attention, *, S=None, B=2, N=4, K=2, H=8, sinks=None, tolerance=1e-5, seed=0, **more):
    """`fn`'s value and gradients on random arrays are the definition's, to `tolerance` of the largest entry."""
    rng = np.random.default_rng(seed)
    S = T if S is None else S
    q, k, v, do = (rng.standard_normal(s) for s in [(B, T, N, H), (B, S, K, H), (B, S, K, H), (B, T, N, H)])
    bends = {n: features.get(n) for n in ("scale", "softcap")}
    places = {n: x for n, x in features.items() if n not in bends}
    want = defined(q, k, v, do, sinks, visible_pairs(B, T, S, **places), **bends)
    have = computed(q, k, v, do, sinks, features | more, fn)
    assert len(want) == len(have)
    for name, w, h in zip(("out", "dq", "dk", "dv", "dsinks"), want, have, strict=False):
        np.testing.assert_allclose(h, w, atol=tolerance * max(1.0, np.abs(w).max()), rtol=0, err_msg=name)
    return have


@pytest.fixture
def check_attention():
    return check


@pytest.fixture
def packed():
    """`packed(T)`: segment ids of two rows, cut at different places, with padding (0) at the ends."""

    def ids(T, B=2):
        rows = [(np.arange(T) * (4 - b % 2) // T + 1) * (np.arange(T) < T - 3 * b) for b in range(B)]
        return np.stack(rows)

    return ids
