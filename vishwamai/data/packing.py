"""Rows of tokens laid side by side into the fixed shapes that a compiled step wants. It knows no text and no model.

B rows, T positions. Several rows share a line as segments 1, 2, …; segment 0 is padding. A position predicts the next
token of its own segment, so the last of a segment predicts nothing.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import NamedTuple

import numpy as np

from vishwamai.errors import DataError

MOST_EMPTY = 10_000  # rows


class Batch(NamedTuple):
    """What a training step reads, all `[B, T]`."""

    tokens: np.ndarray  # int32
    targets: np.ndarray  # int32, the next token
    weights: np.ndarray  # float32, the target's weight in the loss
    segments: np.ndarray  # int32, 0 for padding
    positions: np.ndarray  # int32, from 0 in each segment

    @property
    def fill(self) -> float:
        """The share of positions that are no padding."""
        return float((self.segments > 0).mean())


Sample = tuple[Sequence[int] | np.ndarray, Sequence[float] | np.ndarray]  # tokens, and the weight of each in the loss
Place = tuple[int, int]  # in a stream of samples: a sample's number, and how many of its tokens come before


class Samples:
    """A stream of samples by number. `end` is how many there are, None where they are endless.

    `lengths` says how many tokens sample i has, 0 of one without anything to predict, where that is known without the
    sample, so that a process need not read what others feed.
    """

    def __init__(
        self, read: Callable[[int], Sample], lengths: Callable[[int], int] | None = None, end: int | None = None
    ):
        self.read, self.end, self.length = read, end, self._measure if lengths is None else lengths

    def _measure(self, number: int) -> int:
        tokens, weights = self.read(number)
        return len(tokens) if has_target(weights) else 0


class Piece(NamedTuple):
    """Tokens `start` to `stop` of a sample."""

    number: int
    start: int
    stop: int

    @property
    def size(self) -> int:
        return self.stop - self.start

    def read(self, samples: Samples) -> Sample:
        """Its tokens and their weights."""
        tokens, weights = samples.read(self.number)
        return tokens[self.start : self.stop], weights[self.start : self.stop]


def has_target(weights: Sequence[float] | np.ndarray) -> bool:
    """Whether there is anything to predict: the first of a segment is not predicted."""
    return bool(np.any(np.asarray(weights[1:]) > 0))


def empty(batch: int, length: int) -> Batch:
    """A batch of padding."""
    ints = [np.zeros((batch, length), np.int32) for _ in range(4)]
    return Batch(ints[0], ints[1], np.zeros((batch, length), np.float32), ints[2], ints[3])


def mark(batch: Batch, line: int, start: int, segment: int, size: int) -> None:
    """Says that a segment of that size is in a line of a batch, from `start` on."""
    here = slice(start, start + size)
    batch.segments[line, here] = segment
    batch.positions[line, here] = np.arange(size)


def put(batch: Batch, line: int, start: int, sample: Sample) -> None:
    """Writes one sample into a line of a batch, from `start` on."""
    tokens, weights = sample
    end = start + len(tokens)
    batch.tokens[line, start:end] = tokens
    batch.targets[line, start : end - 1] = tokens[1:]
    batch.weights[line, start : end - 1] = weights[1:]


def find_next_piece(samples: Samples, place: Place, longest: int) -> tuple[Piece, Place] | None:
    """(the first piece of at most `longest` tokens from a place on that has anything to predict, the place after it).

    What is left of a longer sample comes next, after the last token again, so that every token is predicted once. What
    has nothing to predict, such as an empty text or a part of a long prompt, would be computed in vain. None at the end
    of the samples; raises `DataError` where `MOST_EMPTY` rows on end are so.
    """
    first = place[0]
    while place[0] < first + MOST_EMPTY:
        number, start = place
        if samples.end is not None and number >= samples.end:
            return None
        length = samples.length(number)
        piece = Piece(number, start, min(start + longest, length))
        place = (number, piece.stop - 1) if piece.stop < length and longest > 1 else (number + 1, 0)
        if length and (piece.size == length or has_target(piece.read(samples)[1])):
            return piece, place
    raise DataError(
        f"{MOST_EMPTY:,} rows on end have nothing to predict; a row needs a text of two tokens or more, or a completion"
    )


def iterate_pieces(samples: Samples, place: Place, longest: int) -> Iterator[tuple[Piece, Place]]:
    """Every piece that has anything to predict from a place on, and the place after each."""
    while (found := find_next_piece(samples, place, longest)) is not None:
        yield found
        place = found[1]


def pack_samples(
    samples: Samples, pieces: Iterable[tuple[Piece, Place]], batch: int, length: int, own: slice = slice(None)
) -> tuple[Batch, Place | None]:
    """(batch, the place after what it took): first-fit, until a piece of at most `length` tokens fits on no line.

    What is taken depends on nothing but the pieces' sizes, so the place alone says where the next batch begins. Of
    lines that are not our `own` it is said where segments are, but nothing of them is read. The place is None where
    there was nothing to take.
    """
    out, after, ours = empty(batch, length), None, range(batch)[own]
    used, segments = np.zeros(batch, np.int64), np.zeros(batch, np.int64)
    for piece, place in pieces:
        fits = np.flatnonzero(used + piece.size <= length)
        if not len(fits):
            break
        line = int(fits[0])
        segments[line] += 1
        mark(out, line, used[line], segments[line], piece.size)
        if line in ours:
            put(out, line, used[line], piece.read(samples))
        used[line] += piece.size
        after = place
    return out, after
