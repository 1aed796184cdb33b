"""Reads and writes safetensors files: a header of JSON, then the tensors' bytes. It knows no model.

Format: the header's length as 8 little-endian bytes, the header, the data. Tensors are views of a memory map, so
nothing is read before it is used. A header is checked whole before the first tensor is handed out: its bounds, that
the tensors cover the data without holes or overlaps, that no name is there twice.
"""

import dataclasses
import itertools
import json
import math
import mmap
import os
import struct
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

import ml_dtypes
import numpy as np

from vishwamai import files, hub
from vishwamai.config import load_json, parse_json
from vishwamai.errors import CheckpointError, ConfigError, HubError

SINGLE_FILE = "model.safetensors"
WEIGHT_FILES = (SINGLE_FILE, "model-*-of-*.safetensors", hub.INDEX)
MAX_HEADER = 16 * 2**20
MAX_INDEX = 128 * 2**20  # a quantised model of 61 layers of 384 experts has 20 MB
MAX_TENSORS = 100_000  # in one file
MAX_NAME = 512

TENSOR_DTYPES = {
    "BOOL": np.bool_,
    "U8": np.uint8,
    "I8": np.int8,
    "U16": np.uint16,
    "I16": np.int16,
    "U32": np.uint32,
    "I32": np.int32,
    "U64": np.uint64,
    "I64": np.int64,
    "F8_E4M3": ml_dtypes.float8_e4m3fn,
    "F8_E5M2": ml_dtypes.float8_e5m2,
    "F16": np.float16,
    "BF16": ml_dtypes.bfloat16,
    "F32": np.float32,
    "F64": np.float64,
}
_NAMES = {np.dtype(dtype): name for name, dtype in TENSOR_DTYPES.items()}


@dataclasses.dataclass(frozen=True)
class Tensor:
    """One tensor of a file: its dtype and shape, and where its bytes start and end."""

    name: str
    path: Path
    dtype: np.dtype
    shape: tuple[int, ...]
    start: int
    end: int

    @property
    def stored_as(self) -> str:
        """The name of its dtype."""
        return self.dtype.name

    def view(self, data: mmap.mmap) -> np.ndarray:
        """The tensor as a read-only view of its mapped file."""
        count = math.prod(self.shape)
        return np.frombuffer(data, self.dtype, count, offset=self.start).reshape(self.shape)


def read_header(path: Path) -> dict[str, Tensor]:
    """Every tensor of a file, by name, checked. Raises `CheckpointError` that names the file and the tensor."""
    try:
        with path.open("rb") as file:
            size = os.fstat(file.fileno()).st_size
            raw, start = _raw_header(file, size, path)
    except OSError as error:
        raise CheckpointError(f"{path}: cannot be read ({error.strerror})") from None
    try:
        header = parse_json(raw.decode("utf-8"), f"{path}: the header")
    except UnicodeDecodeError:
        raise CheckpointError(f"{path}: the header is not UTF-8; is it a safetensors file?") from None
    except ConfigError as error:
        raise CheckpointError(str(error)) from None
    header.pop("__metadata__", None)
    if len(header) > MAX_TENSORS:
        raise CheckpointError(f"{path}: claims {len(header):,} tensors, more than {MAX_TENSORS:,}")
    tensors = {name: _tensor(path, name, entry, start) for name, entry in header.items()}
    _check_cover(path, tensors.values(), start, size)
    return tensors


def _raw_header(file, size: int, path: Path) -> tuple[bytes, int]:
    """The header's bytes and where the data starts."""
    prefix = file.read(8)
    length = struct.unpack("<Q", prefix)[0] if len(prefix) == 8 else 0
    if not 2 <= length <= min(size - 8, MAX_HEADER):
        raise CheckpointError(
            f"{path}: is damaged or no safetensors file ({size:,} bytes, of which it claims {length:,} for its header)"
        )
    return file.read(length), 8 + length


def _tensor(path: Path, name: str, entry, start: int) -> Tensor:
    def refuse(reason: str):
        raise CheckpointError(f"{path}: tensor {name[:MAX_NAME]!r}: {reason}")

    if not name or len(name) > MAX_NAME or not name.isprintable() or ".." in name or "/" in name or "\\" in name:
        refuse("this is no name for a tensor")
    if not isinstance(entry, dict) or entry.keys() != {"dtype", "shape", "data_offsets"}:
        refuse("its entry must hold dtype, shape and data_offsets")
    dtype, shape, offsets = entry["dtype"], entry["shape"], entry["data_offsets"]
    if not isinstance(dtype, str) or dtype not in TENSOR_DTYPES:
        refuse(f"dtype {dtype!r} is not known; known are {', '.join(TENSOR_DTYPES)}")
    if not _are_sizes(shape) or not _are_sizes(offsets) or len(offsets) != 2:
        refuse("its shape and its two offsets must be whole numbers, not negative")
    begin, end = offsets
    if end - begin != math.prod(shape) * np.dtype(TENSOR_DTYPES[dtype]).itemsize:
        refuse(f"{dtype} of shape {shape} does not take the {end - begin} bytes from {begin} to {end}")
    return Tensor(name, path, np.dtype(TENSOR_DTYPES[dtype]), tuple(shape), start + begin, start + end)


def _are_sizes(values) -> bool:
    return isinstance(values, list) and len(values) <= 16 and all(type(v) is int and 0 <= v < 2**62 for v in values)


