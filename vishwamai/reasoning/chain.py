"""`ChainOfThought`: solving by a chain of steps, or by several of which one answer is submitted.

Chain of thought (Wei et al. 2022, arXiv:2201.11903), zero-shot (Kojima et al. 2022, arXiv:2205.11916), self-consistency
(Wang et al. 2022, arXiv:2203.11171), best-of-n with a verifier (Cobbe et al. 2021, arXiv:2110.14168), refinement on
feedback (Madaan et al. 2023, arXiv:2303.17651), and a budget of thinking with a forced answer. Few-shot examples are
the task's. It knows no particular model or task.
"""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

from vishwamai.errors import BackendError, InputError
from vishwamai.generation.sampling import SamplingParams
from vishwamai.reasoning.answers import from_logprobs, vote
from vishwamai.reasoning.budget import Budget, Spent
from vishwamai.reasoning.drive import Search, ask, run
from vishwamai.reasoning.local import as_model
from vishwamai.reasoning.model import Completion, Model, Prompt, pieces, seed_of
from vishwamai.reasoning.solution import Solution, Step
from vishwamai.reasoning.task import Checker, Task, Verdict, guarded
from vishwamai.reasoning.tasks import task_of
from vishwamai.reasoning.trace import Thought, Trace

CHOICES = ("vote", "best")
WEIGHTS = ("count", "logprob", "verifier")
ANSWER_TOKENS = 48  # of a forced answer


@dataclasses.dataclass(frozen=True)
class Chain:
    """One chain: what was written, its answer, the task's word on it, and its tokens."""

    text: str
    answer: str | None
    verified: bool | None
    tokens: int
    logprob: float


