"""Compiles the training and decode steps of two models for 16 v5e chips, and prints what each chip needs.

    python benchmarks/aot.py [--slice v5e:4x4]

Exact memory from the TPU compiler; no accelerator is needed, only the `tpu` extra. The budgets that `tests/planner`
holds these programs to stand in `BUDGETS`.
"""

import argparse
import os
import time
from pathlib import Path

os.environ.setdefault("JAX_PLATFORMS", "cpu")

from rich.console import Console
from rich.table import Table

from vishwamai import config
from vishwamai.models import cost
from vishwamai.models.config import ModelConfig
from vishwamai.parallel.sharding import Sharding
from vishwamai.planner.aot import Report, report, slice_mesh
from vishwamai.planner.programs import decode_step, training_step
from vishwamai.training.step import StepConfig

ROOT = Path(__file__).parents[1]
STEP = StepConfig(compute="bfloat16", remat="full", loss_chunks=8)
MESHES = {"llama-1b": {"fsdp": -1}, "moe-1b": {"fsdp": 4, "expert": 4}}
DECODE_MESHES = {"llama-1b": {"fsdp": 4, "tensor": 4}, "moe-1b": {"fsdp": 2, "expert": 4, "tensor": 2}}
BUDGETS = {  # (GB of memory per chip, GB of collectives per chip and step)
    ("llama-1b", "train"): (3.2, 14.5),
    ("moe-1b", "train"): (2.8, 3.2),
    ("llama-1b", "decode"): (0.8, 0.65),
    ("moe-1b", "decode"): (0.5, 0.37),
    ("llama-1b", "decode int8"): (0.66, 0.36),
    ("moe-1b", "decode int4"): (0.38, 0.27),
}


def configuration(name: str) -> ModelConfig:
    """A model's configuration."""
    return config.load(ModelConfig, ROOT / "configs" / "models" / f"{name}.json")[0]


def compiled(name: str, program: str, slice_name: str):
    """One of the programs, compiled; after `decode` may stand how the weights are quantised."""
    cfg = configuration(name)
    sizes = MESHES if program == "train" else DECODE_MESHES
    sharding = Sharding(slice_mesh(slice_name, **sizes[name]))
    if program == "train":
        return training_step(cfg, STEP, sharding, batch=16, length=4096)
    return decode_step(
        cfg, sharding, batch=32, length=4096, quantization=program.removeprefix("decode").strip() or None
    )


def row(name: str, program: str, found: Report, seconds: float) -> list[str]:
    """The table's line about one program."""
    m, moved = found.memory, "  ".join(f"{k} {v / 1e9:.2f}" for k, v in sorted(found.collectives.items()))
    size = f"{cost.count_parameters(configuration(name)).total / 1e9:.2f}B"
    memory = f"{m.arguments / 1e9:.2f} + {m.temporaries / 1e9:.2f} = {m.peak / 1e9:.2f}"
    return [
        f"{name} ({size})",
        program,
        memory,
        moved,
        " ".join(f"{n} {name}" for name, n in found.kernels.items()),
        f"{seconds:.0f}",
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--slice", default="v5e:4x4")
    parser.add_argument("--program", choices=("train", "decode"))
    parser.add_argument("--model", choices=sorted(MESHES))
    chosen = parser.parse_args()
    columns = "model", "step", "GB/chip: in + temporary = peak", "collectives, GB/chip", "kernels", "compile s"
    table = Table(*columns, title=f"compiled for {chosen.slice}")
    for name, program in BUDGETS:
        if chosen.program in (None, program.split()[0]) and chosen.model in (None, name):
            begun = time.monotonic()
            found = report(compiled(name, program, chosen.slice))
            table.add_row(*row(name, program, found, time.monotonic() - begun))
    Console(width=160).print(table)


if __name__ == "__main__":
    main()
