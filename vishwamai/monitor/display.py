"""A run's numbers where a person sees them: a live bar on a terminal, plain lines into a pipe. It knows no files."""

from collections.abc import Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from vishwamai.monitor.metrics import Numbers, Sink

SHOWN = ("loss", "eval_loss", "tokens_per_second", "mfu_6nd")


@contextmanager
def show_progress(
    steps: int, start: int = 0, show: bool = True, console: Console | None = None
) -> Iterator[Sink | None]:
    """Gives a sink for what is logged from step `start` of `steps` on, or None; a live bar goes when the block ends."""
    console = console or Console()
    if not show:
        yield None
    elif console.is_jupyter or (console.is_terminal and not console.is_dumb_terminal):
        times = TimeElapsedColumn(), TimeRemainingColumn()
        columns = TextColumn("training"), BarColumn(), MofNCompleteColumn(), *times, TextColumn("{task.fields[line]}")
        with Progress(*columns, console=console, refresh_per_second=4) as bar:
            task = bar.add_task("train", total=steps, completed=start, line="compiling ...")
            yield lambda step, numbers: bar.update(task, completed=step, line=describe_numbers(numbers))
    else:
        yield lambda step, numbers: print(
            f"step {step} of {steps}  {describe_numbers(numbers)}", file=console.file, flush=True
        )


def describe_numbers(numbers: Numbers) -> str:
    """Returns the numbers that say how it goes, as text."""
    found = {name: numbers[name] for name in SHOWN if name in numbers}
    return "  ".join(f"{name} {x:,.0f}" if abs(x) >= 1000 else f"{name} {x:.4g}" for name, x in found.items())
