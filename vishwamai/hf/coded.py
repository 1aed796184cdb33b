"""Tensors that are stored in another form than their values, and quantised ones among them: codes, scales and values,
part by part. It knows no format."""

import dataclasses
import math
from collections.abc import Callable
from pathlib import Path

import ml_dtypes
import numpy as np

from vishwamai.errors import CheckpointError
from vishwamai.weights.quantize import Scheme

CODES = {"int8": np.int8, "int4": ml_dtypes.int4, "fp8": ml_dtypes.float8_e4m3fn, "mxfp4": ml_dtypes.float4_e2m1fn}
TABLES = {
    kind: np.arange(n, dtype=np.uint8).view(CODES[kind]).astype(np.float32) for kind, n in (("fp8", 256), ("mxfp4", 16))
}
AxisRanges = tuple[range | int, ...]  # a part of a tensor: places on each axis, or one place of an axis that falls away


class View:
    """Part of a tensor, sliced as an array is, whose values are made by `np.asarray`."""

    def __init__(self, make: Callable[[AxisRanges], np.ndarray], axes: AxisRanges):
        self._make, self._axes = make, axes

    @property
    def shape(self) -> tuple[int, ...]:
        """Its sizes."""
        return tuple(len(axis) for axis in self._axes if isinstance(axis, range))

    @property
    def nbytes(self) -> int:
        """Its bytes in float32."""
        return 4 * math.prod(self.shape)

    def __getitem__(self, index: tuple[slice | int, ...]) -> "View":
        parts = iter(index if isinstance(index, tuple) else (index,))
        return View(self._make, tuple(a[next(parts, slice(None))] if isinstance(a, range) else a for a in self._axes))

    def __array__(self, dtype=None, copy=None) -> np.ndarray:
        values = self._make(self._axes)
        return values if dtype is None else values.astype(dtype, copy=False)


def as_readable(values: "np.ndarray | View") -> np.ndarray:
    """Returns values in a dtype that devices have."""
    found = np.asarray(values)
    return found.astype(np.float32) if found.dtype == np.float64 else found


@dataclasses.dataclass(frozen=True)
class DecodedTensor:
    """A tensor whose values are made of what is stored: `decode` returns a part of them."""

    name: str
    path: Path
    shape: tuple[int, ...]
    decode: Callable[[AxisRanges], np.ndarray]
    dtype: np.dtype = np.dtype(np.float32)  # of its values

    def plain(self) -> View:
        """Its values."""
        return View(self.decode, _whole(self.shape))


@dataclasses.dataclass(frozen=True)
class QuantizedTensor:
    """A tensor that is stored as codes and scales, each scale for a block of codes (`block`: its size on each axis).

    `codes` returns a part of the codes, and `scale` the scales at indices of their grid; so does `offset`, what is
    added to codes times scales, where there is something. `inputs` is the axis along which a matmul sums. `decode`
    returns a part of the values where that is quicker than by codes and scales.
    """

    name: str
    path: Path
    kind: str
    shape: tuple[int, ...]
    codes: Callable[[AxisRanges], np.ndarray]
    scale: Callable[[tuple[np.ndarray, ...]], np.ndarray]
    block: tuple[int, ...]
    inputs: int = -1
    dtype: np.dtype = np.dtype(np.float32)  # of its values
    offset: Callable[[tuple[np.ndarray, ...]], np.ndarray] | None = None
    decode: Callable[[AxisRanges], np.ndarray] | None = None

    @property
    def scheme(self) -> Scheme:
        """The scheme of a weight that keeps these codes."""
        group = self.block[self.inputs]
        whole = group >= self.shape[self.inputs]
        dtypes = "bfloat16" if self.kind == "mxfp4" else "float32", None if self.offset is None else "float32"
        return Scheme(self.kind, None if whole else group, *dtypes)

    def plain(self) -> View:
        """Its values, float32."""
        return View(self.decode or self._decoded, _whole(self.shape))

    def values(self) -> View:
        """Its codes, in the dtype of the kind."""
        return View(lambda axes: _typed(self.codes(axes), CODES[self.kind]), _whole(self.shape))

    def scales(self, group: int | None) -> View:
        """A scale for each output and each `group` of inputs (None: for each output)."""
        return self._by_group(self.scale, group)

    def offsets(self, group: int | None) -> View:
        """An offset for each of these scales, where there are some."""
        assert self.offset is not None
        return self._by_group(self.offset, group)

    def _by_group(self, of: Callable[[tuple[np.ndarray, ...]], np.ndarray], group: int | None) -> View:
        step = group or self.shape[self.inputs]
        at = self.inputs % len(self.shape)

        def make(axes: AxisRanges) -> np.ndarray:
            return self._at(of, tuple(_times(axis, step) if i == at else axis for i, axis in enumerate(axes)))

        return View(make, _whole(tuple(n // step if i == at else n for i, n in enumerate(self.shape))))

    def _decoded(self, axes: AxisRanges) -> np.ndarray:
        codes = self.codes(axes)
        values = TABLES[self.kind][codes] if self.kind in TABLES else codes.astype(np.float32)
        values *= self._at(self.scale, axes)
        return values if self.offset is None else values + self._at(self.offset, axes)

    def _at(self, of: Callable[[tuple[np.ndarray, ...]], np.ndarray], axes: AxisRanges) -> np.ndarray:
        """The scale, or the offset, of each number of a part."""
        grid = np.ix_(*(np.atleast_1d(np.asarray(axis)) // n for axis, n in zip(axes, self.block, strict=True)))
        kept = tuple(slice(None) if isinstance(axis, range) else 0 for axis in axes)
        found = np.asarray(of(grid), np.float32)[kept]
        if not np.isfinite(found).all():
            what = "an offset" if of is self.offset else "a scale"
            raise CheckpointError(f"{self.path}: tensor {self.name!r} has {what} that is not finite; it is damaged")
        return found


def _whole(shape: tuple[int, ...]) -> tuple[range, ...]:
    return tuple(range(n) for n in shape)


def _times(axis: range | int, n: int) -> range | int:
    return axis * n if isinstance(axis, int) else range(axis.start * n, axis.stop * n, axis.step * n)


def _typed(codes: np.ndarray, dtype) -> np.ndarray:
    """Codes as numbers of the kind: the same bits, or for integers the same values."""
    return codes.astype(dtype) if np.issubdtype(codes.dtype, np.signedinteger) else codes.view(dtype)


def to_index(axes: AxisRanges) -> tuple[slice | int, ...]:
    """The same part as an index of an array."""
    return tuple(slice(a.start, a.stop, a.step) if isinstance(a, range) else a for a in axes)
