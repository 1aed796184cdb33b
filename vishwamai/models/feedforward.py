"""Feed-forward networks, gated or plain: their weights, and what stands between the matmuls.

B batch, T positions, D d_model, F width. It knows no layer around it.
"""

from functools import partial

import jax
import jax.numpy as jnp

from vishwamai.models.config import ModelConfig
from vishwamai.weights.linear import add_bias, einsum
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
class XIELU:
    """A learnt activation: the integral of an ELU (Huang and Schlag, 2024, "Deriving activation functions")."""

    above: Array  # [1]
    below: Array  # [1]
    slope: Array  # []
    edge: Array  # []


@pytree
class FeedForward:
    """A feed-forward network."""

    gate: Array | None  # [D, F]
    up: Array  # [D, F]
    down: Array  # [F, D]
    gate_bias: Array | None  # [F]
    up_bias: Array | None  # [F]
    down_bias: Array | None  # [D]
    xielu: XIELU | None


def specs(cfg: ModelConfig, width: int, *, bias: bool) -> FeedForward:
    """The weights of a feed-forward network, declared."""
    D = cfg.d_model

    def offset(size: int, axis: str, there_is_one: bool = True) -> Param | None:
        return Param((size,), (axis,), value=0.0) if bias and there_is_one else None

    up = Param((D, width), ("embed", "mlp"), contract=("embed",))
    curve, half, edge = Param((1,), (None,), value=0.2), Param((), (), value=0.5), Param((), (), value=-1e-6)
    return FeedForward(
        gate=up if cfg.gated else None,
        up=up,
        down=Param((width, D), ("mlp", "embed"), contract=("mlp",)),
        gate_bias=offset(width, "mlp", cfg.gated),
        up_bias=offset(width, "mlp"),
        down_bias=offset(D, "embed"),
        xielu=XIELU(above=curve, below=curve, slope=half, edge=edge) if cfg.activation == "xielu" else None,
    )


def feed_forward(w: FeedForward, x: Array, cfg: ModelConfig) -> Array:
    """The feed-forward network, `[B, T, D]` to `[B, T, D]`."""
    up = add_bias(einsum("BTD,DF->BTF", x, w.up), w.up_bias)
    if cfg.activation == "xielu":
        hidden = xielu(w.xielu, up)
    elif cfg.gated:
        hidden = gated_activation(add_bias(einsum("BTD,DF->BTF", x, w.gate), w.gate_bias), up, cfg)
    else:
        hidden = ACTIVATIONS[cfg.activation](up)
    return add_bias(einsum("BTF,FD->BTD", hidden, w.down), w.down_bias)


def gated_activation(gate: Array, up: Array, cfg: ModelConfig) -> Array:
    """What the last matmul of a gated network reads: `up` times the activation of `gate`."""
    if cfg.glu_limit is None:
        return ACTIVATIONS[cfg.activation](gate) * up
    gate, up = jnp.minimum(gate, cfg.glu_limit), jnp.clip(up, -cfg.glu_limit, cfg.glu_limit)
    return gate * jax.nn.sigmoid(gate * GLU_SLOPE) * (up + 1)


def xielu(w: XIELU, x: Array) -> Array:
    """The activation, in `x`'s dtype."""
    above, below, slope, edge = (
        a.astype(x.dtype) for a in (jax.nn.softplus(w.above[0]), w.slope + jax.nn.softplus(w.below[0]), w.slope, w.edge)
    )
    return jnp.where(x > 0, above * x * x, (jnp.expm1(jnp.minimum(x, edge)) - x) * below) + slope * x
