"""What callers get back: rows as they grow on the host, stop strings found in them, and the figures of a call.

It knows neither arrays on devices nor a model.
"""

import dataclasses
from collections.abc import Callable

import numpy as np

from vishwamai.generation.programs import Stats
from vishwamai.generation.sampling import SamplingParams

Detokenize = Callable[[list[int]], str]


@dataclasses.dataclass(frozen=True)
class Generation:
    """The new tokens of each row, an end token included, their logprobs, and why each row ended.

    A row that ends with a stop string keeps the tokens that make it; `texts` (None without a `detokenize`) stops
    before it. `top_logprobs` has the likeliest tokens {id: logprob} beside each new one, where a row asked for them.
    `finish_reasons` are "stop" (an end token or a stop string) or "length". `scores` are those of beams, or None.
    """

    tokens: list[list[int]]
    logprobs: list[list[float]]
    top_logprobs: list[list[dict[int, float]]]
    finish_reasons: list[str]
    texts: list[str] | None
    stats: Stats
    scores: list[float] | None = None


@dataclasses.dataclass(frozen=True)
class Chunk:
    """What one row gained since the last look at it; `finish_reason` comes with its last chunk."""

    row: int
    tokens: list[int]
    logprobs: list[float]
    top_logprobs: list[dict[int, float]]
    finish_reason: str | None


@dataclasses.dataclass
class Row:
    """One row as the host knows it, growing."""

    index: int
    start: int  # tokens of the prompt
    params: SamplingParams
    tokens: list[int] = dataclasses.field(default_factory=list)
    logprobs: list[float] = dataclasses.field(default_factory=list)
    top_logprobs: list[dict[int, float]] = dataclasses.field(default_factory=list)
    reason: str | None = None
    text: str | None = None  # set where a stop string has cut it

    def grow(self, view, reason: str | None, detokenize: Detokenize | None) -> Chunk | None:
        """Takes up what is new in the device's arrays of this row; None if nothing is."""
        if self.reason is not None:
            return None
        known, begin = len(self.tokens), self.start + len(self.tokens)
        new = slice(begin, int(view.length[self.index]))
        self.tokens += view.tokens[self.index, new].tolist()
        self.logprobs += view.logprobs[self.index, new].tolist()
        if self.params.logprobs:
            pairs = zip(view.top_ids[self.index, new], view.top_logprobs[self.index, new], strict=True)
            n = self.params.logprobs
            self.top_logprobs += [dict(zip(i[:n].tolist(), v[:n].tolist(), strict=True)) for i, v in pairs]
        self.reason = reason
        if self.params.stop and detokenize is not None:
            self._cut(known, detokenize)
        parts = self.tokens[known:], self.logprobs[known:], self.top_logprobs[known:]
        return Chunk(self.index, *parts, self.reason) if parts[0] else None

    def _cut(self, known: int, detokenize: Detokenize) -> None:
        """Ends the row at the token that completes a stop string, if one does."""
        if find_stop(detokenize(self.tokens), self.params.stop) is None:
            return
        for n in range(known + 1, len(self.tokens) + 1):
            text = detokenize(self.tokens[:n])
            at = find_stop(text, self.params.stop)
            if at is not None:
                self.text, self.reason = text[:at], "stop"
                for part in (self.tokens, self.logprobs, self.top_logprobs):
                    del part[n:]
                return


def find_stop(text: str, stop: tuple[str, ...]) -> int | None:
    """Where the stop string begins that is complete first (of those that end together, the longest), or None."""
    ends = [(text.index(s) + len(s), -len(s)) for s in stop if s in text]
    return sum(min(ends)) if ends else None


def texts_of(rows: list[Row], detokenize: Detokenize | None) -> list[str] | None:
    """The rows as text, without stop strings."""
    if detokenize is None:
        return None
    return [detokenize(row.tokens) if row.text is None else row.text for row in rows]


def generation(rows: list[Row], detokenize: Detokenize | None, stats: Stats) -> Generation:
    """The finished rows as one value."""
    return Generation(
        tokens=[row.tokens for row in rows],
        logprobs=[row.logprobs for row in rows],
        top_logprobs=[row.top_logprobs for row in rows],
        finish_reasons=[str(row.reason) for row in rows],
        texts=texts_of(rows, detokenize),
        stats=stats,
    )


@dataclasses.dataclass(frozen=True)
class View:
    """The small arrays of the state, on the host."""

    tokens: np.ndarray
    logprobs: np.ndarray
    top_ids: np.ndarray
    top_logprobs: np.ndarray
    length: np.ndarray
    reason: np.ndarray
