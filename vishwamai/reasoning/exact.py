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

Value = Fraction | bool

MAX_CHARACTERS = 256  # bounds the depth of the tree as well
MAX_EXPONENT = 64
MAX_BITS = 4096  # of a numerator or denominator
LETTERS = re.compile(r"[-0-9 .+*/%()<>=!andort]*")  # those of numbers, operators and the three words
GLUED = re.compile(r"[0-9.][a-z]")  # "1or 2", 0o12: Python warns of the one and reads the other in another base

ARITHMETIC: dict[type, Callable[[Any, Any], Any]] = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.Div: operator.truediv,
    ast.FloorDiv: operator.floordiv,
    ast.Mod: operator.mod,
}
COMPARISONS: dict[type, Callable[[Any, Any], bool]] = {
    ast.Eq: operator.eq,
    ast.NotEq: operator.ne,
    ast.Lt: operator.lt,
    ast.LtE: operator.le,
    ast.Gt: operator.gt,
    ast.GtE: operator.ge,
}


def value(text: str) -> Value:
    """What an expression comes to: a fraction, or a truth where it compares.

    Raises `DataError` for what is no such expression or too large, `ZeroDivisionError` where it divides by zero.
    """
    text = text.strip()
    if len(text) > MAX_CHARACTERS:
        raise DataError(f"an expression of {len(text)} characters is longer than the {MAX_CHARACTERS} allowed")
    if not LETTERS.fullmatch(text) or GLUED.search(text):
        raise DataError(f"{text!r} has more than numbers, operators, parentheses, and, or, not")
    try:
        tree = ast.parse(text, mode="eval")
    except (SyntaxError, RecursionError, MemoryError):
        raise DataError(f"{text!r} is no expression") from None
    return _value(tree.body, text)


def number(text: str) -> Fraction:
    """The value of an expression that is a number; raises like `value`."""
    found = value(text)
    if isinstance(found, bool):
        raise DataError(f"{text!r} is true or false, where a number should be")
    return found


def _value(node: ast.AST, text: str) -> Value:
    match node:
        case ast.Constant():
            return Fraction(text[node.col_offset : node.end_col_offset])  # as written, not as a float
        case ast.UnaryOp(op=ast.Not()):
            return not _truth(node.operand, text)
        case ast.UnaryOp(op=ast.USub() | ast.UAdd()):
            inner = _number(node.operand, text)
            return -inner if isinstance(node.op, ast.USub) else inner
        case ast.BinOp(op=ast.Pow()):
            return _power(_number(node.left, text), _number(node.right, text))
        case ast.BinOp() if type(node.op) in ARITHMETIC:
            left, right = _number(node.left, text), _number(node.right, text)
            return _bounded(Fraction(ARITHMETIC[type(node.op)](left, right)))
        case ast.BoolOp():
            some = all if isinstance(node.op, ast.And) else any
            return some(_truth(part, text) for part in node.values)
        case ast.Compare() if all(type(op) in COMPARISONS for op in node.ops):
            sides = [_number(side, text) for side in (node.left, *node.comparators)]
            pairs = zip(node.ops, sides, sides[1:], strict=False)
            return all(COMPARISONS[type(op)](left, right) for op, left, right in pairs)
    raise DataError(f"{text!r} has a part that is neither number nor operator")


def _number(node: ast.AST, text: str) -> Fraction:
    found = _value(node, text)
    if isinstance(found, bool):
        raise DataError(f"{text!r} calculates with a truth")
    return found


def _truth(node: ast.AST, text: str) -> bool:
    found = _value(node, text)
    if not isinstance(found, bool):
        raise DataError(f"{text!r} has a number where a comparison should be")
    return found


def _power(base: Fraction, exponent: Fraction) -> Fraction:
    if exponent.denominator != 1 or abs(exponent) > MAX_EXPONENT:
        raise DataError(f"an exponent of the expression is not a whole number of -{MAX_EXPONENT} to {MAX_EXPONENT}")
    if abs(exponent) * _bits(base) > MAX_BITS:
        raise DataError("a power of the expression is too large")
    return base ** int(exponent)


def _bounded(found: Fraction) -> Fraction:
    if _bits(found) > MAX_BITS:
        raise DataError("a value in the expression is too large")
    return found


def _bits(found: Fraction) -> int:
    return max(found.numerator.bit_length(), found.denominator.bit_length())
