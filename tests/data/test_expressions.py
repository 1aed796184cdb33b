"""Expressions against Python's own arithmetic, and what is refused."""

import random
from fractions import Fraction

import pytest

from vishwamai.data.expressions import evaluate
from vishwamai.errors import DataError


def random_expression(rng, depth):
    """Text and exact value, built together; None as the value where it divides by zero."""
    if depth == 0 or rng.random() < 0.2:
        number = rng.randrange(30)
        return str(number), Fraction(number)
    (left, a), (right, b) = (random_expression(rng, depth - 1) for _ in range(2))
    op = rng.choice("+-*/")
    if a is None or b is None or (op == "/" and b == 0):
        return f"({left} {op} {right})", None
    value = {"+": a + b, "-": a - b, "*": a * b, "/": a / b if b else None}[op]
    return f"({left} {op} {right})", value


def test_agrees_with_the_tree_it_was_written_from():
    rng = random.Random(1)
    for _ in range(500):
        text, value = random_expression(rng, 3)
        if value is None:
            with pytest.raises(DataError):
                evaluate(text)
        else:
            assert evaluate(text)[0] == value


@pytest.mark.parametrize(
    "text, value, numbers",
    [
        ("2 + 3 * 4", 14, (2, 3, 4)),
        ("8 / 4 / 2", 1, (8, 4, 2)),
        ("9 - 4 - 3", 2, (9, 4, 3)),
        ("8 / ( 3 - 8 / 3 )", 24, (8, 3, 8, 3)),
    ],
)
def test_precedence_order_and_exactness(text, value, numbers):
    assert evaluate(text) == (value, numbers)


BAD = [
    "",
    "1 +",
    "( 1",
    "1 )",
    "1 2",
    "2 ** 3",
    "-1",
    "1 / 0",
    "a",
    "__import__('os')",
    "٣ + ١",
    "1" * 5000,
    "(" * 5000,
]


@pytest.mark.parametrize("text", BAD)
def test_refuses_what_is_no_expression(text):
    with pytest.raises(DataError):
        evaluate(text)
