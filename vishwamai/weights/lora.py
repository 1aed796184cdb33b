"""Low-rank adapters (Hu et al., "LoRA", 2021): pairs of thin matrices beside a weight that stays as it is.

An adapter is {path of a weight: its `Pair`}, apart from the weights until `attach` lays it beside them, so several
share one base. The base may be any kind of weight, a quantised one too (Dettmers et al., "QLoRA", 2023). It knows no
model and no file.

R rank; a weight `[stacked…, inputs…, outputs…]` has a pair `[stacked…, inputs…, R]` and `[stacked…, R, outputs…]`.
"""

import dataclasses
import functools
from collections.abc import Mapping, Sequence

import jax
import jax.numpy as jnp

from vishwamai.checks import check_number
from vishwamai.errors import ConfigError, InputError
from vishwamai.weights import spec
from vishwamai.weights.linear import contract, contract_groups, layout, lookup_rows, materialize
from vishwamai.weights.spec import Param, pytree

Array = jax.Array
UNASKED = ("router", "shared_gate")  # they decide where a token goes, and get no pair unless they are named


@pytree
class Pair:
    """Two thin matrices; what they add to a weight is `scale * (a @ b)`, for each index of the stacked axes.

    The scale is an array, so that another adapter of the same rank runs the same program. It is never trained.
    """

    a: Array  # [stacked…, inputs…, R]
    b: Array  # [stacked…, R, outputs…]
    scale: Array  # [stacked…]

    @property
    def scaled(self) -> Array:
        """`b` times the scale."""
        scale = jax.lax.stop_gradient(self.scale)
        return self.b.astype(scale.dtype) * scale.reshape(scale.shape + (1,) * (self.b.ndim - scale.ndim))

    @property
    def product(self) -> Array:
        """What the pair adds, `[stacked…, inputs, outputs]` with the inputs and the outputs in one axis each."""
        stacked, rank = self.scale.shape, self.a.shape[-1]
        a, b = self.a.reshape(*stacked, -1, rank), self.scaled.reshape(*stacked, rank, -1)
        return jnp.matmul(a.astype(b.dtype), b)


@pytree
class FullWeight:
    """A whole weight that an adapter has in the place of the base's, and the pair beside it."""

    w: Array
    pair: Pair | None


Adapter = Mapping[str, Pair | FullWeight]


@pytree
class LowRank:
    """A weight and the pairs that are added to it, or to the one that stands in its place."""

    w: object
    pairs: tuple[Pair, ...]
    instead: Array | None = None

    @property
    def base(self):
        """What the pairs are added to."""
        return self.w if self.instead is None else self.instead


def is_low_rank(x) -> bool:
    """Whether `x` is a weight with pairs beside it."""
    return isinstance(x, LowRank)


@contract.register
def _(w: LowRank, eqn: str, x: Array, preferred_element_type) -> Array:
    out = contract(w.base, eqn, x, preferred_element_type)
    down, up = split_equation(eqn)
    for pair in w.pairs:
        out = out + contract(pair.scaled, up, contract(pair.a, down, x, None), preferred_element_type)
    return out


@contract_groups.register
def _(w: LowRank, x_GD: Array, sizes_E: Array, implementation: str | None) -> Array:
    out = contract_groups(w.base, x_GD, sizes_E, implementation)
    for pair in w.pairs:
        narrow_GR = contract_groups(pair.a, x_GD, sizes_E, implementation)
        out = out + contract_groups(pair.scaled, narrow_GR, sizes_E, implementation)
    return out


@lookup_rows.register
def _(w: LowRank, tokens_BT: Array, dtype) -> Array:
    out = lookup_rows(w.base, tokens_BT, dtype)
    for pair in w.pairs:
        out = out + jnp.matmul(lookup_rows(pair.a, tokens_BT, dtype), pair.scaled.astype(dtype))
    return out


@materialize.register
def _(w: LowRank) -> Array:
    base = materialize(w.base)
    total = base.astype(jnp.float32)
    for pair in w.pairs:
        total = total + pair.product.astype(jnp.float32).reshape(base.shape)
    return total.astype(base.dtype)


@layout.register
def _(w: LowRank, axes: tuple[str | None, ...]):
    def of(pair: Pair) -> Pair:
        stacked, inputs = pair.scale.ndim, pair.a.ndim - 1
        return Pair(a=(*axes[:inputs], None), b=(*axes[:stacked], None, *axes[inputs:]), scale=axes[:stacked])

    instead = None if w.instead is None else axes
    return LowRank(w=layout(w.w, axes), pairs=tuple(of(pair) for pair in w.pairs), instead=instead)


@functools.cache
def split_equation(eqn: str) -> tuple[str, str]:
    """The equations of the two thin matmuls: `BTD,DNH->BTNH` is `BTD,Dr->BTr`, then `BTr,rNH->BTNH`."""
    inputs, out = eqn.split("->")
    x, w = inputs.split(",")
    stacked = "".join(letter for letter in w if letter in x and letter in out)
    summed = "".join(letter for letter in w if letter not in out)
    made = "".join(letter for letter in w if letter not in x)
    narrow = "".join(letter for letter in x if letter not in summed) + "r"
    return f"{x},{stacked}{summed}r->{narrow}", f"{narrow},{stacked}r{made}->{out}"


