"""Runs many searches in step: what they ask for at the same time becomes one call of the model.

A search is a Python generator that yields requests (`GenerateRequest`, `ScoreRequest`, `FeaturesRequest`) and is sent
the replies; `ask`, `ask_scores` and `ask_features` do so within a budget. So a strategy is written for one problem, and
the branches of a level of all problems are one batch.
"""

import dataclasses
import itertools
import math
from collections.abc import Callable, Generator, Sequence
from typing import Any, TypeVar

import numpy as np

from vishwamai.errors import BackendError, InputError
from vishwamai.generation.sampling import SamplingParams
from vishwamai.reasoning.budget import Budget, Spent
from vishwamai.reasoning.model import Completion, Model, Prompt

T = TypeVar("T")
FAILURES = (BackendError, InputError)  # of a model: it cannot be reached, or a prompt does not fit
TOGETHER = 0.1  # seconds: searches whose deadlines are as close share a call, which ends at the first of them


@dataclasses.dataclass(frozen=True)
class GenerateRequest:
    """Continuations wanted: `n[i]` of prompt i."""

    prompts: tuple[Prompt, ...]
    n: tuple[int, ...]
    sampling: SamplingParams
    seeds: tuple[int, ...]
    deadline: float | None = None


@dataclasses.dataclass(frozen=True)
class ScoreRequest:
    """Log-probabilities wanted of the continuations of each prompt."""

    prompts: tuple[Prompt, ...]
    continuations: tuple[tuple[str, ...], ...]
    deadline: float | None = None


@dataclasses.dataclass(frozen=True)
class FeaturesRequest:
    """The residuals wanted after each prompt."""

    prompts: tuple[Prompt, ...]
    deadline: float | None = None


@dataclasses.dataclass(frozen=True)
class Wait:
    """Nothing is wanted before the calls that are under way have ended."""


Request = GenerateRequest | ScoreRequest | FeaturesRequest
Search = Generator[Request | Wait, Any, T]


def ask(
    budget: Budget, prompts: Sequence[Prompt], n: Sequence[int], sampling: SamplingParams, seeds: Sequence[int]
) -> Search[list[list[Completion]]]:
    """Continuations inside the budget: fewer of them, or shorter ones, where it does not hold all. Raises `Spent`.

    A prompt may come back with fewer completions than were asked for, the last prompts first. Raises `BackendError`
    where a model gives none at all.
    """
    yield from room(budget, sum(n) * (sampling.max_tokens or math.inf) if any(n) else 0)
    budget.check()
    many, how = _afforded(n, sampling, budget.left("tokens"))
    asked = [i for i, wanted in enumerate(many) if wanted]
    if not asked:
        return [[] for _ in prompts]
    held = 0 if how.max_tokens is None else sum(many) * how.max_tokens
    budget.spend(calls=1)
    budget.hold(held)  # the most it can be, so that searches in one budget do not overdraw it together
    parts = tuple(prompts[i] for i in asked), tuple(many[i] for i in asked), how, tuple(seeds[i] for i in asked)
    made = 0
    try:
        found = yield GenerateRequest(*parts, budget.deadline)
        made = sum(c.tokens for row in found for c in row)
    finally:
        budget.hold(-held)
        budget.spend(tokens=made)
    if not any(found):
        if budget.deadline is not None:
            raise Spent("seconds")
        raise BackendError("the model gave no completion; look at what it was asked, or at the server's log")
    cut = any(c.finish_reason == "length" for row in found for c in row)
    if sum(many) < sum(n) or (cut and how != sampling):
        budget.short = "tokens"
    elif cut and budget.left("seconds") <= 0:
        budget.short = "seconds"
    out: list[list[Completion]] = [[] for _ in prompts]
    for i, row in zip(asked, found, strict=True):
        out[i] = row
    return out


def room(budget: Budget, tokens: float) -> Search[None]:
    """Waits while other searches in the budget hold tokens that are wanted here and that they may give back."""
    while budget.left("tokens") < min(tokens, budget.left("tokens", held=True)):
        yield Wait()


