"""A peer's process: does what `benchmarks/side_by_side.py` asks on standard input, and answers on standard output.

    python benchmarks/peers/serve.py NAME

NAME is a file beside this one; it needs the packages of its own environment alone. A line `{"make": task, ...}` makes
a callable by the function of the task's name, calls it once and answers with what it gives, the seconds and the most
memory that the process has had; an empty object calls it again.
"""

import importlib
import json
import os
import sys
import time
from pathlib import Path


def peak_memory() -> int | None:
    """The most bytes that this process has had. (The kernel's ru_maxrss counts its parent's too.)"""
    status = Path("/proc/self/status")
    lines = status.read_text().splitlines() if status.exists() else []
    return next((int(line.split()[1]) * 1024 for line in lines if line.startswith("VmHWM")), None)


def main() -> None:
    answers, sys.stdout = os.fdopen(os.dup(1), "w"), sys.stderr  # what a library prints is no answer
    os.dup2(2, 1)
    sys.path[0] = str(Path(__file__).parent)
    peer = importlib.import_module(sys.argv[1])
    call, result = None, None
    for line in sys.stdin:
        asked = json.loads(line)
        begun = time.perf_counter()
        if "make" in asked:
            call = getattr(peer, asked.pop("make"))(**asked)
        result = call()
        seconds, memory = time.perf_counter() - begun, peak_memory()
        print(json.dumps({"seconds": seconds, "memory": memory, "result": result}), file=answers, flush=True)


if __name__ == "__main__":
    main()
