"""Countdown and the Game of 24 as tasks: a state is the sorted numbers left, and a program checks every step.

The rules and the way in which steps are written are those of `data.countdown`; the built-in model writes after each
step whether the target can still be reached (`yes` or `no`), and how sure it is of that is the value of the state.
"""

import math
import re
from collections.abc import Sequence
from typing import Any

from vishwamai.data import countdown
from vishwamai.errors import InputError
from vishwamai.reasoning.model import Completion, Prompt
from vishwamai.reasoning.task import Task

YES, NO = " yes", " no"
MOST_NUMBERS = 8


class Countdown(Task):
    """Make a target from numbers, each used once: `52 from 3 7 9 12 25`.

    The answer is an expression, whole numbers of 0 to 200 all the way.
    """

    name = "countdown"
    step_tokens = 24
    choice_stop = (" =",)
    chain_tokens = 256

    def read(self, problem: str) -> countdown.State:
        return self.numbers(problem)[0]

    def numbers(self, problem: str) -> tuple[countdown.State, int]:
        """The sorted numbers and the target. Raises `InputError` for a text that does not give them."""
        match = re.fullmatch(r"(?:make )?([0-9]{1,3}) from ([0-9 ,]+?)(?: at once)?\.?", problem.strip(), re.IGNORECASE)
        if match is None:
            raise InputError(f"{problem!r:.60} is no such problem; write it like 52 from 3 7 9 12 25")
        return _checked(match[2], problem), int(match[1])

    def prompt(self, problem: str, steps: Sequence[str] = ()) -> Prompt:
        asked = countdown.prompt(self._as_given(problem), self.numbers(problem)[1])
        return (asked, "\n", *(_kept(step) for step in steps))

    def direct_prompt(self, problem: str) -> Prompt:
        return countdown.prompt(self._as_given(problem), self.numbers(problem)[1], at_once=True), "\n"

    def step(self, state: Any, text: str) -> countdown.State | None:
        move = countdown.move_of(state, text)
        return None if move is None else move.left

    def takes_back(self, text: str) -> bool:
        return text.rstrip().endswith(NO)

    def answer(self, problem: str, steps: Sequence[str], state: Any) -> str | None:
        if len(state) > 1:
            return None
        here, path = self.read(problem), []
        for text in steps:
            path.append(countdown.move_of(here, text))
            here = path[-1].left
        return countdown.compose(self.read(problem), path)

    def check(self, problem: str, answer: str) -> bool | None:
        numbers, target = self.numbers(problem)
        return countdown.is_answer(numbers, target, f"Answer: {answer} = {target}")

    def split(self, text: str) -> list[str]:
        return [line for line in super().split(text) if "Answer:" not in line]

    def extract(self, text: str) -> str | None:
        match = countdown.ANSWER.fullmatch(text.strip().split("\n")[-1].strip())
        return None if match is None else match[1]

    def value(self, made: Completion) -> float | None:
        # Of all steps that with the likeliest yes or no: endpoints differ in whether the stop text's steps are there.
        pairs = [(told.get(YES, -math.inf), told.get(NO, -math.inf)) for told in made.likeliest]
        yes, no = max(pairs, key=max, default=(-math.inf, -math.inf))
        return None if yes == no == -math.inf else 1 / (1 + math.exp(min(no - yes, 700.0)))

    def _as_given(self, problem: str) -> tuple[int, ...]:
        """The numbers in the order in which they were written."""
        text = problem.strip().rstrip(".").lower().removesuffix(" at once").split("from")[-1]
        return tuple(map(int, text.replace(",", " ").split()))


class Game24(Countdown):
    """Make 24 from four numbers of 1 to 13: `4 9 10 13`. Puzzles that need fractions are out of its reach."""

    name = "game24"
    depth = 3
    scoped = False  # the target is always the same

    def numbers(self, problem: str) -> tuple[countdown.State, int]:
        text = re.sub(r"^make 24 from ", "", problem.strip().rstrip("."), flags=re.IGNORECASE)
        if not re.fullmatch(r"[0-9 ,]+", text):
            raise InputError(f"{problem!r:.60} is no Game of 24; write four numbers like 4 9 10 13")
        state = _checked(text, problem)
        if len(state) != 4:
            raise InputError(f"{problem!r:.60} has {len(state)} numbers; the Game of 24 has four")
        return state, 24


def _checked(text: str, problem: str) -> countdown.State:
    numbers = tuple(sorted(map(int, text.replace(",", " ").split())))
    if not 1 <= len(numbers) <= MOST_NUMBERS or numbers[-1] > countdown.MAX_VALUE:
        raise InputError(
            f"{problem!r:.60} has {len(numbers)} numbers; give 1 to {MOST_NUMBERS} of 0 to {countdown.MAX_VALUE}"
        )
    return numbers


def _kept(step: str) -> str:
    """A step as it stands in a prompt: one that the search goes on from is never taken back."""
    text = step.rstrip()
    return (text.removesuffix(NO) + YES if text.endswith(NO) else text) + "\n"
