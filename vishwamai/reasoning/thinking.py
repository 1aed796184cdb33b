"""The chains of one problem while they are written: drawn, made to answer, judged step by step, and mended.

It decides nothing of which is submitted (`choose.py`). Everything is asked for within a budget; what is there when that
is spent stays.
"""

import dataclasses
from collections.abc import Callable, Sequence

from vishwamai.checks import check_whole
from vishwamai.errors import InputError
from vishwamai.generation.sampling import SamplingParams
from vishwamai.reasoning.budget import Budget
from vishwamai.reasoning.choose import CHOICES, WEIGHTS, Chain, is_decided
from vishwamai.reasoning.drive import Search, ask, wait_for_tokens
from vishwamai.reasoning.model import Completion, Prompt, pieces, seed_of
from vishwamai.reasoning.solution import Step
from vishwamai.reasoning.task import Checker, Task, Verdict, call_safely

ANSWER_TOKENS = 48  # of a forced answer
LEAST_SHARE = 4  # where the budget is small, one token in so many is kept for forced answers


@dataclasses.dataclass(frozen=True, kw_only=True)
class ChainSettings:
    """How chains are written and chosen. Raises `InputError` for values out of range."""

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
        """How a chain is drawn: one alone by the likeliest tokens."""
        return SamplingParams(
            temperature=0.0 if self.samples == 1 else self.temperature,
            max_tokens=task.chain_tokens if self.thinking is None else self.thinking,
            stop=task.chain_stop,
            logprobs=0 if self.weights == "logprob" else None,
        )


@dataclasses.dataclass(frozen=True)
class _Cut:
    """A chain that was cut off before its answer: where it stands, and what it came from."""

    at: int
    prompt: Prompt
    made: Completion
    full: bool  # for want of room in the model's context, and not because it had thought for long enough


