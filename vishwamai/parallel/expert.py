"""Expert parallelism: each device of the `expert` mesh axis holds some of the experts and serves every token of its
group.

Tokens are gathered over the `expert` axis, each device computes what its own experts contribute, and the sums are
scattered back: exact, without drops or capacities. Weights that are sharded over `fsdp` are gathered first, as GSPMD
would do; a width that is sharded over `tensor` is summed at the end. It knows no model: the local computation is passed
in.

B batch, T positions, D d_model, E experts, C experts per token, F d_expert.
"""

import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import PartitionSpec

from vishwamai.parallel.sharding import Sharding
from vishwamai.weights.linear import layout

Array = jax.Array
Axes = tuple[str | None, ...]


EXPERT_AXES = {
    "gate": ("experts", "embed", "mlp"),
    "up": ("experts", "embed", "mlp"),
    "down": ("experts", "mlp", "embed"),
    "gate_bias": ("experts", "mlp"),
    "up_bias": ("experts", "mlp"),
    "down_bias": ("experts", "embed"),
}


def expert_parallel(
    local: Callable, x_BTD: Array, experts_BTC: Array, weights_BTC: Array, w: dict[str, Any], sharding: Sharding
) -> Array:
    """`local(x_MD, experts_MC, weights_MC, w, n_experts=...)` over all devices: `[B, T, D]`.

    `w` has some of `EXPERT_AXES`, gate `[E, D, F]` among them, each an array or another kind of weight. An expert that
    is not on a device has the number `n_experts` there.
    """
    if sharding.mesh is None:
        return _flat(local, x_BTD, experts_BTC, weights_BTC, w)

    rows = sharding.spec("batch", None, None, shape=x_BTD.shape)
    axes = {name: layout(weight, EXPERT_AXES[name]) for name, weight in w.items()}
    specs = _specs(w, axes, sharding)
    expert_axes, _, mlp_axes = (_axes(part) for part in jax.tree.leaves(specs["gate"], is_leaf=_is_spec)[0])
    shared = tuple(a for a in expert_axes if a in _axes(rows[0]))
    ways = math.prod(sharding.mesh.shape[a] for a in mlp_axes)

    def on_device(x, experts, weights, w):
        w = jax.tree.map(_gather_embed, w, axes, specs, is_leaf=lambda a: isinstance(a, jax.Array))
        if "down_bias" in w:  # every part of a width adds it, and their outputs are summed
            w["down_bias"] = w["down_bias"] / ways
        x, experts, weights = (_gather(a, shared, 0) for a in (x, experts, weights))
        here = jax.tree.leaves(w["gate"])[0].shape[0]
        first = _index(expert_axes) * here
        mine = (experts >= first) & (experts < first + here)
        out = _flat(local, x, jnp.where(mine, experts - first, here), weights, w)
        summed = tuple(a for a in (*expert_axes, *mlp_axes) if a not in shared)
        out = jax.lax.psum(out, summed) if summed else out
        return jax.lax.psum_scatter(out, shared, scatter_dimension=0, tiled=True) if shared else out

    return jax.shard_map(
        on_device, mesh=sharding.mesh, in_specs=(rows, rows, rows, specs), out_specs=rows, check_vma=False
    )(x_BTD, experts_BTC, weights_BTC, w)


def _specs(w: dict[str, Any], axes: dict[str, Any], sharding: Sharding) -> dict[str, Any]:
    """How each array of the weights is split: an axis of one name the same way in all of them, and 1 not at all."""
    found: list[tuple[str | None, int]] = []
    jax.tree.map(lambda a, names: found.extend(zip(names, a.shape, strict=True)), w, axes)
    sizes = {name: math.gcd(*(n for other, n in found if other == name and n > 1)) for name, _ in found}

    def one(a: Array, names: Axes) -> PartitionSpec:
        shape = tuple(1 if n == 1 else sizes[name] for n, name in zip(a.shape, names, strict=True))
        return sharding.spec(*names, shape=shape)

    return jax.tree.map(one, w, axes)


def _flat(local, x_BTD, experts_BTC, weights_BTC, w):
    x, experts, weights = (a.reshape(-1, a.shape[-1]) for a in (x_BTD, experts_BTC, weights_BTC))
    n_experts = jax.tree.leaves(w["gate"])[0].shape[0]
    return local(x, experts, weights, w, n_experts=n_experts).reshape(x_BTD.shape)


def _gather_embed(a: Array, names: Axes, spec: PartitionSpec) -> Array:
    """A device's part of an array with its `embed` axis gathered, as GSPMD would do."""
    return _gather(a, _axes(spec[names.index("embed")]), names.index("embed")) if "embed" in names else a


def _is_spec(x) -> bool:
    return isinstance(x, PartitionSpec)


def _axes(part) -> tuple[str, ...]:
    return () if part is None else (part,) if isinstance(part, str) else tuple(part)


def _gather(a: Array, axes: tuple[str, ...], dimension: int) -> Array:
    return jax.lax.all_gather(a, axes, axis=dimension, tiled=True) if axes else a


def _index(axes: tuple[str, ...]) -> Array:
    return jax.lax.axis_index(axes) if axes else jnp.zeros((), jnp.int32)
