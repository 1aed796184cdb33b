"""Batches by number: fixed lines packed full, or as many rows as a token budget allows. It knows no model.

A source gives sample i for any i, so a loader's whole state is a few integers: a run resumes in a fresh process
exactly where it stopped, and every host can make every batch and keep its own lines.
"""

import queue
import threading
from collections.abc import Callable, Iterator, Sequence

from vishwamai.data.packing import (
    Batch,
    Piece,
    Place,
    Samples,
    empty,
    find_next_piece,
    iterate_pieces,
    mark,
    pack_samples,
    put,
)
from vishwamai.errors import ConfigError
from vishwamai.parallel import hosts

Own = Callable[[int], slice]  # of so many lines, those whose tokens this process needs


def all_lines(n_lines: int) -> slice:
    """Every line."""
    return slice(0, n_lines)


class PackedBatches:
    """Batches of `batch` lines of `length` tokens, packed with whole samples; a longer one comes in pieces.

    The last batch has what is left. A state says how many samples have been taken and nothing of batches, so a run goes
    on exactly with batches of another size, or among other processes.
    """

    def __init__(self, samples: Samples, *, batch: int, length: int, own: Own = all_lines):
        self._samples, self._shape, self._own, self._next = samples, (batch, length), own(batch), (0, 0)

    @property
    def state(self) -> dict:
        """What `restore` needs: the place of the first token that no batch has taken."""
        return {"next": list(self._next)}

    def restore(self, state: dict) -> None:
        """Goes on from a state."""
        self._next = _read_state(state, {"next"}, "packed lines")

    def __next__(self) -> Batch:
        pieces = iterate_pieces(self._samples, self._next, self._shape[1])
        batch, after = pack_samples(self._samples, pieces, *self._shape, self._own)
        if after is None:
            raise StopIteration
        self._next = after
        return batch

    def __iter__(self) -> Iterator[Batch]:
        return self


class BudgetBatches:
    """Dynamic batches: samples of like length together, `budget // length` of them, so each batch costs the same.

    `lengths` are the shapes that may occur, so a step compiles once for each. A sample goes to the shortest that holds
    it; one that is longer than all comes in pieces. At the end of the samples each length has a last batch of what is
    left. A state holds the pieces that wait, so a run goes on exactly with another budget or other lengths too.
    """

    def __init__(self, samples: Samples, *, budget: int, lengths: Sequence[int], own: Own = all_lines):
        if not lengths or min(lengths) < 1 or budget < max(lengths):
            raise ConfigError(
                f"a budget of {budget} tokens does not hold one row of each of the lengths {list(lengths)}"
            )
        self._samples, self._budget, self._lengths, self._own = samples, budget, sorted(lengths), own
        self._next, self._waiting = (0, 0), {length: [] for length in self._lengths}

    @property
    def state(self) -> dict:
        """What `restore` needs: the next place, and the pieces of samples that wait for their batch to fill."""
        waiting = {str(length): [list(piece) for piece in pieces] for length, pieces in self._waiting.items()}
        return {"next": list(self._next), "waiting": waiting}

    def restore(self, state: dict) -> None:
        """Goes on from a state."""
        self._next = _read_state(state, {"next", "waiting"}, "a token budget")
        self._waiting = {length: [] for length in self._lengths}
        for length, pieces in state["waiting"].items():
            for number, start, *stop in pieces:  # states of the first version have no stop
                whole = self._samples.length(number)
                self._wait(Piece(number, start, stop[0] if stop else min(start + int(length), whole)))

    def _wait(self, piece: Piece) -> None:
        longest = self._lengths[-1]
        while piece.size > longest > 1:  # cut for longer ones: the last token of a piece is the next one's first
            self._wait(piece._replace(stop=piece.start + longest))
            piece = piece._replace(start=piece.start + longest - 1)
        self._waiting[next(n for n in self._lengths if piece.size <= n)].append(piece)

    def __next__(self) -> Batch:
        while True:
            for length in self._lengths:
                if len(self._waiting[length]) >= self._budget // length:
                    return self._batch(length)
            if (found := find_next_piece(self._samples, self._next, self._lengths[-1])) is None:
                break
            piece, self._next = found
            self._wait(piece)
        for length in self._lengths:
            if self._waiting[length]:
                return self._batch(length)
        raise StopIteration

    def _batch(self, length: int) -> Batch:
        n_lines = self._budget // length
        pieces, self._waiting[length] = self._waiting[length][:n_lines], self._waiting[length][n_lines:]
        batch, ours = empty(n_lines, length), range(n_lines)[self._own(n_lines)]
        for line, piece in enumerate(pieces):
            mark(batch, line, 0, 1, piece.size)
            if line in ours:
                put(batch, line, 0, piece.read(self._samples))
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
    """(batch, the state after it) made in a thread, `ahead` of whoever reads, to the end of the batches.

    An error there is raised here.
    """
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
            if isinstance(item, StopIteration):
                return
            if isinstance(item, BaseException):
                raise item
            yield item
    finally:
        stopped.set()


def select_own_lines(batch: Batch) -> Batch:
    """The lines of a global batch that this process feeds."""
    mine = hosts.rows_of_process(batch.tokens.shape[0])
    return Batch(*(a[mine] for a in batch))
