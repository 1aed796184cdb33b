"""Reads what stands before the data of a GGUF file: the metadata, and where each tensor lies. It knows no model.

Format: "GGUF", the version, the counts of tensors and of metadata; then key, type and value of each; then name, sizes,
type and offset of each tensor; then, aligned, the data. Every length is compared with what is left of the file before
anything is made of it, so a file that claims too much costs no memory. (The reader of the package `gguf` makes several
arrays of NumPy for each string: the header of SmolLM2, 98,000 texts, takes it 4 seconds where this takes 0.1.)
"""

import dataclasses
import math
import mmap
import os
import struct
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np

from vishwamai.errors import CheckpointError
from vishwamai.hub import gguf

MAGIC = b"GGUF"
VERSIONS = (2, 3)
MAX_TENSORS = 100_000
MAX_KEYS = 100_000
MAX_NAME = 512
MAX_AXES = 4
MAX_PARTS = 10_000
STRING, ARRAY = 8, 9
NUMBERS = {  # the type's number in the file: NumPy's little-endian type
    0: "u1",
    1: "i1",
    2: "<u2",
    3: "<i2",
    4: "<u4",
    5: "<i4",
    6: "<f4",
    7: "?",
    10: "<u8",
    11: "<i8",
    12: "<f8",
}


@dataclasses.dataclass(frozen=True)
class TensorType:
    """A type of tensor: its name, how many numbers a block has, and a block's bytes."""

    name: str
    block: int
    size: int


_TABLE = """
    0 F32 1 4, 1 F16 1 2, 2 Q4_0 32 18, 3 Q4_1 32 20, 6 Q5_0 32 22, 7 Q5_1 32 24, 8 Q8_0 32 34, 9 Q8_1 32 40,
    10 Q2_K 256 84, 11 Q3_K 256 110, 12 Q4_K 256 144, 13 Q5_K 256 176, 14 Q6_K 256 210, 15 Q8_K 256 292,
    16 IQ2_XXS 256 66, 17 IQ2_XS 256 74, 18 IQ3_XXS 256 98, 19 IQ1_S 256 50, 20 IQ4_NL 32 18, 21 IQ3_S 256 110,
    22 IQ2_S 256 82, 23 IQ4_XS 256 136, 24 I8 1 1, 25 I16 1 2, 26 I32 1 4, 27 I64 1 8, 28 F64 1 8, 29 IQ1_M 256 56,
    30 BF16 1 2, 34 TQ1_0 256 54, 35 TQ2_0 256 66, 39 MXFP4 32 17
"""
# The type's number in the file: the type. It is a table of ours because importing the package costs more than a load.
TYPES = {
    int(number): TensorType(name, int(block), int(size))
    for number, name, block, size in (entry.split() for entry in _TABLE.split(","))
}


@dataclasses.dataclass(frozen=True)
class TensorInfo:
    """One tensor: the name of its type, its shape in NumPy's order (rows before columns), and where its bytes lie."""

    name: str
    path: Path
    type: str
    shape: tuple[int, ...]
    start: int  # from the file's first byte
    nbytes: int

    @property
    def end(self) -> int:
        """Where its bytes end."""
        return self.start + self.nbytes

    @property
    def stored_as(self) -> str:
        """The name of its type."""
        return self.type


@dataclasses.dataclass(frozen=True)
class Header:
    """What stands before the data. `metadata` has plain values: numbers, bools and texts, lists of texts, and arrays of
    NumPy for lists of numbers."""

    path: Path  # the first file where the model is split into several
    metadata: dict[str, Any]
    tensors: dict[str, TensorInfo]

    @property
    def paths(self) -> list[Path]:
        """The files that the tensors are in."""
        return sorted({tensor.path for tensor in self.tensors.values()})


def read_header(path: str | os.PathLike[str]) -> Header:
    """The header of a model, of all its files where it is split: the others are found beside the one that is named.

    Raises `CheckpointError` that names the file and what is wrong in it.
    """
    path = Path(path)
    named = _read_file(path)
    count = named.metadata.get("split.count", 0)
    if type(count) is not int or not 0 <= count <= MAX_PARTS:
        raise CheckpointError(f"{path}: split.count is {_short(count)}; it must be a whole number up to {MAX_PARTS:,}")
    return named if count < 2 else _join(path, named, count)


