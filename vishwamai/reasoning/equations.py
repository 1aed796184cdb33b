"""Finds the equations in a line of prose that hold or do not hold by arithmetic alone.

`She sells 9 * 2 = $18 of eggs` has one; `x + 2 = 5`, `60 litres / 3 = 20` and `half of 10 + 4 = 9` have none, for a
part of them stands in words. Where it is in doubt whether an equation is whole it is left out: an equation that is
returned can be judged.
"""

import re
from fractions import Fraction
from typing import NamedTuple

from vishwamai.errors import DataError
from vishwamai.reasoning import exact, numerals

TIMES = re.compile(r"(?<=[0-9)%])( ?)[xX]( ?)(?=[$€£(]?[0-9.])")
MARKER = re.compile(r"\s*(?:[-+*•]|\(?[0-9a-zA-Z]{1,2}[.)])\s+")  # of a list
TOKEN = re.compile(
    rf"(?P<number>[$€£]?(?:{numerals.WHOLE}(?:\.[0-9]+)?|\.[0-9]+)(?:\s?%)?)|(?P<op>\*\*|//|[-+*/^])|(?P<paren>[()])"
    r"|(?P<relation>[<>!]=|[<>]|==?)|(?P<word>[^\W\d_][\w]*(?:[-'’/][^\W\d_]+)*)|(?P<other>\S)"
)
PUNCTUATION = {*".,;:!?\"'“”‘’[—•~`"}  # may stand before an equation
# words that calculate
OPERATING = {*"times plus minus negative twice double triple half than over choose power".split()}
# Words for a function of the sum that they lead to: the average of 1 + 2, the remainder 7 / 2, rounded 7 / 2.
FUNCTION = re.compile(
    r"\b(?:(?:square|cube|root|average|mean|median|mode|remainder|absolute value|maximum|max|minimum|min|floor|ceiling"
    r"|inverse|reciprocal|opposite|factorial|logarithm|gcd|lcm)s? of\b|(?:average|mean|median|remainder|root|maximum"
    r"|minimum|(?:twice|double)(?: the)?(?: sum)?)$"
    r"|(?:sqrt|cbrt|abs|log|ln|exp|sin|cos|tan|floor|ceil|rounded|rounding|averaging|squared|cubed)\b)"
)
OTHER_ARITHMETIC = re.compile(r"\b(?:p?mod|modulo|binary|octal|hexadecimal|in base)\b", re.IGNORECASE)
CLAUSE = {*"is are was were be equals gives makes because so then since which that means = == . ;".split()}
AMOUNTS = {*"total sum cost price profit rate speed distance number weight area height value change".split()}
ROUGH = re.compile(
    r"round\w*|whole|full|complete\w*|left\w*|remain\w*|rem|r|least|most|enough|needs?|about|nearest|over"
)
FRACTION = ["number", "op", "number"]
MIXED = re.compile(r"(?<![\w.,/^)])([0-9]+) +([0-9]{1,2})/([0-9]{1,2})(?![\w/^]|[.,][0-9]| ?/)")
SCIENTIFIC = re.compile(r"(?<![\w.,])([0-9]+(?:\.[0-9]+)?|\.[0-9]+)[eE]([-+]?[0-9]+)(?![\w^]|[.,][0-9])")
ROUNDED = re.compile(r"\( [0-9.]+ \* 10 \*\* (?:[-+] )?[0-9]+ \)")  # alone 1.2e3 may be so, at a place unknown
DOUBTFUL = re.compile(r"/ [0-9.]+ /")  # 25 / 1/3: one reads it in one way, the next in another
SCALES = numerals.SCALES | {"cents": Fraction(1, 100)}
NOISE_DIGITS = 9  # decimals from which a number was plainly printed by a computer
NOISE = Fraction(1, 10**9)


class Token(NamedTuple):
    """A word, number or sign, and whether it touches the one before it."""

    kind: str
    text: str
    touches: bool


class Side(NamedTuple):
    """One side of an equation. `scale` is what a word after it may multiply it with: `14 billion`."""

    text: str
    scale: int | Fraction = 1

    @property
    def decimals(self) -> int | None:
        """Of a side that is one number, else None."""
        match = re.fullmatch(r"(?:- )?[0-9]*(?:\.([0-9]+))?%?", self.text)
        return len(match[1] or "") if match else None

    @property
    def calculates(self) -> bool:
        """Whether it is more than a number."""
        return self.decimals is None

    def value(self, *, percent: bool) -> Fraction:
        """The exact value; `percent` says whether % is a hundredth or a mere unit."""
        unit = "/100)" if percent else ")"
        return exact.number(re.sub(r"([0-9.]+)%", rf"(\1{unit}", self.text))


