"""Numbers out of the blocks in which GGUF stores tensors, part by part, and codes and scales where a scheme of ours
holds them exactly. It knows no model.

A row of a tensor is a row of blocks, each with a scale of its own. The four types whose codes are kept are decoded
here, the others by the package `gguf`, which is imported where one is met.
"""

import dataclasses
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import NamedTuple

import ml_dtypes
import numpy as np

from vishwamai.errors import CheckpointError
from vishwamai.gguf_header import TYPES, TensorInfo
from vishwamai.hf.coded import TABLES, AxisRanges, DecodedTensor, QuantizedTensor, View, to_index

PLAIN = {"F32": np.dtype("<f4"), "F16": np.dtype("<f2"), "BF16": np.dtype(ml_dtypes.bfloat16), "F64": np.dtype("<f8")}
PACKAGE = ("Q5_0", "Q5_1", "Q2_K", "Q3_K", "Q4_K", "Q5_K", "Q6_K", "IQ4_NL", "IQ4_XS")


class Kept(NamedTuple):
    """A type whose codes are kept: by which scheme, and where they begin in a block.

    `zero` is the code of four bits that stands for 0, or for the offset where there is one.
    """

    scheme: str
    start: int
    zero: int = 0
    has_offset: bool = False


KEPT = {
    "Q8_0": Kept("int8", 2),
    "Q4_0": Kept("int4", 2, zero=8),
    "Q4_1": Kept("int4", 4, zero=8, has_offset=True),
    "MXFP4": Kept("mxfp4", 1),
}
READ = (*PLAIN, *KEPT, *PACKAGE)
TYPE_SIZES = {kind.name: (kind.block, kind.size) for kind in TYPES.values()}


@dataclasses.dataclass(frozen=True)
class Change:
    """How the values that a model wants differ from those that are stored: `order` has the stored place of each row,
    and `added` is added to each number."""

    order: np.ndarray | None = None
    added: float = 0.0


def make_tensor(info: TensorInfo, raw: np.ndarray, change: Change) -> DecodedTensor | QuantizedTensor:
    """A tensor whose values, and codes, are made of its bytes. Raises `CheckpointError` for a type that is not read."""
    if info.type not in READ:
        reason = f"is of the type {info.type}, which is not read; {', '.join(READ)} are"
        raise CheckpointError(f"{info.path}: tensor {info.name!r} {reason}")
    if info.type in PLAIN:
        dtype = PLAIN[info.type]
        stored = raw.view(dtype).reshape(info.shape)
        tensor = partial(DecodedTensor, info.name, info.path, info.shape)
        return tensor(_plain_reader(stored, change), np.dtype(np.float32) if change.added else dtype)
    blocks = _Blocks(info, raw, change.order)
    decode = partial(blocks.read, make=partial(_decode, info))
    if change.added or info.type in PACKAGE:
        shifted = (lambda axes: decode(axes) + np.float32(change.added)) if change.added else decode
        return DecodedTensor(info.name, info.path, info.shape, shifted)
    kept = KEPT[info.type]
    return QuantizedTensor(
        info.name,
        info.path,
        kept.scheme,
        info.shape,
        partial(blocks.read, make=lambda found: _codes(kept, found)),
        lambda grid: _scales(info.type, blocks.at(grid)),
        (1,) * (len(info.shape) - 1) + (blocks.width,),
        offset=(lambda grid: _offsets(kept, blocks.at(grid))) if kept.has_offset else None,
        decode=decode,
    )


def _plain_reader(stored: np.ndarray, change: Change) -> Callable[[AxisRanges], np.ndarray]:
    def read(axes: AxisRanges) -> np.ndarray:
        index = to_index(axes)
        part = stored[index if change.order is None else (change.order[index[0]], *index[1:])]
        return part.astype(np.float32) + np.float32(change.added) if change.added else part

    return read


