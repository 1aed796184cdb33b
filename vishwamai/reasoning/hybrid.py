"""`IntegratedReasoning`: answers at once, thinks, or searches, as hard as the problem turns out to be.

How hard it is, is measured on a few samples: whether a program calls one of them right, and without a program whether
they agree. Every stage spends from one budget, and the best answer so far is there whenever it ends.
"""

import dataclasses
import math
from collections.abc import Mapping, Sequence
from typing import Any

from vishwamai.errors import BackendError, InputError
from vishwamai.reasoning.answers import vote
from vishwamai.reasoning.budget import Budget
from vishwamai.reasoning.chain import ChainOfThought
from vishwamai.reasoning.drive import Search, run
from vishwamai.reasoning.local import as_model
from vishwamai.reasoning.memory import ThoughtMemory
from vishwamai.reasoning.model import Model
from vishwamai.reasoning.solution import Solution
from vishwamai.reasoning.task import Task
from vishwamai.reasoning.tasks import task_of
from vishwamai.reasoning.tree import TreeOfThoughts

APPROACHES = ("auto", "hybrid", "cot", "tot")
DEPTH = 3  # of a search whose task does not know how deep it goes
RANK = {True: 2, None: 1, False: 0}


@dataclasses.dataclass(frozen=True)
class Difficulty:
    """What a few samples say of a problem: the largest share that agrees, the entropy of their answers in nats, and
    whether a program calls one of them right (None: no program can tell)."""

    agreement: float
    entropy: float
    verified: bool | None


class IntegratedReasoning:
    """Chains and trees by one name.

    `solve(approach=...)`: "cot" thinks once, and in several chains where a program refutes the answer; "tot" searches;
    "hybrid" thinks once and searches where that was not right; "auto" also asks for answers without steps first, and
    goes on to several chains and to a search only while the answers are refuted, or agree less than `agreement`. It
    ends with the way that the task prefers: a search in `rounds`, or as many more chains (`samples` at a time).
    """

    def __init__(
        self,
        model: Any,
        *,
        task: Task | str = "text",
        samples: int = 3,
        agreement: float = 1.0,
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
        self.model: Model = as_model(model)
        self.task, self.agreement, self.samples = task_of(task), agreement, samples
        self._tree = {"max_branches": max_branches, "beam_width": beam_width, "rounds": rounds, "search": search}
        self._tree |= {"temperature": temperature, "memory": memory}
        self._shared = {"task": self.task, "seed": seed}
        self._temperature, self._most_chains = temperature, most_chains

    def solve(
        self, problem: str, approach: str = "auto", max_depth: int | None = None, *, budget: Budget | None = None
    ) -> Solution:
        """The answer to one problem. `max_depth` bounds a search's steps (None: as many as the task has, else 3)."""
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
        whole = Budget() if budget is None else budget
        budgets = [whole.within(**(each or {})) for _ in problems]
        pairs = zip(problems, budgets, strict=True)
        return run(self.model, [self.search(problem, own, approach, max_depth) for problem, own in pairs])

    def search(
        self, problem: str, budget: Budget, approach: str = "auto", max_depth: int | None = None
    ) -> Search[Solution]:
        """The stages as a generator, to be run by `drive.run`."""
        if approach not in APPROACHES:
            raise InputError(f"there is no approach {approach!r}; there are {', '.join(APPROACHES)}")
        self.task.read(problem)
        best: Solution | None = None
        stages: list[str] = []
        for solver in self._stages(approach, max_depth):
            try:
                found = yield from solver.search(problem, budget.within())
            except BackendError as error:
                if best is None:
                    raise
                return self._ended(best, budget, stages, str(error))
            stages.append(f"{found.method}: {found.tokens} tokens")
            best = found if best is None or _better(found, best) else best
            if found.stopped is not None or self.settled(found):
                return self._ended(best, budget, stages, found.stopped)
        if best is None:
            raise InputError(f"there is no way to solve {problem!r:.60}")
        return self._ended(best, budget, stages, None)

    def difficulty(self, found: Solution) -> Difficulty:
        """What the chains of a solution say of its problem."""
        answers = [] if found.trace is None else [self.task.extract(thought.text) for thought in found.trace.thoughts]
        shares = [group.share for group in vote(answers)]
        said = len([answer for answer in answers if answer is not None]) / max(len(answers), 1)
        entropy = -sum(share * math.log(share) for share in shares)
        return Difficulty(max(shares, default=0.0) * said, entropy, found.verified)

    def settled(self, found: Solution) -> bool:
        """Whether an answer can be submitted: a program calls it right, or none can tell and the samples agree."""
        if found.answer is None or found.verified is False:
            return False
        return bool(found.verified) or (
            found.trace is not None
            and len(found.trace.thoughts) > 1
            and self.difficulty(found).agreement >= self.agreement
        )

    def _stages(self, approach: str, max_depth: int | None):
        """The solvers to try, cheapest first."""
        several = {"temperature": self._temperature, **self._shared}
        if approach == "auto":
            yield ChainOfThought(self.model, samples=self.samples, direct=True, choose=self._choose, **several)
        if approach != "tot":
            yield ChainOfThought(self.model, **self._shared)
        if approach == "auto":
            yield ChainOfThought(self.model, samples=self.samples, choose=self._choose, **several)
        if approach == "cot" or (approach == "auto" and self.task.prefers == "samples"):
            yield ChainOfThought(
                self.model, samples=self._most_chains, choose="best", wave=max(self.samples, 1), **several
            )
        else:
            for depth in self._depths(max_depth):
                yield TreeOfThoughts(self.model, max_depth=depth, **self._tree, **self._shared)

    @property
    def _choose(self) -> str:
        return "best" if self.samples == 1 else "vote"

    def _depths(self, max_depth: int | None) -> list[int]:
        """How deep to search: as deep as the task goes, or where that is not known deeper and deeper."""
        most = max_depth or self.task.depth or DEPTH
        if self.task.depth is not None:
            return [min(most, self.task.depth)]
        return sorted({min(DEPTH, most), most})

    def _ended(self, best: Solution, budget: Budget, stages: list[str], stopped: str | None) -> Solution:
        used = {name: budget.spent[name] for name in ("tokens", "calls", "nodes")}
        return dataclasses.replace(
            best, stopped=stopped, stages=tuple(stages), seconds=round(budget.seconds, 6), **used
        )


def _better(new: Solution, old: Solution) -> bool:
    """Whether a later answer takes the place of an earlier one: where it is not worse by the program's word."""
    return new.answer is not None and (old.answer is None or RANK[new.verified] >= RANK[old.verified])
