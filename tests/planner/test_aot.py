"""Programs for 16 TPU v5e chips, compiled here: what each chip holds and moves, held to a written budget.

`make aot` prints the table. The budgets stand in `benchmarks/aot.py`, a little above what was measured there.
"""

import importlib.util
from pathlib import Path

import pytest

from vishwamai.errors import BackendError
from vishwamai.models import cost
from vishwamai.planner import aot

HLO = """HloModule m

%body (p: (s32[], f32[8,16])) -> (s32[], f32[8,16]) {
  %p = (s32[], f32[8,16]{1,0}) parameter(0)
  %ag = bf16[32,16]{1,0} all-gather(%x), dimensions={0}
}

%begin (p: f32[8]) -> (f32[8], f32[16]) {
  %one = f32[16]{0} all-gather(%p), channel_id=7, dimensions={0}
}

%go_on (p: f32[8]) -> (f32[8], f32[16]) {
  %the_same = f32[16]{0} all-gather(%p), channel_id=7, dimensions={0}
}

%cond (p: (s32[], f32[8,16])) -> pred[] {
  %bound = s32[] constant(5)
  ROOT %lt = pred[] compare(%i, %bound), direction=LT
}

ENTRY %main (a: f32[8,16]) -> f32[8,16] {
  %w = (s32[], f32[8,16]{1,0}) while(%t), condition=%cond, body=%body
  %ar = f32[8,16]{1,0} all-reduce(%y), to_apply=%sum
  %cp = (f32[4]{0}, f32[100]{0}) collective-permute-start(%z), channel_id=3
  %f = (f32[8]{0}, f32[16]{0}) fusion(%w), kind=kCustom, calls=%begin
  %g = (f32[8]{0}, f32[16]{0}) fusion(%f), kind=kCustom, calls=%go_on
  %splash_mqa_fwd.4 = bf16[8]{0} custom-call(%a), custom_call_target="tpu_custom_call"
  %splash_mqa_fwd = bf16[8]{0} custom-call(%a), custom_call_target="tpu_custom_call"
  %other.1.2 = bf16[8]{0} custom-call(%a), custom_call_target="tpu_custom_call"
  %sharding = bf16[8]{0} custom-call(%a), custom_call_target="Sharding"
}
"""


def test_kernels_are_counted_by_name():
    assert aot.kernels(HLO) == {"splash_mqa_fwd": 2, "other": 1}


def test_collectives_are_counted_once_each_with_their_loops():
    assert aot.collective_bytes(HLO) == {
        "all-gather": 5 * 32 * 16 * 2 + 16 * 4,
        "all-reduce": 8 * 16 * 4,
        "collective-permute": 400,
    }


def test_the_peak_counts_shared_memory_once():
    assert aot.Memory(arguments=10, outputs=8, aliased=7, temporaries=5).peak == 16


def test_a_missing_compiler_is_said(monkeypatch):
    monkeypatch.setattr(aot, "can_compile", lambda: False)
    with pytest.raises(BackendError, match="vishwamai\\[tpu\\]"):
        aot.slice_mesh("v5e:4x4", fsdp=-1)


def benchmark():
    path = Path(__file__).parents[2] / "benchmarks" / "aot.py"
    module = importlib.util.module_from_spec(loader := importlib.util.spec_from_file_location("aot_benchmark", path))
    loader.loader.exec_module(module)
    return module


@pytest.mark.tpu_aot
@pytest.mark.parametrize(("model", "program"), benchmark().BUDGETS)
def test_programs_keep_their_budgets(model, program, capsys):
    if not aot.can_compile():
        pytest.skip("libtpu, the TPU compiler, is not installed; `make aot` installs it")
    table = benchmark()
    found = aot.report(table.compiled(model, program, "v5e:4x4"))
    memory, collectives = table.BUDGETS[model, program]
    with capsys.disabled():
        moved = sum(found.collectives.values()) / 1e9
        held = f"{found.memory.peak / 1e9:.2f} of {memory} GB/chip"
        print(f"\n{model} {program}: {held}, {moved:.2f} of {collectives} GB moved, kernels {found.kernels}")
    assert found.memory.peak < memory * 1e9
    assert sum(found.collectives.values()) < collectives * 1e9
    if program == "train":
        for part in ("fwd", "dkv", "dq"):
            flash = [name for name in found.kernels if name.startswith("splash") and part in name]
            assert flash, f"the flash kernel's {part} is not among {found.kernels}"
        share = (
            12 * cost.count_parameters(table.configuration(model)).total / 16
        )  # float32 weights and two moments, split
        assert found.memory.arguments < 1.5 * share, "a weight or its moments are whole on every chip"
        assert found.memory.aliased > 0.9 * found.memory.outputs, "the state is copied"
