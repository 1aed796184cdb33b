"""Makes weights of stored tensors, block by block, on the devices where they will live.

Rows of a tensor are put on their devices as they are stored, and a compiled update transposes them and writes them into
the leaf, which is donated; on the way they may be quantised. So the host holds no more than a few blocks at a time, and
a device no more than its share of the leaf and of those. A CPU computes in the host's memory: there a leaf is written
by NumPy, and no program is compiled for it. It knows no family and no file.
"""

import dataclasses
import functools
import math
from collections.abc import Callable, Iterator, Sequence

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import NamedSharding, PartitionSpec

from vishwamai.hf.coded import View, as_readable
from vishwamai.hf.pieces import TensorPiece
from vishwamai.parallel.sharding import Sharding
from vishwamai.weights import quantize, spec
from vishwamai.weights.quantize import Quantized, Scheme, group_of, round_to_scheme
from vishwamai.weights.spec import Param

BLOCK_BYTES = 8 * 2**20  # bytes of a tensor that are put on devices at once
HOST_BLOCK_BYTES = 2**19  # likewise that NumPy writes at once, so that they stay in the processor's cache
ALIGNMENT = 64  # of memory that a CPU device takes over as it is
IN_FLIGHT = 16 * 2**20  # bytes put on devices, each copy counted, before the host waits for them
# Likewise blocks, each of which is at most three programs: XLA's CPU devices may wait for one another for ever where
# more than 32 programs are under way and one of them reduces over devices.
BLOCKS_IN_FLIGHT = 8
ViewTensor = Callable[[str], np.ndarray | View]


class Leaf:
    """An array that is written block by block.

    `ways` says into how many parts its devices split the rows of its stored tensors, and `own` how much of the rows'
    first axis a part has; a block `[ways, rows, ...]` goes on the devices as `layout` says.
    """

    def __init__(self, param: Param, piece: TensorPiece, sharding: Sharding):
        self.home = sharding.named(*param.axes, shape=param.shape)
        self.array = jnp.zeros(param.shape, param.dtype, device=self.home)
        self.axes = _stored_axes(param, piece)
        self.layout = _stored_sharding(param, self.axes, sharding)
        rows, shard = slice(self.axes[0], self.axes[0] + 1), self.array.sharding.shard_shape(param.shape)
        whole, self.own = (math.prod(shape[rows]) for shape in (param.shape, shard))
        self.ways = whole // self.own

    def write(self, block: jax.Array, piece: TensorPiece, start: int) -> None:
        """Writes a block that begins at `start` of each part's rows."""
        at = np.asarray(piece.index, np.int32), np.int32(start)
        self.array = _fill(self.array, block, *at, self.axes, piece.transposed, self.home, self.layout)

    def wait(self) -> None:
        """Waits until all that was written is there."""
        jax.block_until_ready(self.array)


