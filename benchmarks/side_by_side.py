"""Peers side by side: each in a process and an environment of its own, called in turns (A B A B ...).

Each peer prepares and answers once, compiling included; then they take turns, each waiting while another works. What
is compared are medians of seconds. `benchmarks/decode.py` and others are a table of tasks for it. They take

    --python NAME=PATH   another Python for a peer: pytorch (transformers and torch, `make .venv-parity/ready`) or
                         llama_cpp_peer (llama-cpp-python, `make .venv-llama/ready`)
    --json FILE          what was measured, with versions and the machine
    --picture FILE       bars of the ratios

A peer whose Python is not there is left out, in words.
"""

import argparse
import dataclasses
import json
import os
import platform
import statistics
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

from rich.console import Console
from rich.table import Table

ROOT = Path(__file__).parent.parent
BUILD = ROOT / "build" / "benchmarks"
PYTHONS = {
    "ours": sys.executable,
    "pytorch": str(ROOT / ".venv-parity/bin/python"),
    "llama_cpp_peer": str(ROOT / ".venv-llama/bin/python"),
}
console = Console(highlight=False)


@dataclasses.dataclass(frozen=True)
class Contender:
    """One column: its title, the peer's file in `benchmarks/peers`, and what it is asked to make."""

    title: str
    peer: str
    task: str
    arguments: dict[str, Any]


@dataclasses.dataclass(frozen=True)
class Measured:
    """What a contender took: its first call and each later one, in seconds, and what the first gave."""

    title: str
    first: float
    seconds: list[float]
    result: Any

    @property
    def median(self) -> float:
        """Seconds of a call."""
        return statistics.median(self.seconds)


class Process:
    """A contender at work."""

    def __init__(self, contender: Contender, python: str, variables: Mapping[str, str] = MappingProxyType({})):
        self.title = contender.title
        environment = (
            os.environ | variables | {"PYTHONPATH": str(ROOT), "HF_HUB_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false"}
        )
        environment.pop("JAX_DISABLE_MOST_OPTIMIZATIONS", None)
        command = [python, str(ROOT / "benchmarks/peers/serve.py"), contender.peer]
        pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
        self._process = subprocess.Popen(command, env=environment, **pipes)
        self.first = self._ask({"make": contender.task, **contender.arguments})

    def time(self) -> float:
        """Calls it once more and returns the seconds."""
        return self._ask({})["seconds"]

    def close(self) -> None:
        """Ends the process."""
        self._process.stdin.close()
        self._process.wait()

    def _ask(self, what: dict[str, Any]) -> dict[str, Any]:
        self._process.stdin.write(json.dumps(what) + "\n")
        self._process.stdin.flush()
        line = self._process.stdout.readline()
        if not line:
            sys.exit(f"{self.title} ended with {self._process.wait()}; what it printed is above")
        return json.loads(line)


def compare(contenders: list[Contender], repeats: int, pythons: dict[str, str]) -> list[Measured]:
    """Returns what each contender took, in turns; those without a Python are left out."""
    present = [c for c in contenders if Path(pythons[c.peer]).exists()]
    for absent in (c for c in contenders if c not in present):
        console.print(f"left out: {absent.title}, for there is no {pythons[absent.peer]}")
    running: list[Process] = []
    for contender in present:
        with console.status(f"{contender.title}: loading and compiling"):
            running.append(Process(contender, pythons[contender.peer]))
    seconds: list[list[float]] = [[] for _ in running]
    with console.status("taking turns"):
        for _ in range(repeats):
            for process, taken in zip(running, seconds, strict=True):
                taken.append(process.time())
    for process in running:
        process.close()
    return [
        Measured(process.title, process.first["seconds"], taken, process.first["result"])
        for process, taken in zip(running, seconds, strict=True)
    ]


def parse(description: str, **defaults: Any) -> argparse.Namespace:
    """Returns the command's arguments: those of every benchmark, and `defaults`, each an option of its own."""
    parser = argparse.ArgumentParser(description=description.partition("\n")[0])
    parser.add_argument("--python", action="append", default=[], metavar="NAME=PATH", help="another Python for a peer")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--json", type=Path, help="where to write what was measured")
    parser.add_argument("--picture", type=Path, help="where to draw it")
    for name, value in defaults.items():
        many = {"nargs": "+", "type": type(value[0])} if isinstance(value, list) else {"type": type(value)}
        parser.add_argument(f"--{name.replace('_', '-')}", default=value, **many)
    args = parser.parse_args()
    args.python = PYTHONS | dict(entry.split("=", 1) for entry in args.python)
    return args


