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
    Without both a search is blind, so samples are preferred.
    Raises `InputError` for malformed examples and empty marks.
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
        self.examples = tuple(_checked(example, i) for i, example in enumerate(examples))
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
        """No steps yet. Raises `InputError` for an empty problem."""
        if not problem.strip():
            raise InputError("the problem is empty; say in words what is asked")
        return ()

    def prompt(self, problem: str, steps: Sequence[str] = ()) -> Prompt:
        """What is the same for all problems, the question, each step."""
        return *self._asked(problem, direct=False), *(f"{step.strip()}{self.separator}" for step in steps)

    def direct_prompt(self, problem: str) -> Prompt:
        """What the model continues with the answer and its mark, and no steps."""
        return self._asked(problem, direct=True)

    def step(self, state: tuple[str, ...], text: str) -> tuple[str, ...] | None:
        """The state with one more step, or None for an empty one and for one that the checker calls wrong."""
        plain = self._unmarked(text)
        if not plain:
            return None
        if self.checker is not None:
            verdict, _ = call_safely(self.checker, plain)
            if getattr(verdict, "valid", None) is False:
                return None
        return *state, " ".join(plain.split()).casefold()

    def judge(self, state: tuple[str, ...], text: str) -> Verdict:
        """What the checker says; None without one."""
        plain = self._unmarked(text)
        if not plain or self.checker is None:
            return Verdict(None if plain else False)
        return run_checker(self.checker, plain)

    def answer(self, problem: str, steps: Sequence[str], state: tuple[str, ...]) -> str | None:
        """What stands after the last mark of an answer; None before there is one."""
        return self._stated(self.separator.join(steps))

    def check(self, problem: str, answer: str) -> bool | None:
        """What `final` says; None without one."""
        return None if self.final is None else call_safely(self.final, problem, answer)[0]

    def split(self, text: str) -> list[str]:
        """The steps of a chain, up to where the model goes on to another question."""
        return [step for step in self._own(text).split(self.separator) if step.strip()]

    def extract(self, text: str) -> str | None:
        """What stands after the last mark of an answer; where there is no mark, the last step."""
        text = self._own(text)
        if self._answer_mark.search(text):
            return self._stated(text)
        parts = [part for part in map(self._unmarked, text.split(self.separator)) if part]
        return parts[-1] if parts else None

    def _stated(self, text: str) -> str | None:
        """What stands between the last mark and the next end of a step."""
        marks = list(self._answer_mark.finditer(text))
        after = text[marks[-1].end() :].split(self.separator) if marks else []
        parts = [part.strip().removeprefix("**").removesuffix("**").strip() for part in after]
        return next((part for part in parts if part), None)

    def _unmarked(self, step: str) -> str:
        mark = self._step_mark.match(step) if self.steps_marker else None
        return step[mark.end() if mark else 0 :].strip()

    def _own(self, text: str) -> str:
        """A chain without the questions that a model which was shown a list of them invents after it."""
        return text if self.chat_template is not None else text.partition(f"\n{QUESTION}")[0]

    def _asked(self, problem: str, *, direct: bool) -> tuple[str, ...]:
        """The pieces of a prompt before its first step: what all problems share, and the rest."""
        turns = self._turns(problem.strip(), direct)
        if self.chat_template is None:
            shown = [f"{QUESTION} {asked}\n{reply}" for asked, reply in turns]
            return "".join(f"{part}\n\n" for part in [self._rule(direct), *shown[:-1]] if part), shown[-1]
        whole, probe = self._rendered(turns, direct), self._rendered(self._turns(PROBE, direct), direct)
        shared = len(os.path.commonprefix((whole, probe)))
        return whole[:shared], whole[shared:]

    def _turns(self, problem: str, direct: bool) -> list[tuple[str, str]]:
        """(question, reply) of each example, and of the problem, whose reply is empty."""
        cue = f"\n{self.cue}" if self.cue and not direct else ""
        shown = [(f"{q}{cue}", self._reply([] if direct else steps, a)) for q, steps, a in self.examples]
        return [*shown, (f"{problem}{cue}", "")]

    def _reply(self, steps: Sequence[str], answer: str) -> str:
        marked = [f"{self.steps_marker} {i}: {s}" if self.steps_marker else s for i, s in enumerate(steps, 1)]
        return self.separator.join([*marked, f"{self.answer_marker} {answer}"])

    def _rendered(self, turns: list[tuple[str, str]], direct: bool) -> str:
        """The template's text. The rule stands in the first question, for not every template knows a system's role."""
        asked = [q for q, _ in turns]
        asked[0] = f"{self._rule(direct)}\n\n{asked[0]}".strip()
        messages = []
        for question, (_, reply) in zip(asked, turns, strict=True):
            messages += [{"role": "user", "content": question}, {"role": "assistant", "content": reply}]
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


def _checked(example: Any, i: int) -> Example:
    match example:
        case (str(question), [*steps], str(answer)) if all(isinstance(step, str) for step in steps):
            return question.strip(), tuple(step.strip() for step in steps), answer.strip()
    raise InputError(
        f"example {i} is {example!r:.80}; it must be (question, [step, step, ...], answer), all of them texts"
    )
