"""Attention: one signature, several implementations, chosen by the platform that the program is lowered for.

It knows no model, no cache and no mesh. A kernel cannot be partitioned by the compiler: over a mesh, call it through
`vishwamai.parallel.attention`.

B batch, T query positions, S key positions, N = K * G query heads, K kv heads, H head_dim.
"""

import math
import os
from functools import partial

import jax
import jax.numpy as jnp
from jax.ad_checkpoint import checkpoint_name

from vishwamai.errors import BackendError, InputError
from vishwamai.ops.flash import blockwise
from vishwamai.ops.masks import MASKED, MaskInputs, MaskRule, make_attention_mask, scale_scores, score_dtype

Array = jax.Array

IMPLEMENTATIONS = ("reference", "blockwise", "splash")
MOST_PARTS = 4  # of a batch on a CPU: each is compiled for itself
SHORT = 64  # queries up to which the reference is as fast as blocks, forward and backward, on two CPU cores


def attention(
    q_BTNH: Array,
    k_BSKH: Array,
    v_BSKH: Array,
    *,
    causal: bool = True,
    q_positions_BT: Array | None = None,
    kv_positions_BS: Array | None = None,
    q_segments_BT: Array | None = None,
    kv_segments_BS: Array | None = None,
    window: int | None = None,
    softcap: float | None = None,
    sinks_N: Array | None = None,
    scale: float | None = None,
    implementation: str | None = None,
) -> Array:
    """Softmax attention, `[B, T, N, H]` in `q`'s dtype; query head n reads kv head `n // G`. Softmax is in float32.

    Query i sees key j if they share a segment, and (if causal) j is not later, and (if windowed) j is less than
    `window` positions behind. A query that sees nothing gets 0.

    Without positions a place in the row is its position: `T == S`, and `kv_segments` default to `q_segments`. With
    positions (both kinds), a key position of -1 is an empty cache slot, which nobody sees.

    `softcap` bends scores by `softcap * tanh(score / softcap)`; `sinks_N` is a logit per query head that joins the
    softmax's denominator; `scale` defaults to `H ** -0.5`.

    `implementation` is "reference", "blockwise" (memory linear in T, any platform), "splash" (TPU kernel, no positions)
    or None: by shape, and for whole rows by the platform that the program is lowered for. Raises `InputError` for
    arguments that do not fit together and `BackendError` for a named implementation that cannot run.

    Under rematerialisation, what the backward pass needs bears the name "attention" (`checkpoint_name`). A caller who
    gives the result that name once more keeps it twice.
    """
    _check(q_BTNH, k_BSKH, v_BSKH, q_positions_BT, kv_positions_BS, window, implementation)
    if kv_segments_BS is None and kv_positions_BS is None:
        kv_segments_BS = q_segments_BT
    if (q_segments_BT is None) != (kv_segments_BS is None):
        raise InputError("attention has segments for queries or for keys only; give q_segments_BT and kv_segments_BS")
    indexed = q_positions_BT is None
    if indexed:
        q_positions_BT = kv_positions_BS = jnp.arange(q_BTNH.shape[1], dtype=jnp.int32)[None]
    places = MaskInputs(q_positions_BT, kv_positions_BS, q_segments_BT, kv_segments_BS)
    rule = MaskRule(
        scale=q_BTNH.shape[-1] ** -0.5 if scale is None else scale,
        causal=causal,
        window=window,
        softcap=softcap,
        indexed=indexed,
    )
    run = _choose(implementation, rule, q_BTNH, places)
    return run(rule, q_BTNH, k_BSKH, v_BSKH, places, sinks_N)


