"""Numbers into the blocks in which GGUF stores tensors, and the file around them, by the package `gguf`.

It knows no model.
"""

import dataclasses
import importlib
import math
import os
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np

from vishwamai import files
from vishwamai.errors import CheckpointError, ConfigError
from vishwamai.gguf_header import TYPES

# The types that are written, with llama.cpp's numbers for files in which most tensors are of one.
WRITTEN = {"F32": 0, "F16": 1, "BF16": 32, "Q8_0": 7, "Q4_0": 2, "Q4_1": 3, "Q5_0": 8, "Q5_1": 9, "MXFP4": 38}
FLOATS = {"F32": np.dtype("<f4"), "F16": np.dtype("<f2"), "BF16": np.dtype(ml_dtypes.bfloat16)}
NUMBERS = 4 * 2**20  # that are encoded at once
_TYPES = {kind.name: kind for kind in TYPES.values()}
_ARRAYS = {  # NumPy's dtype of an array in the metadata: its type
    "uint8": "UINT8",
    "int8": "INT8",
    "uint16": "UINT16",
    "int16": "INT16",
    "uint32": "UINT32",
    "int32": "INT32",
    "float32": "FLOAT32",
    "bool": "BOOL",
    "uint64": "UINT64",
    "int64": "INT64",
    "float64": "FLOAT64",
}


@dataclasses.dataclass(frozen=True)
class EncodedTensor:
    """A tensor to be written: its type, its shape in NumPy's order, and its bytes, made when they are written."""

    name: str
    type: str
    shape: tuple[int, ...]
    values: Callable[[], np.ndarray]

    @property
    def row_bytes(self) -> int:
        """The bytes of a row."""
        return row_bytes(self.type, self.shape[-1])

    @property
    def size(self) -> int:
        """Its bytes."""
        return math.prod(self.shape[:-1]) * self.row_bytes


def package() -> Any:
    """The package `gguf`. Raises `ConfigError` that says how to install it."""
    try:
        return importlib.import_module("gguf")
    except ModuleNotFoundError:
        raise ConfigError('GGUF files are written by the package gguf: pip install "vishwamai[gguf]"') from None


def fits(kind: str, columns: int) -> bool:
    """Whether rows of so many numbers come out even in blocks of a type."""
    return columns % _TYPES[kind].block == 0


def row_bytes(kind: str, columns: int) -> int:
    """The bytes of a row of so many numbers."""
    return columns // _TYPES[kind].block * _TYPES[kind].size


def encode(values: np.ndarray, kind: str) -> np.ndarray:
    """The bytes of numbers in a type that is written, `[..., bytes of a row]`, as llama.cpp rounds them."""
    if kind in FLOATS:
        with np.errstate(over="ignore"):
            return np.ascontiguousarray(values, FLOATS[kind]).view(np.uint8)
    gguf = package()
    number, columns = gguf.GGMLQuantizationType[kind], values.shape[-1]
    rows = values.reshape(-1, columns)
    out = np.empty((len(rows), row_bytes(kind, columns)), np.uint8)
    step = max(1, NUMBERS // columns)
    for start in range(0, len(rows), step):
        part = np.asarray(rows[start : start + step], np.float32)
        out[start : start + step] = gguf.quants.quantize(part, number)
    return out.reshape(*values.shape[:-1], -1)


def write_file(path: Path, metadata: Mapping[str, Any], tensors: Iterable[EncodedTensor]) -> None:
    """Writes a GGUF file, tensor by tensor, which appears under its name only once it is whole and on disk.

    Raises `CheckpointError` where it cannot be written.
    """
    gguf, tensors = package(), list(tensors)
    writer = gguf.GGUFWriter(None, metadata["general.architecture"])
    for key, value in metadata.items():
        if key != "general.architecture":
            _add(gguf, writer, key, value)
    for tensor in tensors:
        shape, kind = (*tensor.shape[:-1], tensor.row_bytes), gguf.GGMLQuantizationType[tensor.type]
        shape = tensor.shape if tensor.type in FLOATS else shape
        dtype = FLOATS.get(tensor.type, np.dtype(np.uint8))
        writer.add_tensor_info(tensor.name, shape, dtype, tensor.size, raw_dtype=kind)
    try:
        with files.replace_file(path) as partial:
            writer.write_header_to_file(partial)
            writer.write_kv_data_to_file()
            writer.write_ti_data_to_file()
            for tensor in tensors:
                writer.write_tensor_data(tensor.values())
            writer.close()
    except OSError as error:
        raise CheckpointError(
            f"{path}: cannot be written ({error.strerror or os.strerror(error.errno or 0)})"
        ) from None
    finally:
        writer.close()


def _add(gguf: Any, writer: Any, key: str, value: Any) -> None:
    kinds = gguf.GGUFValueType
    if isinstance(value, np.ndarray):
        writer.add_key_value(key, value.tolist(), kinds.ARRAY, kinds[_ARRAYS[value.dtype.name]])
    elif isinstance(value, list):
        writer.add_key_value(key, value, kinds.ARRAY, kinds.STRING)
    elif isinstance(value, bool | str | float):
        writer.add_key_value(key, value, {bool: kinds.BOOL, str: kinds.STRING, float: kinds.FLOAT32}[type(value)])
    else:
        writer.add_key_value(key, value, kinds.INT32 if value < 0 else kinds.UINT32 if value < 2**32 else kinds.UINT64)
