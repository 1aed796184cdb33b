"""What an import takes of the host's memory, by the benchmark's measure, on a checkpoint of a twelfth of its size."""

import runpy
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

pytestmark = pytest.mark.by_turns

TABLES = {"vocab_size": 65536, "d_model": 512, "d_ff": 1024, "n_heads": 4, "n_kv_heads": 2, "head_dim": 128}
GIVE_BACK = {"MALLOC_MMAP_THRESHOLD_": "1000000"}  # what the allocator keeps of what was freed is no matter of ours


@pytest.fixture(scope="module")
def benchmark():
    return SimpleNamespace(**runpy.run_path(str(Path(__file__).parents[2] / "benchmarks" / "import_memory.py")))


@pytest.fixture(scope="module")
def folder(benchmark, tmp_path_factory):
    folder = tmp_path_factory.mktemp("tables")
    benchmark.write_checkpoint(folder, "llama", TABLES, 160e6)
    assert len(list(folder.glob("*.safetensors"))) > 2
    return folder


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
@pytest.mark.parametrize("mesh, devices", [({}, 1), ({"fsdp": 4, "tensor": 2}, 8)])
def test_an_import_takes_less_than_its_largest_tensor_beside_the_arrays(mesh, devices, benchmark, folder):
    found = benchmark.in_a_process("ours", str(folder), mesh, "bfloat16", devices=devices, **GIVE_BACK)
    largest = benchmark.largest_tensor(folder)
    assert largest == 2 * TABLES["vocab_size"] * TABLES["d_model"]
    assert found["arrays"] == pytest.approx(160e6, rel=0.1)
    assert found["excess"][1] < benchmark.TARGET * largest
    assert found["share"] == 1 / devices
