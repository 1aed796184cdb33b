"""The TPU kernel, interpreted on the CPU, against the float64 definition; and which programs hold it."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.experimental.pallas.ops.tpu import splash_attention as kernels

from vishwamai.errors import BackendError
from vishwamai.ops import splash as module
from vishwamai.ops.attention import attention
from vishwamai.ops.masks import MaskInputs, MaskRule

SINKS = np.array([0.5, -1.0, 2.0, 0.0])


def interpreted(q, k, v, *, q_segments_BT=None, sinks_N=None, **options):
    positions = jnp.arange(q.shape[1], dtype=jnp.int32)[None]
    rule = MaskRule(indexed=True, **{"scale": q.shape[-1] ** -0.5, **options})
    places = MaskInputs(positions, positions, q_segments_BT, q_segments_BT)
    return module.splash(rule, q, k, v, places, sinks_N, interpret=True)


@pytest.mark.by_turns
@pytest.mark.parametrize(
    "T, features",
    [
        (130, {"sinks": True}),
        (130, {"causal": False, "segments": True}),
        (100, {"causal": False}),
        (256, {"window": 30, "softcap": 1.1, "scale": 0.9, "segments": True}),
    ],
    ids=str,
)
def test_values_and_gradients(T, features, check_attention, packed):
    features = dict(features)
    sinks = SINKS if features.pop("sinks", False) else None
    if features.pop("segments", False):
        features["q_segments_BT"] = packed(T)
    check_attention(T, features, interpreted, sinks=sinks, tolerance=5e-5)


@pytest.mark.parametrize("causal, window", [(True, None), (True, 1), (True, 129), (False, 100), (False, 700)])
def test_a_band_tells_the_kernel_what_jax_tells_it(causal, window):
    shape, rule = (512, 512), MaskRule(1.0, causal, window, None, True)
    theirs = kernels.LocalMask(shape, (window - 1, 0 if causal else None), 0) if window else kernels.CausalMask(shape)
    want = kernels.make_splash_mqa_single_device(kernels.MultiHeadMask([theirs] * 2))
    have = module._kernel(rule, 2, 512, 128, False)
    for name in ("fwd_mask_info", "dq_mask_info", "dkv_mask_info"):
        for a, b in zip(getattr(want, name), getattr(have, name), strict=True):
            assert a is b or np.array_equal(a, b)


def test_block_size_is_large_but_wastes_little():
    assert [module.block_size(n) for n in (4096, 512, 500, 640, 768, 1000, 130, 5)] == [
        *(512, 512, 512, 128, 256, 512, 128, 128)
    ]


@pytest.mark.parametrize(
    "options, words",
    [
        ({}, "another platform"),
        ({"q_positions_BT": jnp.zeros((1, 80), jnp.int32), "kv_positions_BS": jnp.zeros((1, 80), jnp.int32)}, "rows"),
        (
            {"q_segments_BT": jnp.zeros((1, 80), jnp.int32), "kv_segments_BS": jnp.ones((1, 80), jnp.int32)},
            "one array of segments",
        ),
    ],
)
def test_a_named_kernel_that_cannot_run_is_refused(options, words):
    x = jnp.ones((1, 80, 2, 8))
    with pytest.raises(BackendError, match=words):
        jax.jit(functools.partial(attention, implementation="splash", **options))(x, x, x)
    with pytest.raises(BackendError, match="float16"):
        attention(*[x.astype(jnp.float16)] * 3, implementation="splash")


def lowered(platform, T=128, **options):
    x = jax.ShapeDtypeStruct((1, T, 2, 128), jnp.bfloat16)
    loss = jax.grad(lambda q, k, v: jnp.sum(attention(q, k, v, **options).astype(jnp.float32)), (0, 1, 2))
    return jax.jit(loss).trace(x, x, x).lower(lowering_platforms=(platform,)).as_text()


def test_the_platform_of_the_program_chooses():
    assert lowered("tpu").count("tpu_custom_call") == 3  # forward, the gradient of q, the gradients of k and v
    assert "tpu_custom_call" not in lowered("cpu")
    assert "tpu_custom_call" not in lowered("tpu", implementation="blockwise")
    assert "tpu_custom_call" not in lowered("tpu", T=16)
