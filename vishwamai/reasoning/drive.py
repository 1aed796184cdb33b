"""Runs many searches in step: what they ask for at the same time becomes one call of the model.

A search is a Python generator that yields a `Request` and is sent the replies; `ask`, `ask_scores` and `ask_features`
do so within a budget. So an algorithm is written for one problem, and the branches of a level of all problems are one
batch.
"""

import dataclasses
import itertools
import math
from collections.abc import Callable, Generator, Mapping, Sequence
from typing import Any, Literal, TypeVar

import numpy as np

from vishwamai.errors import BackendError, InputError
from vishwamai.generation.sampling import SamplingParams
from vishwamai.reasoning.budget import Budget, BudgetExhausted, cap
from vishwamai.reasoning.model import Completion, Model, Prompt
from vishwamai.reasoning.solution import Solution, failed_solution
from vishwamai.reasoning.task import Notes

T = TypeVar("T")
FAILURES = (BackendError, InputError)  # of a model: it cannot be reached, or a prompt does not fit
SHARED_DEADLINE = 0.1  # seconds: requests whose deadlines are as close share a call, which ends at the first of them


@dataclasses.dataclass(frozen=True)
class Request:
    """What a search wants of one of the model's methods: a reply for each row. Requests may be joined to one call."""

    method: Literal["generate", "score", "features"]
    rows: tuple[tuple[Any, ...], ...]  # (prompt, n, seed), (prompt, continuations) or (prompt,)
    deadline: float | None = None
    sampling: Any = None  # `SamplingParams`, of "generate" alone


# A search yields requests, is sent the replies, and returns a T. It yields None to wait for the calls under way.
Search = Generator[Request | None, Any, T]


def ask(
    budget: Budget, prompts: Sequence[Prompt], n: Sequence[int], sampling: SamplingParams, seeds: Sequence[int]
) -> Search[list[list[Completion]]]:
    """Continuations of each prompt, inside the budget: fewer or shorter ones where it does not hold all.

    The last prompts are the first to have fewer. Raises `BudgetExhausted`, and `BackendError` where a model gives none
    at all.
    """
    if not any(n):
        return [[] for _ in prompts]
    yield from wait_for_tokens(budget, sum(n) * (sampling.max_tokens or math.inf))
    budget.check()
    counts, shortened = _afford(n, sampling, budget.remaining("tokens"))
    asked = [i for i, count in enumerate(counts) if count]
    rows = tuple((prompts[i], counts[i], seeds[i]) for i in asked)
    budget.spend(calls=1)
    with budget.reserve(sum(counts) * (shortened.max_tokens or 0)):
        replies = yield Request("generate", rows, budget.deadline, shortened)
    completions = [completion for reply in replies for completion in reply]
    budget.spend(tokens=sum(completion.tokens for completion in completions))
    if not completions:
        if budget.deadline is not None:
            raise BudgetExhausted("seconds")
        raise BackendError("the model gave no completion; look at what it was asked, or at the server's log")
    is_cut = any(completion.finish_reason == "length" for completion in completions)
    if sum(counts) < sum(n) or (is_cut and shortened != sampling):
        budget.truncated_by = "tokens"
    elif is_cut and budget.remaining("seconds") <= 0:
        budget.truncated_by = "seconds"
    by_prompt = dict(zip(asked, replies, strict=True))
    return [by_prompt.get(i, []) for i in range(len(prompts))]


def wait_for_tokens(budget: Budget, tokens: float) -> Search[None]:
    """Waits while calls of other searches hold tokens that are wanted here and that they may give back."""
    while budget.remaining("tokens") < min(tokens, budget.remaining("tokens", with_reserved=True)):
        yield None


