"""Rows of tokens laid side by side into the fixed shapes that a compiled step wants. It knows no text and no model.

B rows, T positions. Several rows share a line as segments 1, 2, …; segment 0 is padding. A position predicts the next
token of its own segment, so the last of a segment predicts nothing.
"""

from collections.abc import Callable, Iterable, Iterator
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


Sample = tuple[list[int], list[float]]  # tokens, and the weight of each in the loss
Samples = Callable[[int], Sample]  # sample number -> tokens and weights
Place = tuple[int, int]  # in a stream of samples: a sample's number, and how many of its tokens come before


def empty(batch: int, length: int) -> Batch:
    """A batch of padding."""
    ints = [np.zeros((batch, length), np.int32) for _ in range(4)]
    return Batch(ints[0], ints[1], np.zeros((batch, length), np.float32), ints[2], ints[3])


def put(batch: Batch, line: int, start: int, segment: int, sample: Sample) -> None:
    """Writes one sample into a line of a batch, from `start` on."""
    tokens, weights = sample
    n = len(tokens)
    here = slice(start, start + n)
    batch.tokens[line, here] = tokens
    batch.targets[line, here] = [*tokens[1:], 0]
    batch.weights[line, here] = [*weights[1:], 0.0]
    batch.segments[line, here] = segment
    batch.positions[line, here] = np.arange(n)


def cut_piece(samples: Samples, place: Place, longest: int) -> tuple[Sample, Place]:
    """(at most `longest` tokens of a sample from a place on, the place after them).

    What is left of a longer sample comes next, after the last token again, so that every token is predicted once.
    """
    number, start = place
    tokens, weights = samples(number)
    end = start + longest
    after = (number, end - 1) if end < len(tokens) and longest > 1 else (number + 1, 0)
    return (tokens[start:end], weights[start:end]), after


def find_next_piece(samples: Samples, place: Place, longest: int) -> tuple[Sample, Place, Place]:
    """(the first `piece` from a place on that has anything to predict, its own place, the place after it).

    What has nothing to predict, such as an empty text or a part of a long prompt, would be computed in vain. Raises
    `DataError` where `MOST_EMPTY` rows on end are so.
    """
    first = place[0]
    while place[0] < first + MOST_EMPTY:
        part, after = cut_piece(samples, place, longest)
        if any(weight > 0 for weight in part[1][1:]):
            return part, place, after
        place = after
    raise DataError(
        f"{MOST_EMPTY:,} rows on end have nothing to predict; a row needs a text of two tokens or more, or a completion"
    )


def iterate_pieces(samples: Samples, place: Place, longest: int) -> Iterator[tuple[Sample, Place]]:
    """Every piece that has anything to predict from a place on, and the place after each."""
    while True:
        part, _, place = find_next_piece(samples, place, longest)
        yield part, place


def pack_samples(parts: Iterable[tuple[Sample, Place]], batch: int, length: int) -> tuple[Batch, Place | None]:
    """(batch, the place after what it took): first-fit, until a piece of at most `length` tokens fits on no line.

    What is taken depends on nothing but the pieces, so the place alone says where the next batch begins.
    """
    out, after = empty(batch, length), None
    used, segments = np.zeros(batch, np.int64), np.zeros(batch, np.int64)
    for sample, place in parts:
        fits = np.flatnonzero(used + len(sample[0]) <= length)
        if not len(fits):
            break
        line = fits[0]
        segments[line] += 1
        put(out, line, used[line], segments[line], sample)
        used[line] += len(sample[0])
        after = place
    return out, after
