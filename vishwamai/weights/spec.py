"""What one weight is, and the readers that need nothing but the tree of such specs.

A model declares its weights as a pytree of `Param`. Initialisation, counting, naming, stacking for a scan, and the
optimiser's rules read that tree; sharding (`parallel/sharding.py`), checkpoints and the Hugging Face tables do too.
This file knows no model, mesh or file format.
"""

import dataclasses
import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

Array = jax.Array
STACKED = ("layers", "experts")  # axes that no weight mixes: each index along them is a weight of its own


def pytree(cls):
    """Makes a frozen, keyword-only dataclass whose fields are the children of a pytree."""
    return jax.tree_util.register_dataclass(dataclasses.dataclass(frozen=True, kw_only=True)(cls))


@dataclasses.dataclass(frozen=True)
class Param:
    """One weight: its shape, the name of each axis, and how it starts.

    `contract` names the axes that are summed over when the weight is used. Such a weight starts normal with standard
    deviation `gain/sqrt(product of the contracted sizes)`; one that contracts nothing (a norm's scale, a bias) starts
    at `value`. One that is `exact` keeps its dtype whatever the others are cast to; one that is not `trained` stays as
    it is, whatever the optimiser.
    """

    shape: tuple[int, ...]
    axes: tuple[str | None, ...]
    contract: tuple[str, ...] = ()
    value: float = 1.0
    gain: float = 1.0
    dtype: Any = "float32"
    exact: bool = False
    trained: bool = True

    @property
    def fan_in(self) -> int:
        """How many products are summed into one output of this weight."""
        return math.prod(n for n, a in zip(self.shape, self.axes, strict=True) if a in self.contract)

    @property
    def is_matmul(self) -> bool:
        """Whether the contracted axes lead. (In an embedding table they come last: it is looked up.)"""
        return bool(self.contract) and next(a for a in self.axes if a not in STACKED) in self.contract

    @property
    def decays(self) -> bool:
        """Whether weight decay applies: to what is multiplied, and neither to norms nor to biases."""
        return bool(self.contract)

    def init(self, key: Array) -> Array:
        """The weight's starting value."""
        if not self.contract:
            return jnp.full(self.shape, self.value, self.dtype)
        return jax.random.normal(key, self.shape, self.dtype) / math.sqrt(self.fan_in) * self.gain


def is_param(x) -> bool:
    """Whether `x` is a leaf of a spec tree."""
    return isinstance(x, Param)


def map_params(f: Callable, specs, *trees):
    """Maps `f(param, *leaves)` over a spec tree and trees of the same structure."""
    return jax.tree.map(f, specs, *trees, is_leaf=is_param)


def leaves(specs) -> list[Param]:
    """The specs in the tree's order."""
    return jax.tree.leaves(specs, is_leaf=is_param)


def stack(specs, n: int, axis: str = "layers"):
    """Adds a leading axis of size `n` to every spec, so that a scan can walk it."""
    return map_params(lambda p: dataclasses.replace(p, shape=(n, *p.shape), axes=(axis, *p.axes)), specs)


def init(specs, key: Array):
    """Starting values for the whole tree. A weight's value depends on the key, its path and its shape alone."""
    paths, treedef = jax.tree.flatten_with_path(specs, is_leaf=is_param)
    return treedef.unflatten([p.init(jax.random.fold_in(key, _hash(path_name(path)))) for path, p in paths])


def path_name(path) -> str:
    """A leaf's path as text, e.g. `stacks.0.0.attn.q`."""
    return jax.tree_util.keystr(path, simple=True, separator=".")


def named(specs) -> list[tuple[str, Param]]:
    """(path, spec) of every weight, in the tree's order."""
    return [(path_name(path), p) for path, p in jax.tree.leaves_with_path(specs, is_leaf=is_param)]


def n_parameters(specs) -> int:
    """How many numbers the tree holds."""
    return sum(math.prod(p.shape) for p in leaves(specs))


def with_dtype(specs, dtype):
    """The same weights in another dtype, those that are exact excepted."""
    return map_params(lambda p: p if p.exact else dataclasses.replace(p, dtype=dtype), specs)


def _hash(name: str) -> int:
    """A 31-bit hash of a name that is the same in every process (FNV-1a)."""
    h = 2166136261
    for byte in name.encode():
        h = ((h ^ byte) * 16777619) & 0xFFFFFFFF
    return h & 0x7FFFFFFF
