"""Expert parallelism: each device of the `expert` mesh axis holds some of the experts and serves every token of its
group.

Tokens are gathered over the `expert` axis, each device computes what its own experts contribute, and the sums are
scattered back: exact, without drops or capacities. Weights that are sharded over `fsdp` are gathered first, as GSPMD
would do; a width that is sharded over `tensor` is summed at the end. It knows no model: the local computation is passed
in.

B batch, T positions, D d_model, E experts, C experts per token, F d_expert.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp

from vishwamai.parallel.sharding import Sharding

Array = jax.Array


def expert_parallel(
    local: Callable,
    x_BTD: Array,
    experts_BTC: Array,
    weights_BTC: Array,
    w: tuple[Array, Array, Array],
    sharding: Sharding,
) -> Array:
    """`local(x_MD, experts_MC, weights_MC, gate, up, down, n_experts=...)` over all devices: `[B, T, D]`.

    `w` is (gate `[E, D, F]`, up `[E, D, F]`, down `[E, F, D]`). An expert that is not on a device has the number
    `n_experts` there.
    """
    n_experts = w[0].shape[0]
    if sharding.mesh is None:
        return _flat(local, x_BTD, experts_BTC, weights_BTC, w, n_experts)

    rows = sharding.spec("batch", None, None, shape=x_BTD.shape)
    up_spec = sharding.spec("experts", "embed", "mlp", shape=w[0].shape)
    down_spec = sharding.spec("experts", "mlp", "embed", shape=w[2].shape)
    expert_axes, embed_axes, mlp_axes = (_axes(part) for part in up_spec)
    shared = tuple(a for a in expert_axes if a in _axes(rows[0]))

    def on_device(x, experts, weights, gate, up, down):
        gate, up = (_gather(a, embed_axes, 1) for a in (gate, up))
        down = _gather(down, _axes(down_spec[2]), 2)
        x, experts, weights = (_gather(a, shared, 0) for a in (x, experts, weights))
        first = _index(expert_axes) * gate.shape[0]
        mine = (experts >= first) & (experts < first + gate.shape[0])
        out = _flat(local, x, jnp.where(mine, experts - first, gate.shape[0]), weights, (gate, up, down), gate.shape[0])
        summed = tuple(a for a in (*expert_axes, *mlp_axes) if a not in shared)
        out = jax.lax.psum(out, summed) if summed else out
        return jax.lax.psum_scatter(out, shared, scatter_dimension=0, tiled=True) if shared else out

    return jax.shard_map(
        on_device,
        mesh=sharding.mesh,
        in_specs=(rows, rows, rows, up_spec, up_spec, down_spec),
        out_specs=rows,
        check_vma=False,
    )(x_BTD, experts_BTC, weights_BTC, *w)


def _flat(local, x_BTD, experts_BTC, weights_BTC, w, n_experts):
    x, experts, weights = (a.reshape(-1, a.shape[-1]) for a in (x_BTD, experts_BTC, weights_BTC))
    return local(x, experts, weights, *w, n_experts=n_experts).reshape(x_BTD.shape)


def _axes(part) -> tuple[str, ...]:
    return () if part is None else (part,) if isinstance(part, str) else tuple(part)


def _gather(a: Array, axes: tuple[str, ...], dimension: int) -> Array:
    return jax.lax.all_gather(a, axes, axis=dimension, tiled=True) if axes else a


def _index(axes: tuple[str, ...]) -> Array:
    return jax.lax.axis_index(axes) if axes else jnp.zeros((), jnp.int32)
