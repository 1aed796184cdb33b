"""`IntegratedReasoning`: answers at once, thinks, or searches, as hard as the problem turns out to be.

How hard it is, is measured on a few samples: whether a program calls one of them right, and without a program whether
they agree. Every stage spends from one budget, and the best answer so far is there whenever it ends.
"""

import collections
import dataclasses
import math
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from typing import Any

from vishwamai.checks import check_whole
from vishwamai.errors import InputError
from vishwamai.reasoning.answers import canonical, vote
from vishwamai.reasoning.budget import Budget
from vishwamai.reasoning.chain import ChainOfThought, distinct_answers
from vishwamai.reasoning.drive import FAILURES, Search, run, solve_all
from vishwamai.reasoning.local import as_model
from vishwamai.reasoning.memory import ThoughtMemory
from vishwamai.reasoning.model import Model, seed_of
from vishwamai.reasoning.solution import Solution
from vishwamai.reasoning.task import Task
from vishwamai.reasoning.tasks import task_of
from vishwamai.reasoning.trace import Thought, Trace
from vishwamai.reasoning.tree import TreeOfThoughts

APPROACHES = ("auto", "hybrid", "cot", "tot")
FIRST_DEPTH, MAX_DEPTH = 3, 12  # of the searches for a problem of which nobody knows how deep it goes


class IntegratedReasoning:
    """Chains and trees by one name.

    `solve(approach=...)`: "cot" thinks once, and in more chains where a program refutes the answer; "tot" searches;
    "hybrid" thinks once, where no program can tell `samples` times more, and searches where the answer is refuted or
    the samples do not agree; "auto" asks for answers without steps first, then thinks, once and `samples` times, and
    goes on while the answers are refuted or do not agree. It ends with the way that the task prefers: a search in
    `rounds`, or up to `most_chains` more chains. Samples agree where the largest share of equal answers is at least
    `agreement`, and the answers' entropy at most `most_entropy` nats: of ten, six alike and four others have 1.23, six
    and four alike 0.67.

    An answer that a program calls right is submitted. Where none can tell, it is that of the stage which most samples
    of all stages agree with, and `confidence` is their share; a search then has one round, for it would not know when
    to stop, and each of its answers counts as a sample. `stages` says what was done, with tokens and agreement.
    """

    def __init__(
        self,
        model: Any,
        *,
        task: Task | str = "text",
        samples: int = 3,
        agreement: float = 1.0,
        most_entropy: float = math.inf,
        temperature: float = 1.0,
        max_branches: int = 3,
        beam_width: int = 5,
        rounds: int = 8,
        most_chains: int = 32,
        search: str = "breadth",
        memory: ThoughtMemory | None = None,
        seed: int = 0,
    ):
        if not 0 < agreement <= 1:
            raise InputError(f"agreement is {agreement!r}; it must be a share above 0 and at most 1")
        if not most_entropy >= 0:
            raise InputError(f"most_entropy is {most_entropy!r}; it must be a number of nats, 0 or more")
        self.model: Model = as_model(model)
        self.task, self.agreement, self.most_entropy, self.seed = task_of(task), agreement, most_entropy, seed
        self.samples, self.most_chains = check_whole("samples", samples, 1), check_whole("most_chains", most_chains, 1)
        self.temperature, self.rounds = temperature, rounds
        self._tree = {"max_branches": max_branches, "beam_width": beam_width, "search": search, "memory": memory}
        self._search(FIRST_DEPTH, rounds)  # refuses what is out of range

    def solve(
        self, problem: str, approach: str = "auto", max_depth: int | None = None, *, budget: Budget | None = None
    ) -> Solution:
        """The answer to one problem. `max_depth` bounds a search's steps (None: as many as the task has, else 12).

        Where the task does not know its depth, a search is as deep as the chains were long, and then deeper.
        """
        return run(self.model, [self.search(problem, budget or Budget(), approach, max_depth)])[0]

    def solve_all(
        self,
        problems: Sequence[str],
        approach: str = "auto",
        max_depth: int | None = None,
        *,
        budget: Budget | None = None,
        each: Mapping[str, float] | None = None,
    ) -> list[Solution]:
        """The answers to many problems in one budget; `each` has the limits of every problem."""
        search = partial(self.search, approach=approach, max_depth=max_depth)
        return solve_all(self.model, problems, search, approach, budget, each)

    def search(
        self, problem: str, budget: Budget, approach: str = "auto", max_depth: int | None = None
    ) -> Search[Solution]:
        """The stages as a generator, to be run by `drive.run`."""
        if approach not in APPROACHES:
            raise InputError(f"there is no approach {approach!r}; there are {', '.join(APPROACHES)}")
        max_depth = check_whole("max_depth", max_depth, 1, optional=True)
        self.task.read(problem)
        budget = budget.sub_budget()  # what is spent in it is the problem's own
        found: list[Solution] = []
        stages: list[str] = []
        stopped = None
        for solver in self._stages(problem, approach, max_depth, found):
            own = budget.sub_budget()
            try:
                found.append((yield from solver.search(problem, own)))
            except FAILURES as error:
                if not found:
                    raise
                stages.append(f"{solver.method}: {own.spent['tokens']} tokens, then an error")
                stopped = str(error)
                break
            stages.append(_describe(found[-1]))
            stopped = found[-1].stopped
            if stopped is not None or self.is_settled(found[-1]):
                break
        return _combine(found, budget, stages, stopped)

    def is_settled(self, found: Solution) -> bool:
        """Whether an answer can be submitted: a program calls it right, or none can tell and the samples agree."""
        if found.answer is None or found.verified is not None:
            return bool(found.verified)
        share, entropy = measure_agreement(found.samples)
        return len(found.samples) > 1 and share >= self.agreement and entropy <= self.most_entropy

    def _stages(
        self, problem: str, approach: str, max_depth: int | None, found: Sequence[Solution]
    ) -> Iterator[ChainOfThought | TreeOfThoughts]:
        """The solvers to try, cheapest first, until an answer is settled; `found` has what those before came to."""
        drawn = {"temperature": self.temperature, "choose": "best"}
        direct = self._chains("at once", samples=self.samples, direct=True, **drawn)
        once = self._chains("once")
        several = self._chains("several", samples=self.samples, **drawn)
        more = self._chains("more", samples=self.most_chains, wave=self.samples, **drawn)
        searches = self._searches(problem, max_depth, found)
        match approach:
            case "cot":
                yield once
                if not _is_unjudged(found[-1]):
                    yield more
            case "tot":
                yield from searches
            case "hybrid":
                yield once
                if self.samples > 1 and found[-1].verified is None:
                    yield several
                yield from searches
            case "auto":
                if self.task.at_once:
                    yield direct
                yield once
                if self.samples > 1:
                    yield several
                yield from [more] if self.task.prefers == "samples" else searches

    def _searches(self, problem: str, max_depth: int | None, found: Sequence[Solution]) -> Iterator[TreeOfThoughts]:
        """Searches, deeper and deeper while they come to no answer; the last of them has all the rounds."""
        known = self.task.depth_of(problem)
        if known is not None:
            depths = [min(max_depth or known, known)]
        else:  # as deep as the chains were long, then twice as deep, and so on
            depths, deepest = [max((len(one.steps) for one in found), default=0) or FIRST_DEPTH], max_depth or MAX_DEPTH
            while depths[-1] < deepest:
                depths.append(2 * depths[-1])
            depths[-1] = deepest
        for depth in depths:
            can_tell = not any(map(_is_unjudged, found))
            yield self._search(depth, self.rounds if can_tell and depth == depths[-1] else 1)
            if _is_unjudged(found[-1]):
                return

    def _search(self, depth: int, rounds: int) -> TreeOfThoughts:
        how = {"task": self.task, "temperature": self.temperature, "seed": seed_of(self.seed, "search", depth)}
        return TreeOfThoughts(self.model, max_depth=depth, rounds=rounds, **how, **self._tree)

    def _chains(self, stage: str, **settings: Any) -> ChainOfThought:
        seed = seed_of(self.seed, stage)  # of its own: stages with the same prompt must not draw the same chains
        return ChainOfThought(self.model, task=self.task, seed=seed, **settings)


