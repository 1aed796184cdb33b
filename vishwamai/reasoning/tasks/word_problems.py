"""The built-in model's word problems: a chain of equalities for each step, then `Answer: 36`.

The problem's text is the prompt. The corpus's own judge tells for its held-out problems whether an answer is right.
"""

import functools
from collections.abc import Sequence
from typing import cast

from vishwamai.data import word_problems
from vishwamai.data.rows import Problem
from vishwamai.errors import InputError
from vishwamai.reasoning import answers, verify
from vishwamai.reasoning.model import Prompt
from vishwamai.reasoning.task import State, Task

FINAL = "Answer:"
Steps = tuple[str, ...]


class WordProblems(Task):
    """Problems are texts like those of `vishwamai.data.word_problems`; the state is the steps so far.

    A step is a chain of equalities that hold; the final line repeats the number that the last step ends with.
    """

    name = "word_problems"
    step_tokens = 48
    chain_tokens = 128
    closing = f"\n {FINAL}"
    depth = 4

    def read(self, problem: str) -> State:
        if not problem.strip():
            raise InputError("the problem is empty; a problem of this task is a text that ends with a question")
        return ()

    def prompt(self, problem: str, steps: Sequence[str] = ()) -> Prompt:
        return (problem.strip(), "\n", *(f" {step.strip()}\n" for step in steps))

    def direct_prompt(self, problem: str) -> Prompt:
        return (problem.strip(), "\n", f" {FINAL}")

    def step(self, state: State, text: str) -> State | None:
        before = cast(Steps, state)
        text = text.strip()
        if before and before[-1].startswith(FINAL):
            return None
        if text.startswith(FINAL):
            right = not before or answers.equal(text.removeprefix(FINAL), before[-1].rpartition("=")[2])
        else:
            right = verify.arithmetic(text).valid is True
        return (*before, text) if right else None

    def answer(self, problem: str, steps: Sequence[str], state: State) -> str | None:
        lines = cast(Steps, state)
        return answers.extract(lines[-1]) if lines and lines[-1].startswith(FINAL) else None

    def check(self, problem: str, answer: str) -> bool | None:
        known = _held_out().get(problem.strip())
        return None if known is None else known.grade(f"{FINAL} {answers.canonical(answer)}")

    def split(self, text: str) -> list[str]:
        """The lines up to the final one."""
        lines = [line.strip() for line in text.split("\n") if line.strip()]
        ends = [i for i, line in enumerate(lines) if line.startswith(FINAL)]
        return lines[: ends[0] + 1] if ends else lines

    def extract(self, text: str) -> str | None:
        return answers.extract("\n".join(self.split(text)))


@functools.cache
def _held_out() -> dict[str, Problem]:
    return {problem.prompt: problem for problem in word_problems.held_out()}
