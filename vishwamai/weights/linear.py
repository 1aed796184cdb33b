"""The one place where a weight meets an activation. It knows no model: an equation, an activation and a weight.

A weight is whatever `contract` (and, for stacked experts, `contract_groups`; for a table, `lookup_rows`) has an
implementation for. `materialize` makes an array of it and `layout` names the axes of its parts. Other kinds register
theirs beside their own definition.
"""

import functools

import jax
import jax.numpy as jnp

from vishwamai.ops import moe

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
    inputs, out = eqn.split("->")
    x_axes, w_axes = inputs.split(",")

    def places(axes: list[str]) -> tuple[list[int], list[int]]:
        return [x_axes.index(axis) for axis in axes], [w_axes.index(axis) for axis in axes]

    shared = [axis for axis in w_axes if axis in x_axes]  # summed in the weight's order: for another it is transposed
    dims = places([axis for axis in shared if axis not in out]), places([axis for axis in shared if axis in out])
    return jax.lax.dot_general(x, jnp.asarray(w, x.dtype), dims, preferred_element_type=preferred_element_type)


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
