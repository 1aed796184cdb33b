"""Attention in blocks with an online softmax: memory linear in the length, in both passes, on any platform.

Forward: for each block of queries, a running maximum and sum over the blocks of keys (Milakov and Gimelshein, 2018;
Rabe and Staats, 2021). Backward: scores are computed again from the saved log-sum-exp, a block of keys at a time
(Dao et al., FlashAttention, 2022, section 3.1; the loop order of FlashAttention-2). It knows no platform, no model.

B batch, T query positions, S key positions, N = K * G query heads, K kv heads, H head_dim; t and s are positions
within a block, n blocks.
"""

from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax.ad_checkpoint import checkpoint_name

from vishwamai.ops.masks import (
    EMPTY,
    MASKED,
    MaskInputs,
    MaskRule,
    make_attention_mask,
    scale_scores,
    score_dtype,
    score_gradient,
)

Array = jax.Array

BLOCK = 256  # the most positions in a block; on two CPU cores 512 is half as fast and 128 a fifth slower
SCORES = 1 << 25  # the most scores that exist at a time, 128 MB in float32, unless a block would get too short
LEAST = 128


class _Blocks(NamedTuple):
    """The inputs cut into blocks along a leading axis."""

    q: Array  # [n, B, K, G, t, H]
    k: Array  # [n, B, K, s, H]
    v: Array
    places: MaskInputs  # each [n, B, t] or [n, B, s]


@partial(jax.custom_vjp, nondiff_argnums=(0,))
def blockwise(
    rule: MaskRule, q_BTNH: Array, k_BSKH: Array, v_BSKH: Array, places: MaskInputs, sinks_N: Array | None
) -> Array:
    """Attention `[B, T, N, H]` in `q`'s dtype; softmax and sums in float32.

    Differentiable in q, k, v and sinks. A query that sees no key gets 0. Lengths need not be multiples of anything.
    Under rematerialisation what the gradient needs of the forward pass bears the name "attention".
    """
    return _blockwise_forward(rule, q_BTNH, k_BSKH, v_BSKH, places, sinks_N)[0]


def _blockwise_forward(rule: MaskRule, q: Array, k: Array, v: Array, places: MaskInputs, sinks_N: Array | None):
    out, lse = _forward(rule, _blocks(q, k, v, places), _group_sinks(sinks_N, k))
    out = checkpoint_name(_merge_blocks(out, q.shape), "attention")
    return out, (q, k, v, places, sinks_N, out, checkpoint_name(lse, "attention"))


def _blockwise_backward(rule: MaskRule, saved, d_out: Array):
    q, k, v, places, sinks_N, out, lse = saved
    blocks, sinks = _blocks(q, k, v, places), _group_sinks(sinks_N, k)
    bq = blocks.q.shape[-2]
    # What the softmax takes off each score's gradient: the output times its gradient, summed over H.
    mean_BTN = jnp.sum(out.astype(score_dtype(q)) * d_out.astype(score_dtype(q)), -1, keepdims=True)
    mean, do = (_split_queries(x, k.shape[2], bq) for x in (mean_BTN, d_out))
    dq, dk, dv = _backward(rule, blocks, lse, do, mean[..., 0])
    dk, dv = (x.transpose(1, 0, 3, 2, 4).reshape(k.shape[0], -1, *k.shape[2:])[:, : k.shape[1]] for x in (dk, dv))
    d_sinks = None
    if sinks is not None:
        weight = jnp.exp(sinks[None] - lse)
        d_sinks = -jnp.sum(weight * mean[..., 0], (0, 1, 4)).reshape(-1).astype(sinks_N.dtype)
    return _merge_blocks(dq.astype(q.dtype), q.shape), dk.astype(k.dtype), dv.astype(v.dtype), None, d_sinks


blockwise.defvjp(_blockwise_forward, _blockwise_backward)


