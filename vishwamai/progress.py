"""Signs of life: what takes long says what it is, to whoever is given to watch it.

A room takes a `Progress` as an argument and knows nothing of who shows it; the command line draws a line of it
(`cli/status.py`), and a notebook may print.

    with progress("loading the weights") as report:
        report(done, total)  # bytes, as often as one likes, where they are known
"""

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager

Report = Callable[[int, int], None]
Progress = Callable[[str], AbstractContextManager[Report]]


@contextmanager
def silent(stage: str) -> Iterator[Report]:
    """A `Progress` that nobody watches."""
    yield lambda done, total: None