def _check_cover(path: Path, tensors: Iterable[Tensor], start: int, size: int) -> None:
    """The tensors follow one another from the data's first byte to the file's last."""
    at = start
    for tensor in sorted(tensors, key=lambda t: (t.start, t.end)):
        if tensor.start != at:
            fault = "overlaps the one before it" if tensor.start < at else "leaves a hole before it"
            raise CheckpointError(f"{path}: tensor {tensor.name!r}: its data {fault}")
        at = tensor.end
        if at > size:
            raise CheckpointError(f"{path}: is truncated: tensor {tensor.name!r} ends at byte {at:,} of {size:,}")
    if at != size:
        raise CheckpointError(f"{path}: has {size - at:,} bytes after its last tensor; it is damaged")


def read_folder(folder: Path) -> dict[str, Tensor]:
    """Every tensor of a folder, by name: of `model.safetensors`, or of the files that its index names."""
    try:
        if (folder / SINGLE_FILE).exists() or (folder / SINGLE_FILE).is_symlink():
            return read_header(hub.member(folder, SINGLE_FILE))
        if not (folder / hub.INDEX).exists():
            raise CheckpointError(_no_weights(folder))
        return _read_indexed(folder, load_json(hub.member(folder, hub.INDEX), max_bytes=MAX_INDEX))
    except (HubError, ConfigError) as error:
        raise CheckpointError(str(error)) from None


def _read_indexed(folder: Path, index: dict) -> dict[str, Tensor]:
    weight_map = index.get("weight_map")
    if not isinstance(weight_map, dict) or not all(isinstance(file, str) for file in weight_map.values()):
        raise CheckpointError(f"{folder / hub.INDEX}: weight_map must map tensors to file names")
    found: dict[str, Tensor] = {}
    for file in sorted(set(weight_map.values())):
        for name, tensor in read_header(hub.member(folder, file)).items():
            if name in found:
                raise CheckpointError(f"{folder}: tensor {name!r} is in both {found[name].path.name} and {file}")
            if weight_map.get(name) != file:
                raise CheckpointError(f"{folder / file}: holds tensor {name!r}, which the index does not place there")
            found[name] = tensor
    for name, file in weight_map.items():
        if name not in found:
            raise CheckpointError(f"{folder / file}: the tensor {name!r} that the index places there is missing")
    return found


def _no_weights(folder: Path) -> str:
    pickled = sorted(p.name for p in folder.glob("*") if p.suffix in (".bin", ".pt", ".pth", ".pkl"))
    hint = f"; {pickled[0]} is a pickle, which is never read: convert it to safetensors" if pickled else ""
    return f"{folder}: there are no weights (neither {SINGLE_FILE} nor {hub.INDEX}){hint}"


def open_map(path: Path) -> mmap.mmap:
    """A read-only memory map of a file."""
    with path.open("rb") as file:
        return mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)


@dataclasses.dataclass(frozen=True)
class LazyTensor:
    """A tensor to be written, whose values are made when it is written."""

    name: str
    shape: tuple[int, ...]
    dtype: np.dtype
    values: Callable[[], np.ndarray]

    @property
    def size(self) -> int:
        """Its bytes."""
        return math.prod(self.shape) * self.dtype.itemsize


def write_folder(folder: Path, tensors: Iterable[LazyTensor], *, max_file_bytes: int, writing: bool = True) -> None:
    """Writes tensors to `model.safetensors`, or to numbered files and an index where they exceed `max_file_bytes`.

    Each file appears whole or not at all. With `writing=False` the values are asked for in the same order, and dropped.
    """
    parts = list(_parts(tensors, max_file_bytes))
    names = [f"model-{i + 1:05d}-of-{len(parts):05d}.safetensors" for i in range(len(parts))]
    names = names if len(parts) > 1 else [SINGLE_FILE]
    for file, part in zip(names, parts, strict=True):
        if writing:
            write_file(folder / file, part)
        else:
            for tensor in part:
                tensor.values()
    if writing:
        _remove_others(folder, names)
    if writing and len(parts) > 1:
        weight_map = {t.name: file for file, part in zip(names, parts, strict=True) for t in part}
        index = {"metadata": {"total_size": sum(t.size for part in parts for t in part)}, "weight_map": weight_map}
        write_bytes(folder / hub.INDEX, [json.dumps(index, indent=2).encode()])


def _parts(tensors: Iterable[LazyTensor], limit: int) -> Iterator[list[LazyTensor]]:
    part: list[LazyTensor] = []
    size = 0
    for tensor in tensors:
        if part and size + tensor.size > limit:
            yield part
            part, size = [], 0
        part.append(tensor)
        size += tensor.size
    yield part


def write_file(path: Path, tensors: list[LazyTensor]) -> None:
    """One file of these tensors, which appears under its name only once it is complete."""
    ends = list(itertools.accumulate((t.size for t in tensors), initial=0))
    header: dict = {"__metadata__": {"format": "pt"}}
    for tensor, begin, end in zip(tensors, ends[:-1], ends[1:], strict=True):
        header[tensor.name] = {"dtype": _NAMES[tensor.dtype], "shape": tensor.shape, "data_offsets": [begin, end]}
    raw = json.dumps(header, separators=(",", ":")).encode()
    raw += b" " * (-len(raw) % 8)
    bodies = (np.ascontiguousarray(t.values(), t.dtype).reshape(-1).view(np.uint8).data for t in tensors)
    write_bytes(path, itertools.chain([struct.pack("<Q", len(raw)), raw], bodies))


def _remove_others(folder: Path, names: list[str]) -> None:
    """An earlier save's files would be read instead of, or beside, these."""
    for path in {path for pattern in WEIGHT_FILES for path in folder.glob(pattern)}:
        if path.name not in names:
            path.unlink(missing_ok=True)


def write_bytes(path: Path, chunks: Iterable) -> None:
    """`files.write_atomic`, its errors as a `CheckpointError`."""
    try:
        files.write_atomic(path, chunks)
    except OSError as error:
        raise CheckpointError(f"{path}: cannot be written ({error.strerror})") from None
