"""`ChainOfThought`: solving by a chain of steps, or by several of which one answer is submitted.

Chain of thought (Wei et al. 2022, arXiv:2201.11903), zero-shot (Kojima et al. 2022, arXiv:2205.11916), self-consistency
(Wang et al. 2022, arXiv:2203.11171) and best-of-n with a verifier (Cobbe et al. 2021, arXiv:2110.14168). Chains are
sampled in `thinking.py`, the answer is selected in `choose.py`; prompts and few-shot examples are the task's.
"""

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

from vishwamai.checks import make_settings
from vishwamai.reasoning.answers import canonical
from vishwamai.reasoning.budget import Budget
from vishwamai.reasoning.choose import best_attempts, select_answer
from vishwamai.reasoning.drive import Search, run, run_until_stopped, solve_all
from vishwamai.reasoning.local import as_model
from vishwamai.reasoning.model import Model
from vishwamai.reasoning.solution import Solution, submit_answer
from vishwamai.reasoning.task import Checker, Task
from vishwamai.reasoning.tasks import task_of
from vishwamai.reasoning.thinking import ChainSampler, ChainSettings
from vishwamai.reasoning.trace import Thought, Trace


class ChainOfThought:
    """Thinks in steps: in one greedy chain, or in several of which one answer is submitted.

    `settings` are the fields of `ChainSettings`. `checker` says whether a step is right (None: the task does).
    """

    def __init__(self, model: Any, *, task: Task | str = "text", checker: Checker | None = None, **settings: Any):
        self.settings = make_settings(ChainSettings, "ChainOfThought", settings)
        self.model: Model = as_model(model)
        self.task, self.checker = task_of(task), checker
        self.settings.sampling(self.task)  # refuses a temperature out of range now and not at the first problem

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
        """The search as a generator, to be run by `drive.run` or as a part of another."""
        self.task.read(problem)  # refuses a malformed problem before the model is asked
        own = budget.sub_budget()
        sampler = ChainSampler(self.task, self.settings, self.checker, problem, own, validate)
        stopped = yield from run_until_stopped(sampler.sample(), own, sampler.notes, lambda: bool(sampler.chains))
        if stopped is None and sampler.is_cut_short:
            stopped = "tokens"

        chains = sampler.chains
        best, confidence = select_answer(chains, self.settings.choose, self.settings.weights)
        trace = Trace(problem, self.method)
        for chain in chains:
            status = "wrong" if chain.answer is None else "refuted" if chain.verified is False else "answer"
            why = "it has no answer" if chain.answer is None else ""
            figures = {"tokens": chain.tokens, "logprob": chain.logprob, "seconds": chain.seconds}
            trace.add(Thought(chain.path, chain.text, status=status, why=why, **figures))
        return submit_answer(
            trace,
            best,
            own.usage,
            steps=sampler.steps(best.text) if best is not None and show_work else (),
            candidates=distinct_answers([chain.answer for chain in (best, *chains) if chain is not None]),
            samples=tuple(chain.answer for chain in best_attempts(chains)),
            confidence=confidence,
            stopped=stopped,
            notes=tuple(sampler.notes),
        )


def distinct_answers(answers: Sequence[str | None]) -> tuple[str, ...]:
    """Returns one of each group of equal answers, as it was first written."""
    found: dict[Any, str] = {}
    for answer in answers:
        if answer is not None:
            found.setdefault(canonical(answer), answer)
    return tuple(found.values())
