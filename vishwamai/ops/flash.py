"""Attention in blocks with an online softmax: memory linear in the length, in both passes, on any platform.

Forward: for each block of queries, a running maximum and sum over the blocks of keys (Milakov and Gimelshein, 2018;
Rabe and Staats, 2021). Backward: scores are computed again from the saved log-sum-exp, a block of keys at a time
(Dao et al., FlashAttention, 2022, section 3.1; the loop order of FlashAttention-2). It knows no platform, no model.

B batch, T query positions, S key positions, N = K * G query heads, K kv heads, H head_dim; t and s are positions
within a block, n blocks.
"""

from functools import partial

import jax
import jax.numpy as jnp
from jax.ad_checkpoint import checkpoint_name

from vishwamai.ops.masks import EMPTY, MASKED, Places, Rule, shaped, slope, visible, widened

Array = jax.Array

BLOCK = 256  # the most positions in a block; on two CPU cores 512 is half as fast and 128 a fifth slower
SCORES = 1 << 25  # the most scores that exist at a time, 128 MB in float32, unless a block would get too short
LEAST = 128


def blockwise(rule: Rule, q_BTNH: Array, k_BSKH: Array, v_BSKH: Array, places: Places, sinks_N: Array | None) -> Array:
    """Attention `[B, T, N, H]` in `q`'s dtype; softmax and sums in float32.

    Differentiable in q, k, v and sinks. A query that sees no key gets 0. Lengths need not be multiples of anything.
    """
    B, T, N, H = q_BTNH.shape
    S, K = k_BSKH.shape[1:3]
    bq, bk = block_size(B * N, T), block_size(B * N, S)
    places = Places(
        _cut(places.q_positions, bq, EMPTY),
        _cut(places.kv_positions, bk, EMPTY),
        None if places.q_segments is None else _cut(places.q_segments, bq, EMPTY),
        None if places.kv_segments is None else _cut(places.kv_segments, bk, EMPTY),
    )
    q = _cut(q_BTNH.reshape(B, T, K, N // K, H), bq, 0).transpose(0, 1, 3, 4, 2, 5)
    k, v = (_cut(x, bk, 0).swapaxes(2, 3) for x in (k_BSKH, v_BSKH))
    sinks = None if sinks_N is None else sinks_N.reshape(K, N // K)
    out = _attend(rule, q, k, v, sinks, places).transpose(1, 0, 4, 2, 3, 5)
    return out.reshape(B, -1, N, H)[:, :T]


def block_size(rows: int, length: int) -> int:
    """Positions per block for `rows` = batch x query heads: `BLOCK`, or fewer to stay under `SCORES`."""
    size = BLOCK
    while size > LEAST and rows * size * size > SCORES:
        size //= 2
    return min(size, length)


def _cut(x: Array, block: int, fill: int) -> Array:
    """`[B, T, ...]` -> `[n, B, block, ...]`, the last block filled up with `fill`."""
    pad = [(0, 0)] * x.ndim
    pad[1] = (0, -x.shape[1] % block)
    x = jnp.pad(x, pad, constant_values=fill)
    return x.reshape(x.shape[0], -1, block, *x.shape[2:]).swapaxes(0, 1)


def _at(tree, i: Array):
    return jax.tree.map(lambda x: jax.lax.dynamic_index_in_dim(x, i, 0, keepdims=False), tree)


def _scores(rule: Rule, q: Array, k: Array, places: Places) -> Array:
    """Shaped and masked scores of a block, `[B, K, G, t, s]`."""
    dots = jnp.einsum("BKGtH,BKsH->BKGts", q, k, preferred_element_type=widened(q))
    return jnp.where(visible(rule, places)[:, None, None], shaped(rule, dots), MASKED)


def _keys_for(rule: Rule, i: Array, bq: int, bk: int, n: int) -> tuple[Array | int, Array | int]:
    """The first block of keys that block `i` of queries can see, and the one after the last."""
    if not rule.indexed:
        return 0, n
    last = jnp.minimum(((i + 1) * bq - 1) // bk + 1, n) if rule.causal else n
    first = 0 if rule.window is None else jnp.maximum(i * bq - rule.window + 1, 0) // bk
    return first, last


def _queries_for(rule: Rule, j: Array, bq: int, bk: int, n: int) -> tuple[Array | int, Array | int]:
    """The first block of queries that can see block `j` of keys, and the one after the last."""
    if not rule.indexed:
        return 0, n
    first = j * bk // bq if rule.causal else 0
    last = n if rule.window is None else jnp.minimum(((j + 1) * bk + rule.window - 2) // bq + 1, n)
    return first, last


def _forward(rule: Rule, q: Array, k: Array, v: Array, sinks: Array | None, places: Places) -> tuple[Array, Array]:
    """Output `[n, B, K, G, t, H]` and log-sum-exp `[n, B, K, G, t]`."""
    n, bq, bk, wide = k.shape[0], q.shape[-2], k.shape[-2], widened(q)

    def rows(_, block):
        i, q_i, qp, qs = block

        def step(j, carry):
            top, total, acc = carry
            k_j, v_j, kp, ks = _at((k, v, places.kv_positions, places.kv_segments), j)
            s = _scores(rule, q_i, k_j, Places(qp, kp, qs, ks))
            new_top = jnp.maximum(top, jnp.max(s, -1))
            p, keep = jnp.exp(s - new_top[..., None]), jnp.exp(top - new_top)
            more = jnp.einsum("BKGts,BKsH->BKGtH", p.astype(v.dtype), v_j, preferred_element_type=wide)
            return new_top, total * keep + jnp.sum(p, -1), acc * keep[..., None] + more

        # Half of MASKED: a masked score then weighs exp(MASKED / 2) = 0 even in a row where every score is masked.
        top = jnp.full(q_i.shape[:-1], MASKED / 2, wide)
        total = jnp.zeros_like(top)
        if sinks is not None:
            top = jnp.maximum(top, sinks.astype(wide)[None, :, :, None])
            total = jnp.exp(sinks.astype(wide)[None, :, :, None] - top)
        start = (top, total, jnp.zeros(q_i.shape, wide))
        top, total, acc = jax.lax.fori_loop(*_keys_for(rule, i, bq, bk, n), step, start)
        out = jnp.where(total > 0, 1 / jnp.maximum(total, 1e-37), 0.0)[..., None] * acc
        lse = jnp.where(total > 0, top + jnp.log(jnp.maximum(total, 1e-37)), -MASKED)
        return None, (out.astype(q.dtype), lse)

    blocks = (jnp.arange(q.shape[0], dtype=jnp.int32), q, places.q_positions, places.q_segments)
    return jax.lax.scan(rows, None, blocks)[1]


@partial(jax.custom_vjp, nondiff_argnums=(0,))
def _attend(rule: Rule, q: Array, k: Array, v: Array, sinks: Array | None, places: Places) -> Array:
    return _forward(rule, q, k, v, sinks, places)[0]


def _attend_forward(rule: Rule, q: Array, k: Array, v: Array, sinks: Array | None, places: Places):
    out, lse = (checkpoint_name(x, "attention") for x in _forward(rule, q, k, v, sinks, places))
    return out, (q, k, v, sinks, places, out, lse)


def _attend_backward(rule: Rule, saved, d_out: Array):
    q, k, v, sinks, places, out, lse = saved
    n, bq, bk, wide = q.shape[0], q.shape[-2], k.shape[-2], widened(q)
    # What the softmax takes off each score's gradient: the output times its gradient, summed over H.
    mean = jnp.sum(out.astype(wide) * d_out.astype(wide), -1)

    def keys(dq, block):
        j, k_j, v_j, kp, ks = block

        def step(i, carry):
            dq, dk, dv = carry
            q_i, do, lse_i, mean_i, qp, qs = _at((q, d_out, lse, mean, places.q_positions, places.q_segments), i)
            s = _scores(rule, q_i, k_j, Places(qp, kp, qs, ks))
            p = jnp.exp(s - lse_i[..., None])
            dv += jnp.einsum("BKGts,BKGtH->BKsH", p.astype(do.dtype), do, preferred_element_type=wide)
            dp = jnp.einsum("BKGtH,BKsH->BKGts", do, v_j, preferred_element_type=wide)
            ds = p * (dp - mean_i[..., None]) * jnp.where(p > 0, slope(rule, s), 0.0)
            ds = ds.astype(q.dtype)
            dk += jnp.einsum("BKGts,BKGtH->BKsH", ds, q_i, preferred_element_type=wide)
            more = jnp.einsum("BKGts,BKsH->BKGtH", ds, k_j, preferred_element_type=wide)
            return jax.lax.dynamic_update_index_in_dim(dq, _at(dq, i) + more, i, 0), dk, dv

        zero = jnp.zeros(k_j.shape, wide)
        dq, dk, dv = jax.lax.fori_loop(*_queries_for(rule, j, bq, bk, n), step, (dq, zero, zero))
        return dq, (dk.astype(k.dtype), dv.astype(v.dtype))

    blocks = (jnp.arange(k.shape[0], dtype=jnp.int32), k, v, places.kv_positions, places.kv_segments)
    dq, (dk, dv) = jax.lax.scan(keys, jnp.zeros(q.shape, wide), blocks)
    d_sinks = None
    if sinks is not None:
        weight = jnp.exp(sinks.astype(wide)[None, None, :, :, None] - lse)
        d_sinks = -jnp.sum(weight * mean, (0, 1, 4)).astype(sinks.dtype)
    return dq.astype(q.dtype), dk, dv, d_sinks, None


_attend.defvjp(_attend_forward, _attend_backward)
