"""Batches by number: fixed lines packed full, or as many rows as a token budget allows. It knows no model.

A source gives sample i for any i, so a loader's whole state is a few integers: a run resumes in a fresh process
exactly where it stopped, and every host can make every batch and keep its own lines.
"""

import queue
import threading
from collections.abc import Callable, Iterator, Sequence
from itertools import count

from vishwamai.data.packing import Batch, Sample, empty, pack, put
from vishwamai.errors import ConfigError
from vishwamai.parallel import hosts

Samples = Callable[[int], Sample]  # sample number -> tokens and weights


class PackedBatches:
    """Batches of `batch` lines of `length` tokens, each line packed with whole samples."""

    def __init__(self, samples: Samples, *, batch: int, length: int, start: int = 0):
        self._samples, self._shape, self._next = samples, (batch, length), start

    @property
    def state(self) -> dict:
        """What `restore` needs: the number of the first sample that no batch has taken."""
        return {"next": self._next}

    def restore(self, state: dict) -> None:
        """Goes on from a state."""
        self._next = int(state["next"])

    def __next__(self) -> Batch:
        batch, taken = pack((self._samples(i) for i in count(self._next)), *self._shape)
        self._next += taken
        return batch

    def __iter__(self) -> Iterator[Batch]:
        return self


class BudgetBatches:
    """Dynamic batches: samples of like length together, `budget // length` of them, so each batch costs the same.

    `lengths` are the shapes that may occur, so a step compiles once for each. A sample goes to the shortest that holds
    it; longer ones are cut to the longest.
    """

    def __init__(self, samples: Samples, *, budget: int, lengths: Sequence[int], start: int = 0):
        if not lengths or min(lengths) < 1 or budget < max(lengths):
            raise ConfigError(
                f"a budget of {budget} tokens does not hold one row of each of the lengths {list(lengths)}"
            )
        self._samples, self._budget, self._lengths = samples, budget, sorted(lengths)
        self._next, self._waiting = start, {length: [] for length in self._lengths}

    @property
    def state(self) -> dict:
        """What `restore` needs: the next sample's number, and those that wait for their batch to fill."""
        return {"next": self._next, "waiting": {str(k): list(v) for k, v in self._waiting.items()}}

    def restore(self, state: dict) -> None:
        """Goes on from a state."""
        self._next = int(state["next"])
        self._waiting = {int(k): list(v) for k, v in state["waiting"].items()}

    def __next__(self) -> Batch:
        while True:
            number, self._next = self._next, self._next + 1
            size = len(self._samples(number)[0])
            length = next((n for n in self._lengths if size <= n), self._lengths[-1])
            self._waiting[length].append(number)
            if len(self._waiting[length]) == self._budget // length:
                return self._batch(length)

    def _batch(self, length: int) -> Batch:
        numbers, self._waiting[length] = self._waiting[length], []
        batch = empty(len(numbers), length)
        for line, number in enumerate(numbers):
            tokens, weights = self._samples(number)
            put(batch, line, 0, 1, (tokens[:length], weights[:length]))
        return batch

    def __iter__(self) -> Iterator[Batch]:
        return self


def prefetch(batches, ahead: int = 2) -> Iterator[tuple[Batch, dict]]:
    """(batch, the state after it) made in a thread, `ahead` of whoever reads; an error there is raised here."""
    ready: queue.Queue = queue.Queue(maxsize=ahead)
    stopped = threading.Event()

    def offer(item) -> None:
        while not stopped.is_set():
            try:
                return ready.put(item, timeout=0.1)
            except queue.Full:
                continue

    def work() -> None:
        try:
            while not stopped.is_set():
                offer((next(batches), batches.state))
        except BaseException as e:
            offer(e)

    threading.Thread(target=work, daemon=True).start()
    try:
        while True:
            item = ready.get()
            if isinstance(item, BaseException):
                raise item
            yield item
    finally:
        stopped.set()


def own_lines(batch: Batch) -> Batch:
    """The lines of a global batch that this process feeds."""
    mine = hosts.rows_of_process(batch.tokens.shape[0])
    return Batch(*(a[mine] for a in batch))