def reference(
    rule: MaskRule, q_BTNH: Array, k_BSKH: Array, v_BSKH: Array, places: MaskInputs, sinks_N: Array | None
) -> Array:
    """The definition, with every score in memory at once: `[B, N, T, S]` in float32."""
    B, T, N, H = q_BTNH.shape
    K = k_BSKH.shape[2]
    wide = score_dtype(q_BTNH)
    q_BTKGH = q_BTNH.reshape(B, T, K, N // K, H)
    dots = jnp.einsum("BTKGH,BSKH->BKGTS", q_BTKGH, k_BSKH, preferred_element_type=wide)
    scores = jnp.where(make_attention_mask(rule, places)[:, None, None], scale_scores(rule, dots), MASKED)
    top = jnp.maximum(jnp.max(scores, -1, keepdims=True), MASKED / 2)
    if sinks_N is not None:
        sinks = sinks_N.astype(wide).reshape(1, K, N // K, 1, 1)
        top = jnp.maximum(top, sinks)
    top = jax.lax.stop_gradient(top)
    p = jnp.exp(scores - top)
    total = jnp.sum(p, -1, keepdims=True)
    if sinks_N is not None:
        total += jnp.exp(sinks - top)
    p = p / jnp.where(total > 0, total, 1.0)
    out = jnp.einsum("BKGTS,BSKH->BKGTH", p.astype(v_BSKH.dtype), v_BSKH, preferred_element_type=wide)
    out = out.transpose(0, 3, 1, 2, 4).reshape(B, T, N, H)
    return checkpoint_name(out.astype(q_BTNH.dtype), "attention")


def _choose(implementation: str | None, rule: MaskRule, q_BTNH: Array, places: MaskInputs):
    """The function that runs. Where None leaves it open, the compiler keeps one branch: that of the platform."""
    reason = why_no_splash(rule, q_BTNH, places)
    if implementation == "splash":
        if reason:
            raise BackendError(f"the splash kernel cannot run here: {reason}; use implementation='blockwise' or None")
        if jax.sharding.get_abstract_mesh().empty:  # over a mesh, `parallel.attention` knows the devices
            check_splash_platform(jax.default_backend())
        return _splash
    if implementation is not None:
        return {"reference": reference, "blockwise": blockwise}[implementation]
    if q_BTNH.shape[1] <= SHORT:
        return reference
    return blockwise if reason else _by_platform


def why_no_splash(rule: MaskRule, q_BTNH: Array, places: MaskInputs) -> str | None:
    """Why the splash kernel cannot do this, or None."""
    if not rule.indexed:
        return "it takes whole rows, not positions"
    if places.q_segments is not places.kv_segments:
        return "it takes one array of segments, for queries and keys alike"
    if q_BTNH.dtype not in (jnp.float32, jnp.bfloat16):
        return f"it takes float32 or bfloat16, not {q_BTNH.dtype}"
    return None


def check_splash_platform(platform: str) -> None:
    """Raises `BackendError` for a platform that the splash kernel does not run on."""
    if platform != "tpu":
        raise BackendError(
            "the splash kernel runs on TPU alone, and this program is compiled for another platform; "
            "use implementation='blockwise' or None"
        )


def _splash(rule: MaskRule, q, k, v, places: MaskInputs, sinks):
    from vishwamai.ops.splash import splash  # with all of Pallas, for which what is short need not wait

    return splash(rule, q, k, v, places, sinks)


def _by_platform(rule: MaskRule, q, k, v, places: MaskInputs, sinks):
    args = (q, k, v, places, sinks)
    in_blocks = partial(blockwise, rule)
    return jax.lax.platform_dependent(*args, tpu=partial(_splash, rule), cpu=partial(_by_core, rule), default=in_blocks)


def _by_core(rule: MaskRule, q, k, v, places: MaskInputs, sinks):
    """`blockwise`, the rows in as many parts as cores can share: XLA for CPU gives a batch of matmuls one core."""
    rows = q.shape[0]
    parts = math.gcd(rows, min(os.cpu_count() or 1, MOST_PARTS))

    def part(x: jax.Array, i: int) -> jax.Array:
        return x if x.shape[0] != rows else x[i * rows // parts : (i + 1) * rows // parts]

    given = (jax.tree.map(partial(part, i=i), (q, k, v, places)) for i in range(parts))
    return jnp.concatenate([blockwise(rule, *x, sinks) for x in given])


def _check(q, k, v, q_positions, kv_positions, window, implementation) -> None:
    if q.ndim != 4 or k.ndim != 4 or k.shape != v.shape or (q.shape[0], q.shape[3]) != (k.shape[0], k.shape[3]):
        raise InputError(
            f"attention takes q [B, T, N, H] and k, v [B, S, K, H], not {q.shape}, {k.shape} and {v.shape}"
        )
    if q.shape[2] % k.shape[2]:
        raise InputError(f"attention has {q.shape[2]} query heads, which is not a multiple of {k.shape[2]} kv heads")
    if (q_positions is None) != (kv_positions is None):
        raise InputError("attention takes positions of both queries and keys, or of neither")
    if q_positions is None and q.shape[1] != k.shape[1]:
        raise InputError(
            f"attention has {q.shape[1]} queries and {k.shape[1]} keys; without positions both must be whole rows"
        )
    if window is not None and window < 1:
        raise InputError(f"attention has window {window}; it must be 1 or more, or None")
    if implementation not in (None, *IMPLEMENTATIONS):
        raise InputError(f"attention implementation {implementation!r} is not known; use {', '.join(IMPLEMENTATIONS)}")
