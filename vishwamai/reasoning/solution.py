"""What solving a problem gives: the answer, its steps, and how it came about."""

import dataclasses
from typing import Any

from vishwamai.errors import VishwamAIError
from vishwamai.reasoning.answers import equal
from vishwamai.reasoning.trace import Trace


@dataclasses.dataclass(frozen=True)
class Step:
    """One step of the work; `valid` is a checker's verdict, None where it cannot tell."""

    text: str
    valid: bool | None = None
    why: str = ""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Solution:
    """The answer submitted for a problem, and what it took.

    `verified` is the final checker's verdict on the answer, None where there is no checker. `stopped` names the limit
    of the budget, or the failure, that ended the search early: the answer is then the best so far. `candidates` are all
    distinct answers, the submitted one first; `samples` has the answer of each chain, None where it has none (of
    integrated reasoning, those of all stages, with each answer of a search). `confidence` is the share of the chains
    that agree with the answer, or the value of the state that it came from; 1 or 0 where a program decided; None for a
    single chain that nothing checked.
    """

    problem: str
    method: str
    answer: str | None = None
    verified: bool | None = None
    steps: tuple[Step, ...] = ()
    candidates: tuple[str, ...] = ()
    samples: tuple[str | None, ...] = ()
    confidence: float | None = None
    stopped: str | None = None
    tokens: int = 0
    calls: int = 0
    nodes: int = 0
    seconds: float = 0.0
    trace: Trace | None = dataclasses.field(default=None, repr=False)
    notes: tuple[str, ...] = ()
    stages: tuple[str, ...] = ()  # of integrated reasoning, each with its tokens

    @property
    def complete(self) -> bool:
        """Whether the search came to its own end."""
        return self.stopped is None

    @property
    def agreement(self) -> int:
        """How many of the samples agree with the answer."""
        answer = self.answer
        return 0 if answer is None else sum(equal(sample, answer) for sample in self.samples if sample is not None)

    @property
    def work(self) -> str:
        """The steps as text."""
        return "\n".join(step.text for step in self.steps)

    def __str__(self) -> str:
        answer = "no answer" if self.answer is None else self.answer
        return f"{self.work}\n{answer}" if self.steps else answer

    def summary(self) -> dict[str, Any]:
        """The figures, without trace and work."""
        figures = {name: value for name, value in vars(self).items() if name not in ("trace", "steps")}
        return figures | {"agreement": self.agreement}


def submit_answer(trace: Trace, best: Any, usage: dict[str, Any], **found: Any) -> Solution:
    """Returns the solution of a search, which is the trace's result; `best` has the answer, or is None.

    `usage` is what the search took (`Budget.usage`), `found` are other fields of a `Solution`.
    """
    answer, verified, path = (None, None, None) if best is None else (best.answer, best.verified, list(best.path))
    own = {"problem": trace.problem, "method": trace.method, "trace": trace}
    solution = Solution(**own, answer=answer, verified=verified, **usage, **found)
    trace.result = solution.summary() | {"path": path}
    return solution


def failed_solution(problem: str, method: str, error: Exception) -> Solution:
    """Returns what is known of a problem whose search an error ended before there was any answer."""
    message = str(error) if isinstance(error, VishwamAIError) else f"{type(error).__name__}: {error}"
    return Solution(problem=problem, method=method, stopped=message)
