"""From a command to the first token: a process is started, loads the model, reads a prompt and chooses a token.

    python benchmarks/load.py [--repeats 3] [--prompt 64] [--python pytorch=...] [--json FILE] [--picture FILE]

Ours twice: cold, with an empty folder of compiled programs, and warm, with those that the start before left; beside
transformers. Each start is a new process and they take turns; files stay in the system's memory. The last table has
the seconds of an import alone, and the most memory a process had beside the bytes of the weights.
"""

import dataclasses
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
from models import models
from rich.table import Table
from side_by_side import ROOT, Contender, Measured, Process, Report, console, parse

IMPORTS = "import time; t = time.perf_counter(); import vishwamai; print(time.perf_counter() - t)"


@dataclasses.dataclass
class Starts:
    """What the starts of one contender took: seconds, and the most bytes of memory."""

    title: str
    seconds: list[float] = dataclasses.field(default_factory=list)
    memory: list[int] = dataclasses.field(default_factory=list)
    result: object = None

    def add(self, contender: Contender, python: str, programs: str) -> None:
        """Starts a process, waits for its first token and ends it."""
        begun = time.perf_counter()
        process = Process(contender, python, {"VISHWAMAI_COMPILE_CACHE": programs})
        self.seconds.append(time.perf_counter() - begun)
        self.result = process.first["result"]
        self.memory.append(process.first["memory"])
        process.close()


def imports(python: str) -> list[float]:
    """Seconds of `import vishwamai` in five new processes."""
    run = {"capture_output": True, "text": True, "check": True, "env": os.environ | {"PYTHONPATH": str(ROOT)}}
    return [float(subprocess.run([python, "-c", IMPORTS], **run).stdout) for _ in range(5)]


def main() -> None:
    args = parse(__doc__, prompt=64)
    report, memory = (
        Report("from a command to the first token", args),
        Table("case", "start", "peak / weights"),
    )
    has_peer = Path(args.python["pytorch"]).exists()
    for name, folder, vocabulary in models():
        asked = {
            "model": str(folder),
            "prompts": np.random.default_rng(1).integers(3, vocabulary, (1, args.prompt)).tolist(),
        }
        ours, peer = Contender("", "ours", "prefill", asked), Contender("", "pytorch", "prefill", asked)
        warm, cold, theirs = Starts("ours, warm"), Starts("ours, cold"), Starts("transformers")
        for _ in range(args.repeats):
            with tempfile.TemporaryDirectory() as programs, console.status(f"{name}: starting each once"):
                cold.add(ours, sys.executable, programs)
                warm.add(ours, sys.executable, programs)
                if has_peer:
                    theirs.add(peer, args.python["pytorch"], programs)
        rows = [starts for starts in (warm, cold, theirs) if starts.seconds]
        report.add(name, [Measured(s.title, s.seconds[0], s.seconds, s.result) for s in rows])
        weights = sum(file.stat().st_size for file in folder.glob("*.safetensors"))
        for starts in rows:
            memory.add_row(name, starts.title, f"{max(starts.memory) / weights:.2f}")
    report.close()
    console.print(memory)
    console.print(f"import vishwamai: {sorted(imports(sys.executable))[2]:.2f} s")


if __name__ == "__main__":
    main()
