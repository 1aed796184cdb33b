"""How much of a load is under way at once."""

import jax
import numpy as np

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
