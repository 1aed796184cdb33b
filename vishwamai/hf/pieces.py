"""Which tensors of a checkpoint hold each of our weights: names from a family's tables, shapes from the specs.

A torch Linear is stored `[out, in]`, so the transpose of its tensor, reshaped, is right for every weight whose
contracted axes lead; the others are stored as they are. One tensor may hold several weights, or all experts. Reading
and writing go by the same pieces.
"""

import dataclasses
import itertools
import math
import re

from vishwamai.errors import ConfigError
from vishwamai.hf.family import Family
from vishwamai.hf.names import Stored
from vishwamai.models.config import ModelConfig
from vishwamai.weights import spec
from vishwamai.weights.spec import Param


@dataclasses.dataclass(frozen=True)
class TensorPiece:
    """A tensor of a checkpoint, or a part of it, and the layer and expert of a weight of ours that it holds."""

    path: str  # of the weight
    index: tuple[int, ...]  # into the weight's leading axes (layers, experts)
    name: str
    shape: tuple[int, ...]  # of the whole tensor
    part: tuple[slice | int, ...]  # into it
    transposed: bool

    def to_weight(self, values, shape: tuple[int, ...]):
        """The values of the tensor's part, NumPy's or JAX's, in the weight's `shape` at the index."""
        return (values.T if self.transposed else values).reshape(shape)

    def to_tensor(self, values):
        """The weight's values at the index, NumPy's or JAX's, in the shape of the tensor's part."""
        sizes = zip(self.shape, self.part, strict=True)
        shape = tuple(len(range(n)[part]) for n, part in sizes if isinstance(part, slice))
        return values.reshape(shape[::-1]).T if self.transposed else values.reshape(shape)


def tensor_pieces(family: Family, specs, cfg: ModelConfig) -> list[list[TensorPiece]]:
    """Returns for each weight, in the order of the spec tree, the tensors that hold it."""
    named = dict(spec.named(specs))
    return [_leaf_pieces(family, path, named, cfg) for path in named]


def is_ignored(family: Family, name: str, cfg: ModelConfig) -> bool:
    """Whether a tensor of a model's checkpoint may be left unread."""
    return re.fullmatch(family.ignored.replace("{after}", str(cfg.n_layers)), name) is not None


def _leaf_pieces(family: Family, path: str, named: dict[str, Param], cfg: ModelConfig) -> list[TensorPiece]:
    param, (first, step) = named[path], _layer_numbers(path, cfg)
    sizes = tuple(n for n, axis in zip(param.shape, param.axes, strict=True) if axis in spec.STACKED)
    stored = _stored(family, path, cfg)
    shape, part = _layout(stored, path, named)
    stacked = len(sizes) > 1 and "{expert}" not in stored.name

    def piece(index: tuple[int, ...]) -> TensorPiece:
        expert = index[1] if len(index) > 1 else 0
        name = stored.name.format(layer=first + step * index[0] if index else 0, expert=expert)
        where = ((sizes[1], *shape), (expert, *part)) if stacked else (shape, part)
        return TensorPiece(path, index, name, *where, param.is_matmul and stored.transposed)

    return [piece(index) for index in itertools.product(*map(range, sizes))]


def _stored(family: Family, path: str, cfg: ModelConfig) -> Stored:
    if path.startswith("stacks."):
        _, i, j, rest = path.split(".", 3)
        moe = cfg.stacks[int(i)].pattern[int(j)].moe
        found = (family.moe if moe else {}).get(rest) or family.layer.get(rest)
    else:
        found, rest = family.whole.get(path), path
    if found is None:
        raise ConfigError(f"{family.model_type} has no weight {rest!r}, which this model has")
    return Stored(found) if isinstance(found, str) else found


def _layer_numbers(path: str, cfg: ModelConfig) -> tuple[int, int]:
    """(number of the first layer, distance to the next) of the layers that one weight of a pattern stacks."""
    if not path.startswith("stacks."):
        return 0, 0
    i, j = (int(part) for part in path.split(".")[1:3])
    before = sum(len(s.pattern) * s.repeats for s in cfg.stacks[:i])
    return before + j, len(cfg.stacks[i].pattern)


def _layout(stored: Stored, path: str, named: dict[str, Param]) -> tuple[tuple[int, ...], tuple[slice | int, ...]]:
    """(shape of one layer's or expert's tensor, the part of it that is this weight)."""
    param, rest = named[path], path.split(".", 3)[-1] if path.startswith("stacks.") else path
    mine = _plain_shape(param)
    shape = mine if stored.transposed or len(mine) < 2 else mine[::-1]
    part = tuple(slice(0, n) for n in shape)
    if stored.row:
        return (1, *shape), (0, *part)
    if not stored.of:
        return shape, part
    outputs = [_plain_shape(named[path[: -len(rest)] + sibling])[0] for sibling in stored.of]
    axis, at, total = 0 if stored.transposed else -1, stored.of.index(rest), sum(outputs)
    begin = sum(outputs[:at])
    own = slice(at, total, len(outputs)) if stored.interleaved else slice(begin, begin + outputs[at])
    if axis == 0:
        return (total, *shape[1:]), (own, *part[1:])
    return (*shape[:-1], total), (*part[:-1], own)


def _plain_shape(param: Param) -> tuple[int, ...]:
    """The shape that torch gives one layer's or expert's tensor of this weight."""
    sizes = [(n, a) for n, a in zip(param.shape, param.axes, strict=True) if a not in spec.STACKED]
    if not param.contract:
        return (math.prod(n for n, _ in sizes),) if sizes else ()
    if not param.is_matmul:
        return tuple(n for n, _ in sizes)
    return math.prod(n for n, a in sizes if a not in param.contract), param.fan_in
