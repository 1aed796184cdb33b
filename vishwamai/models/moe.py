"""The mixture-of-experts feed-forward: a router, and experts that see only the tokens sent to them.

B batch, T positions, D d_model, E experts, C experts per token, F d_expert. It knows no mesh: `parallel/expert.py`
runs `experts` on each device's own experts.
"""

from functools import partial

import jax
import jax.numpy as jnp

from vishwamai.models.config import ModelConfig
from vishwamai.ops import moe as ops
from vishwamai.parallel.expert import expert_parallel
from vishwamai.parallel.sharding import Sharding
from vishwamai.weights.linear import einsum, grouped_einsum
from vishwamai.weights.spec import Param, pytree

Array = jax.Array


@pytree
class MoE:
    """Router and stacked experts, each a gated feed-forward."""

    router: Array  # [D, E]
    gate: Array  # [E, D, F]
    up: Array  # [E, D, F]
    down: Array  # [E, F, D]


def specs(cfg: ModelConfig) -> MoE:
    """The weights of one mixture-of-experts layer, declared."""
    D, E, F = cfg.d_model, cfg.n_experts, cfg.d_expert
    return MoE(
        router=Param((D, E), ("embed", None), contract=("embed",)),
        gate=Param((E, D, F), ("experts", "embed", "mlp"), contract=("embed",)),
        up=Param((E, D, F), ("experts", "embed", "mlp"), contract=("embed",)),
        down=Param((E, F, D), ("experts", "mlp", "embed"), contract=("mlp",)),
    )


def mixture(
    w: MoE, x_BTD: Array, counts_BT: Array, cfg: ModelConfig, activation, sharding: Sharding, implementation=None
) -> tuple[Array, ops.RouterSums]:
    """The layer's output `[B, T, D]` and what its router did with the tokens that count."""
    logits_BTE = einsum("BTD,DE->BTE", x_BTD.astype(jnp.float32), w.router)
    routing = ops.route(logits_BTE, cfg.n_experts_per_token, normalize=cfg.norm_topk)
    local = partial(experts, activation=activation, implementation=implementation)
    out = expert_parallel(local, x_BTD, routing.experts, routing.weights, (w.gate, w.up, w.down), sharding)
    return out, ops.router_sums(logits_BTE, routing, counts_BT)


def experts(
    x_MD: Array,
    experts_MC: Array,
    weights_MC: Array,
    gate,
    up,
    down,
    *,
    n_experts: int,
    activation,
    implementation=None,
) -> Array:
    """Each token's weighted sum of its experts' outputs `[M, D]`; an expert `n_experts` contributes nothing."""
    rows, order, sizes = ops.dispatch(x_MD, experts_MC, n_experts)
    matmul = partial(grouped_einsum, sizes_E=sizes, implementation=implementation)
    hidden = activation(matmul(rows, gate)) * matmul(rows, up)
    return ops.combine(matmul(hidden, down), order, weights_MC)
