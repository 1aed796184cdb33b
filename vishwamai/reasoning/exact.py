"""Exact values of small Python expressions, worked out over their syntax tree: nothing is ever executed.

Known are numbers (decimals are fractions: 0.1 is one tenth), `+ - * / // % **`, comparisons, `and or not` and
parentheses. What could take long is refused: long texts, large exponents, values of thousands of digits.
"""

import ast
import operator
import re
from collections.abc import Callable
from fractions import Fraction
from typing import Any

from vishwamai.errors import DataError

MAX_CHARACTERS = 256  # bounds the depth of the tree as well
MAX_EXPONENT = 64
MAX_BITS = 4096  # of a numerator or denominator
LETTERS = re.compile(r"[-0-9 .+*/%()<>=!andort]*")  # those of numbers, operators and the three words
GLUED = re.compile(r"[0-9.][a-z]")  # "1or 2", 0o12: Python warns of the one and reads the other in another base


def evaluate_number(text: str) -> Fraction:
    """The value of an expression that is a number.

    Raises `DataError` for what is no such expression or too large, `ZeroDivisionError` where it divides by zero.
    """
    return _number(_parse(text), text.strip())


def truth(text: str) -> bool:
    """Whether an expression that compares is true; raises like `number`."""
    return _truth(_parse(text), text.strip())


def _parse(text: str) -> ast.expr:
    text = text.strip()
    if len(text) > MAX_CHARACTERS:
        raise DataError(f"an expression of {len(text)} characters is longer than the {MAX_CHARACTERS} allowed")
    if not LETTERS.fullmatch(text) or GLUED.search(text):
        raise DataError(f"{text!r} has more than numbers, operators, parentheses, and, or, not")
    try:
        return ast.parse(text, mode="eval").body
    except (SyntaxError, RecursionError, MemoryError):
        raise DataError(f"{text!r} is no expression") from None


def _number(node: ast.expr, text: str) -> Fraction:
    match node:
        case ast.Constant():
            return Fraction(text[node.col_offset : node.end_col_offset])  # as written, not as a float
        case ast.UnaryOp(op=ast.USub() | ast.UAdd()):
            inside = _number(node.operand, text)
            return -inside if isinstance(node.op, ast.USub) else inside
        case ast.BinOp() if type(node.op) in OPERATORS:
            found = OPERATORS[type(node.op)](_number(node.left, text), _number(node.right, text))
            if _bits(found) > MAX_BITS:
                raise DataError("a value in the expression is too large")
            return Fraction(found)
    raise DataError(f"{text!r} has a part that is true or false, or unknown, where a number should be")


def _truth(node: ast.expr, text: str) -> bool:
    match node:
        case ast.UnaryOp(op=ast.Not()):
            return not _truth(node.operand, text)
        case ast.BoolOp():
            some = all if isinstance(node.op, ast.And) else any
            return some(_truth(part, text) for part in node.values)
        case ast.Compare() if all(type(op) in OPERATORS for op in node.ops):
            sides = [_number(side, text) for side in (node.left, *node.comparators)]
            pairs = zip(node.ops, sides, sides[1:], strict=False)
            return all(OPERATORS[type(op)](left, right) for op, left, right in pairs)
    _number(node, text)  # which may say more of it
    raise DataError(f"{text!r} has a number, and neither true nor false, where a comparison should be")


def _power(base: Fraction, exponent: Fraction) -> Fraction:
    if exponent.denominator != 1 or abs(exponent) > MAX_EXPONENT:
        raise DataError(f"an exponent of the expression is not a whole number of -{MAX_EXPONENT} to {MAX_EXPONENT}")
    if abs(exponent) * _bits(base) > MAX_BITS:
        raise DataError("a power of the expression is too large")
    return base ** int(exponent)


def _bits(found: Fraction | int) -> int:
    return max(found.numerator.bit_length(), found.denominator.bit_length())


Operator = Callable[[Any, Any], Any]
OPERATORS: dict[type, Operator] = {ast.Add: operator.add, ast.Sub: operator.sub, ast.Mult: operator.mul}
OPERATORS |= {ast.Div: operator.truediv, ast.FloorDiv: operator.floordiv, ast.Mod: operator.mod, ast.Pow: _power}
OPERATORS |= {ast.Eq: operator.eq, ast.NotEq: operator.ne, ast.Lt: operator.lt, ast.LtE: operator.le}
OPERATORS |= {ast.Gt: operator.gt, ast.GtE: operator.ge}
