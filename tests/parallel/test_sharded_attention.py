"""Attention over eight fake devices against the same on one; and the kernel in the program of a TPU slice."""

import functools
import importlib.util

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vishwamai.errors import BackendError
from vishwamai.ops.attention import attention
from vishwamai.parallel.attention import sharded_attention
from vishwamai.parallel.mesh import make_mesh
from vishwamai.parallel.sharding import SINGLE, Sharding

T, N, H = 70, 8, 16
MESHES = {
    "fsdp": dict(fsdp=8),
    "fsdp x tensor": dict(fsdp=4, tensor=2),
    "data x tensor": dict(data=2, tensor=4),
}


def arrays(K, B=8, T=T, S=T):
    rng, shapes = np.random.default_rng(0), [(B, T, N, H), (B, S, K, H), (B, S, K, H)]
    return [jnp.asarray(rng.standard_normal(s), jnp.float32) for s in shapes]


def run(q, k, v, sinks, sharding, **options):
    def loss(q, k, v, sinks):
        out = sharded_attention(q, k, v, sharding, sinks_N=sinks, **options)
        return jnp.sum(jnp.sin(out)), out

    gradients, out = jax.jit(jax.grad(loss, (0, 1, 2, 3), has_aux=True))(q, k, v, sinks)
    return [out, *gradients]


@functools.cache
def packed_rows(sharding):
    segments = jnp.tile(jnp.arange(T, dtype=jnp.int32) // 20, (8, 1))
    options = {"q_segments_BT": segments, "kv_segments_BS": segments, "window": 9}
    return run(*arrays(2), jnp.linspace(-1.0, 1.0, N), sharding, **options)


@pytest.mark.by_turns
@pytest.mark.parametrize("axes", MESHES)
def test_the_mesh_does_not_change_the_result(axes):
    have = packed_rows(Sharding(make_mesh(**MESHES[axes])))
    for w, h in zip(packed_rows(SINGLE), have, strict=True):
        np.testing.assert_allclose(h, w, atol=1e-5)


def test_cached_rows_and_sizes_that_do_not_divide():
    q, k, v = arrays(2, B=3, T=1, S=9)
    positions = {
        "q_positions_BT": jnp.full((3, 1), 5, jnp.int32),
        "kv_positions_BS": jnp.tile(jnp.arange(9, dtype=jnp.int32), (3, 1)),
    }
    sharding = Sharding(make_mesh(fsdp=4, tensor=2))
    have = jax.jit(lambda *a: sharded_attention(*a, sharding, **positions))(q, k, v)
    np.testing.assert_allclose(have, jax.jit(functools.partial(attention, **positions))(q, k, v), atol=1e-6)


def test_no_mesh_is_plain_attention():
    q, k, v = arrays(4, B=1, T=5, S=5)
    np.testing.assert_array_equal(sharded_attention(q, k, v, SINGLE), attention(q, k, v))


def test_the_kernel_by_name_is_refused_on_devices_that_are_no_tpus():
    with pytest.raises(BackendError, match="runs on TPU alone"):
        sharded_attention(*arrays(4), Sharding(make_mesh(**MESHES["fsdp"])), implementation="splash")


@pytest.mark.tpu_aot
@pytest.mark.skipif(importlib.util.find_spec("libtpu") is None, reason="the TPU compiler (libtpu) is not installed")
@pytest.mark.parametrize("axes, K", [({"fsdp": 16}, 8), ({"fsdp": 8, "tensor": 2}, 8), ({"fsdp": 2, "tensor": 8}, 4)])
def test_the_kernel_is_in_the_program_of_a_slice(axes, K):
    from vishwamai.planner.aot import compile_tpu, report, slice_mesh

    sharding = Sharding(slice_mesh("v5e:4x4", **axes))

    def array(shape, dtype, *names):
        return jax.ShapeDtypeStruct(shape, dtype, sharding=sharding.named(*names, shape=shape))

    q = array((16, 512, 8, 128), jnp.bfloat16, "batch", None, "heads", None)
    k = array((16, 512, K, 128), jnp.bfloat16, "batch", None, "kv_heads", None)
    segments = array((16, 512), jnp.int32, "batch", None)

    def loss(q, k, v, segments):
        out = sharded_attention(q, k, v, sharding, q_segments_BT=segments, kv_segments_BS=segments)
        return jnp.sum(out.astype(jnp.float32))

    found = report(compile_tpu(jax.grad(loss, (0, 1, 2)), q, k, k, segments))
    assert sum(found.kernels.values()) == 3 and all(name.startswith("splash") for name in found.kernels)
    if K % axes.get("tensor", 1) == 0:
        assert not found.collectives
