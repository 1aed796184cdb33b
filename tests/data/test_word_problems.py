"""Word problems: recomputed from the English, splits that share no template and no first calculation, the judge."""

import itertools
import random
import re

import pytest

from vishwamai.data import word_problems
from vishwamai.data.generated import generated, held_out
from vishwamai.data.word_problems import (
    EVENTS,
    OPENINGS,
    THINGS,
    StoryStep,
    bare_products,
    bare_sum,
    is_held_out_step,
    problem,
)

# What each clause means, read from its English and not from the operation stored beside it.
TIMES = ("in each.", "bags of", "jars with", "that hold", "times as many", "for # dollars", "costs #", "weighs #")
PLUS = ("# more", "gets #", "wins #")
MINUS = ("gives # to", "loses #", "sells # at", "# are taken", "leaves # at", "# fewer")
OVER = ("among # friends", "into # equal", "packs # ")


def meaning(sentence):
    found = {
        op for op, marks in zip("*+-/", (TIMES, PLUS, MINUS, OVER), strict=True) if any(m in sentence for m in marks)
    }
    assert len(found) <= 1, sentence
    return found.pop() if found else ""


def solve(text):
    """The steps of a problem from its text alone."""
    if bare := re.fullmatch(r"What is ([\d +*/-]+)\?", text):
        return [(*bare[1].split(" ", 2), eval(bare[1]))]
    value, steps = None, []
    for sentence in re.findall(r"[^.?]+[.?]", text):
        numbers = [int(n) for n in re.findall(r"\d+", sentence)]
        if value is None and numbers:
            value = numbers.pop(0)
        for number in numbers:
            op = meaning(re.sub(r"\d+", "#", sentence))
            result = {"+": value + number, "-": value - number, "*": value * number, "/": value / number}[op]
            steps.append((value, op, number, result))
            value = int(result)
            assert value == result
    return steps


def rows(split, n):
    return itertools.islice(generated("word_problems", split, seed=4), n)


def test_every_row_is_true():
    for row in rows("train", 1500):
        steps = solve(row.prompt)
        *lines, last = row.completion.removeprefix("\n ").split("\n ")
        assert last == f"Answer: {int(steps[-1][3])}"
        for line, (a, op, b, c) in zip(lines, steps, strict=True):
            assert line.startswith(f"{a} {op} {b} = ") and line.endswith(f" = {int(c)}")
        assert 1 <= len(steps) <= 3 and all(1 <= c <= 100 for *_, c in steps)
        assert [weight for _, weight in row.text_spans] == [0.0, 1.0]


def skeleton(text):
    """A problem's text without its numbers, people and things: which template it is."""
    text = re.sub(r"\d+", "#", text)
    text = re.sub("|".join(rf"\b{word}\b" for word in word_problems.PEOPLE), "N", text)
    text = re.sub("|".join(rf"\b{word}\b" for word in THINGS), "T", text)
    return re.sub(r"\b(she|he|her|him)\b", "X", text, flags=re.IGNORECASE)


def test_the_splits_share_no_template_and_no_first_calculation():
    train, test = ([problem(random.Random(i), split) for i in range(3000)] for split in ("train", "held_out"))
    assert not {skeleton(text) for text, _ in train} & {skeleton(text) for text, _ in test}
    bare = [re.fullmatch(r"What is (\d+) (.) (\d+)\?", bare_sum(random.Random(i))[0]) for i in range(20_000)]
    known = {(s.op, frozenset((s.before, s.number))) for _, steps in train for s in steps}
    known |= {(sum_[2], frozenset((int(sum_[1]), int(sum_[3])))) for sum_ in bare}
    asked = {(steps[0].op, frozenset((steps[0].before, steps[0].number))) for _, steps in test}
    assert len(asked) > 100 and not known & asked
    assert {op for op, _ in asked} == set("+-*")  # a quotient beyond the tables is no first step that the grammar makes


def test_bare_products_are_true_and_no_product_s_own_chain():
    seen = set()
    for i in range(5000):
        question, chain = bare_products(random.Random(i))
        x, y, z, w = map(int, re.fullmatch(r"What is (\d+) \* (\d+) \+ (\d+) \* (\d+)\?", question).groups())
        assert x % 10 == 0 and z < 10 and y != w and x * y + z * w <= 100
        assert {eval(link) for link in chain.split(" = ")} == {x * y + z * w}
        seen.add((z, w))
    assert {(z, w) for z in range(1, 10) for w in range(2, 10) if z * w <= 80} <= seen  # every table that leaves room


def test_calculations_of_the_tables_are_never_held_out():
    tables = [StoryStep(x, op, y, 0) for x in range(1, 10) for y in range(1, 10) for op in "+*"]
    assert not any(is_held_out_step(step) for step in tables)
    beyond = [StoryStep(x, "+", y, x + y) for x in range(11, 60) for y in range(11, 40) if x % 10 and y % 10]
    assert 1 / 16 < sum(map(is_held_out_step, beyond)) / len(beyond) < 1 / 5


def test_every_clause_occurs_in_training():
    seen = "\n".join(skeleton(row.prompt) for row in rows("train", 4000))
    for clause in (*OPENINGS, *EVENTS, *word_problems.CLOSINGS):
        plain = clause.text.format(N="N", M="N", F="N", p="X", P="X", o="X", a="#", b="#", things="T")
        assert plain in seen


def test_all_four_operations_and_all_lengths():
    steps = [problem(random.Random(i), "train")[1] for i in range(2000)]
    for share in ([len(s) for s in steps].count(n) / 2000 for n in (1, 2, 3)):
        assert 0.25 < share < 0.42
    ops = [s.op for several in steps for s in several]
    assert all(ops.count(op) / len(ops) > 0.1 for op in "+-*/")


def test_held_out_problems_and_their_judge():
    problems = held_out("word_problems")
    assert len({p.prompt for p in problems}) == 300
    assert problems[0].prompt == held_out("word_problems")[0].prompt
    for p in problems:
        right = int(solve(p.prompt)[-1][3])
        assert p.grade(p.answer) and p.answer.endswith(f" Answer: {right}")
        assert not p.grade(p.answer.replace(f"Answer: {right}", f"Answer: {right + 1}"))
        assert not p.grade(p.answer.rsplit("\n", 1)[0])


@pytest.mark.parametrize("text", ["", "17", "Answer:", "Answer: 171", "Answer: 17 + 0", "Answer: 17\n 1 + 1 = 2"])
def test_the_judge_rejects(text):
    assert word_problems.grade(17, "\n Answer: 17\n") and word_problems.grade(17, "Answer: 17.")
    assert not word_problems.grade(17, text)


def test_rows_depend_on_seed_alone():
    first, again, other = (list(itertools.islice(generated("word_problems", seed=s), 10)) for s in (1, 1, 2))
    assert first == again != other
