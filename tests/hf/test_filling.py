"""How much of a load is under way at once."""

import jax
import numpy as np
import pytest

from vishwamai.hf import filling
from vishwamai.hf.pieces import TensorPiece
from vishwamai.parallel.mesh import make_mesh
from vishwamai.parallel.sharding import Sharding
from vishwamai.weights.quantize import Scheme
from vishwamai.weights.spec import Param


def test_few_blocks_are_under_way_at_a_time(monkeypatch):
    """XLA's CPU devices wait for one another for ever where more than 32 programs are, and one reduces over devices."""
    blocks, counts, put, wait = 0, [], filling._put, filling.Loader._release_after

    def counted(values, layout):
        nonlocal blocks
        blocks += 1
        return put(values, layout)

    def waited(self, arrays):
        nonlocal blocks
        counts.append(blocks)
        blocks = 0
        wait(self, arrays)

    monkeypatch.setattr(filling, "_put", counted)
    monkeypatch.setattr(filling.Loader, "_release_after", waited)
    stored = np.random.default_rng(0).normal(size=(20, 8, 16)).astype(np.float32)
    param = Param((20, 16, 8), ("layers", "embed", "mlp"), contract=("embed",))
    parts = (slice(None), slice(None))
    pieces = [TensorPiece("", (layer,), str(layer), (8, 16), parts, True) for layer in range(20)]
    loader = filling.Loader(Sharding(make_mesh(None, fsdp=2, tensor=4)), lambda: None)
    loaded = loader.load_quantized(param, pieces, lambda name: stored[int(name)], Scheme("int8"))
    error = np.abs(np.asarray(loaded.values) * np.asarray(loaded.scale) - stored.transpose(0, 2, 1))
    assert error.max() < np.abs(stored).max() / 127
    assert counts == [8, 8, 4]
    assert 3 * max(counts) <= 32
    assert jax.device_count() == 8


@pytest.mark.parametrize("rows", [1, 7, 96])  # that NumPy writes at once
@pytest.mark.parametrize("transposed", [False, True])
def test_what_the_host_writes_is_what_programs_write(rows, transposed, monkeypatch):
    stored = np.random.default_rng(0).normal(size=(3, 96, 64)).astype(np.float32)
    sizes, axes = ((64, 4, 24), ("embed", "heads", "mlp")) if transposed else ((96, 64), ("embed", "mlp"))
    param = Param((3, *sizes), ("layers", *axes), contract=("embed",))
    parts = (slice(None), slice(None))
    pieces = [TensorPiece("", (layer,), str(layer), (96, 64), parts, transposed) for layer in range(3)]
    made = []
    for on_host in (True, False):
        monkeypatch.setattr(filling.Loader, "_is_on_host", on_host)
        monkeypatch.setattr(filling, "HOST_BLOCK_BYTES", rows * 4 * 64)
        monkeypatch.setattr(filling, "BLOCK_BYTES", 5000)
        loader = filling.Loader(Sharding(), lambda: None)
        made.append([loader.load(param, pieces, lambda name: stored[int(name)])])
        for scheme in ("int8", "int4:16", "fp8"):
            made[-1].append(loader.load_quantized(param, pieces, lambda name: stored[int(name)], Scheme.named(scheme)))
    for a, b in zip(*map(jax.tree.leaves, made), strict=True):
        assert a.dtype == b.dtype
        np.testing.assert_array_equal(np.asarray(a).astype(np.float32), np.asarray(b).astype(np.float32))


def test_a_leaf_on_the_host_is_not_copied_and_never_written_by_programs():
    param = Param((256, 64), ("embed", "mlp"), contract=("embed",))
    leaf = filling.HostLeaf(param, TensorPiece("", (), "w", (64, 256), (slice(None), slice(None)), True))
    array = leaf.array
    assert array.unsafe_buffer_pointer() == leaf.values.ctypes.data
    jax.jit(lambda x: x + 1, donate_argnums=0)(array).block_until_ready()
    assert not leaf.values.any()
