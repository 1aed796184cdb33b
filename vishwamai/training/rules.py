"""The optimisers' update rules (optax), told by the specs what is a matrix, what decays and what is left alone.

A rule sees the weights that it moves: in the place of one that is frozen stands None, in every tree. It knows no model
and no data.
"""

import dataclasses
import difflib
import math
from fnmatch import fnmatchcase

import jax
import jax.numpy as jnp
import optax

from vishwamai.errors import ConfigError
from vishwamai.training.optim import Group, Optimizer, schedule, with_promotion
from vishwamai.weights import spec
from vishwamai.weights.spec import Param

MUON_RMS = 0.2  # of an update of Muon's: about AdamW's (Liu et al., "Muon is scalable for LLM training", 2025)


@dataclasses.dataclass(frozen=True)
class Move:
    """How one weight moves: by `-rate * multiplier * (scale * update + decay * weight)`, or not at all."""

    scale: float
    decay: float
    multiplier: float
    frozen: bool


def moves(o: Optimizer, specs):
    """A tree like `specs` with the `Move` of each weight."""

    def move(p: Param, group: Group | None) -> Move:
        decay = o.weight_decay if group is None or group.weight_decay is None else group.weight_decay
        return Move(
            scale=_scale(o, p),
            decay=decay if p.decays else 0.0,
            multiplier=1.0 if group is None else group.learning_rate_multiplier,
            frozen=not p.trained or (group is not None and group.frozen),
        )

    found = [move(param, _first_group(o, path)) for path, param in spec.named(specs)]
    return jax.tree.unflatten(jax.tree.structure(specs, is_leaf=spec.is_param), found)


def check_groups(o: Optimizer, specs) -> None:
    """Raises `ConfigError` for a pattern without a weight, a group that would do nothing, and where all is frozen."""
    named = spec.named(specs)
    chosen = {path: _first_group(o, path) for path, _ in named}
    for group in o.groups:
        _check_group(group, [param for path, param in named if chosen[path] is group], list(chosen))
    if all(jax.tree.leaves(frozen_mask(o, specs))):
        raise ConfigError("the groups freeze every weight, so nothing would be trained; leave one of them out")


def _first_group(o: Optimizer, path: str) -> Group | None:
    return next((g for g in o.groups if any(fnmatchcase(path, pattern) for pattern in g.params)), None)


def _check_group(group: Group, members: list[Param], paths: list[str]) -> None:
    for pattern in group.params:
        if not any(fnmatchcase(path, pattern) for path in paths):
            near = ", ".join(difflib.get_close_matches(pattern, paths, n=3, cutoff=0.3) or paths[:3])
            raise ConfigError(f"a group's pattern {pattern!r} matches no weight; they are named like {near}")
    if not members:
        raise ConfigError(
            f"the group {', '.join(group.params)} would do nothing: groups before it have all its weights"
        )
    if group.weight_decay and not any(p.decays for p in members):
        raise ConfigError(
            f"weight_decay of the group {', '.join(group.params)} would do nothing: norms and biases do not decay"
        )


def _scale(o: Optimizer, p: Param) -> float:
    """What the rule's update of a weight is multiplied by, for its shape.

    An update of a given size of each entry moves outputs by as much as it has inputs; one that is orthogonal, or of a
    size relative to the weight's, by the root of that.
    """
    dims = muon_dimensions(p) if o.optimizer == "muon" else None
    sides = (1,) if dims is None else (math.prod(p.shape[axis] for axis in axes) for axes in dims)
    scale = 1.0 if dims is None else MUON_RMS * math.sqrt(max(sides))
    if o.base_width is None or not p.is_matmul:
        return scale
    ratio = o.base_width / p.fan_in
    return scale * (math.sqrt(ratio) if dims is not None or o.optimizer == "adafactor" else ratio)


def frozen_mask(o: Optimizer, specs):
    """A tree like `specs`, True where a weight is not trained."""
    return jax.tree.map(lambda move: move.frozen, moves(o, specs))


