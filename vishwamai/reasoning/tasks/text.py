"""Any problem in words, for any model: a step is a line, and the answer stands after a mark.

Zero-shot, the model is cued to go step by step (Kojima et al., 2022); few-shot, it is shown worked examples (Wei et
al., 2022). It knows nothing of the problem: who makes the task may give a checker of steps and a judge of answers.
"""

import os.path
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from vishwamai.errors import InputError
from vishwamai.reasoning.model import Prompt
from vishwamai.reasoning.task import Checker, Task, Verdict, call_safely
from vishwamai.reasoning.verify import run_checker
from vishwamai.text.chat import render

Example = tuple[str, Sequence[str], str]  # question, steps, answer

CUE = "Let's think step by step."
QUESTION = "Question:"
PROBE = "\N{LEFT CEILING}"  # a problem that begins like no other, to see what a template puts before one


class FreeText(Task):
    """A question in words. A state is the tuple of its steps: without marks, in one case, with single spaces.

    `instruction` replaces ours ("" for none), `examples` are (question, steps, answer), and `cue` is said before the
    first step. A step begins with `steps_marker` and a number ("" for neither). Steps and answers end with `separator`:
    with an empty line in its place both may have several lines. With `chat_template`, a chat model's template in
    Jinja, and `variables` for it, questions are messages of a user and steps begin the reply; leave `bos_token` out
    where the model's tokenizer puts one. A special token that is spelt out in a problem is read as that token.

    `checker` judges a step without its mark, `final(problem, answer)` an answer; where one raises, it cannot tell.
    Without both a search is blind: samples are preferred. Raises `InputError` for malformed examples and empty marks.
    """

    name = "text"

    def __init__(
        self,
        *,
        instruction: str | None = None,
        examples: Sequence[Example] = (),
        cue: str = CUE,
        steps_marker: str = "Step",
        answer_marker: str = "Answer:",
        separator: str = "\n",
        chat_template: str | None = None,
        variables: Mapping[str, Any] | None = None,
        checker: Checker | None = None,
        final: Callable[[str, str], bool | None] | None = None,
        step_tokens: int = 96,
        chain_tokens: int = 512,
        depth: int | None = None,
    ):
        self.instruction, self.cue = instruction, cue.strip()
        self.examples = tuple(_parse_example(example, i) for i, example in enumerate(examples))
        self.steps_marker, self.answer_marker, self.separator = steps_marker.strip(), answer_marker.strip(), separator
        if not self.answer_marker or not separator:
            raise InputError("answer_marker and separator say where an answer begins and a step ends; give a text each")
        self.chat_template, self.variables = chat_template, variables
        self.checker, self.final = checker, final
        self.stop, self.step_tokens, self.chain_tokens, self.depth = (separator,), step_tokens, chain_tokens, depth
        self.closing, self.closing_stop = f"{separator}{self.answer_marker}", (separator,)
        self.chain_stop = () if chat_template is not None else (f"\n{QUESTION}",)
        self.prefers = "samples" if checker is None and final is None else "tree"
        # Chat models set marks in bold: `**Answer:** 7`, `**Answer**: 7`.
        words, last = re.escape(self.answer_marker[:-1]), re.escape(self.answer_marker[-1])
        self._answer_mark = re.compile(rf"(?<!\w){words}\**{last}", re.IGNORECASE)
        self._step_mark = re.compile(rf"\s*\**{re.escape(self.steps_marker)}\s*\d*\**[:.)]\**", re.IGNORECASE)

    def read(self, problem: str) -> tuple[str, ...]:
        if not problem.strip():
            raise InputError("the problem is empty; say in words what is asked")
        return ()

    def prompt(self, problem: str, steps: Sequence[str] = ()) -> Prompt:
        return *self._prompt_start(problem, direct=False), *(f"{step.strip()}{self.separator}" for step in steps)

    def direct_prompt(self, problem: str) -> Prompt:
        return self._prompt_start(problem, direct=True)

    def step(self, state: tuple[str, ...], text: str) -> tuple[str, ...] | None:
        if self.judge(state, text).valid is False:
            return None
        return *state, " ".join(self._strip_mark(text).split()).casefold()

    def judge(self, state: tuple[str, ...], text: str) -> Verdict:
        plain = self._strip_mark(text)
        if not plain or self.checker is None:
            return Verdict(None if plain else False)
        return run_checker(self.checker, plain)

    def answer(self, problem: str, steps: Sequence[str], state: tuple[str, ...]) -> str | None:
        """What stands after the last mark of an answer; None before there is one."""
        return self._marked_answer(self.separator.join(steps))

    def check(self, problem: str, answer: str) -> bool | None:
        return None if self.final is None else call_safely(self.final, problem, answer)[0]

    def split(self, text: str) -> list[str]:
        """The steps of a chain, up to where a model that was shown a list of questions goes on to another one."""
        if self.chat_template is None:
            text = text.partition(f"\n{QUESTION}")[0]
        return [step for step in text.split(self.separator) if step.strip()]

    def extract(self, text: str) -> str | None:
        """What stands after the last mark of an answer; where there is no mark, the last step."""
        steps = self.split(text)
        if self._answer_mark.search(self.separator.join(steps)):
            return self._marked_answer(self.separator.join(steps))
        return next((plain for step in reversed(steps) if (plain := self._strip_mark(step))), None)

    def _marked_answer(self, text: str) -> str | None:
        """What stands between the last mark and the next end of a step."""
        marks = list(self._answer_mark.finditer(text))
        after = text[marks[-1].end() :].split(self.separator) if marks else []
        parts = [part.strip().removeprefix("**").removesuffix("**").strip() for part in after]
        return next((part for part in parts if part), None)

    def _strip_mark(self, step: str) -> str:
        mark = self._step_mark.match(step) if self.steps_marker else None
        return step[mark.end() if mark else 0 :].strip()

    def _prompt_start(self, problem: str, *, direct: bool) -> tuple[str, ...]:
        """The pieces of a prompt before its first step: what all problems share, and the rest."""
        turns = self._turns(problem.strip(), direct)
        if self.chat_template is None:
            shown = [f"{QUESTION} {question}\n{reply}" for question, reply in turns]
            return "".join(f"{part}\n\n" for part in [self._rule(direct), *shown[:-1]] if part), shown[-1]
        text, probe = self._render(turns, direct), self._render(self._turns(PROBE, direct), direct)
        shared = len(os.path.commonprefix((text, probe)))
        return text[:shared], text[shared:]

    def _turns(self, problem: str, direct: bool) -> list[tuple[str, str]]:
        """(question, reply) of each example, and of the problem, whose reply is empty."""
        cue = f"\n{self.cue}" if self.cue and not direct else ""
        turns = []
        for question, steps, answer in self.examples:
            lines = [f"{self.steps_marker} {i}: {s}" if self.steps_marker else s for i, s in enumerate(steps, 1)]
            lines = [*([] if direct else lines), f"{self.answer_marker} {answer}"]
            turns.append((question + cue, self.separator.join(lines)))
        return [*turns, (problem + cue, "")]

    def _render(self, turns: list[tuple[str, str]], direct: bool) -> str:
        """The template's text. The rule stands in the first question, for not every template knows a system's role."""
        roles = ("user", "assistant")
        messages = [{"role": role, "content": text} for turn in turns for role, text in zip(roles, turn, strict=True)]
        messages[0]["content"] = f"{self._rule(direct)}\n\n{messages[0]['content']}".strip()
        return render(messages[:-1], self.chat_template or "", add_generation_prompt=True, variables=self.variables)

    def _rule(self, direct: bool) -> str:
        """What the model is told before the first question."""
        if self.instruction is not None:
            return self.instruction.strip()
        mark, answer = self.steps_marker, f'"{self.answer_marker} ..."'
        if direct:
            return f"Solve the problem. Write the answer and nothing else: {answer}"
        unit = "line" if self.separator == "\n" else "paragraph"
        shown = f': "{mark} 1: ...", "{mark} 2: ..."' if mark else ""
        return (
            f"Solve the problem in short steps, each a {unit} of its own{shown}. Then write the answer alone: {answer}"
        )


def _parse_example(example: Any, i: int) -> Example:
    match example:
        case (str(question), [*steps], str(answer)) if all(isinstance(step, str) for step in steps):
            return question.strip(), tuple(step.strip() for step in steps), answer.strip()
    raise InputError(
        f"example {i} is {example!r:.80}; it must be (question, [step, step, ...], answer), all of them texts"
    )