class HostLeaf:
    """Likewise an array in the host's memory, of which a CPU device makes no copy: all rows are one part."""

    layout, ways = None, 1

    def __init__(self, param: Param, piece: TensorPiece):
        size = math.prod(param.shape) * jnp.dtype(param.dtype).itemsize
        memory = np.zeros(size + ALIGNMENT, np.uint8)
        start = -memory.ctypes.data % ALIGNMENT
        self.values = memory[start : start + size].view(param.dtype).reshape(param.shape)
        first = _stored_axes(param, piece)[0]
        self.own = math.prod(param.shape[first : first + 1])

    @property
    def array(self) -> jax.Array:
        """The leaf on its device."""
        return jax.device_put(self.values)

    def write(self, block: jax.Array, piece: TensorPiece, start: int) -> None:
        """Writes a block that begins at `start` of the rows."""
        made = np.asarray(block)[0]
        rows = self._stored((-1, *made.shape[1:]), piece)
        first = start * (rows.shape[0] // self.own) if rows.ndim else 0
        rows[first : first + len(made)] = made

    def fill(self, values: np.ndarray | View, piece: TensorPiece) -> None:
        """Writes all of a piece's stored values."""
        stored = self._stored(values.shape, piece)
        with np.errstate(over="ignore"):  # what float16 does not hold is infinite, as it is in the compiled update
            if not values.shape:
                stored[...] = as_readable(values)
                return
            step = max(1, values.shape[0] * HOST_BLOCK_BYTES // max(values.nbytes, 1))
            for start in range(0, values.shape[0], step):
                stored[start : start + step] = as_readable(values[start : start + step])

    def wait(self) -> None:
        """There is nothing to wait for."""

    def _stored(self, shape: tuple[int, ...], piece: TensorPiece) -> np.ndarray:
        """A piece of the leaf as a view in the layout in which it is stored."""
        whole = self.values[(*piece.index, ...)]
        return whole.reshape(shape[::-1]).T if piece.transposed else whole.reshape(shape)


@dataclasses.dataclass(frozen=True)
class Loader:
    """Makes arrays of stored tensors, laid out by `sharding`. Each `release` may let go of what was read so far."""

    sharding: Sharding
    release: Callable[[], None]

    def load(self, param: Param, pieces: list[TensorPiece], view: ViewTensor) -> jax.Array:
        """Returns a leaf, of the tensors that `view` gives."""
        is_small = math.prod(param.shape) * jnp.dtype(param.dtype).itemsize <= BLOCK_BYTES
        if self._is_on_host or (self.sharding.mesh is None and is_small):
            return self._load_on_host(param, pieces, view)
        leaf = Leaf(param, pieces[0], self.sharding)
        for block, piece, start in self._blocks(leaf, pieces, view):
            leaf.write(block, piece, start)
        self._release_after((leaf,))
        return leaf.array

    @property
    def _is_on_host(self) -> bool:
        return self.sharding.mesh is None and self.sharding.platform == "cpu"

    def _load_on_host(self, param: Param, pieces: list[TensorPiece], view: ViewTensor) -> jax.Array:
        leaf, pending = HostLeaf(param, pieces[0]), 0
        for piece in pieces:
            values = view(piece.name)[piece.part]
            leaf.fill(values, piece)
            pending += values.nbytes
            if pending > IN_FLIGHT:
                self.release()
                pending = 0
        self.release()
        return leaf.array

    def load_quantized(self, param: Param, pieces: list[TensorPiece], view: ViewTensor, scheme: Scheme) -> Quantized:
        """Returns a quantised leaf, of tensors that are not."""
        target, group = quantize.specs(param, scheme), group_of(param, scheme)
        make = HostLeaf if self._is_on_host else functools.partial(Leaf, sharding=self.sharding)
        values, scale = (make(p, pieces[0]) for p in (target.values, target.scale))
        # Rows of a transposed tensor are outputs, with scales of their own; others are inputs, which share scales.
        for block, piece, start in self._blocks(values, pieces, view, at_once=not pieces[0].transposed):
            codes = _quantize(block, scheme, group, piece.transposed, scale.ways, (values.layout, scale.layout))
            values.write(codes.values, piece, start)
            scale.write(codes.scale, piece, start)
        self._release_after((values, scale))
        return Quantized(values=values.array, scale=scale.array)

    def _blocks(
        self, leaf: Leaf | HostLeaf, pieces: list[TensorPiece], view: ViewTensor, *, at_once: bool = False
    ) -> Iterator[tuple[jax.Array, TensorPiece, int]]:
        """The blocks of a leaf's tensors on their devices, not too many of them under way."""
        pending = blocks = 0
        for piece in pieces:
            for block, start in _blocks(view(piece.name)[piece.part], leaf.ways, leaf.own, at_once=at_once):
                stored = _put(block, leaf.layout)
                yield stored, piece, start
                pending += sum(shard.data.nbytes for shard in stored.addressable_shards)
                blocks += 1
                if pending > IN_FLIGHT or blocks == BLOCKS_IN_FLIGHT:
                    self._release_after((leaf,))
                    pending = blocks = 0

    def _release_after(self, leaves: Sequence[Leaf | HostLeaf]) -> None:
        """Waits until these leaves are there, and then lets go of what was read for them."""
        for leaf in leaves:
            leaf.wait()
        self.release()


def _stored_axes(param: Param, piece: TensorPiece) -> tuple[int, ...]:
    """The axes of a leaf with which the rows and the columns of its stored tensors begin.

    For a tensor without axes it is the one past the leaf's last.
    """
    inner = [i for i, axis in enumerate(param.axes) if axis not in spec.STACKED]
    groups = [[i for i in inner if (param.axes[i] in param.contract) == contracted] for contracted in (True, False)]
    if piece.transposed or not param.is_matmul:
        groups.reverse()
    return tuple(group[0] for group in groups if group) or (len(param.axes),)


class _Rows:
    """Rows of each of the parts of a tensor, `[ways, rows, ...]`, which are made where they are asked for."""

    def __init__(self, view: View, ways: int, start: int, stop: int):
        self._view, self._part, self._rows = view, view.shape[0] // ways, range(start, stop)
        self.shape = (ways, len(self._rows), *view.shape[1:])

    def __getitem__(self, index: tuple[slice, ...]) -> np.ndarray:
        ways, rows, *rest = index
        mine = self._rows[rows]
        parts = [way * self._part for way in range(self.shape[0])[ways]]
        return np.stack([np.asarray(self._view[(slice(p + mine.start, p + mine.stop), *rest)]) for p in parts])


def _blocks(
    values: np.ndarray | View, ways: int, size: int, *, at_once: bool = False
) -> Iterator[tuple[np.ndarray | _Rows, int]]:
    """A tensor as blocks [ways, rows, ...] of about `BLOCK_BYTES`: of each of its `ways` parts so many rows.

    Each comes with its start on the leaf's axis, of which a part takes `size`. Where they do not come out even the last
    one begins early, so that all have one shape and need one program. `at_once` makes one block of all.
    """
    step = size if at_once else max(1, size * BLOCK_BYTES // max(BLOCK_BYTES, values.nbytes))
    rows = None if isinstance(values, View) else values.reshape(ways, -1, *values.shape[1:])
    unit = (values.shape[0] // ways if rows is None else rows.shape[1]) // size
    for start in range(0, size, step):
        start = min(start, size - step)
        first, last = start * unit, (start + step) * unit
        yield _Rows(values, ways, first, last) if rows is None else rows[:, first:last], start


def _put(values: np.ndarray | _Rows, layout: NamedSharding | None) -> jax.Array:
    """A block on its devices, each of which is given its own part of the file."""
    if layout is None:
        return jax.device_put(as_readable(values[(slice(None),) * len(values.shape)]))
    return jax.make_array_from_callback(values.shape, layout, lambda index: as_readable(values[index]))


@functools.partial(jax.jit, static_argnums=(1, 2, 3, 4, 5))
def _quantize(stored, scheme: Scheme, group: int | None, transposed: bool, scale_ways: int, layouts) -> Quantized:
    """A block's values and scales, each as a block of its own leaf."""
    if transposed:
        inputs = stored.shape[-1]
        found = round_to_scheme(stored, (*stored.shape[:-1], inputs // (group or inputs)), scheme)
    else:
        flat = stored.reshape(-1, *stored.shape[2:])
        found = round_to_scheme(flat, (flat.shape[0] // (group or flat.shape[0]), *flat.shape[1:]), scheme)
        scale = found.scale.reshape(scale_ways, -1, *flat.shape[1:])
        found = Quantized(values=found.values.reshape(stored.shape), scale=scale)
    if layouts[0] is None:
        return found
    values, scale = map(jax.lax.with_sharding_constraint, (found.values, found.scale), layouts)
    return Quantized(values=values, scale=scale)


@functools.partial(jax.jit, static_argnums=(4, 5, 6, 7), donate_argnums=0)
def _fill(leaf, stored, index, start, axes: tuple[int, ...], transposed: bool, home: NamedSharding | None, layout):
    """The leaf with a block [ways, rows, ...] written at `index` of its leading axes and, on each device, `start` of
    its rows."""
    if home is None:
        return _write(leaf, stored, index, start, axes, transposed, (None,) * leaf.ndim)
    write = functools.partial(_write, axes=axes, transposed=transposed, split=home.spec)
    across = (home.spec, layout.spec, PartitionSpec(), PartitionSpec())
    return jax.shard_map(write, mesh=home.mesh, in_specs=across, out_specs=home.spec)(leaf, stored, index, start)


def _write(leaf, stored, index, start, axes: tuple[int, ...], transposed: bool, split: Sequence):
    """A device's part of `_fill`; `split` has the mesh axes over which each axis of the leaf is laid."""
    n, here = index.shape[0], jnp.bool_(True)
    starts = [index[i] for i in range(n)] + [jnp.zeros_like(start)] * (leaf.ndim - n)
    starts[axes[0] : axes[0] + 1] = [start] * (axes[0] < leaf.ndim)
    whole = [size * jax.lax.axis_size(part) if part else size for size, part in zip(leaf.shape, split, strict=True)]
    sizes = [-1 if i == axes[0] else leaf.shape[i] if i in axes else whole[i] for i in range(n, leaf.ndim)]
    block = (stored[0].T if transposed else stored[0]).astype(leaf.dtype).reshape(sizes)[(None,) * n]
    for i in (i for i in range(leaf.ndim) if split[i] and i not in axes):
        first = jax.lax.axis_index(split[i]) * leaf.shape[i]
        if i < n:
            starts[i] -= first
            here &= (starts[i] >= 0) & (starts[i] < leaf.shape[i])
        else:
            block = jax.lax.dynamic_slice_in_dim(block, first, leaf.shape[i], i)
    return jax.lax.cond(here, lambda: jax.lax.dynamic_update_slice(leaf, block, starts), lambda: leaf)


def _stored_sharding(param: Param, axes: tuple[int, ...], sharding: Sharding) -> NamedSharding | None:
    """The layout of a block [ways, rows, ...] that turns into the leaf's without moving data between devices."""
    if sharding.mesh is None:
        return None
    parts = [*sharding.spec(*param.axes, shape=param.shape), None]
    rows, *columns = (parts[i] for i in axes)
    return NamedSharding(sharding.mesh, PartitionSpec(rows, None, *columns))
