"""The one place where a weight meets an activation. It knows no model: an equation, an activation and a weight.

A weight is whatever `contract` (and, for stacked experts, `contract_groups`; for a table, `lookup_rows`) has an
implementation for. `materialize` makes an array of it and `layout` names the axes of its parts. Other kinds register
theirs beside their own definition.
"""

import functools
import math
from collections.abc import Callable

import jax
import jax.numpy as jnp

from vishwamai.ops import few_rows, moe

Array = jax.Array


def einsum(eqn: str, x: Array, w, *, preferred_element_type=None) -> Array:
    """Contracts an activation with a weight: `einsum("BTD,DNH->BTNH", x, w)`.

    The weight is cast to the activation's dtype; the result has that dtype too, or `preferred_element_type`.
    """
    return contract(w, eqn, x, preferred_element_type)


def grouped_einsum(x_GD: Array, w, sizes_E: Array, *, implementation: str | None = None) -> Array:
    """Rows sorted by expert times each expert's matrix: `[G, D]` with a weight `[E, D, F]` gives `[G, F]`."""
    return contract_groups(w, x_GD, sizes_E, implementation)


def add_bias(x: Array, bias: Array | None) -> Array:
    """Adds a bias of the last axes of `x`, where there is one."""
    return x if bias is None else x + bias.astype(x.dtype)[(None,) * (x.ndim - bias.ndim)]


@functools.singledispatch
def contract(w, eqn: str, x: Array, preferred_element_type) -> Array:
    """What `einsum` does with one kind of weight (the first argument's type decides)."""
    dtype = preferred_element_type or x.dtype

    def by_xla(x, w):
        return _dot(x, jnp.asarray(w, x.dtype), eqn, dtype)

    return contract_few_rows(by_xla, eqn, x, w, (w,), dtype)


@functools.partial(jax.custom_jvp, nondiff_argnums=(2, 3))
def _dot(x: Array, w: Array, eqn: str, dtype) -> Array:
    inputs, out = eqn.split("->")
    x_axes, w_axes = inputs.split(",")

    def places(axes: list[str]) -> tuple[list[int], list[int]]:
        return [x_axes.index(axis) for axis in axes], [w_axes.index(axis) for axis in axes]

    shared = [axis for axis in w_axes if axis in x_axes]  # summed in the weight's order: for another it is transposed
    dims = places([axis for axis in shared if axis not in out]), places([axis for axis in shared if axis in out])
    return jax.lax.dot_general(x, w, dims, preferred_element_type=dtype)


@_dot.defjvp
def _(eqn: str, dtype, primals, tangents):
    (x, w), (dx, dw) = primals, tangents
    by_xla, axes = functools.partial(_dot.fun, eqn=eqn, dtype=dtype), _matmul_axes(eqn)

    def product(x: Array, w: Array) -> Array:
        if axes is None:
            return by_xla(x, w)
        on_cpu = functools.partial(_dot_matrices, axes=axes, dtype=dtype)
        return jax.lax.platform_dependent(x, w, cpu=on_cpu, default=by_xla)

    return by_xla(x, w), product(dx, w) + product(x, dw)


def _dot_matrices(x: Array, w: Array, axes: tuple[str, str, bool], dtype) -> Array:
    """A matmul with the rows in one axis. A weight's gradient sums over them, and for a sum over several axes XLA for
    CPU transposes both operands, which takes as long as the product."""
    batch, summed, transposed = axes
    rows, matrix = x.reshape(-1, math.prod(x.shape[len(batch) :])), w.reshape(_as_matrix(w, axes))
    out = jax.lax.dot_general(rows, matrix, (((1,), (int(transposed),)), ((), ())), preferred_element_type=dtype)
    return out.reshape(*x.shape[: len(batch)], *(w.shape[: -len(summed)] if transposed else w.shape[len(summed) :]))


def contract_few_rows(by_xla: Callable, eqn: str, x: Array, w, parts: tuple[Array | None, ...], dtype) -> Array:
    """`by_xla(x, w)`; on a CPU by a kernel where it takes so few rows. `parts`: values, and scale and offset if any."""
    found, values, sizes = _matmul_axes(eqn), parts[0], dict(zip(eqn.split(",")[0], x.shape, strict=True))
    if found is None:
        return by_xla(x, w)
    batch, summed, transposed = found
    rows, inputs = (math.prod(sizes[axis] for axis in axes) for axes in (batch, summed))
    is_taken = few_rows.is_taken(rows, _as_matrix(values, found), values.dtype, x.dtype, transposed)
    if not is_taken or not all(p is None or _is_grouped(p.shape, values.shape, len(summed)) for p in parts):
        return by_xla(x, w)

    def by_kernel(x, w, parts):
        matrices = (p if p is None else p.reshape(_as_matrix(p, found)) for p in parts)
        out = few_rows.multiply_few_rows(x.reshape(rows, inputs), *matrices, transposed=transposed)
        kept = values.shape[: -len(summed)] if transposed else values.shape[len(summed) :]
        return out.reshape(*x.shape[: len(batch)], *kept).astype(dtype)

    return jax.lax.platform_dependent(x, w, parts, cpu=by_kernel, default=lambda x, w, _: by_xla(x, w))


@functools.cache
def _matmul_axes(eqn: str) -> tuple[str, str, bool] | None:
    """(axes of rows, axes summed over, whether these are the weight's last) of a matmul of operands as they lie."""
    operands, out = eqn.split("->")
    x, w = operands.split(",")
    summed = "".join(axis for axis in w if axis not in out)
    batch, transposed = x.removesuffix(summed), not w.startswith(summed)
    kept = w.removesuffix(summed) if transposed else w.removeprefix(summed)
    is_matmul = summed and x == batch + summed and out == batch + kept and len(w) == len(kept + summed)
    return (batch, summed, transposed) if is_matmul else None


def _as_matrix(w: Array, axes: tuple[str, str, bool]) -> tuple[int, int]:
    """The shape of a weight with its inputs in one axis, and its outputs in the other."""
    _, summed, transposed = axes
    cut = w.ndim - len(summed) if transposed else len(summed)
    return math.prod(w.shape[:cut]), math.prod(w.shape[cut:])


def _is_grouped(shape: tuple[int, ...], of: tuple[int, ...], n_summed: int) -> bool:
    """Whether scales of this shape are for groups of inputs that follow one another, in a weight of shape `of`."""
    shared = [n < size for n, size in zip(shape, of, strict=True)]
    first = shared.index(True) if any(shared) else n_summed
    return not any(shared[n_summed:]) and all(n == 1 for n in shape[first + 1 : n_summed])


@functools.singledispatch
def contract_groups(w, x_GD: Array, sizes_E: Array, implementation: str | None) -> Array:
    """What `grouped_einsum` does with one kind of weight."""
    return moe.grouped_matmul(x_GD, jnp.asarray(w, x_GD.dtype), sizes_E, implementation=implementation)


@functools.singledispatch
def lookup_rows(w, tokens_BT: Array, dtype) -> Array:
    """The rows of a table `[V, D]` for each token, `[B, T, D]` in `dtype`."""
    return w[tokens_BT].astype(dtype)


@functools.singledispatch
def materialize(w) -> Array:
    """Returns the array that one kind of weight stands for."""
    return w


@functools.singledispatch
def layout(w, axes: tuple[str | None, ...]):
    """A tree like one kind of weight, with the names of each of its arrays' axes; `axes` are the weight's own."""
    return axes
