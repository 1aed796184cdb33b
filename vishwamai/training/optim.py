"""AdamW and its schedules (optax), told by the specs what decays. It knows no model and no data."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import optax

from vishwamai.config import check_numbers
from vishwamai.errors import ConfigError
from vishwamai.weights import spec

SCHEDULES = ("cosine", "wsd", "constant")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Optimizer:
    """AdamW (Loshchilov and Hutter, 2019) with warm-up, a schedule and clipping by the global norm.

    `warmup_steps` rise from 0; `cosine` then falls to `final_fraction` of the peak, `wsd` stays at the peak and falls
    linearly over the last `decay_fraction` of the steps, `constant` stays.
    """

    learning_rate: float = 3e-4
    schedule: str = "cosine"
    warmup_steps: int = 100
    final_fraction: float = 0.1
    decay_fraction: float = 0.2
    beta1: float = 0.9
    beta2: float = 0.95
    eps: float = 1e-8
    weight_decay: float = 0.1
    clip_norm: float = 1.0

    def __post_init__(self):
        if self.schedule not in SCHEDULES:
            raise ConfigError(f"schedule {self.schedule!r} is not known; use {', '.join(SCHEDULES)}")
        check_numbers(self, "learning_rate", "eps", "clip_norm", above=0)
        check_numbers(self, "final_fraction", "decay_fraction", least=0, most=1)
        check_numbers(self, "beta1", "beta2", least=0, below=1)
        check_numbers(self, "warmup_steps", "weight_decay", least=0)


def schedule(o: Optimizer, steps: int):
    """The learning rate as a function of the step, for a run of `steps`."""
    return _with_promotion(_curve(o, steps))


def _curve(o: Optimizer, steps: int):
    floor, warmup = o.learning_rate * o.final_fraction, min(o.warmup_steps, max(steps - 1, 0))
    after = max(steps - warmup, 1)
    match o.schedule:
        case "cosine":
            rest = optax.cosine_decay_schedule(o.learning_rate, after, o.final_fraction)
        case "wsd":
            fall = max(round(steps * o.decay_fraction), 1)
            linear = optax.linear_schedule(o.learning_rate, floor, fall)
            rest = optax.join_schedules([optax.constant_schedule(o.learning_rate), linear], [max(after - fall, 0)])
        case _:
            rest = optax.constant_schedule(o.learning_rate)
    if not warmup:
        return rest
    rise = optax.linear_schedule(o.learning_rate / warmup, o.learning_rate, max(warmup - 1, 1))
    return optax.join_schedules([rise, rest], [warmup])


def optimizer(o: Optimizer, specs, steps: int) -> optax.GradientTransformationExtraArgs:
    """The update rule for weights like `specs`; `update` takes the `step`, whose learning rate it applies.

    Gradients are clipped by whoever has measured their norm.
    """
    rate = schedule(o, steps)

    def apply_rate(updates, state, params=None, *, step):
        return jax.tree.map(lambda u: -rate(step) * u, updates), state

    rule = optax.chain(
        optax.scale_by_adam(o.beta1, o.beta2, o.eps, mu_dtype=jnp.float32),
        optax.add_decayed_weights(o.weight_decay, spec.decay_mask(specs)),
        optax.GradientTransformationExtraArgs(lambda params: optax.EmptyState(), apply_rate),
    )
    return optax.GradientTransformationExtraArgs(_with_promotion(rule.init), _with_promotion(rule.update))


def _with_promotion(function):
    """`function` where dtypes may promote: optax relies on it, and whoever calls may have set JAX to refuse it."""

    @functools.wraps(function)
    def call(*args, **options):
        with jax.numpy_dtype_promotion("standard"):
            return function(*args, **options)

    return call


def clip_gradients(grads, norm: jax.Array, limit: float):
    """The gradients, shortened to `limit` where their global norm is longer."""
    shrink = jnp.minimum(1.0, limit / jnp.maximum(norm, 1e-12))
    return jax.tree.map(lambda g: g * shrink.astype(g.dtype), grads)