def _afforded(n: Sequence[int], sampling: SamplingParams, left: float) -> tuple[list[int], SamplingParams]:
    """How many of each, and how long, so that all are inside `left` tokens."""
    if left == float("inf"):
        return list(n), sampling
    longest = int(left) if sampling.max_tokens is None else min(sampling.max_tokens, int(left))
    many, room = [], int(left // longest)
    for wanted in n:
        many.append(min(wanted, room))
        room -= many[-1]
    return many, dataclasses.replace(sampling, max_tokens=longest)


def ask_scores(
    budget: Budget, prompts: Sequence[Prompt], continuations: Sequence[Sequence[str]]
) -> Search[list[list[float]]]:
    """Log-probabilities, inside the budget, of which they spend a call and no tokens. Raises `Spent`."""
    budget.check()
    budget.spend(calls=1)
    return (yield ScoreRequest(tuple(prompts), tuple(map(tuple, continuations)), budget.deadline))


def ask_features(budget: Budget, prompts: Sequence[Prompt]) -> Search[list[np.ndarray]]:
    """The residuals `[D]` after each prompt, inside the budget, of which they spend a call. Raises `Spent`.

    Raises `InputError` for a model that does not show them, as endpoints do not.
    """
    budget.check()
    budget.spend(calls=1)
    return (yield FeaturesRequest(tuple(prompts), budget.deadline))


def run(model: Model, searches: Sequence[Search[T]], failed: Callable[[int, Exception], T] | None = None) -> list[T]:
    """The results of all searches.

    An error of `FAILURES` is raised inside the searches whose call it ended, so that they can give what they have.
    Where one of several ends in an error, a model's or a task's, its result is `failed(number, error)`, so that the
    others' are not lost.
    """
    results: dict[int, T] = {}
    errors: dict[int, Exception] = {}
    waiting: dict[int, Request | Wait] = {}

    def step(i: int, reply: Any, error: Exception | None = None) -> None:
        waiting.pop(i, None)
        try:
            waiting[i] = searches[i].throw(error) if error is not None else searches[i].send(reply)
        except StopIteration as end:
            results[i] = end.value
        except Exception as own:
            if failed is None or (error is None and reply is None):  # a problem that cannot be read begins nothing
                raise
            errors[i] = own

    for i in range(len(searches)):
        step(i, None)
    while waiting:
        asking = {i: request for i, request in sorted(waiting.items()) if not isinstance(request, Wait)}
        patient = sorted(waiting.keys() - asking.keys())
        for group in _groups(asking):
            for i, (reply, error) in zip(group, _replies(model, [asking[i] for i in group]), strict=True):
                step(i, reply, error)
        for i in patient:
            step(i, "go on")
    if errors and not results:
        raise next(iter(errors.values()))
    return [results[i] if failed is None or i in results else failed(i, errors[i]) for i in range(len(searches))]


def _replies(model: Model, asked: list[Any]) -> list[tuple[Any, Exception | None]]:
    """The reply to each request, or the error that ended it. What one request has wrong does not end the others."""
    try:
        return [(reply, None) for reply in _call(model, asked)]
    except BackendError as error:
        return [(None, error)] * len(asked)
    except InputError as error:
        if len(asked) == 1:
            return [(None, error)]
        return [_replies(model, [request])[0] for request in asked]


def _groups(asking: dict[int, Request]) -> list[list[int]]:
    """The searches whose requests can be one call: of one kind, drawn in the same way, and to end at the same time."""
    groups: dict[Any, list[int]] = {}
    for i, request in asking.items():
        how = request.sampling if isinstance(request, GenerateRequest) else None
        groups.setdefault((type(request), how, request.deadline is None), []).append(i)
    return [part for group in groups.values() for part in _by_deadline(group, asking)]


def _by_deadline(group: list[int], asking: dict[int, Request]) -> list[list[int]]:
    """A group in parts whose deadlines are close, so that none is late and none is cut off for another."""
    parts: list[list[int]] = []
    begins = math.inf
    for end, i in sorted((asking[i].deadline or 0.0, i) for i in group):
        if not parts or end > begins + TOGETHER:
            parts.append([])
            begins = end
        parts[-1].append(i)
    return [sorted(part) for part in parts]


def _call(model: Model, asked: list[Any]) -> list[list[Any]]:
    """The replies to requests of one kind, each its own part of one call."""
    deadline = min((request.deadline for request in asked if request.deadline is not None), default=None)
    prompts = [prompt for request in asked for prompt in request.prompts]
    replies: Any
    if isinstance(asked[0], FeaturesRequest):
        replies = _residuals(model, prompts)
    elif isinstance(asked[0], ScoreRequest):
        continuations = [c for request in asked for c in request.continuations]
        replies = model.score(prompts, continuations, deadline=deadline)
    else:
        n = [many for request in asked for many in request.n]
        seeds = [seed for request in asked for seed in request.seeds]
        replies = model.generate(prompts, n, asked[0].sampling, seeds, deadline=deadline)
    ends_at = list(itertools.accumulate(len(request.prompts) for request in asked))
    return [replies[end - len(request.prompts) : end] for request, end in zip(asked, ends_at, strict=True)]


def _residuals(model: Model, prompts: list[Prompt]) -> np.ndarray:
    features = getattr(model, "features", None)
    if features is None:
        kind = type(model).__name__
        raise InputError(
            f"a {kind} shows no residuals, which a learned head reads: take other values, or a local model"
        )
    return features(prompts)