class Report:
    """A table of cases, printed at the end and written where the arguments say.

    In a case each call does an amount of the `unit`, and what is shown is that amount a second; without a unit it is
    the seconds. A ratio says how many times as fast as another contender the first one is.
    """

    def __init__(self, title: str, args: argparse.Namespace, unit: str | None = None):
        self._args, self._cases, self._unit = args, [], unit
        self._title = f"{title}, {'seconds' if unit is None else f'{unit}/s'} (times as fast as it)"

    def add(self, case: str, measured: list[Measured], amount: float = 1) -> None:
        """Adds and prints a case."""
        self._cases.append({"case": case, "amount": amount, "measured": [dataclasses.asdict(m) for m in measured]})
        shown = "; ".join(f"{m.title} {self._cell(self._cases[-1], m.title)}" for m in measured)
        same = [m.title for m in measured[1:] if m.result == measured[0].result]
        console.print(f"{case}: {shown}; the same result: {', '.join(same) or 'none'}", soft_wrap=True)

    def close(self) -> None:
        """Prints the table and writes the files that were asked for."""
        table = Table("case", *self._titles(), title=self._title)
        for case in self._cases:
            table.add_row(case["case"], *(self._cell(case, title) for title in self._titles()))
        console.print(table)
        if self._args.json:
            self._args.json.parent.mkdir(parents=True, exist_ok=True)
            self._args.json.write_text(json.dumps(self._record(), indent=1))
        if self._args.picture:
            self._draw(self._args.picture)

    def _titles(self) -> list[str]:
        return list(dict.fromkeys(m["title"] for case in self._cases for m in case["measured"]))

    def _numbers(self, case: dict[str, Any]) -> dict[str, float]:
        """What is shown of each contender of a case."""
        medians = {m["title"]: statistics.median(m["seconds"]) for m in case["measured"]}
        return {t: seconds if self._unit is None else case["amount"] / seconds for t, seconds in medians.items()}

    def _cell(self, case: dict[str, Any], title: str) -> str:
        numbers = self._numbers(case)
        if title not in numbers:
            return "-"
        ratio = next(iter(numbers.values())) / numbers[title]
        return f"{numbers[title]:,.{1 if self._unit else 2}f} ({1 / ratio if self._unit is None else ratio:.2f})"

    def _record(self) -> dict[str, Any]:
        versions = {name: _version(name, python) for name, python in self._args.python.items()}
        machine = {"cpu": _cpu(), "cores": os.cpu_count(), "system": platform.platform()}
        return {
            "title": self._title,
            "machine": machine,
            "versions": versions,
            "cases": self._cases,
        }

    def _draw(self, path: Path) -> None:
        import matplotlib.pyplot as plt

        names, titles = [case["case"] for case in self._cases], self._titles()
        figure, axes = plt.subplots(figsize=(9, 1.2 + 0.3 * len(names) * len(titles)), layout="constrained")
        height = 0.8 / len(titles)
        for i, title in enumerate(titles):
            numbers = [self._numbers(case).get(title, 0) for case in self._cases]
            axes.barh([at + i * height for at in range(len(names))], numbers, height, label=title)
        axes.set_yticks([at + 0.4 - height / 2 for at in range(len(names))], names)
        axes.invert_yaxis()
        axes.set_xlabel("seconds" if self._unit is None else f"{self._unit} a second")
        axes.set_title(self._title)
        axes.legend()
        path.parent.mkdir(parents=True, exist_ok=True)
        figure.savefig(path, dpi=120)


def _version(peer: str, python: str) -> str | None:
    if not Path(python).exists():
        return None
    code = f"import {peer}; print({peer}.VERSION)"
    where = {"cwd": ROOT / "benchmarks/peers", "env": os.environ | {"PYTHONPATH": str(ROOT)}}
    return subprocess.run([python, "-c", code], capture_output=True, text=True, check=False, **where).stdout.strip()


def _cpu() -> str:
    lines = Path("/proc/cpuinfo").read_text().splitlines() if Path("/proc/cpuinfo").exists() else []
    return next((line.partition(": ")[2] for line in lines if line.startswith("model name")), platform.processor())
