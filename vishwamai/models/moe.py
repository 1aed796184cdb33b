"""The mixture-of-experts feed-forward: a router, experts that see only the tokens sent to them, and a shared one.

B batch, T positions, D d_model, E experts, C experts per token, F d_expert. It knows no mesh: `parallel/expert.py`
runs `experts` on each device's own experts.
"""

from functools import partial

import jax
import jax.numpy as jnp

from vishwamai.models import feedforward
from vishwamai.models.config import ModelConfig
from vishwamai.models.feedforward import FeedForward, feed_forward, gated_activation
from vishwamai.ops import moe as ops
from vishwamai.parallel.expert import EXPERT_AXES, expert_parallel
from vishwamai.parallel.sharding import Sharding
from vishwamai.weights.linear import add_bias, einsum, grouped_einsum
from vishwamai.weights.spec import Param, pytree

Array = jax.Array


@pytree
class MoE:
    """Router and stacked experts, each a gated feed-forward; and what every token meets."""

    router: Array  # [D, E]
    router_bias: Array | None  # [E]
    choice_bias: Array | None  # [E]
    gate: Array  # [E, D, F]
    up: Array  # [E, D, F]
    down: Array  # [E, F, D]
    gate_bias: Array | None  # [E, F]
    up_bias: Array | None  # [E, F]
    down_bias: Array | None  # [E, D]
    shared: FeedForward | None
    shared_gate: Array | None  # [D, 1]


def specs(cfg: ModelConfig) -> MoE:
    """The weights of one mixture-of-experts layer, declared."""
    D, E, F = cfg.d_model, cfg.n_experts, cfg.d_expert

    def bias(shape: tuple[int, ...], axes: tuple[str | None, ...], there_is_one: bool) -> Param | None:
        return Param(shape, axes, value=0.0) if there_is_one else None

    up = Param((E, D, F), ("experts", "embed", "mlp"), contract=("embed",))
    return MoE(
        router=Param((D, E), ("embed", None), contract=("embed",)),
        router_bias=bias((E,), (None,), cfg.router_bias),
        choice_bias=Param((E,), (None,), value=0.0, exact=True, trained=False) if cfg.choice_bias else None,
        gate=up,
        up=up,
        down=Param((E, F, D), ("experts", "mlp", "embed"), contract=("mlp",)),
        gate_bias=bias((E, F), ("experts", "mlp"), cfg.expert_bias),
        up_bias=bias((E, F), ("experts", "mlp"), cfg.expert_bias),
        down_bias=bias((E, D), ("experts", "embed"), cfg.expert_bias),
        shared=feedforward.specs(cfg, cfg.d_shared, bias=False) if cfg.d_shared else None,
        shared_gate=Param((D, 1), ("embed", None), contract=("embed",)) if cfg.shared_gate else None,
    )


def mixture_of_experts(
    w: MoE, x_BTD: Array, counts_BT: Array, cfg: ModelConfig, sharding: Sharding, implementation=None
) -> tuple[Array, ops.RouterSums]:
    """The layer's output `[B, T, D]` and what its router did with the tokens that count."""
    logits_BTE = add_bias(einsum("BTD,DE->BTE", x_BTD.astype(jnp.float32), w.router), w.router_bias)
    routing = ops.route(
        logits_BTE,
        cfg.n_experts_per_token,
        kind=cfg.router,
        normalize=cfg.norm_topk,
        scale=cfg.route_scale,
        choice_bias_E=w.choice_bias,
        n_groups=cfg.n_expert_groups,
        n_groups_chosen=cfg.n_groups_per_token,
    )
    local = partial(experts, gated_activation=partial(gated_activation, cfg=cfg), implementation=implementation)
    mine = {name: getattr(w, name) for name in EXPERT_AXES if getattr(w, name) is not None}
    out = expert_parallel(local, x_BTD, routing.experts, routing.weights, mine, sharding)
    return out + _shared(w, x_BTD, cfg), ops.router_sums(logits_BTE, routing, counts_BT)


def _shared(w: MoE, x_BTD: Array, cfg: ModelConfig) -> Array | float:
    """What the shared expert adds."""
    if w.shared is None:
        return 0.0
    out = feed_forward(w.shared, x_BTD, cfg)
    return out if w.shared_gate is None else out * jax.nn.sigmoid(einsum("BTD,DE->BTE", x_BTD, w.shared_gate))


def experts(
    x_MD: Array,
    experts_MC: Array,
    weights_MC: Array,
    w: dict[str, Array],
    *,
    n_experts: int,
    gated_activation,
    implementation=None,
):
    """Each token's weighted sum of its experts' outputs `[M, D]`; an expert `n_experts` contributes nothing.

    `w` has gate, up and down, and may have a bias of each; `gated_activation(gate, up)` is what the last matmul reads.
    """
    rows, order, sizes = ops.dispatch(x_MD, experts_MC, n_experts)

    def matmul(x: Array, name: str) -> Array:
        out = grouped_einsum(x, w[name], sizes, implementation=implementation)
        return ops.grouped_bias(out, w.get(f"{name}_bias"), sizes)

    return ops.combine(matmul(gated_activation(matmul(rows, "gate"), matmul(rows, "up")), "down"), order, weights_MC)
