"""Checkers of steps: what a program, or a model, can say of one line of working. Each is `str -> Verdict`.

A checker says True or False only of what it understands, and None of the rest. In prose that is the equations that hold
or do not hold by arithmetic alone: `She sells 9 * 2 = $18 of eggs` has one; `x + 2 = 5`, `60 litres / 3 = 20` and
`half of 10 + 4 = 9` have none, for a part of them stands in words.
"""

import itertools
import re
from collections.abc import Iterator
from fractions import Fraction
from typing import NamedTuple

from vishwamai.errors import DataError, InputError
from vishwamai.reasoning import exact, numerals
from vishwamai.reasoning.model import Model
from vishwamai.reasoning.task import Checker, Verdict, call_safely, yes_probability

MAX_CHARACTERS = 4000  # of a text that is looked at
MAX_BEFORE = 200  # characters before an expression that are looked at
ANNOTATION = re.compile(r"<<([^<>]*)>>")

# How a line is made plain.
MARKER = re.compile(r"^ ?(?:[-+*•]|\(?[0-9a-z]{1,2}[.)]) ")  # of a list
TIMES = re.compile(r"(?<=[0-9)%])( ?)x( ?)(?=[$€£(]?[0-9.])")
BOLD = re.compile(r"(?<![0-9) ])( ?)\*\*|\*\*(?! ?[-0-9($.])")
UNIT = re.compile(r"(?<=[0-9])[-/](?=[a-z]{2})")  # 3/gallon, 7-year
AMOUNT = re.compile(r"\b(total|sum|cost|price|profit|rate|speed|distance|number|weight|area|height|value|change) of\b")

# What a line is made of. A number is no part of a time of day or of 16,0000.
NUMBER = rf"[$€£]?(?<![\w.:])(?<![0-9],)(?:{numerals.WHOLE}(?:\.[0-9]+)?|\.[0-9]+)(?![:,.]?[0-9])(?:[ ]?%)?"
PART = EXPRESSION = rf"(?:{NUMBER}|\*\*|//|[-+*/^])"
for _ in range(8):  # parentheses within each other
    EXPRESSION = rf"(?:(?:{PART}|\( ?{EXPRESSION}\)) ?)++"
WORD = r"[^\W\d_]\w*(?:[-'’/][^\W\d_]+)*"
ITEM = re.compile(rf"(?P<expression>{EXPRESSION})|{WORD}|[<>!]=|==?|\S")

OPERATION = "times|plus|minus|negative|twice|double|triple|half|than|over|choose|power"
FUNCTION = "square|cube|root|average|averaging|mean|median|mode|remainder|absolute[ ]value|abs|maximum|max|minimum|min"
FUNCTION += "|floor|ceil|ceiling|rounded|rounding|inverse|reciprocal|opposite|factorial|gcd|lcm|logarithm|log|ln|exp"
FUNCTION += "|sin|cos|tan|sqrt|cbrt"
CLAUSE = r"\b(?:is|are|was|were|be|equals|gives|makes|because|so|then|since|which|that|means)\b|[=;]|\.(?![0-9])"
# What stands before an expression, which begins at the line break, and belongs to it.
BEFORE = re.compile(rf"""(?x)
    (?<![\w'’/-])(?:(?:{OPERATION})(?:[ ]the)?(?:[ ]sum)?|{FUNCTION}|[b-z]|of|(?:divided|multiplied)[ ]by)[ ]?\n
    | \b(?:{FUNCTION})s?[ ]of\b(?:(?!{CLAUSE}).)*\n    # the average of all, 1 + 2
    | \w\n\( | \w[ ]?\n{NUMBER}$                      # f(3), week 3
    | \w[ ]?\n- | \n(?:[+*/^]|-(?!\S))                # litres - 3
    | [0-9%][ ]?,[ ]?\n                               # 2, 3
    | [-+*/][ ]?[^\w\s][ ]?\n                         # 8 + . 84
    | [^\w\s=(.,:;!?"'“”‘’[—•~`][ ]?\n                 # √3
""")
# What stands after one and belongs to it.
AFTER = re.compile(rf"""(?x)
    \( | [^\W\d]\b | [^\W\d]+[0-9]                              # 2(3, 3t, 1.5e3
    | (?:[ ]?{WORD})*+[ ]?[-+*/^]                               # 20 apples + 3
    | [ ]?(?:{WORD}[ ])*(?:{OPERATION})[ ]?[$€£]?\.?[0-9]       # 4 times 5
    | [ ]?(?:{WORD}[ ])*(?:squared|cubed)(?![ ]?[^\W\d_])       # 7 squared
""")
# In its line: arithmetic of another kind, or 1 and 1/4; and words for an answer that may be rounded.
OTHER = re.compile(r"\b(?:p?mod|modulo|binary|octal|hexadecimal|in base)\b|[0-9] and [0-9]+ ?/ ?[0-9]")
ROUGH = re.compile(
    r"\b((round|complete|left|remain)\w*|whole|full|rem|r|least|most|enough|needs?|about|nearest|over)\b"
)
# 25 / 1/3 can be read in two ways; 1.2e3 alone may be rounded at a place unknown.
DOUBTFUL = re.compile(r"/ [0-9.]+ /|^\( [0-9.]+ \* 10 \*\* (?:[-+] )?[0-9]+ \)$")
SCALES = numerals.SCALES | {"cents": Fraction(1, 100)}