def drop_frozen(tree, frozen):
    """The tree with None in the place of what is frozen."""
    return jax.tree.map(lambda is_frozen, x: None if is_frozen else x, frozen, tree)


def restore_frozen(trained, whole):
    """The whole tree with what is trained in it replaced."""
    return jax.tree.map(lambda new, old: old if new is None else new, trained, whole, is_leaf=lambda x: x is None)


def optimizer(o: Optimizer, specs, steps: int) -> optax.GradientTransformationExtraArgs:
    """The update rule for weights like `specs`, those that are frozen dropped from every tree that it is given.

    `update` takes the `step`, whose learning rate it applies. Gradients are clipped by whoever has measured their norm.
    """
    found = moves(o, specs)
    frozen = jax.tree.map(lambda move: move.frozen, found)
    specs, found = drop_frozen(specs, frozen), drop_frozen(found, frozen)
    step = _apply_rate(found, schedule(o, steps))
    rule = _schedule_free(o, step, steps) if o.is_schedule_free else optax.chain(_direction(o, specs), step)
    return optax.GradientTransformationExtraArgs(with_promotion(rule.init), with_promotion(rule.update))


def _apply_rate(found, rate) -> optax.GradientTransformationExtraArgs:
    """The last part of every rule: each weight's `Move`, at the step's learning rate."""

    def update(updates, state, params, *, step):
        def one(move: Move, u, w):
            u = u if move.scale == 1.0 else move.scale * u
            u = u + move.decay * w if move.decay else u
            now = rate(step)
            return -(now if move.multiplier == 1.0 else move.multiplier * now) * u

        return jax.tree.map(one, found, updates, params), state

    return optax.GradientTransformationExtraArgs(lambda params: optax.EmptyState(), update)


def _direction(o: Optimizer, specs) -> optax.GradientTransformation:
    """Where a rule leads, before decay and learning rate."""
    match o.optimizer:
        case "lion":
            return optax.scale_by_lion(o.setting("beta1"), o.setting("beta2"), mu_dtype=jnp.float32)
        case "adafactor":
            return _adafactor(o, specs)
        case "muon":
            return _muon(o, specs)
        case _:
            return _adam(o)


def _adam(o: Optimizer) -> optax.GradientTransformation:
    return optax.scale_by_adam(o.setting("beta1"), o.setting("beta2"), o.setting("eps"), mu_dtype=jnp.float32)


def muon_dimensions(p: Param) -> optax.contrib.MuonDimensionNumbers | None:
    """The axes of a weight that Muon takes, as (inputs, outputs); None for one that AdamW takes.

    It takes matrices between activations: neither what the vocabulary is an axis of, nor what is looked up, nor a
    vector. Each index of stacked axes (layers, experts) is a matrix of its own.
    """
    inputs = tuple(i for i, axis in enumerate(p.axes) if axis in p.contract)
    outputs = tuple(i for i, axis in enumerate(p.axes) if axis not in (*p.contract, *spec.STACKED))
    sides = [math.prod(p.shape[i] for i in axes) for axes in (inputs, outputs)]
    if not p.is_matmul or "vocab" in p.axes or min(sides) == 1:
        return None
    return optax.contrib.MuonDimensionNumbers(inputs, outputs)


def _muon(o: Optimizer, specs) -> optax.GradientTransformation:
    """Muon for the matrices, Adam for the rest.

    Layers are made orthogonal one after another, so that over a mesh no more than one layer's weight is gathered.
    """

    def orthogonalize(p: Param, x):
        dims = optax.contrib.MuonDimensionNumbers(*(tuple(i - x.ndim for i in axes) for axes in muon_dimensions(p)))
        one = optax.contrib.scale_by_muon(
            ns_steps=o.setting("ns_steps"), beta=0.0, nesterov=False, weight_dimension_numbers=dims
        )  # without momentum, and so without a state that matters

        def alone(x):
            return one.update(x, one.init(x))[0]

        if "experts" in p.axes:
            alone = jax.vmap(alone)
        return jax.lax.map(alone, x) if p.axes[0] == "layers" else alone(x)

    matrices = spec.map_params(lambda p: optax.MaskedNode() if muon_dimensions(p) is None else p, specs)
    muon = optax.chain(
        optax.trace(o.setting("momentum"), nesterov=True, accumulator_dtype=jnp.float32),
        optax.stateless(lambda updates, _: spec.map_params(orthogonalize, matrices, updates)),
    )
    labels = spec.map_params(lambda p: "adamw" if muon_dimensions(p) is None else "muon", specs)
    return optax.partition({"muon": muon, "adamw": _adam(o)}, labels)


