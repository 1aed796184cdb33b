"""The Game of 24: rules against brute force, splits that never meet, rows recomputed line by line, the judge."""

import itertools
import random
import re
from fractions import Fraction

import pytest

from vishwamai.data import countdown, game24
from vishwamai.data.generated import generated, held_out, row_at

LINE = re.compile(r" (\d+) ([-+*/]) (\d+) = (\d+)(?:, left ([\d ]+))? (yes|no)")


def brute_solvable(numbers):
    """24 by trying every pair and operation on exact fractions, keeping to whole numbers 0..200."""
    if len(numbers) == 1:
        return numbers[0] == 24
    for i, j in itertools.permutations(range(len(numbers)), 2):
        a, b = Fraction(numbers[i]), Fraction(numbers[j])
        rest = [n for k, n in enumerate(numbers) if k not in (i, j)]
        for c in {a + b, a - b, a * b, *([a / b] if b else [])}:
            if c.denominator == 1 and 0 <= c <= 200 and brute_solvable([*rest, int(c)]):
                return True
    return False


def prompt_numbers(prompt):
    return tuple(sorted(int(n) for n in re.findall(r"\d+", prompt)[1:]))


def rows(split, n):
    return itertools.islice(generated("game24", split, seed=3), n)


def test_solvable_agrees_with_brute_force():
    rng = random.Random(0)
    states = [tuple(sorted(rng.randint(1, 13) for _ in range(n))) for n in (2, 3, 3, 4) for _ in range(12)]
    assert [game24.solvable(s) for s in states] == [brute_solvable(list(s)) for s in states]
    assert {game24.solvable(s) for s in states} == {True, False}


def test_the_ranked_hundred_and_the_extra_two_hundred():
    ranked, extra = game24.held_out_puzzles()
    assert len(game24.puzzles()) == 1362
    assert ranked[0] == (4, 5, 6, 10) and len(set(ranked)) == 100
    assert len(set(extra)) == 200 and not set(ranked) & set(extra)
    assert all(map(game24.solvable, ranked + extra))


def test_training_puzzles_are_all_the_others():
    training = game24.training_puzzles()
    assert not {*sum(game24.held_out_puzzles(), ())} & set(training)
    assert len(set(training)) == 1046 and all(map(game24.solvable, training))


def test_no_training_row_asks_a_held_out_puzzle():
    forbidden = {state for states in game24.held_out_puzzles() for state in states}
    assert not any(prompt_numbers(row.prompt) in forbidden for row in rows("train", 5000))
    assert all(prompt_numbers(row.prompt) in forbidden for row in rows("held_out", 200))


def check_row(row):
    """Every line of a row recomputed with Python's arithmetic; returns its number of good steps and of bad ones."""
    state, counts = list(prompt_numbers(row.prompt)), {"yes": 0, "no": 0}
    *lines, answer = row.completion.strip("\n").split("\n")
    for step in map(LINE.fullmatch, lines):
        a, op, b, result = int(step[1]), step[2], int(step[3]), int(step[4])
        assert a >= b and result == {"+": a + b, "-": a - b, "*": a * b, "/": Fraction(a, b or 1)}[op]
        after = list(state)
        after.remove(a), after.remove(b), after.append(result)
        assert [int(n) for n in (step[5] or str(result)).split()] == sorted(after)
        assert (step[6] == "yes") == game24.solvable(tuple(sorted(after)))
        counts[step[6]] += 1
        state = after if step[6] == "yes" else state
    expression = answer.removeprefix(" Answer: ").removesuffix(" = 24")
    assert abs(eval(expression) - 24) < 1e-9
    assert sorted(int(n) for n in re.findall(r"\d+", expression)) == list(prompt_numbers(row.prompt))
    return counts["yes"], counts["no"]


def test_every_row_is_true():
    counts = [check_row(row) for row in rows("train", 2000)]
    good, bad = zip(*counts, strict=True)
    assert set(good) == {0, 3} and 130 < good.count(0) < 270
    assert all(b == 0 for g, b in counts if g == 0) and 1.5 < sum(bad) / good.count(3) < 2.5


