"""Few rows times a matrix in float32, bfloat16, int8 or int4, as in decoding, on a CPU.

XLA for CPU widens a matrix in few bits as a whole before it multiplies, which is slower than float32, and reads one in
float32 more slowly than memory gives it (`benchmarks/cpu_matvec.py`). A kernel in C++ (`few_rows.cc`) widens it in
registers. The user's C++ compiler makes it when it is first needed; where there is none, or the program runs on several
devices, XLA multiplies.

R rows, D inputs, F outputs, G groups of inputs that share a scale.
"""

import ctypes
import functools
import hashlib
import math
import os
import platform
import shutil
import subprocess
import sys
import tempfile
import warnings
from pathlib import Path

import jax
import jax.numpy as jnp
from jax.core import ShapedArray
from jax.extend.core import Primitive
from jax.interpreters import batching, mlir

Array = jax.Array
MOST_ROWS = 16  # with more, widening the matrix costs little beside the products
LEAST_FLOATS = 1 << 16
MULTIPLE = 32  # the kernel takes outputs (of a transposed matrix: inputs) in multiples of this
DTYPES = ("float32", "bfloat16", "int8", "int4")
SOURCE = Path(__file__).with_name("few_rows.cc")
FLAGS = ("-std=c++17", "-O3", "-w", "-shared", "-fPIC")
TARGET = "vishwamai_few_rows"


def is_taken(rows: int, shape: tuple[int, int], dtype, x_dtype, transposed: bool) -> bool:
    """Whether `multiply_few_rows` takes so many rows, and a matrix of this shape and dtype.

    One in float32 it takes where XLA is measurably slower: on Linux, and if the matrix is no small one.
    """
    name = jnp.dtype(dtype).name
    if name == "float32" and (sys.platform != "linux" or math.prod(shape) < LEAST_FLOATS or x_dtype != dtype):
        return False
    return 0 < rows <= MOST_ROWS and shape[1] % MULTIPLE == 0 and name in (DTYPES[:2] if transposed else DTYPES)


def multiply_few_rows(
    x_RD: Array, w_DF: Array, scale_GF: Array | None = None, offset_GF: Array | None = None, *, transposed=False
) -> Array:
    """`x @ (w * scale + offset)`, `[R, F]` in float32; consecutive inputs share a scale and an offset.

    With `transposed` the matrix is `[F, D]`, in float32 or bfloat16 without scales.
    """
    none = jnp.zeros((0, w_DF.shape[1]), jnp.float32)
    scale, offset = none if scale_GF is None else scale_GF, none if offset_GF is None else offset_GF
    return _product(transposed, x_RD.astype(jnp.float32), w_DF, scale, offset.astype(jnp.float32))


def reference(x_RD: Array, w_DF: Array, scale_GF: Array, offset_GF: Array, *, transposed: bool) -> Array:
    """The same product by XLA. A scale or an offset of no groups stands for none."""
    wide = w_DF.astype(jnp.float32)
    if scale_GF.shape[0]:
        wide = wide * jnp.repeat(scale_GF.astype(jnp.float32), wide.shape[0] // scale_GF.shape[0], 0)
    if offset_GF.shape[0]:
        wide = wide + jnp.repeat(offset_GF, wide.shape[0] // offset_GF.shape[0], 0)
    return x_RD @ (wide.T if transposed else wide)


@functools.partial(jax.custom_jvp, nondiff_argnums=(0,))
def _product(transposed: bool, *operands: Array) -> Array:
    return _product_p.bind(*operands, transposed=transposed)


@_product.defjvp
def _(transposed: bool, primals, tangents):
    by_xla = functools.partial(reference, transposed=transposed)
    return _product(transposed, *primals), jax.jvp(by_xla, primals, tangents)[1]


def _lower_on_cpu(ctx, *operands, transposed: bool):
    """The kernel in a program of one device, where there is a kernel. Where there is none, float32 loses little."""
    if getattr(ctx.module_context.axis_context, "num_devices", None) != 1:
        return _lower_reference(ctx, *operands, transposed=transposed)
    missing = why_missing()
    if missing and ctx.avals_in[1].dtype != jnp.float32:
        _warn(missing)
    lower = _lower_reference if missing else jax.ffi.ffi_lowering(TARGET)
    return lower(ctx, *operands, transposed=transposed)


def _batch(operands, axes, **how):
    return jax.vmap(functools.partial(reference, **how), axes)(*operands), 0


_lower_reference = mlir.lower_fun(reference, multiple_results=False)
_product_p = Primitive("few_rows")
_product_p.def_impl(lambda *operands, transposed: jax.jit(_product, static_argnums=0)(transposed, *operands))
_product_p.def_abstract_eval(
    lambda x, w, *_, transposed: ShapedArray((x.shape[0], w.shape[0 if transposed else 1]), jnp.float32)
)
batching.primitive_batchers[_product_p] = _batch
mlir.register_lowering(_product_p, _lower_reference)
mlir.register_lowering(_product_p, _lower_on_cpu, platform="cpu")


@functools.cache
def why_missing() -> str | None:
    """Why there is no kernel, or None: it is made now if it never was."""
    try:
        library = ctypes.CDLL(str(_compiled()))
        jax.ffi.register_ffi_target(TARGET, jax.ffi.pycapsule(library.FewRows), platform="cpu")
    except (OSError, subprocess.SubprocessError) as error:
        return str(error)
    return None


@functools.cache
def _warn(missing: str) -> None:
    what = "weights of 16 bits and fewer are multiplied by XLA, which is slow on a CPU"
    warnings.warn(f"{what}: no C++ compiler made a kernel for them ({missing})", stacklevel=3)


def _compiled() -> Path:
    """The kernel as a library for this processor, in the user's cache. Raises `OSError` or `SubprocessError`."""
    from platformdirs import user_cache_path

    compiler = os.environ.get("CXX") or next(filter(shutil.which, ("c++", "g++", "clang++")), None)
    if compiler is None:
        raise OSError("none was found; install g++ or clang++, or name one in CXX")
    key = hashlib.sha256(SOURCE.read_bytes())
    key.update("\n".join((compiler, jax.lib.__version__, platform.platform(), _processor())).encode())
    folder = user_cache_path("vishwamai", appauthor=False) / "kernels"
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    library = folder / f"few_rows-{key.hexdigest()[:32]}.so"
    if not library.exists():
        with tempfile.TemporaryDirectory(dir=folder) as made:
            output = Path(made, library.name)
            command = [compiler, *FLAGS, "-march=native", f"-I{jax.ffi.include_dir()}", str(SOURCE), "-o", str(output)]
            subprocess.run(command, check=True, capture_output=True, timeout=120)
            output.replace(library)
    return library


def _processor() -> str:
    """What the processor can do, in words: a library for another one may hold instructions that it lacks."""
    facts = Path("/proc/cpuinfo")
    lines = facts.read_text().splitlines() if facts.exists() else []
    told = {line for line in lines if line.startswith(("flags", "Features", "model name", "CPU part"))}
    return "\n".join((platform.machine(), platform.processor(), *sorted(told)))
