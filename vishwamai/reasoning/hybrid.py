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
from vishwamai.reasoning.drive import FAILURES, Search, run
from vishwamai.reasoning.local import as_model
from vishwamai.reasoning.memory import ThoughtMemory
from vishwamai.reasoning.model import Model, seed_of
from vishwamai.reasoning.solution import Solution
from vishwamai.reasoning.solve import solve_all
from vishwamai.reasoning.task import Task
from vishwamai.reasoning.tasks import task_of
from vishwamai.reasoning.trace import Thought, Trace
from vishwamai.reasoning.tree import TreeOfThoughts

APPROACHES = ("auto", "hybrid", "cot", "tot")
DEPTH, DEEPEST = 3, 12  # of the first and the last search of a problem of which nobody knows how deep it goes


@dataclasses.dataclass(frozen=True)
class Difficulty:
    """What a few samples say of a problem: the largest share that agrees, the entropy of their answers in nats, and
    whether a program calls the answer right (None: no program can tell)."""

    agreement: float
    entropy: float
    verified: bool | None


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
        for name, number in (("samples", samples), ("most_chains", most_chains)):
            check_whole(name, number, 1)
        self.model: Model = as_model(model)
        self.task, self.samples, self.seed = task_of(task), samples, seed
        self.agreement, self.most_entropy = agreement, most_entropy
        self._tree = {"max_branches": max_branches, "beam_width": beam_width, "search": search, "memory": memory}
        self._tree |= {"temperature": temperature, "task": self.task}
        self._rounds = rounds
        several = {"temperature": temperature, "choose": "best"}
        self._at_once = self._chains("at once", samples=samples, direct=True, **several)
        self._once = self._chains("once")
        self._several = self._chains("several", samples=samples, **several)
        self._more = self._chains("more", samples=most_chains, wave=samples, **several)
        self._search(DEPTH, rounds)  # refuses what is out of range

    def solve(
        self, problem: str, approach: str = "auto", max_depth: int | None = None, *, budget: Budget | None = None
    ) -> Solution:
        """The answer to one problem. `max_depth` bounds a search's steps (None: as many as the task has, else 12).

        Where the task does not know its depth, a search is as deep as the chains were long, and then deeper.
        """
        budget = Budget() if budget is None else budget
        return run(self.model, [self.search(problem, budget, approach, max_depth)])[0]

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
        own = budget.sub_budget()
        found: list[Solution] = []
        stages: list[str] = []
        stopped = None
        for solver in self._stages(problem, approach, max_depth, found):
            stage = own.sub_budget()
            try:
                found.append((yield from solver.search(problem, stage)))
            except FAILURES as error:
                if not found:
                    raise
                stopped = str(error)
                stages.append(f"{solver.method}: {stage.spent['tokens']} tokens, then an error")
                break
            stages.append(self._describe(found[-1]))
            stopped = found[-1].stopped
            if stopped is not None or self.is_settled(found[-1]):
                break
        return _ended(found, own, stages, stopped)

    def difficulty(self, found: Solution) -> Difficulty:
        """What the chains of a solution say of its problem; nothing agrees where there are none."""
        shares = [group.share for group in vote(found.samples)]
        said = sum(answer is not None for answer in found.samples) / max(len(found.samples), 1)
        entropy = -sum(share * math.log(share) for share in shares)
        return Difficulty(max(shares, default=0.0) * said, entropy, found.verified)

    def is_settled(self, found: Solution) -> bool:
        """Whether an answer can be submitted: a program calls it right, or none can tell and the samples agree."""
        if found.answer is None or found.verified is not None:
            return bool(found.verified)
        hard = self.difficulty(found)
        return len(found.samples) > 1 and hard.agreement >= self.agreement and hard.entropy <= self.most_entropy

    def _stages(
        self, problem: str, approach: str, max_depth: int | None, found: Sequence[Solution]
    ) -> Iterator[ChainOfThought | TreeOfThoughts]:
        """The solvers to try, cheapest first; each is chosen by what was found up to then."""
        if approach == "auto" and self.task.at_once:
            yield self._at_once
        if approach != "tot":
            yield self._once
        if self.samples > 1 and (approach == "auto" or (approach == "hybrid" and found[-1].verified is None)):
            yield self._several
        if approach == "cot" and _is_unjudged(found[-1]):
            return
        if approach == "cot" or (approach == "auto" and self.task.prefers == "samples"):
            yield self._more
        else:
            yield from self._searches(problem, max_depth, found)

    def _searches(self, problem: str, max_depth: int | None, found: Sequence[Solution]) -> Iterator[TreeOfThoughts]:
        """Searches, deeper and deeper while they come to no answer; the last of them has all the rounds."""
        depths = self._depths(self.task.depth_of(problem), max_depth, max((len(one.steps) for one in found), default=0))
        for depth in depths:
            can_tell = not any(map(_is_unjudged, found))
            yield self._search(depth, self._rounds if can_tell and depth == depths[-1] else 1)
            if _is_unjudged(found[-1]):
                return

    def _depths(self, known: int | None, max_depth: int | None, steps: int) -> list[int]:
        """How deep to search: as deep as the problem goes; where nobody knows, from `steps` of a chain on, doubled."""
        if known is not None:
            return [min(max_depth or known, known)]
        most, depths = max_depth or DEEPEST, [steps or DEPTH]
        while depths[-1] < most:
            depths.append(2 * depths[-1])
        return [*depths[:-1], most]

    def _chains(self, stage: str, **how: Any) -> ChainOfThought:
        # Stages with the same prompt must not draw the same chains.
        return ChainOfThought(self.model, task=self.task, seed=seed_of(self.seed, stage), **how)

    def _search(self, depth: int, rounds: int) -> TreeOfThoughts:
        seed = seed_of(self.seed, "search", depth)
        return TreeOfThoughts(self.model, max_depth=depth, rounds=rounds, seed=seed, **self._tree)

    def _describe(self, found: Solution) -> str:
        """A stage in words."""
        agree = len(found.samples) > 1 and found.verified is None
        share = f", {self.difficulty(found).agreement:.0%} agree" if agree else ""
        return f"{found.method}: {found.tokens} tokens{share}"


