"""Numbers of a run, to a JSONL file and to the terminal, and the picture of its loss. It knows no model.

A sink that fails is dropped with a warning; it never stops a run.
"""

import json
import time
import warnings
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

Numbers = Mapping[str, float | int]
Sink = Callable[[int, Numbers], None]


class Metrics:
    """Hands each step's numbers to every sink."""

    def __init__(self, *sinks: Sink):
        self._sinks = list(sinks)

    def log(self, step: int, numbers: Numbers) -> None:
        """Numbers of one step."""
        for sink in tuple(self._sinks):
            try:
                sink(step, numbers)
            except Exception as e:
                self._sinks.remove(sink)
                warnings.warn(f"metrics go on without a sink that failed: {e}", RuntimeWarning, stacklevel=2)


def jsonl(path: str | Path, *, after: int = 0) -> Sink:
    """Appends one line `{"step": …, "time": …, …}` a step.

    A run that goes on `after` a step takes back what was noted beyond it: those steps are made again.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.exists():
        kept = [line for line in read(path) if line["step"] <= after]
        partial = path.with_name(f".{path.name}.partial")
        partial.write_text("".join(json.dumps(line) + "\n" for line in kept), encoding="utf-8")
        partial.replace(path)

    def sink(step: int, numbers: Numbers) -> None:
        with path.open("a", encoding="utf-8") as file:
            file.write(json.dumps({"step": step, "time": round(time.time(), 3), **numbers}) + "\n")

    return sink


class Terminal:
    """A progress bar with the latest numbers; a context manager, and a sink while it is open."""

    def __init__(self, steps: int, start: int = 0, console: Console | None = None):
        columns = TextColumn("training"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn()
        self._bar = Progress(*columns, TextColumn("{task.fields[line]}"), console=console, refresh_per_second=4)
        self._task = self._bar.add_task("train", total=steps, completed=start, line="compiling …")

    def __enter__(self) -> "Terminal":
        self._bar.start()
        return self

    def __exit__(self, *exc) -> None:
        self._bar.stop()

    def __call__(self, step: int, numbers: Numbers) -> None:
        shown = ("loss", "eval_loss", "tokens_per_second", "mfu_6nd")
        line = "  ".join(f"{name} {numbers[name]:,.4g}" for name in shown if name in numbers)
        self._bar.update(self._task, completed=step, line=line)


def read(path: str | Path) -> list[dict]:
    """The lines of a JSONL file of metrics; a last line that was cut off by a crash is left out."""
    lines = []
    for line in Path(path).read_text(encoding="utf-8").splitlines():
        try:
            lines.append(json.loads(line))
        except ValueError:
            continue
    return lines


def utilisation(flops: float, seconds: float, peak: float) -> float:
    """The share of the hardware's peak (operations per second over all devices) that a step of `flops` used."""
    return flops / (seconds * peak)


def picture(history: Sequence[Mapping], path: str | Path, *, title: str = "loss") -> Path:
    """Draws loss (and evaluation loss) over steps as a PNG."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8, 4.5), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot(xlabel="step", ylabel="nats per token", title=title)
    for name, style in (("loss", "-"), ("eval_loss", "o-")):
        points = [(h["step"], h[name]) for h in history if name in h]
        if points:
            axes.plot(*zip(*points, strict=True), style, label=name.replace("_", " "), linewidth=1.2, markersize=3)
    axes.set_yscale("log")
    axes.grid(alpha=0.3)
    axes.legend()
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=120)
    return path
