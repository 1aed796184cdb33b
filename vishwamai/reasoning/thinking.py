"""Samples the chains of thought of one problem, within its budget; `choose.py` selects the answer.

Chains are sampled a wave at a time. One that is cut off before its answer is given the task's closing words and
completed greedily (budget forcing, Muennighoff et al. 2025, arXiv:2501.19393). One with a wrong step or answer is told
so and tried again (Self-Refine, Madaan et al. 2023, arXiv:2303.17651).
"""

import dataclasses
import math
from collections.abc import Sequence

from vishwamai.checks import check_whole
from vishwamai.errors import InputError
from vishwamai.generation.sampling import SamplingParams
from vishwamai.reasoning.budget import Budget
from vishwamai.reasoning.choose import CHOICES, WEIGHTS, Chain, is_decided
from vishwamai.reasoning.drive import Search, ask, wait_for_tokens
from vishwamai.reasoning.model import Completion, seed_of, split_prompt
from vishwamai.reasoning.solution import Step
from vishwamai.reasoning.task import Checker, Notes, Task, Verdict

ANSWER_TOKENS = 48  # of a forced answer
ANSWER_SHARE = 4  # of a small budget, one token in so many is kept for forced answers
CUT_TOKENS = 2 * ANSWER_TOKENS  # taken off a chain that fills the model's context, for closing words and an answer


@dataclasses.dataclass(frozen=True, kw_only=True)
class ChainSettings:
    """How chains are sampled, and how the answer is selected. Raises `InputError` for values out of range.

    `samples` chains are drawn at `temperature`; a single one is greedy. They are sampled `wave` at a time (None: all at
    once) until those that are left could not change the answer. A chain that has not answered within `thinking` tokens
    (None: as many as the task says) is made to. One with a wrong step or answer is told so and tried again, at most
    `refinements` times. `direct` asks for an answer without steps.

    `choose` is "vote" (self-consistency: the answer of most chains) or "best" (one that the task calls right; without
    any, the vote of those that it does not refute). A vote weighs by `weights`: "count", "logprob" (the mean over the
    chain's tokens) or "verifier" (nothing where the task refutes the answer, half where it cannot tell).
    """

    samples: int = 1
    temperature: float = 0.7
    choose: str = "vote"
    weights: str = "count"
    wave: int | None = None
    thinking: int | None = None
    refinements: int = 0
    direct: bool = False
    seed: int = 0

    def __post_init__(self):
        for name, known in (("choose", CHOICES), ("weights", WEIGHTS)):
            if getattr(self, name) not in known:
                raise InputError(f"{name} is {getattr(self, name)!r}; it must be one of {', '.join(known)}")
        for name, least in (("samples", 1), ("wave", 1), ("thinking", 1), ("refinements", 0)):
            number = check_whole(name, getattr(self, name), least, optional=name in ("wave", "thinking"))
            object.__setattr__(self, name, number)

    def sampling(self, task: Task) -> SamplingParams:
        """Returns the sampling parameters of a chain."""
        return SamplingParams(
            temperature=0.0 if self.samples == 1 else self.temperature,
            max_tokens=task.chain_tokens if self.thinking is None else self.thinking,
            stop=task.chain_stop,
            logprobs=0 if self.weights == "logprob" else None,
        )


