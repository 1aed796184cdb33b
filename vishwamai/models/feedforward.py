"""Feed-forward networks, gated or plain: their weights, and what stands between the matmuls.

B batch, T positions, D d_model, F width. It knows no layer around it.
"""

from functools import partial

import jax
import jax.numpy as jnp

from vishwamai.models.config import ModelConfig
from vishwamai.weights.linear import biased, einsum
from vishwamai.weights.spec import Param, pytree

Array = jax.Array

ACTIVATIONS = {
    "silu": jax.nn.silu,
    "gelu": partial(jax.nn.gelu, approximate=False),
    "gelu_tanh": partial(jax.nn.gelu, approximate=True),
    "relu2": lambda x: jnp.square(jax.nn.relu(x)),
}
GLU_SLOPE = 1.702  # of the sigmoid in a clamped gate


@pytree
class FeedForward:
    """A feed-forward network."""

    gate: Array | None  # [D, F]
    up: Array  # [D, F]
    down: Array  # [F, D]
    gate_bias: Array | None  # [F]
    up_bias: Array | None  # [F]
    down_bias: Array | None  # [D]
    slope_above: Array | None  # [1], of a learnt activation
    slope_below: Array | None  # [1]


def specs(cfg: ModelConfig, width: int, *, bias: bool) -> FeedForward:
    """The weights of a feed-forward network, declared."""
    D = cfg.d_model

    def offset(size: int, axis: str, there_is_one: bool = True) -> Param | None:
        return Param((size,), (axis,), value=0.0) if bias and there_is_one else None

    up = Param((D, width), ("embed", "mlp"), contract=("embed",))
    slope = Param((1,), (None,), value=0.0) if cfg.activation == "xielu" else None
    return FeedForward(
        gate=up if cfg.gated else None,
        up=up,
        down=Param((width, D), ("mlp", "embed"), contract=("mlp",)),
        gate_bias=offset(width, "mlp", cfg.gated),
        up_bias=offset(width, "mlp"),
        down_bias=offset(D, "embed"),
        slope_above=slope,
        slope_below=slope,
    )


def feed_forward(w: FeedForward, x: Array, cfg: ModelConfig) -> Array:
    """The feed-forward network, `[B, T, D]` to `[B, T, D]`."""
    up = biased(einsum("BTD,DF->BTF", x, w.up), w.up_bias)
    if cfg.activation == "xielu":
        hidden = xielu(up, w.slope_above, w.slope_below)
    elif cfg.gated:
        hidden = between(biased(einsum("BTD,DF->BTF", x, w.gate), w.gate_bias), up, cfg)
    else:
        hidden = ACTIVATIONS[cfg.activation](up)
    return biased(einsum("BTF,FD->BTD", hidden, w.down), w.down_bias)


def between(gate: Array, up: Array, cfg: ModelConfig) -> Array:
    """What the last matmul of a gated network reads: `up` times the activation of `gate`."""
    if cfg.glu_limit is None:
        return ACTIVATIONS[cfg.activation](gate) * up
    gate, up = jnp.minimum(gate, cfg.glu_limit), jnp.clip(up, -cfg.glu_limit, cfg.glu_limit)
    return gate * jax.nn.sigmoid(gate * GLU_SLOPE) * (up + 1)


def xielu(x: Array, above_1: Array, below_1: Array, beta: float = 0.5, eps: float = -1e-6) -> Array:
    """The integral of an ELU, its slopes learnt (Huang and Schlag, 2024, "Deriving activation functions")."""
    above, below = jax.nn.softplus(above_1[0]).astype(x.dtype), (beta + jax.nn.softplus(below_1[0])).astype(x.dtype)
    falling = (jnp.expm1(jnp.minimum(x, jnp.asarray(eps, x.dtype))) - x) * below
    return jnp.where(x > 0, above * x * x, falling) + beta * x
