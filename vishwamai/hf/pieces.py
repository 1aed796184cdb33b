"""Of which tensors of a checkpoint each of our weights is made: names from a family's tables, shapes from the specs.

A torch Linear is stored `[out, in]`, so the transpose of its tensor, reshaped, is right for every weight whose
contracted axes lead; the others are stored as they are.
"""

import dataclasses
import math
import re

from vishwamai.errors import ConfigError
from vishwamai.hf.family import Family
from vishwamai.models.config import ModelConfig
from vishwamai.weights import spec
from vishwamai.weights.spec import Param


@dataclasses.dataclass(frozen=True)
class Piece:
    """One tensor of a checkpoint and its place in a leaf of ours."""

    name: str
    index: tuple[int, ...]  # into the leaf's leading axes (layers, experts)
    shape: tuple[int, ...]  # in the checkpoint
    transposed: bool


def pieces(family: Family, specs, cfg: ModelConfig) -> list[list[Piece]]:
    """For each leaf of the spec tree, in the tree's order, the tensors that it is made of."""
    return [_leaf_pieces(family, path, param, cfg) for path, param in spec.named(specs)]


def is_ignored(family: Family, name: str) -> bool:
    """Whether a tensor of a checkpoint may be left unread."""
    return re.fullmatch(family.ignored, name) is not None


def _leaf_pieces(family: Family, path: str, param: Param, cfg: ModelConfig) -> list[Piece]:
    stacked = tuple(n for n, axis in zip(param.shape, param.axes, strict=True) if axis in spec.STACKED)
    shape, template, first, step = _stored_shape(param), _template(family, path, cfg), 0, 0
    if path.startswith("stacks."):
        first, step = _layer_numbers(path, cfg)

    def piece(index: tuple[int, ...]) -> Piece:
        layer = first + step * index[0] if index else 0
        expert = index[1] if len(index) > 1 else 0
        return Piece(template.format(layer=layer, expert=expert), index, shape, param.is_matmul)

    return [piece(index) for index in _indices(stacked)]


def _template(family: Family, path: str, cfg: ModelConfig) -> str:
    if not path.startswith("stacks."):
        return family.whole[path]
    _, i, j, rest = path.split(".", 3)
    moe = cfg.stacks[int(i)].pattern[int(j)].moe
    name = (family.moe if moe else {}).get(rest) or family.layer.get(rest)
    if name is None:
        raise ConfigError(f"{family.model_type} has no weight {rest!r}, which this model has")
    return name


def _layer_numbers(path: str, cfg: ModelConfig) -> tuple[int, int]:
    """(number of the first layer, distance to the next) of those stacked at a place of a pattern."""
    i, j = (int(part) for part in path.split(".")[1:3])
    before = sum(len(s.pattern) * s.repeats for s in cfg.stacks[:i])
    return before + j, len(cfg.stacks[i].pattern)


def _stored_shape(param: Param) -> tuple[int, ...]:
    """The shape that torch gives one layer's or expert's tensor of this weight."""
    sizes = [(n, a) for n, a in zip(param.shape, param.axes, strict=True) if a not in spec.STACKED]
    if not param.contract:
        return (math.prod(n for n, _ in sizes),)
    if not param.is_matmul:
        return tuple(n for n, _ in sizes)
    return math.prod(n for n, a in sizes if a not in param.contract), param.fan_in


def _indices(sizes: tuple[int, ...]) -> list[tuple[int, ...]]:
    out: list[tuple[int, ...]] = [()]
    for n in sizes:
        out = [(*index, i) for index in out for i in range(n)]
    return out