class ChainOfThought:
    """Thinks in steps. One greedy chain, or with `samples` several drawn at `temperature`.

    Of several, `choose` is "vote" (self-consistency: answers that are equal are one, weighed by `weights`: "count",
    "logprob", "verifier") or "best" (the first that the task's checker calls right, else the likeliest; `wave` chains
    are drawn at a time, and none after a right one). `thinking` bounds a chain's tokens; one that has not come to an
    answer by then is given the task's closing words and answers. A chain with a wrong step or answer is told so and
    tried again `refinements` times. `checker` says whether a step is right (None: the task does). `direct` asks for an
    answer without steps.
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
        for name, value, known in (("choose", choose, CHOICES), ("weights", weights, WEIGHTS)):
            if value not in known:
                raise InputError(f"{name} is {value!r}; it must be one of {', '.join(known)}")
        for name, number, least in (("samples", samples, 1), ("wave", wave, 1), ("refinements", refinements, 0)):
            if number is not None and (isinstance(number, bool) or not isinstance(number, int) or number < least):
                raise InputError(f"{name} is {number!r}; it must be a whole number, {least} or more")
        self.model: Model = as_model(model)
        self.task, self.samples, self.choose, self.weights = task_of(task), samples, choose, weights
        self.wave, self.refinements, self.checker, self.direct, self.seed = wave, refinements, checker, direct, seed
        self._how = SamplingParams(
            temperature=0.0 if samples == 1 else temperature, max_tokens=thinking or self.task.chain_tokens
        )

    @property
    def method(self) -> str:
        """The name of what it does."""
        if self.samples > 1:
            return "self-consistency" if self.choose == "vote" else "best-of-n"
        return "direct" if self.direct else "cot"

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
        whole = Budget() if budget is None else budget
        budgets = [whole.within(**(each or {})) for _ in problems]
        pairs = zip(problems, budgets, strict=True)
        return run(self.model, [self.search(problem, own, show_work, validate_steps) for problem, own in pairs])

    def search(self, problem: str, budget: Budget, show_work: bool = True, validate: bool = True) -> Search[Solution]:
        """The chains as a generator, to be run by `drive.run` or as a part of another."""
        self.task.read(problem)
        chains: list[Chain] = []
        notes: list[str] = []
        stopped = None
        try:
            yield from self._draw(problem, budget, chains, notes)
        except Spent as spent:
            stopped = spent.limit
        except BackendError as error:
            if not chains:
                raise
            stopped = str(error)
        return self._solution(problem, chains, budget, stopped, notes, show_work, validate)

    def _draw(self, problem: str, budget: Budget, chains: list[Chain], notes: list[str]) -> Search[None]:
        """Adds chains until there are as many as asked for, or one is right."""
        wave = self.samples if self.wave is None or self.choose == "vote" else self.wave
        while len(chains) < self.samples:
            before = len(chains)
            n = min(wave, self.samples - before)
            yield from self._chains(problem, self._prompt(problem), n, budget, chains, notes)
            yield from self._refine(problem, before, budget, chains, notes)
            if self.choose == "best" and any(chain.verified for chain in chains):
                return
            if len(chains) == before:
                budget.check()
                return

    def _chains(
        self, problem: str, prompt: Prompt, n: int, budget: Budget, chains: list[Chain], notes: list[str]
    ) -> Search[None]:
        """`n` chains more; those that the budget of thinking cut off are made to answer."""
        seed = seed_of(self.seed, problem, "chain", len(chains))
        [made] = yield from ask(budget, [prompt], [n], self._how, [seed])
        read = [self._chain(problem, c, notes) for c in made]
        chains += read
        cut = [i for i, c in enumerate(made) if c.finish_reason == "length" and read[i].answer is None]
        if not cut or budget.left("tokens") <= 0:
            return
        closed = [(*pieces(prompt), made[i].text, self.task.closing) for i in cut]
        how = SamplingParams(temperature=0.0, max_tokens=ANSWER_TOKENS, stop=("\n",))
        said = yield from ask(budget, closed, [1] * len(cut), how, [seed_of(seed, "close", i) for i in cut])
        for i, row in zip(cut, said, strict=True):
            if row:
                whole = Completion(
                    text=made[i].text + self.task.closing + row[0].text,
                    tokens=made[i].tokens + row[0].tokens,
                    logprob=made[i].logprob + row[0].logprob,
                )
                chains[len(chains) - len(read) + i] = self._chain(problem, whole, notes)

    def _refine(self, problem: str, begin: int, budget: Budget, chains: list[Chain], notes: list[str]) -> Search[None]:
        """Tells the newest chain what is wrong with it, as often as is asked for and while something is."""
        for _ in range(self.refinements):
            if len(chains) == begin:
                return
            newest = chains[-1]
            wrong = self._complaint(problem, newest)
            if wrong is None:
                return
            prompt = (*pieces(self._prompt(problem)), newest.text, f"\nThis is wrong: {wrong} Try again.\n")
            yield from self._chains(problem, prompt, 1, budget, chains, notes)

    def _complaint(self, problem: str, chain: Chain) -> str | None:
        """What is wrong with a chain, or None."""
        for step in self.judged(problem, chain.text):
            if step.valid is False:
                return f"{step.text!r} {step.why}".rstrip() + "."
        if chain.answer is None:
            return "there is no answer."
        return f"{chain.answer} is not the answer." if chain.verified is False else None

    def _prompt(self, problem: str) -> Prompt:
        return self.task.direct_prompt(problem) if self.direct else self.task.prompt(problem)

    def _chain(self, problem: str, made: Completion, notes: list[str]) -> Chain:
        answer, why = guarded(self.task.extract, made.text)
        verified = None
        if answer is not None:
            verified, failed = guarded(self.task.check, problem, answer)
            why = why or failed
        if why and why not in notes:
            notes.append(why)
        return Chain(made.text, answer, verified, made.tokens, made.logprob)

    def judged(self, problem: str, text: str) -> tuple[Step, ...]:
        """The steps of a chain with a word on each: the checker's, or whether the task takes it from the state before.

        After a step that the task refuses, it cannot tell of those that follow.
        """
        steps, state = [], self.task.read(problem)
        for line in self.task.split(text):
            if self.checker is not None:
                verdict, why = guarded(self.checker, line)
                verdict = Verdict(None, why) if verdict is None else verdict
            elif state is None:
                verdict = Verdict(None, "a step before it is wrong")
            else:
                after, why = guarded(self.task.step, state, line)
                verdict = Verdict(after is not None, why)
                if after is None or not self.task.takes_back(line):
                    state = after
            steps.append(Step(line.strip(), verdict.valid, verdict.why))
        return tuple(steps)

    def _solution(
        self,
        problem: str,
        chains: list[Chain],
        budget: Budget,
        stopped: str | None,
        notes: list[str],
        show_work: bool,
        validate: bool,
    ) -> Solution:
        best, confidence = self._chosen(chains)
        steps: tuple[Step, ...] = ()
        if best is not None and show_work:
            lines = self.task.split(best.text)
            steps = self.judged(problem, best.text) if validate else tuple(Step(line.strip()) for line in lines)
        trace = Trace(problem, self.method)
        for i, chain in enumerate(chains):
            status = {True: "answer", False: "refuted", None: "open"}[chain.verified]
            trace.add(Thought((i,), chain.text, tokens=chain.tokens, logprob=chain.logprob, status=status))
        answers = [chain.answer for chain in ([] if best is None else [best]) + chains if chain.answer is not None]
        found = Solution(
            problem=problem,
            method=self.method,
            answer=None if best is None else best.answer,
            verified=None if best is None else best.verified,
            steps=steps,
            candidates=tuple(dict.fromkeys(answers)),
            confidence=confidence,
            stopped=stopped,
            tokens=budget.spent["tokens"],
            calls=budget.spent["calls"],
            seconds=round(budget.seconds, 6),
            trace=trace,
            notes=tuple(notes),
        )
        trace.result = found.summary() | {"path": None if best is None else [chains.index(best)]}
        return found

    def _chosen(self, chains: list[Chain]) -> tuple[Chain | None, float | None]:
        """The chain whose answer is submitted, and how sure that is."""
        if not chains:
            return None, None
        if self.samples == 1:
            return chains[-1] if not any(c.verified for c in chains) else next(c for c in chains if c.verified), None
        if self.choose == "best":
            rank = {True: 2, None: 1, False: 0}
            best = max(chains, key=lambda c: (c.answer is not None, rank[c.verified], c.logprob / max(c.tokens, 1)))
            return best, None
        groups = vote([chain.answer for chain in chains], self._weights(chains))
        if not groups:
            return chains[0], 0.0
        return chains[groups[0].members[0]], groups[0].share

    def _weights(self, chains: list[Chain]) -> list[float] | None:
        if self.weights == "logprob":
            return from_logprobs([chain.logprob for chain in chains])
        if self.weights == "verifier":
            return [{True: 1.0, None: 0.5, False: 0.0}[chain.verified] for chain in chains]
        return None