class Equation(NamedTuple):
    """Two sides that should be equal, in Python's signs."""

    lhs: str
    rhs: str
    scale: int | Fraction = 1  # what a word after the second side may multiply it with: 14 billion
    is_rough: bool = False  # words beside it are of rounding or of a remainder

    def holds(self) -> bool:
        """Whether the sides are equal.

        Exactly; but a side that is one decimal number may be rounded at its last place, and numbers with nine decimals
        or more, which a computer printed, need only be equal up to the ninth digit. A percent sign may mean a hundredth
        or be a unit, and the scale may count or not. Raises `ZeroDivisionError`, and `DataError` for a side that has no
        value and for a quotient that may be rounded to a whole number.
        """
        places = _decimals(self.lhs), _decimals(self.rhs)
        rounding = max(Fraction(1, 2 * 10**decimals) if decimals else Fraction(0) for decimals in places)
        is_printed = re.search(r"\.[0-9]{9}", f"{self.lhs} {self.rhs}") is not None
        for percent in (r"(\1/100)", r"\1"):
            left, right = (exact.evaluate_number(re.sub("([0-9.]+)%", percent, side)) for side in (self.lhs, self.rhs))
            for scaled in (right, right * self.scale):
                noise = max(abs(left), abs(scaled)) / 10**9 if is_printed else 0
                if abs(left - scaled) <= max(rounding, noise):
                    return True
        if self.is_rough and "/" in self.lhs + self.rhs and 0 in places and abs(left - right) < 1:
            raise DataError(f"{self.lhs} = {self.rhs} may be rounded")
        return False


def _decimals(side: str) -> int | None:
    """The number of decimals of a side that is one number, else None."""
    match = re.fullmatch(r"(?:- )?[0-9]*(?:\.([0-9]+))?%?", side)
    return len(match[1] or "") if match else None


def arithmetic(text: str) -> Verdict:
    """Whether every equation in the text holds: `a op b = c`, longer ones, and chains `12 * 3 = 36 = 30 + 6`.

    Decimals, thousands separators, `$`, `%`, `× ÷ −` are read; calculator annotations are left out. None where there is
    no equation, and where one may be rounded to a whole number.
    """
    if len(text) > MAX_CHARACTERS:
        return Verdict(None, f"the text is longer than {MAX_CHARACTERS} characters")
    found = [equation for line in ANNOTATION.sub("", text).split("\n") for equation in _equations(_plain_line(line))]
    return _check_all(found) if found else Verdict(None, "there is no equation")


def calculator(text: str) -> Verdict:
    """Whether every annotation `<<expression=result>>` is right, as GSM8K writes them. None where there is none.

    A result is exact, or rounded at its last decimal; what was printed with many decimals is compared to nine digits.
    An annotation that is no calculation with numbers (`<<2*x=8>>`) makes it None, unless another is wrong.
    """
    if len(text) > MAX_CHARACTERS:
        return Verdict(None, f"the text is longer than {MAX_CHARACTERS} characters")
    found: list[Equation] = []
    for annotation in ANNOTATION.findall(text):
        sides = [_python_expression(side) for side in re.split("==?", _plain_line(annotation))]
        found += [Equation(*pair) for pair in itertools.pairwise(sides)] or [Equation(sides[0], "")]
    return _check_all(found) if found else Verdict(None, "there is no annotation")