def equations(line: str) -> list[tuple[Side, Side]]:
    """The pairs of sides of a line that should be equal; `a = b = c` has two. One side at least calculates."""
    if OTHER_ARITHMETIC.search(line):
        return []
    tokens = _tokens(line)
    is_rough = any(token.kind == "word" and ROUGH.fullmatch(token.text.casefold()) for token in tokens)
    signs = [i for i, token in enumerate(tokens) if token.text in ("=", "==")]
    pairs = [(_before(tokens, i), _after(tokens, i)) for i in signs]
    whole = [(a, b) for a, b in pairs if a and b and (a.calculates or b.calculates)]
    return [(a, b) for a, b in whole if not (is_rough and _is_rounding(a, b))]


def _is_rounding(a: Side, b: Side) -> bool:
    """Whether a side that divides has been rounded up or down to the other, a whole number."""
    if "/" not in a.text + b.text or 0 not in (a.decimals, b.decimals):
        return False
    try:
        return 0 < abs(a.value(percent=True) - b.value(percent=True)) < 1
    except ZeroDivisionError:
        return False


def calculation(text: str) -> list[Side]:
    """The sides of `a = b` where nothing but an equation stands: of a calculator's annotation.

    Raises `DataError` where it is none.
    """
    tokens = _tokens(re.sub(r"(?<=[0-9])\.(?![0-9])", "", text))
    if any(token.kind in ("word", "other") or token.text in ("<", ">", "<=", ">=", "!=") for token in tokens):
        raise DataError(f"{text!r} is no calculation with numbers")
    sides: list[list[Token]] = [[]]
    for token in tokens:
        if token.kind == "relation":
            sides.append([])
        else:
            sides[-1].append(token)
    if len(sides) < 2 or not all(sides):
        raise DataError(f"{text!r} is no equation")
    return [Side(_source(side)) for side in sides]


def holds(left: Side, right: Side) -> bool:
    """Whether two sides are equal.

    Exactly; but a side that is one decimal number may be rounded at its last place, and numbers with nine decimals or
    more, which a computer printed, need only be equal up to the ninth digit. A percent sign may mean a hundredth or be
    a unit, a word like "million" after a number may count or not. Raises `DataError` for sides that cannot be
    evaluated and `ZeroDivisionError`.
    """
    readings = (True, False) if "%" in left.text + right.text else (True,)
    for percent in readings:
        x, y = left.value(percent=percent), right.value(percent=percent)
        for a, b in ((x, y), (x * left.scale, y), (x, y * right.scale), (x * left.scale, y * right.scale)):
            if abs(a - b) <= _tolerance(left, right, max(abs(a), abs(b))):
                return True
    return False


def _tolerance(left: Side, right: Side, size: Fraction) -> Fraction:
    printed = max(len(decimals) for decimals in re.findall(r"\.([0-9]+)", f"{left.text} {right.text} .0"))
    noise = size * NOISE if printed >= NOISE_DIGITS else Fraction(0)
    rounded = [Fraction(1, 2 * 10**side.decimals) for side in (left, right) if side.decimals]
    return max([noise, *rounded])


def _tokens(line: str) -> list[Token]:
    """The tokens of a line; TeX and letters for signs are signs, marks of lists and of bold print are left out."""
    line = TIMES.sub(r"\1*\2", numerals.AREA.sub(r"\1", numerals.plain_text(line)))
    line = SCIENTIFIC.sub(r"(\1*10**\2)", MIXED.sub(_mixed, line))
    line = re.sub(r"(?<![0-9) ])( *)\*\*|\*\*(?! *[-0-9($.])", r"\1", line)
    start = MARKER.match(line)
    begin = end = start.end() if start else 0
    found = []
    for match in TOKEN.finditer(line, begin):
        found.append(Token(match.lastgroup or "other", match[0], match.start() == end))
        end = match.end()
    return found


def _mixed(found: re.Match[str]) -> str:
    """1 1/2 as a sum; 3 4/2 as it stands."""
    whole, above, below = found.groups()
    return f"({whole}+{above}/{below})" if 0 < int(above) < int(below) else found[0]


def _source(tokens: list[Token]) -> str:
    """The tokens as an expression, without currency and thousands separators."""
    return " ".join(_plain(token) for token in tokens)


def _plain(token: Token) -> str:
    if token.kind != "number":
        return "**" if token.text == "^" else token.text
    return re.sub(r"[$€£,\s]", "", token.text)