def _join(path: Path, named: Header, count: int) -> Header:
    """The header of a model that is split into `count` files, of which `path` is one."""
    names = gguf.model_files(path.name)
    if len(names) != count:
        raise CheckpointError(
            f"{path}: is one of {count} files of a model, and their names must end in -00001-of-{count:05d}.gguf and "
            "so on for the others to be found; name them as they were"
        )
    parts = []
    for i, name in enumerate(names):
        if not path.with_name(name).exists():
            raise CheckpointError(f"{path.parent}: there is no file {name}; {path.name} is one of {count} of a model")
        part = named if name == path.name else _read_file(path.with_name(name))
        stated = (part.metadata.get("split.count"), part.metadata.get("split.no"))
        if stated != (count, i):
            raise CheckpointError(f"{part.path}: says that it is part {_short(stated[1])} of {_short(stated[0])}")
        parts.append(part)
    tensors: dict[str, TensorInfo] = {}
    for tensor in (tensor for part in parts for tensor in part.tensors.values()):
        if tensor.name in tensors:
            both = f"{tensors[tensor.name].path.name} and {tensor.path.name}"
            raise CheckpointError(f"{path.parent}: tensor {tensor.name!r} is in both {both}")
        tensors[tensor.name] = tensor
    expected = parts[0].metadata.get("split.tensors.count", len(tensors))
    if expected != len(tensors):
        raise CheckpointError(f"{path}: the files of the model have {len(tensors)} tensors, not {_short(expected)}")
    return Header(parts[0].path, parts[0].metadata, tensors)


def _read_file(path: Path) -> Header:
    try:
        with path.open("rb") as file:
            if os.fstat(file.fileno()).st_size < 24:
                raise CheckpointError(f"{path}: is too short to be a GGUF file")
            with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
                return _read(_Cursor(data, path))
    except OSError as error:
        raise CheckpointError(f"{path}: cannot be read ({error.strerror})") from None


class _Cursor:
    """A place in a file, which moves on as values are read; what would lie behind the file's end is refused."""

    def __init__(self, data: mmap.mmap, path: Path):
        self.data, self.path, self.at, self.size = data, path, 0, len(data)

    def refuse(self, reason: str) -> CheckpointError:
        return CheckpointError(f"{self.path}: {reason}")

    def take(self, what: str, size: int) -> int:
        """Where the next `size` bytes begin."""
        start = self.at
        if size > self.size - start:
            raise self.refuse(
                f"is truncated or damaged: {what} takes {size:,} bytes from byte {start:,}, and it has {self.size:,}"
            )
        self.at = start + size
        return start

    def number(self, what: str, layout: str = "<Q") -> Any:
        return struct.unpack_from(layout, self.data, self.take(what, struct.calcsize(layout)))[0]

    def text(self, what: str) -> str:
        size = self.number(what)
        start = self.take(what, size)
        try:
            return str(self.data[start : self.at], "utf-8")
        except UnicodeDecodeError:
            raise self.refuse(f"{what} is not UTF-8; the file is damaged") from None

    def texts(self, what: str, count: int) -> list[str]:
        """So many texts, by a loop of few steps: vocabularies have hundreds of thousands."""
        data, at, size, unpack = self.data, self.at, self.size, struct.Struct("<Q").unpack_from
        found = []
        try:
            for _ in range(count):
                start = at + 8
                at = start + unpack(data, at)[0]
                if at > size:
                    raise self.refuse(f"is truncated or damaged: {what} has {count:,} texts that end behind the file")
                found.append(str(data[start:at], "utf-8"))
        except UnicodeDecodeError:
            raise self.refuse(f"{what} has a text that is not UTF-8; the file is damaged") from None
        except struct.error:
            raise self.refuse(f"is truncated or damaged: {what} has {count:,} texts that end behind the file") from None
        self.at = at
        return found


