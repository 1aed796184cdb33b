"""Worked sums: every link of every chain is evaluated by Python, for every calculation that the corpora may hold."""

import re

import pytest

from vishwamai.data.arithmetic import TABLE, is_basic, write_steps

CALCULATIONS = [
    *((x, "+", y, x + y) for x in range(101) for y in range(101 - x)),
    *((x, "-", y, x - y) for x in range(101) for y in range(x + 1)),
    *((x, "*", y, x * y) for x in range(101) for y in range(1, TABLE + 1) if x * y <= 100),
    *((x * y, "/", y, x) for x in range(101) for y in range(1, TABLE + 1) if x * y <= 100),
]


@pytest.mark.parametrize("op", "+-*/")
def test_every_link_equals_the_result(op):
    for x, o, y, result in CALCULATIONS:
        if o == op:
            links = write_steps(x, op, y, result).split(" = ")
            assert links[0] == f"{x} {op} {y}" and links[-1] == str(result)
            assert {eval(link) for link in links} == {result}, links


def test_what_a_chain_leaves_to_know_is_basic():
    """After the first link only tables, round tens and tens plus ones remain: nothing as hard as the question."""
    for x, op, y, result in CALCULATIONS:
        _, *links, _ = write_steps(x, op, y, result).split(" = ")
        products = [re.fullmatch(r"(\d+) ([*/]) (\d+)", part) for link in links for part in link.split(" + ")]
        assert all(is_basic(int(p[1]), p[2], int(p[3])) for p in products if p)
        if links:
            tens, ones = map(int, links[-1].split(" + "))
            assert tens % 10 == 0 and (ones < 20 or ones % 10 == 0)


@pytest.mark.parametrize(
    ("calculation", "text"),
    [
        ((47, "+", 38, 85), "47 + 38 = 40 + 30 + 7 + 8 = 70 + 15 = 85"),
        ((57, "+", 5, 62), "57 + 5 = 50 + 7 + 5 = 50 + 12 = 62"),
        ((53, "-", 29, 24), "53 - 29 = 40 - 20 + 13 - 9 = 20 + 4 = 24"),
        ((13, "*", 7, 91), "13 * 7 = 10 * 7 + 3 * 7 = 70 + 21 = 70 + 20 + 1 = 90 + 1 = 91"),
        ((84, "/", 6, 14), "84 / 6 = 60 / 6 + 24 / 6 = 10 + 4 = 14"),
        ((8, "+", 7, 15), "8 + 7 = 15"),
        ((60, "+", 7, 67), "60 + 7 = 67"),
        ((56, "/", 8, 7), "56 / 8 = 7"),
    ],
)
def test_chains_read_as_stated(calculation, text):
    assert write_steps(*calculation) == text
