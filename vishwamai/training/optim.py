"""The optimiser's settings, its schedules, and groups of weights that move otherwise. The rules are in `rules.py`."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import optax

from vishwamai.config import check_numbers
from vishwamai.errors import ConfigError

SCHEDULES = ("cosine", "wsd", "constant")
ADAM = {"beta1": 0.9, "beta2": 0.95, "eps": 1e-8}
# What each reads beside what all of them do, and what it is where nobody sets it.
OPTIMIZERS = {
    "adamw": ADAM,
    "adafactor": {"decay_rate": 0.8, "clip_threshold": 1.0, "min_dim_size_to_factor": 128},
    "lion": {"beta1": 0.9, "beta2": 0.99},
    "muon": {"momentum": 0.95, "ns_steps": 5, **ADAM},
    "schedule_free_adamw": ADAM,
}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Group:
    """Weights that move otherwise than the rest: those whose path matches one of `params`.

    A pattern is a shell's (`embed`, `*.attn.*`, `stacks.0.*`); of several groups that match a weight the first holds.
    `weight_decay` is in place of the optimiser's, for those that decay at all. Frozen weights have no moments, and
    their gradient is not part of the norm that is clipped.
    """

    params: tuple[str, ...]
    learning_rate_multiplier: float = 1.0
    weight_decay: float | None = None
    frozen: bool = False

    def __post_init__(self):
        check_numbers(self, "learning_rate_multiplier", above=0)
        check_numbers(self, "weight_decay", least=0)
        if not self.params:
            raise ConfigError("params of a group is empty; name weights by patterns of their paths, such as '*.attn.*'")
        if self.frozen and (self.weight_decay is not None or self.learning_rate_multiplier != 1.0):
            raise ConfigError("learning_rate_multiplier and weight_decay would do nothing: the group is frozen")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Optimizer:
    """A rule with warm-up, a schedule and clipping by the global norm; decay is decoupled, and not of norms and biases.

    `adamw` (Loshchilov and Hutter, 2019), `adafactor` (Shazeer and Stern, 2018), `lion` (Chen et al., 2023), `muon`
    (Jordan, 2024; the layers' matrices, and AdamW for the rest) or `schedule_free_adamw` (Defazio et al., 2024).
    What is None is the rule's own default (`OPTIMIZERS`); what the rule does not read is refused.

    `warmup_steps` rise from 0; `cosine` then falls to `final_fraction` of the peak, `wsd` stays at the peak and falls
    linearly over the last `decay_fraction` of the steps, `constant` stays.

    With `ema_decay` an average of the weights is kept and is what is evaluated and exported. With `base_width` the
    learning rate is that of a matrix with so many inputs, and others' follow from it (Yang et al., "µP", 2022).
    """

    optimizer: str = "adamw"
    learning_rate: float = 3e-4
    schedule: str | None = None
    warmup_steps: int = 100
    final_fraction: float = 0.1
    decay_fraction: float = 0.2
    beta1: float | None = None
    beta2: float | None = None
    eps: float | None = None
    momentum: float | None = None
    ns_steps: int | None = None
    decay_rate: float | None = None
    clip_threshold: float | None = None
    min_dim_size_to_factor: int | None = None
    weight_decay: float = 0.1
    clip_norm: float = 1.0
    ema_decay: float | None = None
    base_width: int | None = None
    groups: tuple[Group, ...] = ()

    def __post_init__(self):
        if self.optimizer not in OPTIMIZERS:
            raise ConfigError(f"optimizer {self.optimizer!r} is not known; use {', '.join(OPTIMIZERS)}")
        if self.schedule is not None and self.schedule not in SCHEDULES:
            raise ConfigError(f"schedule {self.schedule!r} is not known; use {', '.join(SCHEDULES)}")
        check_numbers(self, "learning_rate", "eps", "clip_norm", "decay_rate", "clip_threshold", above=0)
        check_numbers(self, "final_fraction", "decay_fraction", least=0, most=1)
        check_numbers(self, "beta1", "beta2", "momentum", "ema_decay", least=0, below=1)
        check_numbers(self, "warmup_steps", "weight_decay", least=0)
        check_numbers(self, "ns_steps", "min_dim_size_to_factor", "base_width", least=1)
        if self.is_schedule_free:
            check_numbers(self, "beta1", above=0)
        if unread := self._unread():
            raise ConfigError(f"{unread[0]} would do nothing: {self.optimizer} does not read it; leave it out")

    def _unread(self) -> list[str]:
        """The settings that are set and that the optimiser does not read."""
        settings = dict.fromkeys(name for read in OPTIMIZERS.values() for name in read)
        found = [n for n in settings if getattr(self, n) is not None and n not in OPTIMIZERS[self.optimizer]]
        if self.is_schedule_free:
            found += ["schedule"] * (self.schedule not in (None, "constant"))
            found += [n for n in ("final_fraction", "decay_fraction") if getattr(self, n) != getattr(Optimizer, n)]
            found += ["ema_decay"] * (self.ema_decay is not None)
        return found

    @property
    def is_schedule_free(self) -> bool:
        """Whether it keeps an average of the weights in the place of a schedule."""
        return self.optimizer == "schedule_free_adamw"

    def setting(self, name: str):
        """A setting of the rule's own: what is set, or its default."""
        value = getattr(self, name)
        return OPTIMIZERS[self.optimizer][name] if value is None else value

    def with_defaults(self) -> "Optimizer":
        """The same optimiser with every default that None stands for."""
        own = {name: self.setting(name) for name in OPTIMIZERS[self.optimizer]}
        schedule = self.schedule or ("constant" if self.is_schedule_free else "cosine")
        return dataclasses.replace(self, schedule=schedule, **own)


def schedule(o: Optimizer, steps: int):
    """The learning rate as a function of the step, for a run of `steps`."""
    return with_promotion(_curve(o, steps))


def _curve(o: Optimizer, steps: int):
    floor, warmup = o.learning_rate * o.final_fraction, min(o.warmup_steps, max(steps - 1, 0))
    after = max(steps - warmup, 1)
    match o.with_defaults().schedule:
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


def with_promotion(function):
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