def block_size(rows: int, length: int) -> int:
    """Positions per block for `rows` = batch x query heads: `BLOCK`, or fewer to stay under `SCORES`."""
    size = BLOCK
    while size > LEAST and rows * size * size > SCORES:
        size //= 2
    return min(size, length)


def _split_blocks(x: Array, block: int, fill: int) -> Array:
    """`[B, T, ...]` -> `[n, B, block, ...]`, the last block filled up with `fill`."""
    pad = [(0, 0)] * x.ndim
    pad[1] = (0, -x.shape[1] % block)
    x = jnp.pad(x, pad, constant_values=fill)
    return x.reshape(x.shape[0], -1, block, *x.shape[2:]).swapaxes(0, 1)


def _split_queries(x_BTNH: Array, kv_heads: int, block: int) -> Array:
    B, T, N, H = x_BTNH.shape
    return _split_blocks(x_BTNH.reshape(B, T, kv_heads, N // kv_heads, H), block, 0).transpose(0, 1, 3, 4, 2, 5)


def _merge_blocks(x: Array, shape: tuple[int, ...]) -> Array:
    """`[n, B, K, G, t, H]` -> `[B, T, N, H]`, without the padding."""
    B, T, N, H = shape
    return x.transpose(1, 0, 4, 2, 3, 5).reshape(B, -1, N, H)[:, :T]


def _blocks(q: Array, k: Array, v: Array, places: MaskInputs) -> _Blocks:
    rows = q.shape[0] * q.shape[2]
    bq, bk = block_size(rows, q.shape[1]), block_size(rows, k.shape[1])
    blocks = (bq, bk, bq, bk)
    places = MaskInputs(
        *(None if x is None else _split_blocks(x, b, EMPTY) for x, b in zip(places, blocks, strict=True))
    )
    k, v = (_split_blocks(x, bk, 0).swapaxes(2, 3) for x in (k, v))
    return _Blocks(_split_queries(q, k.shape[2], bq), k, v, places)


def _group_sinks(sinks_N: Array | None, k_BSKH: Array) -> Array | None:
    """Sinks as `[1, K, G, 1]`, in the dtype of the scores."""
    return None if sinks_N is None else sinks_N.astype(score_dtype(k_BSKH)).reshape(1, k_BSKH.shape[2], -1, 1)


def _select_block(tree, i: Array):
    return jax.tree.map(lambda x: jax.lax.dynamic_index_in_dim(x, i, 0, keepdims=False), tree)


def _scores(rule: MaskRule, q: Array, k: Array, places: MaskInputs) -> Array:
    """Shaped and masked scores of a block, `[B, K, G, t, s]`."""
    dots = jnp.einsum("BKGtH,BKsH->BKGts", q, k, preferred_element_type=score_dtype(q))
    return jnp.where(make_attention_mask(rule, places)[:, None, None], scale_scores(rule, dots), MASKED)


def _key_block_range(rule: MaskRule, i: Array, bq: int, bk: int, n: int) -> tuple[Array | int, Array | int]:
    """The first block of keys that block `i` of queries can see, and the one after the last."""
    if not rule.indexed:
        return 0, n
    last = jnp.minimum(((i + 1) * bq - 1) // bk + 1, n) if rule.causal else n
    first = 0 if rule.window is None else jnp.maximum(i * bq - rule.window + 1, 0) // bk
    return first, last


def _query_block_range(rule: MaskRule, j: Array, bq: int, bk: int, n: int) -> tuple[Array | int, Array | int]:
    """The first block of queries that can see block `j` of keys, and the one after the last."""
    if not rule.indexed:
        return 0, n
    first = j * bk // bq if rule.causal else 0
    last = n if rule.window is None else jnp.minimum(((j + 1) * bk + rule.window - 2) // bq + 1, n)
    return first, last


def _forward(rule: MaskRule, blocks: _Blocks, sinks: Array | None) -> tuple[Array, Array]:
    """Output `[n, B, K, G, t, H]` and log-sum-exp `[n, B, K, G, t]`."""
    q, k, v, places = blocks
    n, bq, bk, wide = k.shape[0], q.shape[-2], k.shape[-2], score_dtype(q)

    def rows(_, block):
        i, q_i, qp, qs = block

        def step(j, carry):
            top, total, acc = carry
            k_j, v_j, kp, ks = _select_block((k, v, places.kv_positions, places.kv_segments), j)
            s = _scores(rule, q_i, k_j, MaskInputs(qp, kp, qs, ks))
            new_top = jnp.maximum(top, jnp.max(s, -1))
            p, keep = jnp.exp(s - new_top[..., None]), jnp.exp(top - new_top)
            more = jnp.einsum("BKGts,BKsH->BKGtH", p.astype(v.dtype), v_j, preferred_element_type=wide)
            return new_top, total * keep + jnp.sum(p, -1), acc * keep[..., None] + more

        # Half of MASKED: a masked score then weighs exp(MASKED / 2) = 0 even in a row where every score is masked.
        top = jnp.full(q_i.shape[:-1], MASKED / 2, wide)
        total = jnp.zeros_like(top)
        if sinks is not None:
            top = jnp.maximum(top, sinks)
            total = jnp.exp(sinks - top)
        start = (top, total, jnp.zeros(q_i.shape, wide))
        top, total, acc = jax.lax.fori_loop(*_key_block_range(rule, i, bq, bk, n), step, start)
        out = jnp.where(total > 0, 1 / jnp.maximum(total, 1e-37), 0.0)[..., None] * acc
        lse = jnp.where(total > 0, top + jnp.log(jnp.maximum(total, 1e-37)), -MASKED)
        return None, (out.astype(q.dtype), lse)

    each = (jnp.arange(q.shape[0], dtype=jnp.int32), q, places.q_positions, places.q_segments)
    return jax.lax.scan(rows, None, each)[1]


def _backward(rule: MaskRule, blocks: _Blocks, lse: Array, d_out: Array, mean: Array) -> tuple[Array, Array, Array]:
    """The gradients of the blocks of q, k and v, in the dtype of the scores."""
    q, k, v, places = blocks
    n, bq, bk, wide = q.shape[0], q.shape[-2], k.shape[-2], score_dtype(q)

    def keys(dq, block):
        j, k_j, v_j, kp, ks = block

        def step(i, carry):
            dq, dk, dv = carry
            q_i, do, lse_i, mean_i, qp, qs = _select_block(
                (q, d_out, lse, mean, places.q_positions, places.q_segments), i
            )
            s = _scores(rule, q_i, k_j, MaskInputs(qp, kp, qs, ks))
            p = jnp.exp(s - lse_i[..., None])
            dv += jnp.einsum("BKGts,BKGtH->BKsH", p.astype(do.dtype), do, preferred_element_type=wide)
            dp = jnp.einsum("BKGtH,BKsH->BKGts", do, v_j, preferred_element_type=wide)
            ds = p * (dp - mean_i[..., None]) * jnp.where(p > 0, score_gradient(rule, s), 0.0)
            ds = ds.astype(q.dtype)
            dk += jnp.einsum("BKGts,BKGtH->BKsH", ds, q_i, preferred_element_type=wide)
            more = jnp.einsum("BKGts,BKsH->BKGtH", ds, k_j, preferred_element_type=wide)
            return jax.lax.dynamic_update_index_in_dim(dq, _select_block(dq, i) + more, i, 0), dk, dv

        zero = jnp.zeros(k_j.shape, wide)
        dq, dk, dv = jax.lax.fori_loop(*_query_block_range(rule, j, bq, bk, n), step, (dq, zero, zero))
        return dq, (dk, dv)

    each = (jnp.arange(k.shape[0], dtype=jnp.int32), k, v, places.kv_positions, places.kv_segments)
    dq, (dk, dv) = jax.lax.scan(keys, jnp.zeros(q.shape, wide), each)
    return dq, dk, dv
