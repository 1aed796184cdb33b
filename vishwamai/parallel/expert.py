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

import jax
import jax.numpy as jnp

from vishwamai.parallel.sharding import Sharding

Array = jax.Array


EXPERT_AXES = {
    "gate": ("experts", "embed", "mlp"),
    "up": ("experts", "embed", "mlp"),
    "down": ("experts", "mlp", "embed"),
    "gate_bias": ("experts", "mlp"),
    "up_bias": ("experts", "mlp"),
    "down_bias": ("experts", "embed"),
}


def expert_parallel(
    local: Callable, x_BTD: Array, experts_BTC: Array, weights_BTC: Array, w: dict[str, Array], sharding: Sharding
) -> Array:
    """`local(x_MD, experts_MC, weights_MC, w, n_experts=...)` over all devices: `[B, T, D]`.

    `w` has some of `EXPERT_AXES`, gate `[E, D, F]` among them. An expert that is not on a device has the number
    `n_experts` there.
    """
    if sharding.mesh is None:
        return _flat(local, x_BTD, experts_BTC, weights_BTC, w)

    rows = sharding.spec("batch", None, None, shape=x_BTD.shape)
    specs = {name: sharding.spec(*EXPERT_AXES[name], shape=x.shape) for name, x in w.items()}
    expert_axes, _, mlp_axes = (_axes(part) for part in specs["gate"])
    shared = tuple(a for a in expert_axes if a in _axes(rows[0]))
    ways = math.prod(sharding.mesh.shape[a] for a in mlp_axes)

    def on_device(x, experts, weights, w):
        w = {name: _whole_embed(name, a, specs[name]) for name, a in w.items()}
        if "down_bias" in w:  # every part of a width adds it, and their outputs are summed
            w["down_bias"] = w["down_bias"] / ways
        x, experts, weights = (_gather(a, shared, 0) for a in (x, experts, weights))
        here = w["gate"].shape[0]
        first = _index(expert_axes) * here
        mine = (experts >= first) & (experts < first + here)
        out = _flat(local, x, jnp.where(mine, experts - first, here), weights, w)
        summed = tuple(a for a in (*expert_axes, *mlp_axes) if a not in shared)
        out = jax.lax.psum(out, summed) if summed else out
        return jax.lax.psum_scatter(out, shared, scatter_dimension=0, tiled=True) if shared else out

    return jax.shard_map(
        on_device, mesh=sharding.mesh, in_specs=(rows, rows, rows, specs), out_specs=rows, check_vma=False
    )(x_BTD, experts_BTC, weights_BTC, w)


def _flat(local, x_BTD, experts_BTC, weights_BTC, w):
    x, experts, weights = (a.reshape(-1, a.shape[-1]) for a in (x_BTD, experts_BTC, weights_BTC))
    return local(x, experts, weights, w, n_experts=w["gate"].shape[0]).reshape(x_BTD.shape)


def _whole_embed(name: str, w: Array, spec) -> Array:
    """A device's part of a weight with its `embed` axis gathered, as GSPMD would do."""
    axis = EXPERT_AXES[name].index("embed") if "embed" in EXPERT_AXES[name] else None
    return w if axis is None else _gather(w, _axes(spec[axis]), axis)


def _axes(part) -> tuple[str, ...]:
    return () if part is None else (part,) if isinstance(part, str) else tuple(part)


def _gather(a: Array, axes: tuple[str, ...], dimension: int) -> Array:
    return jax.lax.all_gather(a, axes, axis=dimension, tiled=True) if axes else a


def _index(axes: tuple[str, ...]) -> Array:
    return jax.lax.axis_index(axes) if axes else jnp.zeros((), jnp.int32)
