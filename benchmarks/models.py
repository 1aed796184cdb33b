"""The models that benchmarks run: random weights of a few sizes, and SmolLM2 where `make smollm` fetched it."""

import subprocess
import sys
from pathlib import Path
from typing import Any

from side_by_side import BUILD, ROOT

SMOLLM = ROOT / ".smollm"
RANDOM = {
    "15M": {"vocab_size": 8192, "d_model": 384, "d_ff": 1024, "n_heads": 6, "n_kv_heads": 2, "n_layers": 6},
    "101M": {"vocab_size": 16384, "d_model": 768, "d_ff": 2048, "n_heads": 12, "n_kv_heads": 4, "n_layers": 12},
}
COMMON = {"head_dim": 64, "max_length": 1024}
TRAINED = {"vocab_size": 8192, "d_model": 384, "d_ff": 1024, "n_heads": 6, "n_kv_heads": 6, "n_layers": 6}


def random_model(name: str, **sizes: Any) -> Path:
    """Returns the folder of a model with random weights, made at the first time; the seed is fixed."""
    folder = BUILD / "models" / name
    if not (folder / "config.json").exists():
        from peers import ours

        folder.parent.mkdir(parents=True, exist_ok=True)
        ours.make_model(str(folder), **COMMON | sizes)
    return folder


def models() -> list[tuple[str, Path, int]]:
    """Returns (name, folder, size of the vocabulary) of each model."""
    found = [(name, random_model(name, **sizes), sizes["vocab_size"]) for name, sizes in RANDOM.items()]
    [smollm] = list(SMOLLM.glob("*.gguf")) or [None]
    if smollm is not None:
        folder = BUILD / "models" / "smollm2"
        if not (folder / "config.json").exists():
            _convert(smollm, folder, "--dtype", "float32")
        found.append(("SmolLM2-135M", folder, 49152))
    return found


def gguf_file(model: Path, kind: str = "f32") -> Path:
    """Returns a model, a folder or a GGUF file, as a GGUF file of a type, made at the first time."""
    file = BUILD / "models" / f"{model.stem}-{kind}.gguf"
    if not file.exists():
        file.parent.mkdir(parents=True, exist_ok=True)
        _convert(model, file, "--type", kind)
    return file


def _convert(source: Path, target: Path, *options: str) -> None:
    subprocess.run([sys.executable, "-m", "vishwamai", "convert", str(source), str(target), *options], check=True)
