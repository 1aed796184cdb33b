"""Quantised weights: values of a few bits, and a scale for each output or for each group of inputs.

Some that are read have an offset beside each scale (the asymmetric blocks of GGUF). Only what is stored is small: where
such a weight meets an activation it has the activation's dtype. Rounding is to the nearest, symmetric around zero, with
the largest magnitude at the end of the grid (absmax; Dettmers et al., 2022, "LLM.int8()", section 2). Embedding, output
matrix, routers, norms and biases stay as they are. It knows no model and no file.
"""

import dataclasses
import functools
import math
import warnings

import jax
import jax.numpy as jnp

from vishwamai.errors import ConfigError
from vishwamai.weights import spec
from vishwamai.weights.linear import contract, contract_few_rows, contract_groups, layout, materialize
from vishwamai.weights.spec import Param, pytree

Array = jax.Array

GRIDS = {  # kind: (dtype of the values, largest value)
    "int8": (jnp.int8, 127.0),
    "int4": (jnp.int4, 7.0),
    "fp8": (jnp.float8_e4m3fn, 448.0),
    "mxfp4": (jnp.float4_e2m1fn, 6.0),
}
NAMED = {"int8": (None, "float32"), "int4": (32, "bfloat16"), "fp8": (None, "float32")}  # kind: (group, scales' dtype)
LEAST_GROUP = 8  # a weight that only smaller groups would divide stays as it is: its scales would outweigh its values
LEFT = ("router", "shared_gate")  # small, and they decide where a token goes


@dataclasses.dataclass(frozen=True)
class Scheme:
    """How a weight is quantised: `kind` is one of `GRIDS`.

    With a `group`, so many inputs that follow one another share a scale (or fewer, as many as divide the last of the
    contracted axes); without one, all inputs of an output do. With an `offset_dtype` each scale has an offset beside
    it: such weights are read, and nothing is rounded to them.
    """

    kind: str
    group: int | None = None
    scale_dtype: str = "float32"
    offset_dtype: str | None = None

    @classmethod
    def named(cls, text: str) -> "Scheme":
        """`int8`, `int4` (groups of 32), `fp8`, or one of these with groups of another size: `int4:128`."""
        kind, colon, size = str(text).partition(":")
        if kind not in NAMED or (colon and not (size.isascii() and size.isdecimal() and int(size) >= LEAST_GROUP)):
            raise ConfigError(
                f"quantisation {text!r} is not known; use {', '.join(NAMED)}, or with the inputs that share a scale "
                f"(at least {LEAST_GROUP}), as in int4:64"
            )
        group, dtype = NAMED[kind]
        return cls(kind, int(size), "bfloat16") if colon else cls(kind, group, dtype)

    @property
    def bits(self) -> int:
        """Bits of one value."""
        return 4 if self.kind in ("int4", "mxfp4") else 8


@pytree
class Quantized:
    """A weight as values times scales, plus offsets where there are some.

    A scale's axes are the values', with 1 or the groups where values contract; an offset's are the scale's.
    """

    values: Array
    scale: Array
    offset: Array | None = None


def is_quantized(x) -> bool:
    """Whether `x` is a quantised weight, or its specs."""
    return isinstance(x, Quantized)


def is_quantizable(path: str, param: Param) -> bool:
    """Whether a weight is one that is quantised: a projection of a layer."""
    return path.startswith("stacks.") and param.is_matmul and path.rsplit(".", 1)[-1] not in LEFT


def last_contracted(param: Param) -> int:
    """The axis along which groups lie: the last one that is contracted."""
    return max(i for i, axis in enumerate(param.axes) if axis in param.contract)


def group_of(param: Param, scheme: Scheme) -> int | None:
    """How many inputs share a scale; None: all of them. 0 where the weight's shape allows no group."""
    if scheme.group is None:
        return None
    group = math.gcd(scheme.group, param.shape[last_contracted(param)])
    return group if group >= LEAST_GROUP else 0


def check_groups(tree, scheme: Scheme) -> None:
    """Says of which of a model's projections, declared in `tree`, a scheme's groups fit none.

    Raises `ConfigError` where they fit none at all, and warns where some weights stay as they are.
    """
    wanted = [p for path, p in spec.named(tree) if is_quantizable(path, p)]
    left = [p for p in wanted if group_of(p, scheme) == 0]
    if not left:
        return
    inputs = " and ".join(map(str, sorted({p.shape[last_contracted(p)] for p in left})))
    what = f"{scheme.kind}: groups of {scheme.group} inputs do not fit weights that have {inputs}"
    why = f"a group may be smaller, as large as divides both, but not under {LEAST_GROUP}"
    if len(left) == len(wanted):
        raise ConfigError(f"{what} ({why}), so that nothing would be quantised; take a divisor of the inputs")
    warnings.warn(f"{what} ({why}): those {len(left)} of {len(wanted)} stay as they are", stacklevel=3)


