"""Word problems with worked answers, in the manner of GSM8K: steps with calculator annotations, then `#### 18`.

The model sees a few worked problems, then the question. A line whose arithmetic is wrong is no step. See Cobbe and
others, "Training Verifiers to Solve Math Word Problems" (2021), for the format; the problems below are our own.
"""

from collections.abc import Mapping, Sequence
from fractions import Fraction
from typing import Any

from vishwamai.errors import InputError
from vishwamai.reasoning import answers, verify
from vishwamai.reasoning.model import Prompt
from vishwamai.reasoning.task import Checker, Task, Verdict

FINAL = "####"
QUESTION = "Question:"
Steps = tuple[str, ...]  # so far, the state

EXAMPLES = (
    (
        "A baker fills 6 trays with 8 rolls each. She keeps 5 rolls for her family and sells the others for $2 each. "
        "How many dollars does she take?",
        "She bakes 6 * 8 = <<6*8=48>>48 rolls.\n"
        "She sells 48 - 5 = <<48-5=43>>43 of them.\n"
        "So she takes 43 * 2 = $<<43*2=86>>86.\n"
        "#### 86",
    ),
    (
        "Omar read 24 pages of a book on Monday and half as many on Tuesday. The book has 90 pages. How many pages "
        "does he still have to read?",
        "On Tuesday he read 24 / 2 = <<24/2=12>>12 pages.\n"
        "On both days he read 24 + 12 = <<24+12=36>>36 pages.\n"
        "He still has to read 90 - 36 = <<90-36=54>>54 pages.\n"
        "#### 54",
    ),
    (
        "A kettle costs $40 and a set of four cups costs $25. This week everything is 20% cheaper. How many dollars do "
        "one kettle and two sets of cups cost together?",
        "Two sets of cups cost 2 * 25 = $<<2*25=50>>50.\n"
        "With the kettle that is 50 + 40 = $<<50+40=90>>90.\n"
        "The price falls by 90 * 20 / 100 = $<<90*20/100=18>>18.\n"
        "So they cost 90 - 18 = $<<90-18=72>>72.\n"
        "#### 72",
    ),
)


class GSM8K(Task):
    """Problems are texts of questions; the state is the steps so far.

    `examples` are worked problems (question, answer with its steps) that stand before each question. `golds` has the
    right answers by question, as numbers or as whole worked answers; without a question's own there is no final check.
    `checker` refuses steps. Raises `InputError` for an example without a final line.
    """

    name = "gsm8k"
    step_tokens = 128
    chain_tokens = 512
    chain_stop = (f"\n{QUESTION}",)
    closing = f"\n{FINAL}"
    depth = 12  # the longest published answer has as many lines

    def __init__(
        self,
        examples: Sequence[tuple[str, str]] = EXAMPLES,
        *,
        golds: Mapping[str, str] | None = None,
        checker: Checker | None = None,
    ):
        self._worked = self._direct = ""
        for question, worked in examples:
            last = worked.split("\n")[-1]
            if _final_number(last) is None:
                raise InputError(f"the worked answer of {question[:40]!r} must end with a line like '{FINAL} 18'")
            self._worked += f"{_ask(question)}{worked}\n\n"
            self._direct += f"{_ask(question)}{last}\n\n"
        self._golds = {question.strip(): gold for question, gold in (golds or {}).items()}
        self._checker = checker or verify.all_of(verify.calculator, verify.arithmetic)

    def read(self, problem: str) -> Steps:
        if not problem.strip():
            raise InputError("the question is empty; a problem of this task is the text of a question")
        return ()

    def prompt(self, problem: str, steps: Sequence[str] = ()) -> Prompt:
        return (self._worked, _ask(problem), *(f"{step}\n" for step in steps))

    def direct_prompt(self, problem: str) -> Prompt:
        return (self._direct, _ask(problem), FINAL)

    def step(self, state: Any, text: str) -> Steps | None:
        return None if self.judge(state, text).valid is False else (*state, text.strip())

    def judge(self, state: Any, text: str) -> Verdict:
        """The checker's word, which is None where a line has nothing to compute. Nothing follows a final line."""
        text = text.strip()
        is_empty = not text or (FINAL in text and not any(character.isdigit() for character in text))
        if is_empty or self.answer("", (), state) is not None:
            return Verdict(False)
        return verify.run_checker(self._checker, text)

    def answer(self, problem: str, steps: Sequence[str], state: Any) -> str | None:
        return _final_number(state[-1]) if state else None

    def check(self, problem: str, answer: str) -> bool | None:
        gold = answers.extract(self._golds.get(problem.strip(), ""))
        return None if gold is None else answers.equal(answer, gold)

    def split(self, text: str) -> list[str]:
        """The lines up to the final one: what a model writes after it is another problem."""
        lines = [line.strip() for line in text.split("\n") if line.strip()]
        ends = [i for i, line in enumerate(lines) if _final_number(line) is not None]
        return lines[: ends[0] + 1] if ends else lines

    def extract(self, text: str) -> str | None:
        return answers.extract("\n".join(self.split(text)))


def _ask(question: str) -> str:
    return f"{QUESTION} {question.strip()}\nAnswer:\n"


def _final_number(line: str) -> str | None:
    """The number in a final line, None in another; a heading (`#### Step 2`) is none."""
    found = answers.extract(line) if FINAL in line else None
    return found if isinstance(answers.canonical(found or ""), Fraction) else None
