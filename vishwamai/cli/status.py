"""One line that says what goes on and for how long, where that takes over two seconds and someone can see it.

A verb makes one `Status` and hands it down as the `Progress` of what it calls:

    status = Status()
    with status("starting"):
        from vishwamai.api import VishwamAI
    model = VishwamAI.from_pretrained(name, progress=status)  # loading, and from now on compiling and reading
    for chunk in model.stream(prompt): ...                    # the line is gone before the first chunk is here
    with status("thinking"): ...                              # whatever else takes long

It is drawn on standard error, and on nothing but a terminal. It takes the whole line it begins on: print a label
("model: ") with the first chunk, not before it. Stages may be nested; the innermost is shown. Rich is imported when
the line is first drawn, so what is quick pays nothing.
"""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from vishwamai.progress import Report

if TYPE_CHECKING:
    from rich.live import Live
    from rich.spinner import Spinner

AFTER = 2.0  # seconds


class Stage:
    """What goes on, since when, and how many bytes of how many are done."""

    def __init__(self, name: str, began: float):
        self.name, self.began, self.done, self.total = name, began, 0, 0

    def report(self, done: int, total: int) -> None:
        """Takes note of the bytes done."""
        self.done, self.total = done, total

    def line(self, now: float) -> str:
        """The stage in words: `loading the weights, 1.2 of 3.4 GB, 5 s`."""
        from rich.filesize import decimal

        seconds = f"{now - self.began:.0f} s"
        parts = [self.name, *([f"{decimal(self.done)} of {decimal(self.total)}"] if self.total else []), seconds]
        return ", ".join(parts)


class Status:
    """A `Progress` that draws on standard error once the outermost stage has lasted `AFTER` seconds."""

    def __init__(self, clock: Callable[[], float] = time.monotonic):
        self._clock, self._seen = clock, sys.stderr is not None and sys.stderr.isatty()
        self._stages: list[Stage] = []
        self._lock = threading.Lock()
        self._timer: threading.Timer | None = None
        self._live: Live | None = None

    @contextmanager
    def __call__(self, name: str) -> Iterator[Report]:
        """A stage; its bytes are given to what comes back."""
        stage = Stage(name, self._clock())
        self._stages.append(stage)
        if self._seen and len(self._stages) == 1:
            self._begin(stage)
        elif (live := self._live) is not None:
            live.refresh()
        try:
            yield stage.report
        finally:
            self._stages.remove(stage)
            if self._seen and not self._stages:
                self._end()

    def _begin(self, outermost: Stage) -> None:
        if AFTER <= 0:
            return self._draw(outermost)
        self._timer = threading.Timer(AFTER, self._draw, [outermost])
        self._timer.daemon = True
        self._timer.start()

    def _draw(self, outermost: Stage) -> None:
        """Draws from now on, unless the stage that waited for this has ended."""
        from rich.console import Console
        from rich.live import Live
        from rich.spinner import Spinner

        spinner = Spinner("line")  # of ASCII, for terminals of any encoding

        def line() -> Spinner:
            if stages := self._stages[:]:
                spinner.update(text=stages[-1].line(self._clock()))
            return spinner

        with self._lock:
            if self._stages[:1] != [outermost]:
                return
            # Standard output may lead elsewhere: it must not be drawn with what stands on standard error.
            options = {"transient": True, "redirect_stdout": False, "refresh_per_second": 8}
            self._live = Live(console=Console(stderr=True), get_renderable=line, **options)
            self._live.start(refresh=True)

    def _end(self) -> None:
        with self._lock:
            live, timer, self._live, self._timer = self._live, self._timer, None, None
        if timer is not None:
            timer.cancel()
        if live is not None:
            live.stop()