def scheme_of(w: Quantized, param: Param) -> Scheme:
    """How a weight, or what declares one, is quantised."""
    kind = next(name for name, (dtype, _) in GRIDS.items() if w.values.dtype == dtype)
    dtype = jnp.dtype(w.scale.dtype).name
    offset_dtype = None if w.offset is None else jnp.dtype(w.offset.dtype).name
    if all(n == 1 for n, axis in zip(w.scale.shape, param.axes, strict=True) if axis in param.contract):
        return Scheme(kind, None, dtype, offset_dtype)
    last = last_contracted(param)
    return Scheme(kind, w.values.shape[last] // w.scale.shape[last], dtype, offset_dtype)


def specs(param: Param, scheme: Scheme) -> Quantized:
    """A weight's values, scales and offsets, declared."""
    group, last = group_of(param, scheme), last_contracted(param)
    sizes = list(param.shape)
    for i, axis in enumerate(param.axes):
        if axis in param.contract and group is None:
            sizes[i] = 1
    if group is not None:
        sizes[last] //= group
    values = dataclasses.replace(param, dtype=jnp.dtype(GRIDS[scheme.kind][0]))
    scale = dataclasses.replace(param, shape=tuple(sizes), dtype=scheme.scale_dtype)
    has_offset = scheme.offset_dtype is not None
    return Quantized(
        values=values,
        scale=scale,
        offset=dataclasses.replace(scale, dtype=scheme.offset_dtype) if has_offset else None,
    )


def quantizable_specs(tree, scheme: Scheme):
    """A model's specs with the projections of its layers quantised, where their shapes allow it."""

    def one(path, param: Param):
        taken = is_quantizable(spec.path_name(path), param) and group_of(param, scheme) != 0
        return specs(param, scheme) if taken else param

    return jax.tree.map_with_path(one, tree, is_leaf=spec.is_param)


@functools.partial(jax.jit, static_argnums=(1, 2))
def round_to_scheme(w: Array, scale_shape: tuple[int, ...], scheme: Scheme) -> Quantized:
    """An array on the scheme's grid, with scales of this shape."""
    dtype, limit = GRIDS[scheme.kind]
    parts = w.astype(jnp.float32).reshape(_split(w.shape, scale_shape))
    peak = jnp.max(jnp.abs(parts), axis=tuple(range(1, parts.ndim, 2)), keepdims=True)
    scale = jnp.where(peak > 0, peak / limit, 1.0).astype(scheme.scale_dtype)
    values = jnp.clip(parts / scale.astype(jnp.float32), -limit, limit)
    values = jnp.round(values) if jnp.issubdtype(dtype, jnp.integer) else values
    return Quantized(values=values.astype(dtype).reshape(w.shape), scale=scale.reshape(scale_shape))


def quantize(weights, specs_tree, scheme: Scheme):
    """A model's weights with those that `is_quantizable` names quantised, in the layout that they have."""

    def leaf(target, w):
        if not is_quantized(target):
            return w
        return round_to_scheme(w, target.scale.shape, scheme)

    check_groups(specs_tree, scheme)
    targets = quantizable_specs(specs_tree, scheme)
    return jax.tree.map(leaf, targets, weights, is_leaf=lambda x: is_quantized(x) or spec.is_param(x))


@materialize.register
def _(w: Quantized) -> Array:
    parts = w.values.astype(jnp.float32).reshape(_split(w.values.shape, w.scale.shape))

    def spread(of_groups: Array) -> Array:
        return of_groups.astype(jnp.float32).reshape([n for size in of_groups.shape for n in (size, 1)])

    parts = parts * spread(w.scale)
    return (parts if w.offset is None else parts + spread(w.offset)).reshape(w.values.shape)


@contract.register
def _(w: Quantized, eqn: str, x: Array, preferred_element_type) -> Array:
    dtype, parts = preferred_element_type or x.dtype, (w.values, w.scale, w.offset)
    return contract_few_rows(functools.partial(_contract_by_xla, eqn, dtype), eqn, x, w, parts, dtype)


def _contract_by_xla(eqn: str, dtype, x: Array, w: Quantized) -> Array:
    inputs, out = eqn.split("->")
    letters = inputs.split(",")[1]
    kept = "".join(letter for letter in letters if letter in out)
    shape = tuple(n for n, letter in zip(w.scale.shape, letters, strict=True) if letter in out)
    is_grouped = math.prod(shape) != math.prod(w.scale.shape)
    if is_grouped or w.offset is not None:  # a sum over inputs mixes scales, or does not end at them
        return contract(materialize(w).astype(x.dtype), eqn, x, dtype)
    y = jnp.einsum(eqn, x, w.values.astype(x.dtype), preferred_element_type=jnp.float32)
    return jnp.einsum(f"{out},{kept}->{out}", y, w.scale.astype(jnp.float32).reshape(shape)).astype(dtype)


@contract_groups.register
def _(w: Quantized, x_GD: Array, sizes_E: Array, implementation: str | None) -> Array:
    return contract_groups(materialize(w).astype(x_GD.dtype), x_GD, sizes_E, implementation)


@layout.register
def _(w: Quantized, axes: tuple[str | None, ...]):
    return Quantized(values=axes, scale=axes, offset=None if w.offset is None else axes)


def _split(shape: tuple[int, ...], scale_shape: tuple[int, ...]) -> list[int]:
    """Each axis as two: its scales, and what shares one of them."""
    return [n for size, scales in zip(shape, scale_shape, strict=True) for n in (scales, size // scales)]