def _afford(n: Sequence[int], sampling: SamplingParams, tokens: float) -> tuple[list[int], SamplingParams]:
    """How many continuations of each prompt, and how long, so that all are inside so many tokens."""
    if tokens == math.inf:
        return list(n), sampling
    longest = int(min(sampling.max_tokens or tokens, tokens))
    return cap(n, tokens // longest), dataclasses.replace(sampling, max_tokens=longest)


def ask_scores(
    budget: Budget, prompts: Sequence[Prompt], continuations: Sequence[Sequence[str]]
) -> Search[list[list[float]]]:
    """Log-probabilities of each prompt's continuations: a call of the budget. Raises `BudgetExhausted`."""
    budget.check()
    budget.spend(calls=1)
    rows = zip(prompts, map(tuple, continuations), strict=True)
    return (yield Request("score", tuple(rows), budget.deadline))


def ask_features(budget: Budget, prompts: Sequence[Prompt]) -> Search[list[np.ndarray]]:
    """The residuals `[D]` after each prompt: a call of the budget. Raises `BudgetExhausted`.

    Raises `InputError` for a model that does not show them, as endpoints do not.
    """
    budget.check()
    budget.spend(calls=1)
    return (yield Request("features", tuple((prompt,) for prompt in prompts), budget.deadline))


def run_until_stopped(
    search: Search[None], budget: Budget, notes: Notes, has_results: Callable[[], bool]
) -> Search[str | None]:
    """Runs a search to its end, or until a limit or a failing model ends it. Returns what ended it early, or None.

    A failure after the time is up counts as the time's end, and is noted. Another is raised where there are no results.
    """
    try:
        yield from search
    except BudgetExhausted as error:
        return error.limit
    except FAILURES as error:
        if budget.remaining("seconds") <= 0:  # a model that gives nothing in time fails
            notes.add(str(error))
            return "seconds"
        if not has_results():
            raise
        return str(error)
    return None


def solve_all(
    model: Model,
    problems: Sequence[str],
    search: Callable[[str, Budget], Search[Solution]],
    method: str,
    budget: Budget | None = None,
    each: Mapping[str, float] | None = None,
) -> list[Solution]:
    """The solutions of a search for each problem, in step, in one budget; `each` has the limits of every problem.

    A problem whose search fails has a solution that says so, without an answer.
    """
    budget = budget or Budget()
    searches = [search(problem, budget.sub_budget(**(each or {}))) for problem in problems]
    return run(model, searches, lambda i, error: failed_solution(problems[i], method, error))


def run(model: Model, searches: Sequence[Search[T]], on_error: Callable[[int, Exception], T] | None = None) -> list[T]:
    """The results of all searches.

    An error of `FAILURES` is raised inside the searches whose call it ended, so that they can give what they have.
    Where one of several ends in an error, a model's or a task's, its result is `on_error(number, error)`, so that the
    others' are not lost.
    """
    results: dict[int, T] = {}
    errors: dict[int, Exception] = {}
    pending: dict[int, Request | None] = {}

    def resume(i: int, reply: Any) -> None:
        """Runs a search to its next request or its end. A reply of None starts it; an error is raised inside it."""
        try:
            pending[i] = searches[i].throw(reply) if isinstance(reply, Exception) else searches[i].send(reply)
        except StopIteration as end:
            results[i] = end.value
        except Exception as error:
            if on_error is None or reply is None:  # a problem that cannot be read is refused before any call
                raise
            errors[i] = error

    for i in range(len(searches)):
        resume(i, None)
    while pending:
        asked = dict(sorted(pending.items()))
        pending.clear()
        requests = {i: request for i, request in asked.items() if request is not None}
        for group in _groups(requests):
            for i, reply in zip(group, _replies(model, [requests[i] for i in group]), strict=True):
                resume(i, reply)
        for i in asked:
            if i not in requests:
                resume(i, "the calls have ended")
    if errors and not results:
        raise next(iter(errors.values()))
    return [results[i] if on_error is None or i in results else on_error(i, errors[i]) for i in range(len(searches))]


def _groups(requests: dict[int, Request]) -> list[list[int]]:
    """The requests that can be one call: to one method, drawn in the same way, and with deadlines that are close."""
    deadlines = {i: math.inf if request.deadline is None else request.deadline for i, request in requests.items()}
    groups: dict[Any, list[list[int]]] = {}
    for i in sorted(requests, key=deadlines.__getitem__):
        alike = groups.setdefault((requests[i].method, requests[i].sampling), [])
        if not alike or deadlines[i] > deadlines[alike[-1][0]] + SHARED_DEADLINE:
            alike.append([])
        alike[-1].append(i)
    return [sorted(group) for alike in groups.values() for group in alike]


def _replies(model: Model, requests: list[Request]) -> list[Any]:
    """The reply to each request, or the error that ended it. What is wrong with one request does not end the others."""
    try:
        return _call(model, requests)
    except BackendError as error:
        return [error] * len(requests)
    except InputError as error:
        if len(requests) == 1:
            return [error]
        return [reply for request in requests for reply in _replies(model, [request])]


def _call(model: Model, requests: list[Request]) -> list[list[Any]]:
    """The replies to requests that can be one call, each its own part of it."""
    first = requests[0]
    deadline = min((request.deadline for request in requests if request.deadline is not None), default=None)
    columns = [list(column) for column in zip(*(row for request in requests for row in request.rows), strict=True)]
    match first.method:
        case "generate":
            prompts, n, seeds = columns
            replies = model.generate(prompts, n, first.sampling, seeds, deadline=deadline)
        case "score":
            replies = model.score(*columns, deadline=deadline)
        case "features":
            if (features := getattr(model, "features", None)) is None:
                kind = type(model).__name__
                wanted = "take other values, or a local model"
                raise InputError(f"a {kind} shows no residuals, which a learned head reads: {wanted}")
            replies = features(*columns)
    left = iter(replies)
    return [list(itertools.islice(left, len(request.rows))) for request in requests]
