"""A tensor that is stored quantised: its codes, its scales and its values, part by part. It knows no format."""

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
class QuantizedTensor:
    """A tensor that is stored as codes and scales, each scale for a block of codes (`block`: its size on each axis).

    `codes` returns a part of the codes and `scale` the scales at indices of their grid. `inputs` is the axis along
    which a matmul sums.
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

    @property
    def scheme(self) -> Scheme:
        """The scheme of a weight that keeps these codes."""
        group = self.block[self.inputs]
        whole = group >= self.shape[self.inputs]
        return Scheme(self.kind, None if whole else group, "bfloat16" if self.kind == "mxfp4" else "float32")

    def plain(self) -> View:
        """Its values, float32."""
        return View(self._decoded, _whole(self.shape))

    def values(self) -> View:
        """Its codes, in the dtype of the kind."""
        return View(lambda axes: _typed(self.codes(axes), CODES[self.kind]), _whole(self.shape))

    def scales(self, group: int | None) -> View:
        """A scale for each output and each `group` of inputs (None: for each output)."""
        step = group or self.shape[self.inputs]
        at = self.inputs % len(self.shape)

        def make(axes: AxisRanges) -> np.ndarray:
            return self._scale(tuple(_times(axis, step) if i == at else axis for i, axis in enumerate(axes)))

        return View(make, _whole(tuple(n // step if i == at else n for i, n in enumerate(self.shape))))

    def _decoded(self, axes: AxisRanges) -> np.ndarray:
        codes = self.codes(axes)
        values = TABLES[self.kind][codes] if self.kind in TABLES else codes.astype(np.float32)
        values *= self._scale(axes)
        return values

    def _scale(self, axes: AxisRanges) -> np.ndarray:
        grid = np.ix_(*(np.atleast_1d(np.asarray(axis)) // n for axis, n in zip(axes, self.block, strict=True)))
        kept = tuple(slice(None) if isinstance(axis, range) else 0 for axis in axes)
        scale = np.asarray(self.scale(grid), np.float32)[kept]
        if not np.isfinite(scale).all():
            raise CheckpointError(f"{self.path}: tensor {self.name!r} has a scale that is not finite; it is damaged")
        return scale


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