def _read(cursor: _Cursor) -> Header:
    tensor_count, key_count = _read_start(cursor)
    metadata: dict[str, Any] = {}
    for _ in range(key_count):
        key = cursor.text("the key of a metadata value")
        if key in metadata:
            raise cursor.refuse(f"has the key {_short(key)} twice")
        metadata[key] = _value(cursor, f"the value of {_short(key)}")
    entries = [_tensor_entry(cursor) for _ in range(tensor_count)]
    alignment = metadata.get("general.alignment", 32)
    if type(alignment) is not int or alignment < 1 or alignment & (alignment - 1):
        raise cursor.refuse(f"general.alignment is {_short(alignment)}; it must be a power of two")
    start = -(-cursor.at // alignment) * alignment
    tensors: dict[str, TensorInfo] = {}
    for name, shape, number, offset in entries:
        if name in tensors:
            raise cursor.refuse(f"has the tensor {name!r} twice")
        if offset % alignment:
            raise cursor.refuse(f"tensor {name!r} begins at byte {offset:,} of the data, no multiple of {alignment:,}")
        tensors[name] = _tensor(cursor, name, shape, TYPES[number], start + offset)
    _check_overlaps(cursor, tensors.values())
    return Header(cursor.path, metadata, tensors)


def _read_start(cursor: _Cursor) -> tuple[int, int]:
    """(how many tensors, how many metadata values) the file claims, once it is known to be one that is read."""
    start = cursor.take("the magic number", 4)
    if cursor.data[start : start + 4] != MAGIC:
        raise cursor.refuse("is no GGUF file: it does not begin with GGUF")
    version = cursor.number("the version", "<I")
    if version not in VERSIONS and int.from_bytes(version.to_bytes(4, "little"), "big") in (1, *VERSIONS):
        raise cursor.refuse("is big-endian, which is not read; make it anew as little-endian")
    if version not in VERSIONS:
        raise cursor.refuse(f"is of version {version} of the format; {' and '.join(map(str, VERSIONS))} are read")
    tensors, keys = cursor.number("the count of tensors"), cursor.number("the count of metadata values")
    if tensors > MAX_TENSORS or keys > MAX_KEYS:
        raise cursor.refuse(
            f"claims {tensors:,} tensors and {keys:,} metadata values, more than {MAX_TENSORS:,} and {MAX_KEYS:,}"
        )
    return tensors, keys


def _value(cursor: _Cursor, what: str) -> Any:
    kind = cursor.number(what, "<I")
    if kind == STRING:
        return cursor.text(what)
    if kind != ARRAY:
        return _numbers(cursor, what, kind, 1)[0].item()
    kind, count = cursor.number(what, "<I"), cursor.number(what)
    if kind == ARRAY:
        raise cursor.refuse(f"{what} is an array of arrays, which no model that is read has")
    if kind != STRING:
        return _numbers(cursor, what, kind, count)
    if 8 * count > cursor.size - cursor.at:
        raise cursor.refuse(f"is truncated or damaged: {what} claims {count:,} texts, more than fit into the file")
    return cursor.texts(what, count)


def _numbers(cursor: _Cursor, what: str, kind: int, count: int) -> np.ndarray:
    if kind not in NUMBERS:
        raise cursor.refuse(f"{what} has the type {kind}, which is not known; the file is damaged or too new")
    dtype = np.dtype(NUMBERS[kind])
    start = cursor.take(what, count * dtype.itemsize)
    raw = np.frombuffer(cursor.data[start : cursor.at], np.uint8 if dtype == np.bool_ else dtype)
    if dtype == np.bool_ and raw.size and raw.max() > 1:
        raise cursor.refuse(f"{what} has a truth value that is neither 0 nor 1; the file is damaged")
    return raw.view(dtype)


def _tensor_entry(cursor: _Cursor) -> tuple[str, tuple[int, ...], int, int]:
    """(name, shape, number of the type, offset in the data)."""
    name = cursor.text("the name of a tensor")
    if not name or len(name) > MAX_NAME or not name.isprintable() or ".." in name or "/" in name or "\\" in name:
        raise cursor.refuse(f"{_short(name)} is no name for a tensor")
    axes = cursor.number(f"tensor {name!r}", "<I")
    if axes > MAX_AXES:
        raise cursor.refuse(f"tensor {name!r} has {axes:,} axes, more than {MAX_AXES}")
    shape = tuple(cursor.number(f"tensor {name!r}") for _ in range(axes))[::-1]
    number, offset = cursor.number(f"tensor {name!r}", "<I"), cursor.number(f"tensor {name!r}")
    if number not in TYPES:
        raise cursor.refuse(f"tensor {name!r} has the type {number}, which is not known")
    return name, shape, number, offset


def _tensor(cursor: _Cursor, name: str, shape: tuple[int, ...], kind: TensorType, start: int) -> TensorInfo:
    columns = shape[-1] if shape else 1
    if columns % kind.block or not math.prod(shape):
        raise cursor.refuse(f"tensor {name!r} of shape {list(shape)} cannot be of {kind.name}, blocks of {kind.block}")
    nbytes = math.prod(shape) // kind.block * kind.size
    if start + nbytes > cursor.size:
        raise cursor.refuse(
            f"is truncated or damaged: tensor {name!r} ends at byte {start + nbytes:,} of {cursor.size:,}"
        )
    return TensorInfo(name, cursor.path, kind.name, shape, start, nbytes)


def _check_overlaps(cursor: _Cursor, tensors: Iterable[TensorInfo]) -> None:
    end = 0
    for tensor in sorted(tensors, key=lambda t: t.start):
        if tensor.start < end:
            raise cursor.refuse(f"tensor {tensor.name!r}: its data overlaps the one before it")
        end = tensor.start + tensor.nbytes


def _short(value: Any) -> str:
    """A value as it is shown in a message."""
    shown = repr(value)
    return shown if len(shown) <= 80 else f"{shown[:77]}..."
