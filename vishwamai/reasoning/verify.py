"""Checkers of steps: what a program, or a model, can say of one line of working. Each is `str -> Verdict`.

They know no task and no search. A checker says True or False only of what it understands, and None of the rest.
"""

import math
import re
from collections.abc import Sequence

from vishwamai.errors import DataError, InputError
from vishwamai.reasoning import exact
from vishwamai.reasoning.equations import Side, calculation, equations, holds
from vishwamai.reasoning.model import Model
from vishwamai.reasoning.task import Checker, Verdict, call_safely

MAX_CHARACTERS = 4000  # of a line that is looked at
ANNOTATION = re.compile(r"<<([^<>]*)>>")


def arithmetic(text: str) -> Verdict:
    """Whether every equation in the text holds: `a op b = c`, longer ones, and chains `12 * 3 = 36 = 30 + 6`.

    Decimals, thousands separators, `$`, `%`, `× ÷ −` are read; equations with words or unknowns in them are left out
    (see `equations`); calculator annotations too. None where there is no equation.
    """
    if len(text) > MAX_CHARACTERS:
        return Verdict(None, f"the text is longer than {MAX_CHARACTERS} characters")
    lines = ANNOTATION.sub("", text).split("\n")
    return _all_hold([pair for line in lines for pair in equations(line)], "there is no equation")


def calculator(text: str) -> Verdict:
    """Whether every annotation `<<expression=result>>` is right, as GSM8K writes them. None where there is none.

    A result is exact, or rounded at its last decimal; what was printed with many decimals is compared to nine digits.
    An annotation that is no calculation with numbers (`<<2*x=8>>`) makes it None, unless another is wrong.
    """
    if len(text) > MAX_CHARACTERS:
        return Verdict(None, f"the text is longer than {MAX_CHARACTERS} characters")
    pairs, unread = [], ""
    for annotation in ANNOTATION.findall(text):
        try:
            sides = calculation(annotation)
            pairs += zip(sides, sides[1:], strict=False)
        except DataError as error:
            unread = str(error)
    verdict = _all_hold(pairs, "there is no annotation")
    return Verdict(None, unread) if unread and verdict.valid is not False else verdict


def _all_hold(pairs: list[tuple[Side, Side]], none: str) -> Verdict:
    unread = "" if pairs else none
    for left, right in pairs:
        try:
            if not holds(left, right):
                return Verdict(False, f"{left.text} = {right.text} is wrong")
        except ZeroDivisionError:
            return Verdict(False, f"{left.text} = {right.text} divides by zero")
        except DataError as error:
            unread = str(error)
    return Verdict(None, unread) if unread else Verdict(True)


def expression(text: str) -> Verdict:
    """Whether a Python expression is true: `3 * (4 + 1) == 15 and 2 < 3`. Nothing is executed; see `exact`.

    False where it divides by zero. None where it is not an expression that `exact` knows, or is a mere number.
    """
    try:
        found = exact.value(text)
    except ZeroDivisionError:
        return Verdict(False, f"{text.strip()} divides by zero")
    except DataError as error:
        return Verdict(None, str(error))
    if not isinstance(found, bool):
        return Verdict(None, f"{text.strip()} is a number, and neither true nor false")
    return Verdict(found, "" if found else f"{text.strip()} is false")


def matches(pattern: str, *, max_characters: int = 256) -> Checker:
    """A checker: whether the whole text matches a regular expression. None where the text is longer than allowed.

    The bound keeps a pattern that takes quadratic or cubic time short; a repeat within a repeat, `(a+)+`, takes
    exponential time, and no bound on the text helps. Raises `InputError` for a malformed pattern.
    """
    try:
        compiled = re.compile(pattern)
    except re.error as error:
        raise InputError(f"the pattern {pattern!r} is no regular expression: {error}") from None

    def check(text: str) -> Verdict:
        if len(text) > max_characters:
            return Verdict(None, f"the text is longer than {max_characters} characters")
        found = compiled.fullmatch(text) is not None
        return Verdict(found, "" if found else f"it does not match {pattern}")

    return check


def asks(
    model: Model,
    question: str = "{step}\nIs this step right?",
    *,
    yes: str = " yes",
    no: str = " no",
    threshold: float = 0.5,
) -> Checker:
    """A checker: a step is right where the model gives "yes" more than `threshold` of what it gives "yes" and "no".

    `question` has the mark `{step}` where the step stands. Nothing is generated: two continuations are scored. None
    where the model gives neither any probability. Raises `InputError` for a question without the mark or a threshold
    outside 0..1; the checker raises `BackendError` like the model.
    """
    before, mark, after = question.partition("{step}")
    if not mark:
        raise InputError(f"the question {question!r} has no {{step}}: put it where the step should stand")
    if not 0 <= threshold <= 1:
        raise InputError(f"the threshold is {threshold!r}; it must be a probability, 0 to 1")

    def check(text: str) -> Verdict:
        [[for_yes, for_no]] = model.score([(before, text, after)], [(yes, no)])
        best = max(for_yes, for_no)
        if not math.isfinite(best):
            return Verdict(None, "the model gives neither answer any probability")
        parts = math.exp(for_yes - best), math.exp(for_no - best)
        p = parts[0] / sum(parts)
        return Verdict(p > threshold, f"P({yes.strip()}) = {p:.3f}")

    return check


def first_of(*checkers: Checker) -> Checker:
    """A checker: the verdict of the first of them that can tell."""

    def check(text: str) -> Verdict:
        unsure = []
        for checker in checkers:
            verdict = _verdict(checker, text)
            if verdict.valid is not None:
                return verdict
            unsure.append(verdict.why)
        return Verdict(None, "; ".join(filter(None, unsure)))

    return check


def all_of(*checkers: Checker) -> Checker:
    """A checker: wrong where one of them says so, right where all that can tell say so, None where none can."""

    def check(text: str) -> Verdict:
        verdicts = [_verdict(checker, text) for checker in checkers]
        wrong = [verdict for verdict in verdicts if verdict.valid is False]
        right = [verdict for verdict in verdicts if verdict.valid is True]
        unsure = Verdict(None, "; ".join(verdict.why for verdict in verdicts if verdict.why))
        return (wrong or right or [unsure])[0]

    return check


def check_steps(steps: Sequence[str], checker: Checker) -> list[Verdict]:
    """The verdict on each step; None, with the reason, where the checker raises."""
    return [_verdict(checker, step) for step in steps]


def _verdict(checker: Checker, text: str) -> Verdict:
    """A checker's word; one that raises, or gives something else, cannot tell."""
    verdict, why = call_safely(checker, text)
    if isinstance(verdict, Verdict):
        return verdict
    return Verdict(None, why or f"the checker gave {verdict!r}, which is no Verdict")