def join_latent(name: str, keys: View, values: View, *, path: Path) -> DecodedTensor:
    """The matrix from latents to the keys and values of each head, of which newer files make two tensors.

    They are keys `[heads, latent, key]` and values `[heads, value, latent]`; it is `[heads * (key + value), latent]`.
    Raises `CheckpointError` where they do not fit.
    """
    if len(keys.shape) != 3 or len(values.shape) != 3 or keys.shape[:2] != (values.shape[0], values.shape[2]):
        shapes = f"{list(keys.shape)} and {list(values.shape)}"
        raise CheckpointError(f"{path}: the two tensors of {name!r} are of shapes {shapes}, which do not fit")
    heads, latent, width = keys.shape[0], keys.shape[1], keys.shape[2] + values.shape[1]

    def decode(axes: AxisRanges) -> np.ndarray:
        rows, columns = to_index(axes)
        first, stop = (rows, rows + 1) if isinstance(rows, int) else (rows.start, rows.stop)
        begin = first // width
        mine = slice(begin, -(-stop // width))
        both = np.asarray(keys[(mine,)], np.float32).swapaxes(1, 2), np.asarray(values[(mine,)], np.float32)
        found, moved = np.concatenate(both, axis=1).reshape(-1, latent), begin * width
        return found[rows - moved if isinstance(rows, int) else slice(first - moved, stop - moved, rows.step), columns]

    return DecodedTensor(name, path, (heads * width, latent), decode)


class _Blocks:
    """The blocks of a tensor, `[..., blocks, bytes]`, its rows in `order`."""

    def __init__(self, info: TensorInfo, raw: np.ndarray, order: np.ndarray | None):
        self.width, size = TYPE_SIZES[info.type]
        self.stored = raw.reshape(*info.shape[:-1], info.shape[-1] // self.width, size)
        self.order = order

    def read(self, axes: AxisRanges, make: Callable[[np.ndarray], np.ndarray]) -> np.ndarray:
        """A part of the numbers that `make` makes of blocks, `[..., blocks, numbers]`."""
        *leading, last = to_index(axes)
        start, stop = (last, last + 1) if isinstance(last, int) else (last.start, last.stop)
        first = start // self.width
        found = make(self.stored[(*self._ordered(tuple(leading)), slice(first, -(-stop // self.width)))])
        *shape, count, width = found.shape
        numbers, moved = found.reshape(*shape, count * width), first * self.width
        if isinstance(last, int):
            return numbers[..., last - moved]
        return numbers[..., slice(start - moved, stop - moved, last.step)]

    def at(self, grid: tuple[np.ndarray, ...]) -> np.ndarray:
        """The blocks at indices of their grid."""
        return self.stored[self._ordered(grid)]

    def _ordered(self, index: tuple) -> tuple:
        return index if self.order is None else (self.order[index[0]], *index[1:])


def _decode(info: TensorInfo, blocks: np.ndarray) -> np.ndarray:
    """The numbers of blocks, float32."""
    if info.type in PACKAGE:
        return _check_finite(info, _decode_by_package(info.type, blocks))
    kept = KEPT[info.type]
    scale = _check_finite(info, _scales(info.type, blocks))[..., None]
    codes = blocks[..., kept.start :]
    if kept.scheme == "int8":
        return codes.view(np.int8) * scale
    half = codes.shape[-1]
    made = np.empty((*codes.shape[:-1], 2 * half), np.float32)
    for part, nibbles in ((made[..., :half], codes & 15), (made[..., half:], codes >> 4)):
        if kept.scheme == "mxfp4":
            np.multiply(TABLES["mxfp4"][nibbles], scale, out=part)
        elif kept.has_offset:
            np.multiply(nibbles, scale, out=part)
        else:
            np.multiply(nibbles.view(np.int8) - np.int8(kept.zero), scale, out=part)
    if kept.has_offset:
        made += _check_finite(info, _half_floats(blocks, 2))[..., None]
    return made


def _decode_by_package(kind: str, blocks: np.ndarray) -> np.ndarray:
    quants, known = _import_package()
    made = np.empty((*blocks.shape[:-1], TYPE_SIZES[kind][0]), np.float32)
    if blocks.size:
        with np.errstate(all="ignore"):  # of scales that are not finite
            made[:] = quants.dequantize(blocks.reshape(*blocks.shape[:-2], -1), known[kind]).reshape(made.shape)
    return made


def _import_package():
    try:
        from gguf import GGMLQuantizationType, quants
    except ImportError:
        raise CheckpointError('this type of GGUF needs the package gguf: pip install "vishwamai[gguf]"') from None
    return quants, GGMLQuantizationType


def _check_finite(info: TensorInfo, found: np.ndarray) -> np.ndarray:
    if not np.isfinite(found).all():
        raise CheckpointError(f"{info.path}: tensor {info.name!r} has numbers that are not finite; it is damaged")
    return found


def _codes(kept: Kept, blocks: np.ndarray) -> np.ndarray:
    """The codes of blocks, as the scheme has them."""
    codes = blocks[..., kept.start :]
    if kept.scheme == "int8":
        return codes.view(np.int8)
    nibbles = np.concatenate([codes & 15, codes >> 4], -1)
    return nibbles.view(np.int8) - np.int8(kept.zero) if kept.zero else nibbles


def _scales(kind: str, blocks: np.ndarray) -> np.ndarray:
    """The scale of each block, float32."""
    if kind == "MXFP4":
        return np.ldexp(np.float32(1), blocks[..., 0].astype(np.int32) - 127)
    return _half_floats(blocks, 0)


def _offsets(kept: Kept, blocks: np.ndarray) -> np.ndarray:
    """What is added to a block's codes times its scale, float32."""
    return _half_floats(blocks, 2) + np.float32(kept.zero) * _half_floats(blocks, 0)


def _half_floats(blocks: np.ndarray, start: int) -> np.ndarray:
    return blocks[..., start : start + 2].view("<f2")[..., 0].astype(np.float32)
