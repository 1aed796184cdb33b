"""The built-in model's word problems: a chain of equalities for each step, then `Answer: 36`.

The problem's text is the prompt. Whether an answer is right is known of sums (`What is 12 + 30?`) and of the stories
that the corpus's grammar tells.
"""

import re
from collections.abc import Sequence
from fractions import Fraction
from typing import Any

from vishwamai.data import word_problems
from vishwamai.errors import DataError, InputError
from vishwamai.reasoning import answers, exact, numerals, verify
from vishwamai.reasoning.model import Prompt
from vishwamai.reasoning.task import Task

FINAL = "Answer:"
ASKED = re.compile(r"(?:what(?:'s| is)|how much is|calculate|compute)\s+([-+*/(). 0-9]+?)\s*[?=.]*", re.IGNORECASE)
SUM = re.compile(r"([-+*/(). 0-9]*[0-9)] [-+*/] [-+*/(). 0-9]+?)\s*(?:=\s*)?\??")  # spaced, or it may be a date
OPERATOR = re.compile(r"(?<=[0-9)]) *(\*\*|[-+*/]) *")
Steps = tuple[str, ...]  # so far, the state


class WordProblems(Task):
    """Problems are sums, and stories like those of `vishwamai.data.word_problems`; the state is the steps so far.

    A step is a chain of equalities that hold; the final line repeats the number that the last step ends with.
    """

    name = "word_problems"
    step_tokens = 48
    chain_tokens = 128
    closing = f"\n {FINAL}"
    depth = 4

    def read(self, problem: str) -> Steps:
        if not problem.strip():
            raise InputError("the problem is empty; a problem of this task is a text that ends with a question")
        return ()

    def recognises(self, problem: str) -> bool:
        return _right_answer(problem) is not None

    def prompt(self, problem: str, steps: Sequence[str] = ()) -> Prompt:
        return (_question(problem), "\n", *(f" {step.strip()}\n" for step in steps))

    def direct_prompt(self, problem: str) -> Prompt:
        return (_question(problem), "\n", f" {FINAL}")

    def step(self, state: Any, text: str) -> Steps | None:
        text = text.strip()
        if state and state[-1].startswith(FINAL):
            return None
        if text.startswith(FINAL):
            is_right = not state or answers.equal(text.removeprefix(FINAL), state[-1].rpartition("=")[2])
        else:
            is_right = verify.arithmetic(text).valid is True
        return (*state, text) if is_right else None

    def answer(self, problem: str, steps: Sequence[str], state: Any) -> str | None:
        return answers.extract(state[-1]) if state and state[-1].startswith(FINAL) else None

    def check(self, problem: str, answer: str) -> bool | None:
        right = _right_answer(problem)
        return None if right is None else answers.canonical(answer) == right

    def split(self, text: str) -> list[str]:
        """The lines up to the final one."""
        lines = [line.strip() for line in text.split("\n") if line.strip()]
        ends = [i for i, line in enumerate(lines) if line.startswith(FINAL)]
        return lines[: ends[0] + 1] if ends else lines

    def extract(self, text: str) -> str | None:
        return answers.extract("\n".join(self.split(text)))


def _parse_sum(problem: str) -> str | None:
    """The sum that a problem asks for and nothing else."""
    text = problem.strip().translate(numerals.SIGNS)
    match = ASKED.fullmatch(text) or SUM.fullmatch(text)
    return match[1] if match and OPERATOR.search(match[1]) else None


def _question(problem: str) -> str:
    """A problem as the corpus asks it: `What is 12 + 30?`."""
    found = _parse_sum(problem)
    return problem.strip() if found is None else "What is " + OPERATOR.sub(r" \1 ", found) + "?"


def _right_answer(problem: str) -> Fraction | None:
    """The right answer, where a program can tell."""
    found, steps = _parse_sum(problem), word_problems.steps_of(problem.strip())
    try:
        return Fraction(steps[-1].result) if steps else exact.evaluate_number(found) if found else None
    except (DataError, ZeroDivisionError):
        return None
