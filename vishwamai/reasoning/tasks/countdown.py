"""Countdown and the Game of 24 as tasks: a state is the sorted numbers left, and a program checks every step.

The rules and the way in which steps are written are those of `data.countdown`; the built-in model writes after each
step whether the target can still be reached (`yes` or `no`), and how sure it is of that is the value of the state.
"""

import re
from collections.abc import Sequence
from typing import Any

from vishwamai.data import countdown
from vishwamai.errors import InputError
from vishwamai.reasoning.model import Prompt
from vishwamai.reasoning.task import Task

YES, NO = " yes", " no"
MOST_NUMBERS = 8
LARGEST = 13  # of the Game of 24's numbers, those of playing cards
NUMBERS = r"([0-9 ,]+?)(?: at once)?\.?"
MOST_DIGITS = 9  # of a number: one with thousands of digits cannot even be read


class Countdown(Task):
    """Make a target from numbers, each used once: `52 from 3 7 9 12 25`.

    The answer is an expression, whole numbers of 0 to 200 all the way.
    """

    name = "countdown"
    model = "vishwamai/countdown"
    at_once = False  # the built-in model was taught steps alone
    step_tokens = 24
    choice_stop = (" =",)
    marks = (YES, NO)
    closing = "\n Answer:"

    def read(self, problem: str) -> countdown.State:
        return self.numbers(problem)[0]

    def recognises(self, problem: str) -> bool:
        try:
            return len(self.numbers(problem)[0]) > 1
        except InputError:
            return False

    def numbers(self, problem: str) -> tuple[countdown.State, int]:
        """The sorted numbers and the target. Raises `InputError` for a text that does not give them."""
        match = re.fullmatch(rf"(?:make )?([0-9]{{1,3}}) from {NUMBERS}", problem.strip(), re.IGNORECASE)
        if match is None:
            raise InputError(f"{problem!r:.60} is no such problem; write it like 52 from 3 7 9 12 25")
        return _parse_numbers(match[2], problem), int(match[1])

    def prompt(self, problem: str, steps: Sequence[str] = ()) -> Prompt:
        return (self._question(problem), "\n", *map(_affirm, steps))

    def direct_prompt(self, problem: str) -> Prompt:
        return self._question(problem, at_once=True), "\n"

    def step(self, state: Any, text: str) -> countdown.State | None:
        move = countdown.move_of(state, text)
        return None if move is None else move.left

    def takes_back(self, text: str) -> bool:
        return text.rstrip().endswith(NO)

    def answer(self, problem: str, steps: Sequence[str], state: Any) -> str | None:
        if len(state) > 1:
            return None
        if not steps:
            return str(state[0])
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

    def depth_of(self, problem: str) -> int:
        return max(len(self.read(problem)) - 1, 1)

    def _question(self, problem: str, *, at_once: bool = False) -> str:
        """The problem as the corpus asks it, with the numbers in the order in which they were written."""
        target = self.numbers(problem)[1]
        numbers = map(int, re.findall("[0-9]+", problem.lower().split("from")[-1]))
        return countdown.prompt(tuple(numbers), target, at_once=at_once)


class Game24(Countdown):
    """Make 24 from four numbers of 1 to 13: `4 9 10 13`. Puzzles that need fractions are out of its reach."""

    name = "game24"
    model = "vishwamai/base"
    at_once = True
    depth = 3
    scoped = False  # the target is always the same
    prefers = "samples"  # benchmarks/reason.py: with as many tokens best-of-n is as good as a tree or better

    def recognises(self, problem: str) -> bool:
        return super().recognises(problem) and max(self.read(problem)) <= LARGEST

    def numbers(self, problem: str) -> tuple[countdown.State, int]:
        match = re.fullmatch(f"(?:make 24 from )?{NUMBERS}", problem.strip(), re.IGNORECASE)
        if match is None:
            raise InputError(f"{problem!r:.60} is no Game of 24; write four numbers like 4 9 10 13")
        state = _parse_numbers(match[1], problem)
        if len(state) != 4:
            raise InputError(f"{problem!r:.60} has {len(state)} numbers; the Game of 24 has four")
        return state, 24


def _parse_numbers(text: str, problem: str) -> countdown.State:
    written = text.replace(",", " ").split()
    numbers = tuple(sorted(int(number) for number in written if len(number) <= MOST_DIGITS))
    if not 1 <= len(written) <= MOST_NUMBERS or len(numbers) < len(written) or numbers[-1] > countdown.MAX_VALUE:
        raise InputError(
            f"{problem!r:.60} has {len(written)} numbers; give 1 to {MOST_NUMBERS} of 0 to {countdown.MAX_VALUE}"
        )
    return numbers


def _affirm(step: str) -> str:
    """A step as it stands in a prompt: one that the search goes on from is never taken back."""
    text = " " + step.strip()
    return (text.removesuffix(NO) + YES if text.endswith(NO) else text) + "\n"