def _is_unjudged(found: Solution) -> bool:
    """Whether there is an answer of which no program can tell."""
    return found.answer is not None and found.verified is None


def _ended(found: Sequence[Solution], budget: Budget, stages: Sequence[str], stopped: str | None) -> Solution:
    """The solution to submit, with what all stages took and found."""
    votes = [answer for one in found for answer in (one.samples or one.candidates)]
    best, confidence = _submitted(found, votes)
    whole = dataclasses.replace(
        best,
        trace=_joined(found, best),
        confidence=confidence,
        samples=tuple(votes),
        candidates=distinct_answers([best.answer, *(answer for one in found for answer in one.candidates)]),
        notes=tuple(dict.fromkeys(note for one in found for note in one.notes)),
        stopped=stopped,
        stages=tuple(stages),
        seconds=round(budget.elapsed, 6),
        **{name: budget.spent[name] for name in ("tokens", "calls", "nodes")},
    )
    if whole.trace is not None:
        whole.trace.result |= whole.summary()
    return whole


def _joined(found: Sequence[Solution], best: Solution) -> Trace:
    """The traces of all stages as one: a stage is a thought of the root, and what it thought stands under it."""
    joined = Trace(best.problem, best.method)
    joined.add(Thought((), ""))
    begun = 0.0
    for number, one in enumerate(found):
        status = {True: "answer", False: "refuted", None: "kept"}[one.verified]
        joined.add(Thought((number,), one.method, status="expanded" if one is best else status, seconds=begun))
        for thought in () if one.trace is None else one.trace.thoughts:
            if thought.path:
                at = round(begun + thought.seconds, 6)
                joined.add(dataclasses.replace(thought, path=(number, *thought.path), seconds=at))
        begun = round(begun + one.seconds, 6)
        if one is best and one.trace is not None:
            path = one.trace.result.get("path")
            joined.result = {"path": None if path is None else [number, *path]}
    return joined


def _submitted(found: Sequence[Solution], votes: Sequence[str | None]) -> tuple[Solution, float | None]:
    """The best stage, and how sure that is: one with a right answer, else by the votes of all one that is not refuted.

    Of equals it is one that has thought, and then the first: the likeliest chain stands before drawn ones.
    """
    counts = collections.Counter(canonical(answer) for answer in votes if answer is not None)
    rank = {True: 2, None: 1, False: 0}

    def worth(one: Solution) -> tuple[int, int, bool]:
        agree = 0 if one.answer is None else counts[canonical(one.answer)]
        return -1 if one.answer is None else rank[one.verified], agree, one.method != "direct"

    best = max(found, key=worth)
    if best.verified is not None or len(found) == 1:
        return best, best.confidence
    return best, 0.0 if best.answer is None else counts[canonical(best.answer)] / len(votes)
