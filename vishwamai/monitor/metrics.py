"""Numbers of a run, to a JSONL file, and the picture of its loss. It knows no model.

A sink that fails is dropped with a warning; it never stops a run.
"""

import io
import json
import math
import time
import warnings
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from vishwamai.files import write_atomic

Numbers = Mapping[str, float | int]
Sink = Callable[[int, Numbers], None]


class Metrics:
    """Hands each step's numbers to every sink."""

    def __init__(self, *sinks: Sink):
        self._sinks = list(sinks)

    def log(self, step: int, numbers: Numbers) -> None:
        """Numbers of one step; without any there is nothing to log."""
        for sink in tuple(self._sinks) if numbers else ():
            try:
                sink(step, numbers)
            except Exception as e:
                self._sinks.remove(sink)
                warnings.warn(f"metrics go on without a sink that failed: {e}", RuntimeWarning, stacklevel=2)


def jsonl(path: str | Path, *, after: int = 0) -> Sink:
    """Appends one line `{"step": …, "time": …, …}` a step, JSON as strict readers want it: null for NaN and infinity.

    A run that goes on `after` a step takes back what was noted beyond it: those steps are made again.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.exists():
        kept = [line for line in read_jsonl(path) if line["step"] <= after]
        write_atomic(path, (_line(line) for line in kept))

    def sink(step: int, numbers: Numbers) -> None:
        with path.open("ab") as file:
            file.write(_line({"step": step, "time": round(time.time(), 3), **numbers}))

    return sink


def _line(numbers: Mapping) -> bytes:
    finite = {name: None if isinstance(x, float) and not math.isfinite(x) else x for name, x in numbers.items()}
    return json.dumps(finite, allow_nan=False).encode() + b"\n"


def read_jsonl(path: str | Path) -> list[dict]:
    """The lines of a JSONL file of metrics; one that was cut off by a crash is left out."""
    lines = []
    for line in Path(path).read_text(encoding="utf-8", errors="replace").splitlines():
        try:
            numbers = json.loads(line)
        except ValueError:
            continue
        if isinstance(numbers, dict) and isinstance(numbers.get("step"), int):
            lines.append(numbers)
    return lines


def utilisation(flops: float, seconds: float, peak: float) -> float:
    """The share of the hardware's peak (operations per second over all devices) that a step of `flops` used."""
    return flops / (seconds * peak)


def try_draw(history: Sequence[Mapping], path: str | Path) -> None:
    """`draw_picture`, where it can be drawn: what goes wrong is a warning, for the run that it shows is done."""
    try:
        draw_picture(history, path)
    except Exception as e:
        warnings.warn(f"{path} is not drawn: {e}", RuntimeWarning, stacklevel=2)


def draw_picture(history: Sequence[Mapping], path: str | Path, *, title: str = "loss") -> Path:
    """Draws loss (and evaluation loss) over steps as a PNG."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8, 4.5), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot(xlabel="step", ylabel="nats per token", title=title)
    for name, style in (("loss", "-"), ("eval_loss", "o-")):
        points = [(h["step"], h[name]) for h in history if h.get(name) is not None and 0 < h[name] < math.inf]
        if points:
            axes.plot(*zip(*points, strict=True), style, label=name.replace("_", " "), linewidth=1.2, markersize=3)
            axes.set_yscale("log")
            axes.legend()
    axes.grid(alpha=0.3)
    path, drawn = Path(path), io.BytesIO()
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(drawn, format="png", dpi=120)
    write_atomic(path, [drawn.getvalue()])
    return path
