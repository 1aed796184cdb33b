"""`ChainOfThought`: solving by a chain of steps, or by several of which one answer is submitted.

Chain of thought (Wei et al. 2022, arXiv:2201.11903), zero-shot (Kojima et al. 2022, arXiv:2205.11916), self-consistency
(Wang et al. 2022, arXiv:2203.11171), best-of-n with a verifier (Cobbe et al. 2021, arXiv:2110.14168), refinement on
feedback (Madaan et al. 2023, arXiv:2303.17651), and a budget of thinking with a forced answer. Few-shot examples are
the task's. It knows no particular model or task; chains are written in `thinking.py` and chosen in `choose.py`.
"""

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

from vishwamai.reasoning.answers import canonical
from vishwamai.reasoning.budget import Budget
from vishwamai.reasoning.choose import Chain, latest_attempts, select_answer
from vishwamai.reasoning.drive import Search, run
from vishwamai.reasoning.local import as_model
from vishwamai.reasoning.model import Model
from vishwamai.reasoning.solution import Solution, Step
from vishwamai.reasoning.solve import run_until_stopped, solve_all
from vishwamai.reasoning.task import Checker, Task
from vishwamai.reasoning.tasks import task_of
from vishwamai.reasoning.thinking import ChainSettings, Thinking
from vishwamai.reasoning.trace import Thought, Trace


class ChainOfThought:
    """Thinks in steps. One greedy chain, or with `samples` several drawn at `temperature`.

    Of several, `choose` is "vote" (self-consistency: answers that are equal are one, weighed by `weights`: "count",
    "logprob" (the mean over a chain's tokens), "verifier" (a chain that the task's checker refutes weighs nothing, one
    of which it cannot tell half)) or "best" (one that the checker calls right; without any, the vote of those that it
    does not refute). `wave` chains are drawn at a time, and none after a right one with "best", nor where those that
    are left could not change a count. `thinking` bounds a chain's tokens; one that has not come to an answer by then
    is given the task's closing words and answers. A chain with a wrong step or answer is told so and tried again, at
    most `refinements` times. `checker` says whether a step is right (None: the task does). `direct` asks for an answer
    without steps.
    """

    def __init__(
        self,
        model: Any,
        *,
        task: Task | str = "text",
        samples: int = 1,
        temperature: float = 0.7,
        choose: str = "vote",
        weights: str = "count",
        wave: int | None = None,
        thinking: int | None = None,
        refinements: int = 0,
        checker: Checker | None = None,
        direct: bool = False,
        seed: int = 0,
    ):
        self.settings = ChainSettings(
            samples=samples,
            temperature=temperature,
            choose=choose,
            weights=weights,
            wave=wave,
            thinking=thinking,
            refinements=refinements,
            direct=direct,
            seed=seed,
        )
        self.model: Model = as_model(model)
        self.task, self.checker = task_of(task), checker
        self.settings.sampling(self.task)  # what is wrong with a temperature shows here and not at the first problem

    @property
    def method(self) -> str:
        """The name of what it does."""
        if self.settings.direct or self.settings.samples == 1:
            return "direct" if self.settings.direct else "cot"
        return "self-consistency" if self.settings.choose == "vote" else "best-of-n"

    def solve(
        self, problem: str, show_work: bool = True, validate_steps: bool = True, *, budget: Budget | None = None
    ) -> Solution:
        """The answer to one problem, with its steps (`show_work`), each with a checker's word (`validate_steps`)."""
        budget = Budget() if budget is None else budget
        return run(self.model, [self.search(problem, budget, show_work, validate_steps)])[0]

    def solve_all(
        self,
        problems: Sequence[str],
        show_work: bool = True,
        validate_steps: bool = True,
        *,
        budget: Budget | None = None,
        each: Mapping[str, float] | None = None,
    ) -> list[Solution]:
        """The answers to many problems, thought through in step, in one budget; `each` has every problem's limits."""
        search = partial(self.search, show_work=show_work, validate=validate_steps)
        return solve_all(self.model, problems, search, self.method, budget, each)

    def search(self, problem: str, budget: Budget, show_work: bool = True, validate: bool = True) -> Search[Solution]:
        """The chains as a generator, to be run by `drive.run` or as a part of another."""
        self.task.read(problem)
        own = budget.sub_budget()
        thinking = Thinking(self.task, self.settings, self.checker, problem, own, validate)
        stopped = yield from run_until_stopped(thinking.write(), own, thinking.notes, lambda: bool(thinking.chains))
        if stopped is None and thinking.short:
            stopped = "tokens"
        return self._solution(thinking, stopped, show_work)

    def _solution(self, thinking: Thinking, stopped: str | None, show_work: bool) -> Solution:
        """What the chains have come to."""
        chains, budget = thinking.chains, thinking.budget
        best, confidence = select_answer(chains, self.settings.choose, self.settings.weights)
        steps: tuple[Step, ...] = ()
        if best is not None and show_work:
            plain = (Step(line.strip()) for line in thinking.lines(best.text))
            steps = thinking.judged(best.text) if thinking.validate else tuple(plain)
        trace = Trace(thinking.problem, self.method, [_thought(chain) for chain in chains])
        found = Solution(
            problem=thinking.problem,
            method=self.method,
            answer=None if best is None else best.answer,
            verified=None if best is None else best.verified,
            steps=steps,
            candidates=distinct_answers([None if best is None else best.answer, *(chain.answer for chain in chains)]),
            samples=tuple(chain.answer for chain in latest_attempts(chains)),
            confidence=confidence,
            stopped=stopped,
            tokens=budget.spent["tokens"],
            calls=budget.spent["calls"],
            seconds=round(budget.elapsed, 6),
            trace=trace,
            notes=tuple(thinking.notes),
        )
        trace.result = found.summary() | {"path": None if best is None else list(best.path)}
        return found


def distinct_answers(answers: Sequence[str | None]) -> tuple[str, ...]:
    """Answers as they were first written, of equal ones one."""
    found: dict[Any, str] = {}
    for answer in answers:
        if answer is not None:
            found.setdefault(canonical(answer), answer)
    return tuple(found.values())


def _thought(chain: Chain) -> Thought:
    how = {"tokens": chain.tokens, "logprob": chain.logprob, "seconds": chain.seconds}
    if chain.answer is None:
        return Thought(chain.path, chain.text, status="wrong", why="it has no answer", **how)
    return Thought(chain.path, chain.text, status="refuted" if chain.verified is False else "answer", **how)
