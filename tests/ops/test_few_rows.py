"""Few rows times a matrix of few bits, by the kernel, against NumPy in float64; and where the kernel is not taken."""

import subprocess
import sys
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import NamedSharding, PartitionSpec

from vishwamai.ops import few_rows
from vishwamai.ops.few_rows import multiply_few_rows
from vishwamai.parallel.mesh import make_mesh
from vishwamai.weights.linear import einsum
from vishwamai.weights.quantize import Quantized

RNG = np.random.default_rng(0)


@pytest.fixture
def kernel():
    if missing := few_rows.why_missing():
        pytest.skip(f"no C++ compiler on this machine made the kernel: {missing}")


def drawn(dtype: str, inputs: int, outputs: int) -> jax.Array:
    if dtype in ("float32", "bfloat16"):
        return jnp.asarray(RNG.standard_normal((inputs, outputs)), dtype)
    limit = 8 if dtype == "int4" else 128
    values = RNG.integers(-limit, limit, (inputs, outputs))
    values[0, :2] = -limit, limit - 1
    return jnp.asarray(values, dtype)


def wide(array, inputs: int | None = None) -> np.ndarray:
    found = np.asarray(array.astype("float32"), np.float64)
    return found if inputs is None else np.repeat(found, inputs // len(found), 0)


def check(x, w, scale=None, offset=None, transposed: bool = False) -> None:
    inputs = x.shape[1]
    matrix = wide(w.T if transposed else w) if scale is None else wide(w) * wide(scale, inputs)
    matrix = matrix if offset is None else matrix + wide(offset, inputs)
    want, found = (
        wide(x) @ matrix,
        jax.jit(lambda *of: multiply_few_rows(*of, transposed=transposed))(x, w, scale, offset),
    )
    assert found.dtype == jnp.float32
    np.testing.assert_allclose(found, want, atol=3e-6 * (np.abs(wide(x)) @ np.abs(matrix)).max())


# Sizes: less than one step of the loops, an odd rest, what threads share, and more outputs than a thread adds at once.
@pytest.mark.parametrize("inputs, outputs", [(3, 32), (20, 96), (576, 960), (24, 8256)])
@pytest.mark.parametrize("rows", [1, 2, 7, 16])
@pytest.mark.parametrize("dtype", few_rows.DTYPES)
def test_products(dtype, rows, inputs, outputs, kernel):
    check(jnp.asarray(RNG.standard_normal((rows, inputs)), "float32"), drawn(dtype, inputs, outputs))


@pytest.mark.parametrize("outputs", [3, 38, 4097])
@pytest.mark.parametrize("rows", [1, 2, 7, 16])
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_products_with_a_table(dtype, rows, outputs, kernel):
    x = jnp.asarray(RNG.standard_normal((rows, 96)), "float32")
    check(x, drawn(dtype, outputs, 96), transposed=True)


@pytest.mark.parametrize("groups", [1, 4, 18])
@pytest.mark.parametrize("offsets", [False, True], ids=["symmetric", "offsets"])
@pytest.mark.parametrize("scale_dtype", ["float32", "bfloat16", "float16"])
@pytest.mark.parametrize("dtype", ["int8", "int4"])
def test_scales_and_offsets_of_groups(dtype, scale_dtype, offsets, groups, kernel):
    x, w = jnp.asarray(RNG.standard_normal((3, 576)), "float32"), drawn(dtype, 576, 544)
    scale, offset = (RNG.standard_normal((groups, 544)).astype("float32") for _ in range(2))
    scale[0, 0] = 2e-7  # in float16 a subnormal number
    check(x, w, jnp.asarray(scale, scale_dtype), jnp.asarray(offset) if offsets else None)


def test_many_products_at_once(kernel):
    """Threads that wait for one another would stop here."""
    x, w = jnp.asarray(RNG.standard_normal((1, 512)), "float32"), drawn("int8", 512, 512)
    sums = jax.jit(lambda x, w: sum(multiply_few_rows(x * i, w) for i in range(1, 41)))(x, w)
    np.testing.assert_allclose(sums, 820 * (wide(x) @ wide(w)), rtol=1e-4, atol=1.0)


def test_gradients_and_vmap_are_those_of_the_reference(kernel):
    x, w, scale = jnp.ones((2, 64)), drawn("int8", 64, 32), jnp.asarray(RNG.random((2, 32)), "float32")
    offset = jnp.ones((2, 32))

    def gradients(multiply):
        return jax.grad(lambda *of: jnp.sum(jnp.sin(multiply(of[0], w, *of[1:]))), (0, 1, 2))(x * 1e-3, scale, offset)

    for found, want in zip(
        gradients(multiply_few_rows), gradients(partial(few_rows.reference, transposed=False)), strict=True
    ):
        np.testing.assert_allclose(found, want, rtol=1e-4, atol=1e-4)
    both = jax.vmap(lambda x: multiply_few_rows(x, w, scale, offset))(jnp.stack([x, 2 * x]))
    np.testing.assert_allclose(both[1], few_rows.reference(2 * x, w, scale, offset, transposed=False), rtol=1e-5)


def text_of(rows: int, w, platforms=("cpu",), equation="BTD,DF->BTF", **options) -> str:
    def product(x, w):
        return einsum(equation, x, w)

    arguments = jnp.zeros((1, rows, 64)), w
    return jax.jit(product, **options).trace(*arguments).lower(lowering_platforms=platforms).as_text()


@pytest.mark.parametrize("dtype", few_rows.DTYPES[1:])
def test_where_the_kernel_is_taken(dtype, kernel):
    def weight(outputs: int):
        w = drawn(dtype, 64, outputs)
        return w if dtype == "bfloat16" else Quantized(values=w, scale=jnp.ones((2, outputs)))

    assert few_rows.TARGET in text_of(4, weight(64))
    assert few_rows.TARGET not in text_of(few_rows.MOST_ROWS + 1, weight(64))
    assert few_rows.TARGET not in text_of(4, weight(48))
    assert (few_rows.TARGET in text_of(4, weight(64), equation="BTF,DF->BTD")) is (dtype == "bfloat16")
    assert few_rows.TARGET not in text_of(4, weight(64), platforms=("tpu",))
    everywhere = NamedSharding(make_mesh(tensor=8), PartitionSpec())
    assert few_rows.TARGET not in text_of(4, weight(64), in_shardings=everywhere)


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere XLA multiplies in float32")
def test_where_the_kernel_is_taken_in_float32(kernel):
    w = drawn("float32", 64, 1024)
    assert few_rows.TARGET in text_of(4, w)
    assert few_rows.TARGET in text_of(4, w.reshape(1024, 64), equation="BTF,DF->BTD")
    assert few_rows.TARGET not in text_of(4, w[:, :512])  # small ones lie in a cache, where XLA is as fast
    assert few_rows.TARGET not in text_of(few_rows.MOST_ROWS + 1, w)
    assert few_rows.TARGET not in text_of(4, w, platforms=("tpu",))


@pytest.mark.parametrize("compiler", ["/no/such/compiler", "false"])
def test_without_a_compiler_xla_multiplies(compiler, monkeypatch, tmp_path):
    monkeypatch.setenv("CXX", compiler)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setenv("HOME", str(tmp_path))
    few_rows.why_missing.cache_clear()
    few_rows._warn.cache_clear()
    x, w = jnp.ones((2, 40)), drawn("int8", 40, 32)
    try:
        with pytest.warns(UserWarning, match="no C\\+\\+ compiler made a kernel"):
            check(x, w)
        assert few_rows.TARGET not in text_of(2, drawn("bfloat16", 64, 64))  # and says so once
    finally:
        few_rows.why_missing.cache_clear()
        few_rows._warn.cache_clear()


def test_a_library_is_made_once_for_a_processor(monkeypatch, kernel):
    monkeypatch.setattr(subprocess, "run", None)
    assert few_rows._compiled().exists()
    monkeypatch.setattr(few_rows, "_processor", lambda: "another")
    with pytest.raises(TypeError):
        few_rows._compiled()