class Thinking:
    """The chains of a problem. `chains` has all of them in the order in which they were made, attempts too."""

    def __init__(
        self, task: Task, settings: ChainSettings, checker: Checker | None, problem: str, budget: Budget, validate: bool
    ):
        self.task, self.settings, self.checker, self.problem, self.budget = task, settings, checker, problem, budget
        self.validate = validate
        self.chains: list[Chain] = []
        self.notes: list[str] = []
        self.short = False  # whether a chain had fewer tokens to think than it was to have, for want of budget
        self._how = settings.sampling(task)
        self._prompt = task.direct_prompt(problem) if settings.direct else task.prompt(problem)
        self._mark = task.closing.strip()
        # A direct prompt may end with the mark of the answer: it is a part of the chain, and not of what is before it.
        self._before, self._begun = _parted(self._prompt, self._mark)
        self._cut: list[_Cut] = []
        self._judged: dict[str, tuple[Step, ...]] = {}

    def write(self) -> Search[None]:
        """Adds chains, a wave at a time, until there are as many as asked for or more would change nothing."""
        s, drawn = self.settings, 0
        while drawn < s.samples and not is_decided(self.chains, s.samples - drawn, s.choose, s.weights):
            wanted = min(s.wave or s.samples, s.samples - drawn)
            yield from self._room(wanted)
            n, how = self._afforded(wanted)
            seed = seed_of(s.seed, self.problem, "chain", drawn)
            [made] = yield from ask(self.budget, [self._prompt], [n], how, [seed])
            made = [dataclasses.replace(c, text=self._begun + c.text) for c in made]
            wave = [self._add((drawn + j,), self._before, c, how) for j, c in enumerate(made)]
            drawn += len(made)
            yield from self._close()
            yield from self._refine(wave)

    def _room(self, n: int) -> Search[None]:
        """Waits for the tokens of so many chains while other problems hold them."""
        return (
            yield from wait_for_tokens(
                self.budget, n * ((self._how.max_tokens or self.task.chain_tokens) + ANSWER_TOKENS)
            )
        )

    def _afforded(self, n: int) -> tuple[int, SamplingParams]:
        """How many chains the budget's tokens hold, and how long, so that each can still be made to answer."""
        left, most = self.budget.remaining("tokens"), self._how.max_tokens or self.task.chain_tokens
        if left == float("inf"):
            return n, self._how
        kept = min(ANSWER_TOKENS, int(left) // LEAST_SHARE)
        longest = max(min(most, int(left) - kept), 1)
        return max(min(n, int(left) // (longest + kept)), 1), dataclasses.replace(self._how, max_tokens=longest)

    def _add(self, path: tuple[int, ...], prompt: Prompt, made: Completion, how: SamplingParams) -> int:
        """Notes a chain and returns its number. One that was cut off has no answer before it is closed."""
        is_cut = made.finish_reason == "length" and not self._has_answered(made.text)
        self.chains.append(self._chain(path, made, answered=not is_cut))
        if is_cut:
            full = made.tokens < (how.max_tokens or 0)
            self.short = self.short or how.max_tokens != self._how.max_tokens
            self._cut.append(_Cut(len(self.chains) - 1, prompt, made, full))
        return len(self.chains) - 1

    def _chain(self, path: tuple[int, ...], made: Completion, *, answered: bool = True) -> Chain:
        answer = self._guarded(self.task.extract, made.text) if answered else None
        answer = None if answer is None else str(answer)
        right = None if answer is None else self._guarded(self.task.check, self.problem, answer)
        verified = None if right is None else bool(right)
        return Chain(path, made.text, answer, verified, made.tokens, made.logprob, round(self.budget.elapsed, 6))

    def _guarded(self, call: Callable, *args):
        """What a task or a checker says; where it raises, None, and the notes say so."""
        found, why = call_safely(call, *args)
        self._note(why)
        return found

    def _note(self, why: str) -> None:
        if why and why not in self.notes:
            self.notes.append(why)

    def _stated(self, text: str) -> str | None:
        """What stands after a chain's last mark of an answer; None without one."""
        if not self._mark:
            return None
        _, mark, after = text.casefold().rpartition(self._mark.casefold())
        return after.lstrip() if mark else None

    def _has_answered(self, text: str) -> bool:
        """Whether a whole answer stands in a chain that was cut off: one that has ended."""
        stated = self._stated(text)
        return stated is not None and any(stop in stated for stop in self.task.closing_stop)

    def _closed(self, one: _Cut) -> str:
        """A cut chain with what makes it answer: nothing more, where it was about to."""
        text = _shortened(one.made) if one.full else one.made.text
        if self._stated(text) is not None and not self._has_answered(text):
            return text
        return text.rstrip() + self.task.closing

    def _close(self) -> Search[None]:
        """Makes the chains that were cut off answer."""
        cut = [one for one in self._cut if not one.full or one.made.tokens > 2 * ANSWER_TOKENS]
        if len(cut) < len(self._cut):
            self.budget.check()
            self._note(
                "a chain filled the model's context before its answer; shorten the prompt or make the context larger"
            )
        self._cut = []
        texts = [self._closed(one) for one in cut]
        how = dataclasses.replace(self._how, temperature=0.0, max_tokens=ANSWER_TOKENS, stop=self.task.closing_stop)

        def take(i: int, said: Completion) -> None:
            sums = {"tokens": cut[i].made.tokens + said.tokens, "logprob": cut[i].made.logprob + said.logprob}
            made = Completion(text=texts[i] + said.text, **sums)
            self.chains[cut[i].at] = self._chain(self.chains[cut[i].at].path, made)

        prompts = [(*pieces(one.prompt), text) for one, text in zip(cut, texts, strict=True)]
        seeds = [seed_of(self.settings.seed, self.problem, "close", *self.chains[one.at].path) for one in cut]
        yield from self._each(prompts, how, seeds, take)

    def _each(
        self,
        prompts: Sequence[Prompt],
        how: SamplingParams,
        seeds: Sequence[int],
        take: Callable[[int, Completion], object],
    ) -> Search[None]:
        """A continuation of each prompt, in as many calls as the budget's tokens make of it."""
        left = list(range(len(prompts)))
        while left:
            ones = [1] * len(left)
            said = yield from ask(self.budget, [prompts[i] for i in left], ones, how, [seeds[i] for i in left])
            for i, row in zip(left, said, strict=True):
                if row:
                    take(i, row[0])
            left = [i for i, row in zip(left, said, strict=True) if not row]

    def _refine(self, wave: Sequence[int]) -> Search[None]:
        """Tells the chains of a wave what is wrong with them, as often as is asked for and while something is."""
        attempts = list(wave)
        for _ in range(self.settings.refinements):
            if self.settings.choose == "best" and any(chain.verified for chain in self.chains):
                return
            wrong = [(self.chains[i], why) for i in attempts if (why := self._complaint(self.chains[i])) is not None]
            before = len(self.chains)
            yield from self._mend(wrong)
            attempts = [i for i in range(before, len(self.chains)) if not self._is_repeat(self.chains[i])]

    def _mend(self, wrong: Sequence[tuple[Chain, str]]) -> Search[None]:
        """An attempt more for each of these chains, which is told what is wrong."""
        prompts = [(*pieces(self._before), chain.text, f"\nThis is wrong: {why} Try again.\n") for chain, why in wrong]
        paths = [(*chain.path, 0) for chain, _ in wrong]
        yield from self._room(len(wrong))
        _, how = self._afforded(1)
        seeds = [seed_of(self.settings.seed, self.problem, "mend", *path) for path in paths]
        yield from self._each(prompts, how, seeds, lambda i, made: self._add(paths[i], prompts[i], made, how))
        yield from self._close()

    def _is_repeat(self, chain: Chain) -> bool:
        """Whether an attempt is what it should mend, and the likeliest tokens would repeat it for ever."""
        return self._how.temperature == 0 and any(
            chain.text == other.text for other in self.chains if other.path == chain.path[:-1]
        )

    def _complaint(self, chain: Chain) -> str | None:
        """What is wrong with a chain, or None: nothing is where its answer is right."""
        if chain.verified:
            return None
        for step in self.judged(chain.text) if self.validate else ():
            if step.valid is False and not self._guarded(self.task.takes_back, step.text):
                return f"{step.text!r} {step.why}".rstrip() + "."
        if chain.answer is None:
            return "there is no answer."
        return f"{chain.answer} is not the answer." if chain.verified is False else None

    def lines(self, text: str) -> list[str]:
        """The steps of a chain."""
        return self._guarded(self.task.split, text) or []

    def judged(self, text: str) -> tuple[Step, ...]:
        """The steps of a chain with a word on each: the checker's, or the task's from the state before it.

        After a step that is wrong and not taken back, the task cannot tell of those that follow.
        """
        if text not in self._judged:
            lines, by = self.lines(text), self.checker
            self._judged[text] = tuple(self._by_task(lines) if by is None else self._by_checker(lines, by))
        return self._judged[text]

    def _by_checker(self, lines: Sequence[str], checker: Checker) -> list[Step]:
        told = [(line.strip(), self._verdict(checker, line)) for line in lines]
        return [Step(line, verdict.valid, verdict.why) for line, verdict in told]

    def _by_task(self, lines: Sequence[str]) -> list[Step]:
        steps, state = [], self.task.read(self.problem)
        for line in lines:
            if state is None:
                steps.append(Step(line.strip(), None, "a step before it is wrong, or nobody can tell"))
                continue
            verdict = self._verdict(self.task.judge, state, line)
            steps.append(Step(line.strip(), verdict.valid, verdict.why))
            if not self._guarded(self.task.takes_back, line):
                state = self._guarded(self.task.step, state, line)
        return steps

    def _verdict(self, judge: Callable, *args) -> Verdict:
        found = self._guarded(judge, *args)
        if isinstance(found, Verdict):
            return found
        return Verdict(None, "the checker could not tell: see the notes" if found is None else f"it gave {found!r:.60}")


def _shortened(made: Completion) -> str:
    """A chain that fills the model's context, less its last tokens by their share of the text: room for an answer."""
    return made.text[: len(made.text) * (made.tokens - 2 * ANSWER_TOKENS) // made.tokens]


def _parted(prompt: Prompt, mark: str) -> tuple[Prompt, str]:
    """A prompt up to the mark of the answer that it ends with, and the mark; the prompt and nothing, without one."""
    *before, last = pieces(prompt) or ("",)
    if not mark or not last.rstrip().endswith(mark):
        return prompt, ""
    at = last.rindex(mark)
    return (*before, last[:at]), last[at:]