def _check_all(equations: list[Equation]) -> Verdict:
    """Whether all of them hold; None, and why, where none is wrong and one has no value."""
    doubt = ""
    for equation in equations:
        try:
            if not equation.holds():
                return Verdict(False, f"{equation.lhs} = {equation.rhs} is wrong")
        except ZeroDivisionError:
            return Verdict(False, f"{equation.lhs} = {equation.rhs} divides by zero")
        except DataError as error:
            doubt = str(error)
    return Verdict(None, doubt) if doubt else Verdict(True)


def _equations(line: str) -> Iterator[Equation]:
    """The equations of a line, of which one side at least calculates; `a = b = c` has two."""
    is_rough = ROUGH.search(line) is not None
    items = [] if OTHER.search(line) else list(ITEM.finditer(line))
    for a, sign, b in zip(items, items[1:], items[2:], strict=False):
        if sign[0] in ("=", "==") and a["expression"] and b["expression"]:
            before = line[max(a.start() - MAX_BEFORE, 0) : a.start()]
            after = line[b.start() + len(b[0].rstrip()) :]
            has_more = BEFORE.search(f"{before}\n{a[0].rstrip()}") or AFTER.match(after)
            left, right = _python_expression(a[0]), _python_expression(b[0])
            calculates = _decimals(left) is None or _decimals(right) is None
            if calculates and not (has_more or DOUBTFUL.search(left) or DOUBTFUL.search(right)):
                word = after.lstrip().split(" ")[0].rstrip(".,")
                yield Equation(left, right, SCALES.get(word, 1), is_rough)


def _plain_line(line: str) -> str:
    """A line in lower case, with TeX and letters for signs as signs, without marks of lists and of bold print."""
    line = " ".join(numerals.AREA.sub(r"\1", numerals.plain_text(line)).lower().split())
    line = BOLD.sub(r"\1", numerals.expand(TIMES.sub(r"\1*\2", line)))
    return AMOUNT.sub(r"\1", UNIT.sub(" ", MARKER.sub("", line)))


def _python_expression(text: str) -> str:
    """An expression in Python's signs, without currency and thousands separators."""
    parts = re.findall(rf"{NUMBER}\.?|\*\*|//|\S", text)
    return " ".join("**" if part == "^" else re.sub("[$€£, ]", "", part) for part in parts)


def expression(text: str) -> Verdict:
    """Whether a Python expression is true: `3 * (4 + 1) == 15 and 2 < 3`. Nothing is executed; see `exact`.

    False where it divides by zero. None where it is not an expression that `exact` knows, or is a mere number.
    """
    try:
        found = exact.truth(text)
    except ZeroDivisionError:
        return Verdict(False, f"{text.strip()} divides by zero")
    except DataError as error:
        return Verdict(None, str(error))
    return Verdict(found, "" if found else f"{text.strip()} is false")


def matches(pattern: str, *, max_characters: int = 256) -> Checker:
    """Returns a checker: whether the whole text matches a regular expression. None where it is longer than allowed.

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
    """Returns a checker: a step is right where the model gives `yes` more than `threshold` of what it gives both.

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
        [scores] = model.score([(before, text, after)], [(yes, no)])
        p = yes_probability(*scores)
        if p is None:
            return Verdict(None, "the model gives neither answer any probability")
        return Verdict(p > threshold, f"P({yes.strip()}) = {p:.3f}")

    return check


def all_of(*checkers: Checker) -> Checker:
    """Returns a checker: wrong where one of them says so, right where all that can tell say so, None where none can."""

    def check(text: str) -> Verdict:
        verdicts = [run_checker(checker, text) for checker in checkers]
        decided = [verdict for valid in (False, True) for verdict in verdicts if verdict.valid is valid]
        return decided[0] if decided else Verdict(None, "; ".join(verdict.why for verdict in verdicts if verdict.why))

    return check


def run_checker(checker: Checker, step: str) -> Verdict:
    """Returns a checker's verdict on a step; None, with the reason, where it raises or gives something else."""
    verdict, why = call_safely(checker, step)
    if isinstance(verdict, Verdict):
        return verdict
    return Verdict(None, why or f"the checker gave {verdict!r}, which is no Verdict")
