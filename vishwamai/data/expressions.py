"""Exact arithmetic on expressions of whole numbers: `( 10 - 4 ) * 4` -> Fraction(24).

A hand-written recursive-descent parser over `+ - * / ( )`, so that what a model wrote is never executed as code.
It does not know why the value is wanted. Grammar: sum := product (("+"|"-") product)*,
product := atom (("*"|"/") atom)*, atom := number | "(" sum ")".
"""

import re
from fractions import Fraction

from vishwamai.errors import DataError

TOKEN = re.compile(r"\s*([0-9]{1,9}|[-+*/()])")
MAX_TOKENS = 64  # bounds the recursion; a Game of 24 answer has 13


def evaluate(text: str) -> tuple[Fraction, tuple[int, ...]]:
    """The exact value of an expression and the numbers in it, from left to right; DataError if it is not one."""
    tokens = _tokens(text)
    value, rest = _sum(tokens)
    if rest:
        raise DataError(f"expression {text!r}: {rest[0]!r} stands where the end should be.")
    return value, tuple(int(token) for token in tokens if token.isdigit())


def _tokens(text: str) -> list[str]:
    found, at, text = [], 0, text.strip()
    while at < len(text):
        match = TOKEN.match(text, at)
        if match is None:
            raise DataError(f"expression {text!r}: {text[at:].strip()[:1]!r} is no number, operator or parenthesis.")
        found.append(match[1])
        at = match.end()
    if len(found) > MAX_TOKENS:
        raise DataError(f"expression of {len(found)} tokens is longer than the {MAX_TOKENS} allowed.")
    return found


def _sum(tokens: list[str]) -> tuple[Fraction, list[str]]:
    value, tokens = _product(tokens)
    while tokens and tokens[0] in "+-":
        right, rest = _product(tokens[1:])
        value, tokens = (value + right if tokens[0] == "+" else value - right), rest
    return value, tokens


def _product(tokens: list[str]) -> tuple[Fraction, list[str]]:
    value, tokens = _atom(tokens)
    while tokens and tokens[0] in "*/":
        right, rest = _atom(tokens[1:])
        if tokens[0] == "/" and right == 0:
            raise DataError("expression divides by zero.")
        value, tokens = (value * right if tokens[0] == "*" else value / right), rest
    return value, tokens


def _atom(tokens: list[str]) -> tuple[Fraction, list[str]]:
    if not tokens:
        raise DataError("expression ends where a number should be.")
    if tokens[0].isdigit():
        return Fraction(int(tokens[0])), tokens[1:]
    if tokens[0] != "(":
        raise DataError(f"expression has {tokens[0]!r} where a number should be.")
    value, rest = _sum(tokens[1:])
    if not rest or rest[0] != ")":
        raise DataError("expression has a parenthesis that is never closed.")
    return value, rest[1:]
