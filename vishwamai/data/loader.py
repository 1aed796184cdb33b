"""Batches by number: fixed lines packed full, or as many rows as a token budget allows. It knows no model.

A source gives sample i for any i, so a loader's whole state is a few integers: a run resumes in a fresh process
exactly where it stopped, and every host can make every batch and keep its own lines.
"""

import queue
import threading
from collections.abc import Iterator, Sequence

from vishwamai.data.packing import (
    Batch,
    Place,
    Samples,
    cut_piece,
    empty,
    find_next_piece,
    iterate_pieces,
    pack_samples,
    put,
)
from vishwamai.errors import ConfigError
from vishwamai.parallel import hosts


class PackedBatches:
    """Batches of `batch` lines of `length` tokens, packed with whole samples; a longer one comes in pieces."""

    def __init__(self, samples: Samples, *, batch: int, length: int):
        self._samples, self._shape, self._next = samples, (batch, length), (0, 0)

    @property
    def state(self) -> dict:
        """What `restore` needs: the place of the first token that no batch has taken."""
        return {"next": list(self._next)}

    def restore(self, state: dict) -> None:
        """Goes on from a state."""
        self._next = _read_state(state, {"next"}, "packed lines")

    def __next__(self) -> Batch:
        batch, self._next = pack_samples(iterate_pieces(self._samples, self._next, self._shape[1]), *self._shape)
        return batch

    def __iter__(self) -> Iterator[Batch]:
        return self


class BudgetBatches:
    """Dynamic batches: samples of like length together, `budget // length` of them, so each batch costs the same.

    `lengths` are the shapes that may occur, so a step compiles once for each. A sample goes to the shortest that holds
    it; one that is longer than all comes in pieces.
    """

    def __init__(self, samples: Samples, *, budget: int, lengths: Sequence[int]):
        if not lengths or min(lengths) < 1 or budget < max(lengths):
            raise ConfigError(
                f"a budget of {budget} tokens does not hold one row of each of the lengths {list(lengths)}"
            )
        self._samples, self._budget, self._lengths = samples, budget, sorted(lengths)
        self._next, self._waiting = (0, 0), {length: [] for length in self._lengths}

    @property
    def state(self) -> dict:
        """What `restore` needs: the next place, and those of the samples that wait for their batch to fill."""
        waiting = {str(length): [list(place) for place in places] for length, places in self._waiting.items()}
        return {"next": list(self._next), "waiting": waiting}

    def restore(self, state: dict) -> None:
        """Goes on from a state."""
        self._next = _read_state(state, {"next", "waiting"}, "a token budget")
        waiting = {int(length): [tuple(place) for place in places] for length, places in state["waiting"].items()}
        if sorted(waiting) != self._lengths:
            raise ConfigError(f"the run was begun with lengths {sorted(waiting)}, and is to go on with {self._lengths}")
        self._waiting = waiting

    def __next__(self) -> Batch:
        while True:
            (tokens, _), place, self._next = find_next_piece(self._samples, self._next, self._lengths[-1])
            length = next(n for n in self._lengths if len(tokens) <= n)
            self._waiting[length].append(place)
            if len(self._waiting[length]) == self._budget // length:
                return self._batch(length)

    def _batch(self, length: int) -> Batch:
        places, self._waiting[length] = self._waiting[length], []
        batch = empty(len(places), length)
        for line, place in enumerate(places):
            put(batch, line, 0, 1, cut_piece(self._samples, place, self._lengths[-1])[0])
        return batch

    def __iter__(self) -> Iterator[Batch]:
        return self


def _read_state(state: dict, keys: set[str], what: str) -> Place:
    """The next place of a state, once it is known to be one of the same kind of batches."""
    if state.keys() != keys:
        raise ConfigError(f"the run was not begun with {what}; leave training.token_budget as it was, or begin anew")
    number, start = state["next"]
    return int(number), int(start)


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


def select_own_lines(batch: Batch) -> Batch:
    """The lines of a global batch that this process feeds."""
    mine = hosts.rows_of_process(batch.tokens.shape[0])
    return Batch(*(a[mine] for a in batch))
