"""Attention over a mesh: each device attends for its own rows and heads, so that kernels need no partitioning.

It knows no model. B batch, T query positions, S key positions, N query heads, K kv heads, H head_dim.
"""

import jax
from jax.sharding import PartitionSpec

from vishwamai.ops.attention import attention
from vishwamai.parallel.sharding import Sharding

Array = jax.Array


def sharded_attention(q_BTNH: Array, k_BSKH: Array, v_BSKH: Array, sharding: Sharding, **options) -> Array:
    """`ops.attention` with the batch and the heads split as `sharding` says; `options` are those of `attention`.

    Heads are split only where the kv heads divide too; otherwise every device has all of them.
    """
    if sharding.mesh is None:
        return attention(q_BTNH, k_BSKH, v_BSKH, **options)
    kv = sharding.spec("batch", None, "kv_heads", None, shape=k_BSKH.shape)
    rows = PartitionSpec(*kv[:1])
    arrays = {name: x for name, x in options.items() if isinstance(x, jax.Array)}
    fixed = {name: x for name, x in options.items() if name not in arrays}

    def local(q, k, v, arrays):
        return attention(q, k, v, **arrays, **fixed)

    in_specs = (kv, kv, kv, {name: rows for name in arrays})
    mapped = jax.shard_map(local, mesh=sharding.mesh, in_specs=in_specs, out_specs=kv, check_vma=False)
    return mapped(q_BTNH, k_BSKH, v_BSKH, arrays)
