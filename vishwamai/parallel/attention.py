"""Attention over a mesh: each device attends for its own rows and heads, so that kernels need no partitioning.

It knows no model. B batch, T query positions, S key positions, N query heads, K kv heads, H head_dim.
"""

import math

import jax
import jax.numpy as jnp
from jax.sharding import PartitionSpec

from vishwamai.ops.attention import attention, check_splash_platform
from vishwamai.parallel.sharding import Sharding

Array = jax.Array

PLACES = ("q_positions_BT", "kv_positions_BS", "q_segments_BT", "kv_segments_BS")


def sharded_attention(q_BTNH: Array, k_BSKH: Array, v_BSKH: Array, sharding: Sharding, **options) -> Array:
    """`ops.attention` with the batch and the heads split as `sharding` says; `options` are those of `attention`.

    Query heads are split where they divide. Where the kv heads do not, each is repeated until they do, and a device
    holds the ones that its query heads read. Sequences are whole on every device.
    """
    if sharding.mesh is None:
        return attention(q_BTNH, k_BSKH, v_BSKH, **options)
    if options.get("implementation") == "splash":
        check_splash_platform(sharding.mesh.devices.flat[0].platform)
    if options.get("kv_segments_BS") is options.get("q_segments_BT") and "kv_positions_BS" not in options:
        options.pop("kv_segments_BS", None)  # one array outside is one array inside the map: kernels ask for that
    split = sharding.spec("batch", None, "heads", None, shape=q_BTNH.shape)
    k, v = (_repeat_kv_heads(x, _n_shards(sharding, split[2])) for x in (k_BSKH, v_BSKH))
    specs = {name: PartitionSpec(split[0]) for name in PLACES} | {"sinks_N": PartitionSpec(split[2])}
    arrays = {name: options.pop(name) for name in specs if options.get(name) is not None}

    def local(q, k, v, arrays):
        return attention(q, k, v, **arrays, **options)

    in_specs = (split, split, split, {name: specs[name] for name in arrays})
    mapped = jax.shard_map(local, mesh=sharding.mesh, in_specs=in_specs, out_specs=split, check_vma=False)
    return mapped(q_BTNH, k, v, arrays)


def _n_shards(sharding: Sharding, axes: str | tuple[str, ...] | None) -> int:
    names = (axes,) if isinstance(axes, str) else axes or ()
    return math.prod(sharding.mesh.shape[name] for name in names)


def _repeat_kv_heads(x_BSKH: Array, ways: int) -> Array:
    """Each kv head as often as it takes for them to be a multiple of `ways`, still in the order of the query heads."""
    K = x_BSKH.shape[2]
    return x_BSKH if K % ways == 0 else jnp.repeat(x_BSKH, math.lcm(K, ways) // K, axis=2)
