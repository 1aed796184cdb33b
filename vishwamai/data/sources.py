"""Rows of several sources in one order: what stands where, and where it ends. It knows no files and no tokens."""

import functools
import itertools
import math
import random
import sys
from collections.abc import Callable, Sequence

from vishwamai.data import generated
from vishwamai.data.forms import AnyRow
from vishwamai.errors import DataError

BLOCK = 10_000  # rows of a mixture: a share of 0.01% is one of them
STOPS = ("endless", "first_exhausted", "all_exhausted")

Rows = Callable[[int], AnyRow]


def from_generated(name: str, seed: int = 0, split: str = "train") -> Rows:
    """A generated corpus by name; it never ends."""
    generated.row_at(name, split, seed, 0)
    return functools.partial(generated.row_at, name, split, seed)


class Mixture:
    """Number i of a mixture -> (source, the number among that source's own), as Grain's selection maps do.

    Rows come in blocks. Every block holds the same number of rows of each source, its share of `BLOCK` rounded to a
    whole number and 1 at the least, in an order that depends on the seed and the block's number alone; so any row can
    be asked for without those before it. Over whole blocks the shares are exact where they are whole hundredths of a
    percent, and else within half a row in `BLOCK`. A source's own rows come in their order, none left out.

    `sizes` are the rows of a pass of each source, None where it never ends. The mixture ends with the row that ends
    the given number of passes of the first source that comes to it, or of the last; or it is endless.
    """

    def __init__(
        self,
        weights: Sequence[float],
        seed: int = 0,
        sizes: Sequence[int | None] = (),
        stop: str = "endless",
        epochs: int = 1,
    ):
        total = sum(weights)
        if not weights or not min(weights) >= 0 or not 0 < total < math.inf:
            raise DataError(f"a mixture needs weights of 0 or more that do not sum to 0, not {list(weights)}")
        self._seed = seed
        self._counts = [max(1, round(weight / total * BLOCK)) if weight else 0 for weight in weights]
        self._order = functools.lru_cache(maxsize=2)(self._make_order)
        ends = [
            self._find_place(k, size * epochs - 1) + 1
            for k, size in enumerate(sizes)
            if size is not None and self._counts[k]
        ]
        self.end = None if stop == "endless" or not ends else min(ends) if stop == "first_exhausted" else max(ends)

    def __len__(self) -> int:
        return sys.maxsize if self.end is None else self.end

    def __getitem__(self, i: int) -> tuple[int, int]:
        block, place = divmod(i, sum(self._counts))
        k, before = self._order(block)[place]
        return k, block * self._counts[k] + before

    def _make_order(self, block: int) -> list[tuple[int, int]]:
        """(source, how many of its rows come before in the block) of each row of a block."""
        turns = [k for k, count in enumerate(self._counts) for _ in range(count)]
        random.Random(f"mixture {self._seed} {block}").shuffle(turns)
        before = [itertools.count() for _ in self._counts]
        return [(k, next(before[k])) for k in turns]

    def _find_place(self, k: int, number: int) -> int:
        """Where a source's own row of that number stands."""
        block, before = divmod(number, self._counts[k])
        return block * sum(self._counts) + self._order(block).index((k, before))


def mix(parts: Sequence[tuple[Rows, float]], seed: int = 0) -> Rows:
    """Rows of several sources by weight, as a `Mixture` has them."""
    mixture = Mixture([weight for _, weight in parts], seed)

    def row(i: int) -> AnyRow:
        k, number = mixture[i]
        return parts[k][0](number)

    return row