def specs(weight_specs, *, rank: int, alpha: float, targets: Sequence[str] = ()) -> dict[str, Pair]:
    """The pairs for a model's weights, declared: `a` starts like a weight, `b` at zero, the scale is `alpha / rank`.

    `targets` are names within a layer, as `attn.q`, `ffn.gate`, or `attn` for all in it; without any, it is all that a
    layer multiplies but its router. Raises `ConfigError` where a target names no such weight.
    """
    if rank < 1:
        raise ConfigError(f"an adapter's rank is {rank}; it must be 1 or more")
    inside = {path: p for path, p in spec.named(weight_specs) if path.startswith("stacks.") and p.is_matmul}
    names = {path: path.split(".", 3)[3] for path in inside}
    for target in targets:
        if not any(_is_of(name, target) for name in names.values()):
            known = ", ".join(dict.fromkeys(names.values()))
            raise ConfigError(f"an adapter's target {target!r} is none of this model's weights; they are {known}")

    def is_wanted(name: str) -> bool:
        if not targets:
            return name.rsplit(".", 1)[-1] not in UNASKED
        return any(_is_of(name, target) for target in targets)

    return {path: pair_specs(param, rank, alpha / rank) for path, param in inside.items() if is_wanted(names[path])}


def _is_of(name: str, target: str) -> bool:
    return name == target or name.startswith(f"{target}.")


def pair_specs(param: Param, rank: int, scale: float = 1.0) -> Pair:
    """One weight's pair, declared. The inputs of a table that is looked up are its rows."""
    axes = list(zip(param.shape, param.axes, strict=True))
    stacked = [(n, axis) for n, axis in axes if axis in spec.STACKED]
    inputs = [(n, axis) for n, axis in axes if axis in param.contract] if param.is_matmul else axes[:1]
    outputs = axes[len(stacked) + len(inputs) :]
    thin = (rank, "low_rank")

    def declare(parts: Sequence[tuple[int, str | None]], **how) -> Param:
        return Param(tuple(n for n, _ in parts), tuple(axis for _, axis in parts), **how)

    return Pair(
        a=declare([*stacked, *inputs, thin], contract=tuple(axis for _, axis in inputs)),
        b=declare([*stacked, thin, *outputs], contract=("low_rank",), gain=0.0),
        scale=declare(stacked, value=scale, trained=False),
    )


def attach(weights, adapters: Sequence[Adapter]):
    """The weights with these adapters beside them, in the place of any they had; the base's arrays are shared."""
    paths = {path for adapter in adapters for path in adapter}

    def is_wanted(path, w) -> bool:
        return w is not None and spec.path_name(path) in paths

    leaves, treedef = jax.tree.flatten_with_path(detach(weights), is_leaf=is_wanted, is_leaf_takes_path=True)
    named = [(spec.path_name(path), w) for path, w in leaves]
    if missing := paths - {name for name, _ in named}:
        raise InputError(f"an adapter changes {min(missing)}, which these weights do not have; it is of another model")
    return treedef.unflatten(_attach_one(name, w, [a[name] for a in adapters if name in a]) for name, w in named)


def _attach_one(name: str, w, changes: Sequence[Pair | FullWeight]):
    """One weight with what the adapters have for it."""
    whole = [change.w for change in changes if isinstance(change, FullWeight)]
    if len(whole) > 1:
        raise InputError(f"several of these adapters have a whole {name!r}, which cannot be added up; take one of them")
    pairs = [change.pair if isinstance(change, FullWeight) else change for change in changes]
    kept = tuple(pair for pair in pairs if pair is not None)
    return LowRank(w=w, pairs=kept, instead=next(iter(whole), None)) if changes else w


def detach(weights):
    """The weights without adapters."""
    return jax.tree.map(lambda w: w.w if is_low_rank(w) else w, weights, is_leaf=is_low_rank)


def merge(weights):
    """The weights with what their adapters add in them: plain arrays again, in the base's dtype and layout."""

    def one(w):
        if not is_low_rank(w):
            return w
        return jax.jit(materialize, out_shardings=jax.tree.leaves(w.w)[0].sharding)(w)

    return jax.tree.map(one, weights, is_leaf=is_low_rank)


def select(adapters: Mapping[str, Adapter], names: str | Sequence[str] | Mapping[str, float] | None) -> list[Adapter]:
    """The adapters of these names, to be added up; {name: weight} weighs each. Raises `InputError` for unknown ones."""
    names = [] if names is None else [names] if isinstance(names, str) else names
    for name in names:
        if name not in adapters:
            raise InputError(f"there is no adapter {name!r}; loaded are {', '.join(adapters) or 'none'}")
    weights = names if isinstance(names, Mapping) else dict.fromkeys(names, 1.0)
    return [
        _weigh(adapters[name], check_number(f"the weight of adapter {name!r}", weight))
        for name, weight in weights.items()
    ]


def _weigh(adapter: Adapter, weight: float) -> Adapter:
    def scaled(scale: Array) -> Array:
        return jax.device_put(scale * weight, scale.sharding)

    def one(path: str, change: Pair | FullWeight | None):
        if not isinstance(change, FullWeight):
            return change and dataclasses.replace(change, scale=scaled(change.scale))
        if weight != 1:
            raise InputError(f"an adapter that has a whole {path!r} cannot be weighed, and its weight is {weight}")
        return change

    return {path: one(path, change) for path, change in adapter.items()}