def measure_agreement(samples: Sequence[str | None]) -> tuple[float, float]:
    """The largest share of equal answers among all samples, and the entropy of the answers in nats."""
    shares = [group.share for group in vote(samples)]  # of the samples that have an answer
    answered = sum(answer is not None for answer in samples) / max(len(samples), 1)
    return max(shares, default=0.0) * answered, -sum(share * math.log(share) for share in shares)


def _is_unjudged(found: Solution) -> bool:
    """Whether there is an answer of which no program can tell."""
    return found.answer is not None and found.verified is None


def _describe(found: Solution) -> str:
    """A stage in words."""
    has_votes = len(found.samples) > 1 and found.verified is None
    agree = f", {measure_agreement(found.samples)[0]:.0%} agree" if has_votes else ""
    return f"{found.method}: {found.tokens} tokens{agree}"


def _combine(found: Sequence[Solution], budget: Budget, stages: Sequence[str], stopped: str | None) -> Solution:
    """The solution of the best stage, with what all stages took and found.

    The best has a right answer, or one that is not refuted and that most samples of all stages agree with. Of equals it
    is one that has thought, and then the first: the likeliest chain stands before drawn ones.
    """
    samples = [answer for one in found for answer in (one.samples or one.candidates)]
    counts = collections.Counter(canonical(answer) for answer in samples if answer is not None)
    votes = [0 if one.answer is None else counts[canonical(one.answer)] for one in found]

    def rank(i: int) -> tuple[int, int, bool]:
        one = found[i]
        verified = -1 if one.answer is None else {True: 2, None: 1, False: 0}[one.verified]
        return verified, votes[i], one.method != "direct"

    index = max(range(len(found)), key=rank)
    best = found[index]
    is_voted = best.verified is None and len(found) > 1
    trace = _join_traces(found, index)
    combined = dataclasses.replace(
        best,
        trace=trace,
        confidence=votes[index] / max(len(samples), 1) if is_voted else best.confidence,
        samples=tuple(samples),
        candidates=distinct_answers([best.answer, *(answer for one in found for answer in one.candidates)]),
        notes=tuple(dict.fromkeys(note for one in found for note in one.notes)),
        stopped=stopped,
        stages=tuple(stages),
        **budget.usage,
    )
    trace.result |= combined.summary()
    return combined


def _join_traces(found: Sequence[Solution], best: int) -> Trace:
    """The traces of all stages as one: a stage is a thought of the root, and what it thought stands under it."""
    joined = Trace(found[best].problem, found[best].method, [Thought((), "")])
    start = 0.0
    for number, one in enumerate(found):
        status = "expanded" if number == best else {True: "answer", False: "refuted", None: "kept"}[one.verified]
        joined.add(Thought((number,), one.method, status=status, seconds=start))
        own = one.trace or Trace(one.problem, one.method)
        for thought in own.thoughts:
            if thought.path:
                path, seconds = (number, *thought.path), round(start + thought.seconds, 6)
                joined.add(dataclasses.replace(thought, path=path, seconds=seconds))
        start = round(start + one.seconds, 6)
        if number == best and "path" in own.result:
            path = own.result["path"]
            joined.result = {"path": None if path is None else [number, *path]}
    return joined
