"""Sharding rules: the name of an array's axis -> the mesh axes that it is split over.

`Sharding` is one value that is passed to whoever needs it; without a mesh everything here does nothing. It knows
specs, and no model.
"""

import dataclasses
import functools
import math
from collections.abc import Mapping
from typing import Any

import jax
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from vishwamai.parallel.mesh import make_mesh
from vishwamai.weights import spec

Array = jax.Array
MeshAxes = str | tuple[str, ...] | None

DEFAULT_RULES: tuple[tuple[str, MeshAxes], ...] = (
    ("batch", ("data", "fsdp", "expert")),
    ("seq", "context"),
    ("embed", "fsdp"),
    ("heads", "tensor"),
    ("kv_heads", "tensor"),
    ("mlp", "tensor"),
    ("vocab", "tensor"),
    ("experts", "expert"),
    ("layers", "stage"),
)


@dataclasses.dataclass(frozen=True)
class Sharding:
    """A mesh and the rules that lay arrays over it. `Sharding()` is a single device."""

    mesh: Mesh | None = None
    rules: tuple[tuple[str, MeshAxes], ...] = DEFAULT_RULES

    @property
    def platform(self) -> str:
        """What its devices are: "cpu", "gpu" or "tpu"."""
        return jax.default_backend() if self.mesh is None else self.mesh.devices.flat[0].platform

    def axes(self, name: str | None) -> tuple[str, ...]:
        """The mesh axes that the axis `name` is split over, of those that the mesh has."""
        if self.mesh is None or name is None:
            return ()
        found = dict(self.rules).get(name) or ()
        found = (found,) if isinstance(found, str) else found
        return tuple(a for a in found if self.mesh.shape.get(a, 1) > 1)

    def spec(self, *names: str | None, shape: tuple[int, ...] | None = None) -> PartitionSpec:
        """The partition of an array with these axes.

        A mesh axis serves one dimension only, the first that asks; with `shape` given, a mesh axis that does not
        divide its dimension is left out too, so that dimension is whole on every device.
        """
        used: set[str] = set()
        parts: list[MeshAxes] = []
        for i, name in enumerate(names):
            mine: tuple[str, ...] = ()
            for axis in self.axes(name):
                ways = math.prod(self.mesh.shape[a] for a in (*mine, axis))
                if axis not in used and (shape is None or shape[i] % ways == 0):
                    mine = (*mine, axis)
            used.update(mine)
            parts.append(mine if len(mine) > 1 else mine[0] if mine else None)
        return PartitionSpec(*parts)

    def named(self, *names: str | None, shape: tuple[int, ...] | None = None) -> NamedSharding | None:
        """`spec` on this mesh; None on a single device."""
        return None if self.mesh is None else NamedSharding(self.mesh, self.spec(*names, shape=shape))

    def constrain(self, x: Array, *names: str | None) -> Array:
        """Says inside a compiled function how `x` is laid out. It stands at block edges only."""
        if self.mesh is None:
            return x
        return jax.lax.with_sharding_constraint(x, self.named(*names, shape=x.shape))


def sharding_of(mesh: Mapping[str, int] | Mesh | None, rules: Any = DEFAULT_RULES) -> Sharding:
    """A layout: no mesh is one device; `{"fsdp": 4, "tensor": 2}` is a mesh over all devices."""
    rules = tuple(rules.items()) if isinstance(rules, Mapping) else tuple(rules)
    return Sharding(make_mesh(None, **mesh) if isinstance(mesh, Mapping) else mesh, rules)


def shardings(specs, sharding: Sharding):
    """A tree of `NamedSharding` (None on a single device) like the tree of specs."""
    return spec.map_params(lambda p: sharding.named(*p.axes, shape=p.shape), specs)


SINGLE = Sharding()


def abstract(specs, sharding: Sharding = SINGLE, dtype=None):
    """A tree of `ShapeDtypeStruct`: the weights without their values, for ahead-of-time compilation."""

    def leaf(p: spec.Param):
        return jax.ShapeDtypeStruct(p.shape, dtype or p.dtype, sharding=sharding.named(*p.axes, shape=p.shape))

    return spec.map_params(leaf, specs)


def init_sharded(specs, key: Array, sharding: Sharding):
    """Starting values, each made where it will live. The values do not depend on the mesh."""
    leaves, tree = jax.tree.flatten(specs)
    return _compile_init(tree, tuple(leaves), sharding)(key)


@functools.lru_cache(maxsize=16)
def _compile_init(tree, leaves: tuple[spec.Param, ...], sharding: Sharding):
    """The program that makes starting values, the same for all models of the same shape."""
    specs = tree.unflatten(leaves)
    where = {} if sharding.mesh is None else {"out_shardings": shardings(specs, sharding)}
    return jax.jit(functools.partial(spec.init, specs), **where)
