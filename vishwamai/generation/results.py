"""What callers get back: rows as they grow on the host, cut at a stop string, and the figures of a call.

Of text it knows only whether it has come to a stop string.
"""

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any, Protocol

import jax
import numpy as np

from vishwamai.errors import InputError
from vishwamai.generation.programs import Stats
from vishwamai.generation.sampling import SamplingParams


class StopChecker(Protocol):
    """Looks for stop strings in a row's new tokens as they come; `text.continuation.Continuation` is one."""

    @property
    def stopped(self) -> bool:
        """Whether the tokens so far complete a stop string."""
        ...

    def push(self, tokens: Sequence[int], *, last: bool = False) -> Any:
        """Takes the next tokens; `last` where no more will come."""
        ...


MakeStopChecker = Callable[[Sequence[int], Sequence[str]], StopChecker]  # of a prompt's ids and stop strings


@dataclasses.dataclass(frozen=True)
class Generation:
    """The new tokens of each row, an end token included, their logprobs, and why each row ended.

    A row that ends with a stop string keeps the tokens that make it. `top_logprobs` has the likeliest tokens
    {id: logprob} beside each new one, where a row asked for them. `finish_reasons` are "stop" (an end token or a stop
    string) or "length". `scores` are those of beams, or None.
    """

    tokens: list[list[int]]
    logprobs: list[list[float]]
    top_logprobs: list[list[dict[int, float]]]
    finish_reasons: list[str]
    stats: Stats
    scores: list[float] | None = None


@dataclasses.dataclass(frozen=True)
class RowChunk:
    """What one row gained since the last look at it; `finish_reason` comes with its last chunk."""

    tokens: list[int]
    logprobs: list[float]
    top_logprobs: list[dict[int, float]]
    finish_reason: str | None


@dataclasses.dataclass
class GeneratedRow:
    """One row as the host knows it, growing."""

    index: int
    prompt_length: int
    params: SamplingParams
    tokens: list[int] = dataclasses.field(default_factory=list)
    logprobs: list[float] = dataclasses.field(default_factory=list)
    top_logprobs: list[dict[int, float]] = dataclasses.field(default_factory=list)
    reason: str | None = None
    stop_checker: StopChecker | None = None  # of rows with stop strings

    def append(self, state: "HostState", index: int, new: slice, reason: str | None) -> RowChunk | None:
        """Takes up the tokens at `new` of a state's row; `reason` says why the row has ended, None where it goes on.

        Returns what was gained, or None where nothing was.
        """
        if self.reason is not None:
            return None
        known = len(self.tokens)
        self.tokens += state.tokens[index, new].tolist()
        self.logprobs += state.logprobs[index, new].tolist()
        if n := self.params.logprobs:
            ids, values = state.top_ids[index, new, :n].tolist(), state.top_logprobs[index, new, :n].tolist()
            self.top_logprobs += [dict(zip(*pair, strict=True)) for pair in zip(ids, values, strict=True)]
        self.reason = reason
        if self.stop_checker is not None:
            self._cut(known, self.stop_checker)
        parts = self.tokens[known:], self.logprobs[known:], self.top_logprobs[known:]
        return RowChunk(*parts, self.reason) if parts[0] else None

    def _cut(self, known: int, stop_checker: StopChecker) -> None:
        """Ends the row at the token that completes a stop string, if one does."""
        for n in range(known + 1, len(self.tokens) + 1):
            stop_checker.push(self.tokens[n - 1 : n], last=self.reason is not None and n == len(self.tokens))
            if stop_checker.stopped:
                self.reason = "stop"
                for part in (self.tokens, self.logprobs, self.top_logprobs):
                    del part[n:]
                return


def make_rows(
    prompts: Sequence[Sequence[int]], params: Sequence[SamplingParams], make_stop_checker: MakeStopChecker | None
) -> list[GeneratedRow]:
    """Returns rows with nothing made yet. Raises `InputError` for stop strings where nothing makes text."""
    rows = []
    for i, (prompt, own) in enumerate(zip(prompts, params, strict=True)):
        row = GeneratedRow(index=i, prompt_length=len(prompt), params=own)
        if own.stop:
            if make_stop_checker is None:
                raise InputError("stop strings need a tokenizer, and there is none here; use stop_token_ids")
            row.stop_checker = make_stop_checker(prompt, own.stop)
        rows.append(row)
    return rows


def generation(rows: list[GeneratedRow], stats: Stats) -> Generation:
    """The finished rows as one value."""
    return Generation(
        tokens=[row.tokens for row in rows],
        logprobs=[row.logprobs for row in rows],
        top_logprobs=[row.top_logprobs for row in rows],
        finish_reasons=[str(row.reason) for row in rows],
        stats=stats,
    )


@dataclasses.dataclass(frozen=True)
class HostState:
    """The small arrays of rows that are decoded, on the host.

    Of a `DecodeState` token p of a row stands at index p, and `length` counts the prompt; of `NewTokens` the first new
    token stands at index 0.
    """

    tokens: np.ndarray
    logprobs: np.ndarray
    top_ids: np.ndarray
    top_logprobs: np.ndarray
    length: np.ndarray
    reason: np.ndarray


def fetch_state(state: Any) -> HostState:
    """Fetches what the host needs of a `DecodeState`, or of the prefix cache's `NewTokens`."""
    names = [field.name for field in dataclasses.fields(HostState)]
    return HostState(**jax.device_get({name: getattr(state, name) for name in names}))