class ChainSampler:
    """Samples the chains of one problem, and keeps `notes` on what went wrong on the way."""

    def __init__(
        self, task: Task, settings: ChainSettings, checker: Checker | None, problem: str, budget: Budget, validate: bool
    ):
        self.task, self.settings, self.checker, self.problem, self.budget = task, settings, checker, problem, budget
        self.validate = validate
        self.notes = Notes()
        self.is_cut_short = False  # whether the budget left a chain fewer tokens than it was to have
        self._chains: dict[tuple[int, ...], Chain] = {}
        self._truncated: list[tuple[Chain, bool]] = []  # without an answer, and whether the model's context ended them
        self._steps: dict[str, tuple[Step, ...]] = {}
        self._sampling = settings.sampling(task)
        self._max_tokens = settings.thinking or task.chain_tokens
        self._prompt = task.direct_prompt(problem) if settings.direct else task.prompt(problem)
        self._answer_mark = task.closing.strip()  # before an answer, such as "Answer:"
        # A direct prompt may end with the mark of an answer: it begins the chain, and is no part of the question.
        *before, last = split_prompt(self._prompt) or ("",)
        has_mark = self._answer_mark and last.rstrip().endswith(self._answer_mark)
        at = last.rindex(self._answer_mark) if has_mark else len(last)
        self._question, self._chain_start = (*before, last[:at]), last[at:]

    @property
    def chains(self) -> list[Chain]:
        """The chains in the order in which they were sampled, refined attempts too."""
        return list(self._chains.values())

    def sample(self) -> Search[None]:
        """Samples chains, a wave at a time, until there are enough or more could not change the answer."""
        s, sampled = self.settings, 0
        while sampled < s.samples and not is_decided(self.chains, s.samples - sampled, s.choose, s.weights):
            n, sampling = yield from self._fit_budget(min(s.wave or s.samples, s.samples - sampled))
            seed = seed_of(s.seed, self.problem, "chain", sampled)
            [completions] = yield from ask(self.budget, [self._prompt], [n], sampling, [seed])
            paths = [(sampled + i,) for i in range(len(completions))]
            for path, completion in zip(paths, completions, strict=True):
                self._extend(Chain(path, self._chain_start, prompt=self._question), completion, sampling)
            sampled += len(completions)
            yield from self._force_answers()
            yield from self._refine(paths)

    def _fit_budget(self, n: int) -> Search[tuple[int, SamplingParams]]:
        """Returns how many of n chains the tokens left allow, and how long, so that each can be made to answer.

        Waits while other problems hold tokens that they may give back.
        """
        yield from wait_for_tokens(self.budget, n * (self._max_tokens + ANSWER_TOKENS))
        left = self.budget.remaining("tokens")
        if left == math.inf:
            return n, self._sampling
        for_answer = min(ANSWER_TOKENS, int(left) // ANSWER_SHARE)
        max_tokens = max(min(self._max_tokens, int(left) - for_answer), 1)
        n = max(min(n, int(left) // (max_tokens + for_answer)), 1)
        return n, dataclasses.replace(self._sampling, max_tokens=max_tokens)

    def _extend(self, chain: Chain, completion: Completion, sampling: SamplingParams, is_forced: bool = False) -> None:
        """Puts a completion after a chain, and notes the answer; where it was cut off first, one is to be forced."""
        chain = dataclasses.replace(
            chain,
            text=chain.text + completion.text,
            tokens=chain.tokens + completion.tokens,
            logprob=chain.logprob + completion.logprob,
            seconds=round(self.budget.elapsed, 6),
        )
        if completion.finish_reason == "length" and not is_forced and not self._has_answered(chain.text):
            self._truncated.append((chain, completion.tokens < (sampling.max_tokens or 0)))
            self.is_cut_short |= sampling.max_tokens != self._max_tokens
        elif (answer := self.notes.call(self.task.extract, chain.text)) is not None:
            verified = self.notes.check_answer(self.task, self.problem, str(answer))
            chain = dataclasses.replace(chain, answer=str(answer), verified=verified)
        self._chains[chain.path] = chain

    def _force_answers(self) -> Search[None]:
        """Completes truncated chains greedily, after the closing words or the answer that they had begun."""
        truncated, self._truncated = self._truncated, []
        chains = []
        for chain, fills_context in truncated:
            text = chain.text
            if fills_context and chain.tokens <= CUT_TOKENS:
                self.budget.check()  # raises where the time, and not the context, ended the chain
                why = "a chain filled the model's context before its answer"
                self.notes.add(f"{why}; shorten the prompt or make the context larger")
                continue
            if fills_context:
                text = text[: len(text) * (chain.tokens - CUT_TOKENS) // chain.tokens]
            if self._stated_answer(text) is None or self._has_answered(text):
                text = text.rstrip() + self.task.closing
            chains.append(dataclasses.replace(chain, text=text))
        greedy = {"temperature": 0.0, "max_tokens": ANSWER_TOKENS, "stop": self.task.closing_stop}
        yield from self._complete(chains, dataclasses.replace(self._sampling, **greedy), "close")

    def _refine(self, paths: Sequence[tuple[int, ...]]) -> Search[None]:
        """Tells the chains at these paths what is wrong with them and samples another attempt of each."""
        for _ in range(self.settings.refinements):
            if self.settings.choose == "best" and any(chain.verified for chain in self.chains):
                return
            attempts = []
            for path in paths:
                chain = self._chains[path]
                if (feedback := self._feedback(chain)) is not None:
                    prompt = (*self._question, chain.text, f"\nThis is wrong: {feedback} Try again.\n")
                    attempts.append(Chain((*path, 0), prompt=prompt))
            _, sampling = yield from self._fit_budget(len(attempts))
            yield from self._complete(attempts, sampling, "mend")
            yield from self._force_answers()
            paths = [attempt.path for attempt in attempts]
            if sampling.temperature == 0:  # an attempt that changed nothing would be repeated for ever
                paths = [path for path in paths if self._chains[path].text != self._chains[path[:-1]].text]

    def _complete(self, chains: Sequence[Chain], sampling: SamplingParams, purpose: str) -> Search[None]:
        """Samples a completion of each chain, in as many calls as the budget's tokens need."""
        while chains:
            prompts = [split_prompt((*chain.prompt, chain.text)) for chain in chains]
            seeds = [seed_of(self.settings.seed, self.problem, purpose, *chain.path) for chain in chains]
            rows = yield from ask(self.budget, prompts, [1] * len(chains), sampling, seeds)
            for chain, completions in zip(chains, rows, strict=True):
                for completion in completions:
                    self._extend(chain, completion, sampling, is_forced=purpose == "close")
            chains = [chain for chain, completions in zip(chains, rows, strict=True) if not completions]

    def _stated_answer(self, text: str) -> str | None:
        """Returns what follows the last mark of an answer; None without a mark."""
        mark = self._answer_mark.casefold()
        return text.casefold().rpartition(mark)[2].lstrip() if mark and mark in text.casefold() else None

    def _has_answered(self, text: str) -> bool:
        """Whether a chain states an answer and has come to its end."""
        answer = self._stated_answer(text)
        return answer is not None and any(stop in answer for stop in self.task.closing_stop)

    def _feedback(self, chain: Chain) -> str | None:
        """Returns what is wrong with a chain; None where its answer is right, or nothing is known to be wrong."""
        if chain.verified:
            return None
        for step in self.steps(chain.text) if self.validate else ():
            if step.valid is False and not self.notes.call(self.task.takes_back, step.text):
                return f"{step.text!r} {step.why}".rstrip() + "."
        if chain.answer is None:
            return "there is no answer."
        return f"{chain.answer} is not the answer." if chain.verified is False else None

    def steps(self, text: str) -> tuple[Step, ...]:
        """Returns the steps of a chain; with `validate`, each with the verdict of the checker, or else of the task.

        The task judges a step by the state before it, which nobody knows after a wrong step that is not taken back.
        """
        if text in self._steps:
            return self._steps[text]
        steps, state = [], self.task.read(self.problem)
        for line in self.notes.call(self.task.split, text) or ():
            if not self.validate:
                verdict = Verdict(None)
            elif self.checker is not None:
                verdict = self.notes.call(self.checker, line)
            elif state is None:
                verdict = Verdict(None, "a step before it is wrong, or nobody can tell")
            else:
                verdict = self.notes.call(self.task.judge, state, line)
                if not self.notes.call(self.task.takes_back, line):
                    state = self.notes.call(self.task.step, state, line)
            if not isinstance(verdict, Verdict):
                why = "the checker could not tell: see the notes" if verdict is None else f"it gave {verdict!r:.60}"
                verdict = Verdict(None, why)
            steps.append(Step(line.strip(), verdict.valid, verdict.why))
        self._steps[text] = tuple(steps)
        return self._steps[text]