def _adafactor(o: Optimizer, specs) -> optax.GradientTransformation:
    """Adafactor for each index of the stacked axes by itself, a weight seen as a matrix of its inputs and outputs.

    optax alone would factor the two longest axes, layers and heads among them, and measure sizes over all layers.
    """

    def rule(p: Param) -> optax.GradientTransformation:
        return optax.chain(
            optax.scale_by_factored_rms(decay_rate=o.setting("decay_rate"), min_dim_size_to_factor=smallest),
            optax.clip_by_block_rms(o.setting("clip_threshold")),
            optax.scale_by_param_block_rms(),
        )

    def as_matrix(p: Param, x):
        """A weight without its stacked axes, as a matrix where it is factored."""
        inputs = math.prod(n for n, axis in zip(p.shape, p.axes, strict=True) if axis in p.contract)
        matrix = x.reshape(inputs, -1) if p.is_matmul else x
        return matrix if matrix.ndim == 2 and min(matrix.shape) >= smallest else x

    def over_stacked(p: Param, function):
        for _ in [axis for axis in p.axes if axis in spec.STACKED]:
            function = jax.vmap(function)
        return function

    def init(params):
        return spec.map_params(lambda p, w: over_stacked(p, lambda w: rule(p).init(as_matrix(p, w)))(w), specs, params)

    def update(updates, state, params):
        def one(p: Param, u, s, w):
            def alone(u, s, w):
                new, s = rule(p).update(as_matrix(p, u), s, as_matrix(p, w))
                return new.reshape(u.shape), s

            return over_stacked(p, alone)(u, s, w)

        pairs = spec.map_params(one, specs, updates, state, params)
        return tuple(spec.map_params(lambda _, pair, i=i: pair[i], specs, pairs) for i in range(2))

    smallest = o.setting("min_dim_size_to_factor")
    return optax.GradientTransformation(init, update)


def _schedule_free(o: Optimizer, step: optax.GradientTransformationExtraArgs, steps: int):
    """Schedule-free AdamW: the weights are where gradients are taken, between the moved weights and their average."""
    rate = schedule(o, steps)
    rms = optax.scale_by_rms(o.setting("beta2"), o.setting("eps"), eps_in_sqrt=False, bias_correction=True)

    def rule(
        now,
    ):  # the average weighs a step by its learning rate, which is the batch's and not the rule's own count's
        return optax.contrib.schedule_free(optax.chain(rms, step), now, b1=o.setting("beta1"))

    def update(updates, state, params=None, *, step):
        return rule(rate(step)).update(updates, state, params, step=step)

    return optax.GradientTransformationExtraArgs(rule(0.0).init, update)


def averaged_weights(o: Optimizer, opt_state, trained):
    """The trained weights as they are to be evaluated: schedule-free AdamW's average, or as they are."""
    if not o.is_schedule_free:
        return trained
    return with_promotion(optax.contrib.schedule_free_eval_params)(opt_state, trained)


def advance_ema(o: Optimizer, ema, trained, step):
    """The exponential moving average after a step; at first it forgets faster, by (1 + step) / (10 + step)."""
    if ema is None:
        return None
    seen = step.astype(jnp.float32)
    decay = jnp.minimum(o.ema_decay, (1.0 + seen) / (10.0 + seen))
    return with_promotion(optax.incremental_update)(trained, ema, 1.0 - decay)
