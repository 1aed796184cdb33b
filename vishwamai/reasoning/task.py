"""What a search must know of a problem: how it is asked, what a step does, and when an answer is right.

A task is five methods; the rest has defaults. A state is any hashable value, and equal states are the same place: a
search never goes on from one twice. It knows no model and no search.
"""

import abc
import dataclasses
import math
from collections.abc import Callable, Hashable, Sequence
from typing import Any

from vishwamai.reasoning.model import Completion, Prompt

State = Hashable


class Task(abc.ABC):
    """A kind of problem. A step is one line of text."""

    name: str = "task"
    model: str = "vishwamai/base"  # that the command takes where none is named
    stop: tuple[str, ...] = ("\n",)  # ends a step
    step_tokens: int = 32
    choice_stop: tuple[str, ...] = ()  # ends a step's choice, which the rest follows from: equal ones are written once
    choice_tokens: int = 8
    chain_stop: tuple[str, ...] = ()  # ends a whole chain: with it a model begins another problem
    chain_tokens: int = 256
    depth: int | None = None  # steps of a problem at most, None where nobody knows
    closing: str = "\nAnswer:"  # makes a chain answer that has thought for long enough; a chain's own mark of an answer
    closing_stop: tuple[str, ...] = ("\n",)  # ends that answer
    prefers: str = "tree"  # or "samples": which was measured to find more right answers for as many tokens
    scoped: bool = True  # whether what a state is worth depends on the problem too
    marks: tuple[str, str] | None = None  # end a step: the state after it is promising, or not; a token each
    at_once: bool = True  # whether an answer without steps is worth asking for

    @abc.abstractmethod
    def read(self, problem: str) -> State:
        """The state before the first step. Raises `InputError` for a malformed problem."""

    @abc.abstractmethod
    def prompt(self, problem: str, steps: Sequence[str] = ()) -> Prompt:
        """What the model continues with the next step (with all of them, where there is none), in pieces."""

    @abc.abstractmethod
    def step(self, state: State, text: str) -> State | None:
        """The state after a step as it is written, or None where it is wrong."""

    @abc.abstractmethod
    def answer(self, problem: str, steps: Sequence[str], state: State) -> str | None:
        """The answer that these steps lead to, or None while there is more to do."""

    @abc.abstractmethod
    def check(self, problem: str, answer: str) -> bool | None:
        """Whether an answer is right; None where no program can tell."""

    def recognises(self, problem: str) -> bool:
        """Whether a problem is plainly of this kind, and a program can tell whether its answer is right."""
        return False

    def direct_prompt(self, problem: str) -> Prompt:
        """What the model continues with an answer and no steps."""
        return self.prompt(problem)

    def split(self, text: str) -> list[str]:
        """The steps of a whole chain."""
        return [line for line in text.split("\n") if line.strip()]

    def extract(self, text: str) -> str | None:
        """The answer of a whole chain: its last step, without the mark that `closing` puts before it."""
        steps = self.split(text)
        return steps[-1].strip().removeprefix(self.closing.strip()).strip() or None if steps else None

    def judge(self, state: State, text: str) -> "Verdict":
        """What can be said of a step after a state: here whether it is one at all."""
        return Verdict(self.step(state, text) is not None)

    def takes_back(self, text: str) -> bool:
        """Whether a step of a whole chain takes itself back, so that the next goes on from the state before it."""
        return False

    def key(self, state: State) -> Hashable:
        """What two states share that are the same place of a search."""
        return state

    def depth_of(self, problem: str) -> int | None:
        """How many steps this problem may take at most."""
        return self.depth

    def value(self, completion: Completion) -> float | None:
        """How promising the state after a step is, 0 to 1, where the model says it in passing: by its `marks`.

        The mark is the last token but for the one that ends the line, which some endpoints leave out.
        """
        if self.marks is None:
            return None
        pairs = [tuple(t.get(mark, -math.inf) for mark in self.marks) for t in completion.likeliest[-2:]]
        return yes_probability(*max(pairs, key=max, default=(-math.inf, -math.inf)))


@dataclasses.dataclass(frozen=True)
class Verdict:
    """What a checker says of a step: right, wrong, or None (it cannot tell), and why."""

    valid: bool | None
    why: str = ""


def yes_probability(yes: float, no: float) -> float | None:
    """The probability of the first of two log-probabilities, None where neither is possible."""
    return None if yes == no == -math.inf else 1 / (1 + math.exp(min(no - yes, 700.0)))


Checker = Callable[[str], Verdict]


def call_safely(check: Callable[..., Any], *args: Any) -> tuple[Any, str]:
    """Returns what a user's checker returns, or None and a sentence where it raises: a broken one ends no search."""
    try:
        return check(*args), ""
    except Exception as error:
        return None, f"the checker raised {type(error).__name__}: {error}"


class Notes(list[str]):
    """What went wrong while a problem was solved, each sentence once."""

    def add(self, note: str) -> None:
        """Adds a sentence, if there is one."""
        if note and note not in self:
            self.append(note)

    def call(self, function: Callable[..., Any], *args: Any) -> Any:
        """Returns what a function of the user's returns; None where it raises, which is noted."""
        result, why = call_safely(function, *args)
        self.add(why)
        return result

    def check_answer(self, task: Task, problem: str, answer: str) -> bool | None:
        """Returns whether the task calls an answer right; None where no program can tell."""
        verdict = self.call(task.check, problem, answer)
        return None if verdict is None else bool(verdict)