def _before(tokens: list[Token], sign: int) -> Side | None:
    """The expression that ends at an equals sign, if it begins where it seems to."""
    start, depth = sign, 0
    while start and tokens[start - 1].kind in ("number", "op", "paren"):
        depth += {")": 1, "(": -1}.get(tokens[start - 1].text, 0)
        if depth < 0:
            break
        start -= 1
    if start == sign or not _begins(tokens, start, sign):
        return None
    return _side(tokens[start:sign])


def _begins(tokens: list[Token], start: int, sign: int) -> bool:
    """Whether nothing before an expression belongs to it."""
    previous = tokens[start - 1] if start else None
    if tokens[start].kind == "op":  # "- 3 + 4": a sign only where it clings to its number and no word comes before
        clings = tokens[start].text == "-" and start + 1 < sign and tokens[start + 1].touches
        return clings and (previous is None or previous.kind != "word")
    if previous is None:
        return True
    if previous.kind == "relation":
        return previous.text in ("=", "==")
    earlier = tokens[start - 2] if start > 1 else None
    if previous.kind == "word":
        if start + 1 == sign or not _introduces(previous, earlier, tokens[start:sign]):
            return False
    elif previous.text not in ("(", *PUNCTUATION) or (earlier is not None and earlier.kind == "op"):
        return False
    elif previous.text in (":", ",", ".") and previous.touches and tokens[start].touches:
        return False  # a time of day, or a number with a comma too many
    elif previous.text == "," and earlier is not None and earlier.kind == "number":
        return False  # one item of several
    return not _is_argument(tokens[:start])


def _introduces(word: Token, earlier: Token | None, side: list[Token]) -> bool:
    """Whether a word only leads to an expression, and neither calculates with it nor is an unknown."""
    name, before = word.text.casefold(), "" if earlier is None else earlier.text.casefold()
    if side[0].text == "(" and side[0].touches:
        return False  # f(3)
    if name == "of" and before:
        return before in AMOUNTS
    if name == "by":
        return before not in ("divided", "multiplied")
    if name == "and" and earlier is not None and earlier.kind == "number":
        return side[1].text != "/"  # 1 and 1/4
    return name not in OPERATING and (len(name) > 1 or name == "a")


def _is_argument(before: list[Token]) -> bool:
    """Whether the words before an expression say that a function of it is meant."""
    words = [token.text.casefold() for token in before]
    begin = max((i for i, word in enumerate(words, 1) if word in CLAUSE), default=0)
    return FUNCTION.search(" ".join(words[begin:])) is not None


def _after(tokens: list[Token], sign: int) -> Side | None:
    """The expression that begins after an equals sign, if it ends where it seems to."""
    end, open_at = sign + 1, []
    while end < len(tokens) and tokens[end].kind in ("number", "op", "paren"):
        if tokens[end].text == "(":
            open_at.append(end)
        elif tokens[end].text == ")" and not open_at:
            break
        elif tokens[end].text == ")":
            open_at.pop()
        end += 1
    end = open_at[0] if open_at else end
    rest = tokens[end:]
    if end - 1 > sign and _is_unit(tokens[end - 1], rest):
        end -= 1
    elif not _ends(rest):
        return None
    scale = SCALES.get(rest[0].text.casefold(), 1) if rest else 1
    return _side(tokens[sign + 1 : end], scale)


def _is_unit(last: Token, rest: list[Token]) -> bool:
    """Whether an operator and the word after it are a unit: 3/gallon, 7-year."""
    return last.text in "/-" and last.touches and bool(rest) and rest[0].touches and len(rest[0].text) > 1


def _ends(rest: list[Token]) -> bool:
    """Whether nothing after an expression belongs to it."""
    if not rest:
        return True
    if rest[0].touches and (rest[0].text == "(" or re.fullmatch(r"[^\W\d]|[^\W\d]+\d.*", rest[0].text)):
        return False  # 3t, 1.5e3
    if rest[0].text == ":" and len(rest) > 1 and rest[1].touches and rest[1].kind == "number":
        return False
    words = 0
    while words < len(rest) and rest[words].kind == "word":
        words += 1
    last, after = rest[words - 1].text.casefold() if words else "", rest[words:]
    if last in ("squared", "cubed") or (last in OPERATING and after and after[0].kind == "number"):
        return False  # 4 times 5
    if last == "and" and [token.kind for token in after[:3]] == FRACTION:
        return False  # 1 and 1/3
    return not after or after[0].kind != "op"


def _side(tokens: list[Token], scale: int | Fraction = 1) -> Side | None:
    side = Side(_source(tokens), scale)
    if DOUBTFUL.search(side.text) or ROUNDED.fullmatch(side.text):
        return None
    try:
        side.value(percent=True)
    except DataError:
        return None
    except ZeroDivisionError:
        pass
    return side