def test_the_choice_of_a_bad_step_is_not_in_the_loss():
    spans = [
        span for i in range(200) for span in countdown.steps_row((4, 9, 10, 13), 24, random.Random(i)).text_spans[1:]
    ]
    for text, weight in spans:
        if not weight:
            assert re.fullmatch(r"\n \d+ [-+*/] \d+", text)
        elif text.startswith(" = "):
            assert text.endswith(" no")
        else:
            assert text.endswith((" yes", " = 24"))
    assert {weight for _, weight in spans} == {0.0, 1.0}


def test_rows_depend_on_seed_and_place_alone():
    stream = list(itertools.islice(generated("game24", seed=1), 20))
    assert stream[7:] == list(itertools.islice(generated("game24", seed=1, start=7), 13))
    assert stream[7] == row_at("game24", "train", 1, 7)
    assert stream != list(itertools.islice(generated("game24", seed=2), 20))


@pytest.mark.parametrize("at_once", [False, True])
def test_the_judge_accepts_every_gold_answer(at_once):
    problems = game24.held_out(at_once=at_once)
    assert [p.kind.split(".")[1] for p in problems] == ["ranked"] * 100 + ["extra"] * 200
    assert all(p.grade(p.answer) for p in problems)
    assert all(("at once" in p.prompt) == at_once for p in problems)


GOLD = (
    "\n 13 - 9 = 4, left 4 4 10 yes\n 10 - 4 = 6, left 4 6 yes\n 6 * 4 = 24 yes\n Answer: ( 10 - 4 ) * ( 13 - 9 ) = 24"
)
TAKEN_BACK = GOLD.replace("\n 10 - 4", "\n 10 + 4 = 14, left 4 14 no\n 10 * 4 = 40, left 4 40 no\n 10 - 4")
WRONG = {
    "a result": ("13 - 9 = 4,", "13 - 9 = 5,"),
    "a number that is not there": ("13 - 9", "12 - 8"),
    "the numbers left": ("left 4 4 10", "left 4 10"),
    "no numbers left": (", left 4 6", ""),
    "the order of a difference": ("10 - 4 = 6", "4 - 10 = 6"),
    "a step too few": ("\n 6 * 4 = 24 yes", ""),
    "another last step": ("6 * 4 = 24 yes", "6 + 4 = 10 no"),
    "an expression with another value": ("( 10 - 4 ) *", "( 10 + 4 ) *"),
    "a number used twice": ("( 13 - 9 ) =", "( 13 - 9 ) * 4 / 4 ="),
    "a number replaced": ("( 10 - 4 ) *", "( 12 - 6 ) *"),
    "no expression": ("( 10 - 4 ) * ( 13 - 9 )", "exit()"),
    "no answer": ("Answer", "Reply"),
    "a long number": ("13 - 9 = 4", "13 - 9 = " + "4" * 9000),
}


def test_the_judge_on_a_written_answer():
    assert game24.grade((4, 9, 10, 13), GOLD)
    assert game24.grade((10, 4, 13, 9), GOLD.replace("6 * 4 = 24", "4 * 6 = 24") + "\n")
    assert game24.grade((4, 9, 10, 13), TAKEN_BACK)
    assert not game24.grade((4, 9, 10, 13), TAKEN_BACK.replace("10 + 4 = 14", "10 + 4 = 15"))
    assert not game24.grade((4, 9, 10, 13), TAKEN_BACK.replace("4 14 no", "4 14 yes"))
    assert not game24.grade((4, 9, 10, 13), GOLD.replace("4 6 yes", "4 6 no"))
    assert not game24.grade((4, 9, 10, 12), GOLD)
    assert not game24.grade((4, 9, 10, 13), "") and not game24.grade((4, 9, 10, 13), "\n\n\n")


@pytest.mark.parametrize("wrong", WRONG)
def test_the_judge_rejects(wrong):
    mutated = GOLD.replace(*WRONG[wrong])
    assert mutated != GOLD and not game24.grade((4, 9, 10, 13), mutated)


def test_at_once_wants_no_steps():
    answer = GOLD[GOLD.index("\n Answer") :]
    assert game24.grade((4, 9, 10, 13), answer, at_once=True)
    assert not game24.grade((4, 9, 10, 13), GOLD, at_once=True)
    assert not game24.grade((4, 9, 10, 13), answer)


def test_held_out_by_name():
    assert [p.prompt for p in held_out("game24")[:1]] == ["Make 24 from 4 5 6 10."]
