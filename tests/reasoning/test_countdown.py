"""Countdown and the Game of 24 as tasks: problems as they are written, prompts as in training, steps, answers."""

import itertools
import math
import random
from fractions import Fraction
from types import SimpleNamespace

import pytest

from vishwamai.data import countdown, game24
from vishwamai.data.rows import encode_row
from vishwamai.errors import InputError
from vishwamai.reasoning.local import Local
from vishwamai.reasoning.model import Completion, join_prompt
from vishwamai.reasoning.scripted import Scripted
from vishwamai.reasoning.tasks.countdown import NO, YES, Countdown, Game24
from vishwamai.reasoning.tree import TreeOfThoughts
from vishwamai.text.tokenizer import VishwamAITokenizer

GAME, TASK = Game24(), Countdown()


def random_puzzles(many, seed=0):
    """Sorted numbers and a target that can be made of them."""
    rng, found = random.Random(seed), []
    while len(found) < many:
        state = tuple(sorted(rng.choices(range(1, 26), k=rng.randint(2, 5))))
        targets = [target for target in range(10, 101) if countdown.is_solvable(state, target)]
        found += [(state, rng.choice(targets))] if targets else []
    return found


FORMS = {
    "52 from 3 7 9 12 25": ((3, 7, 9, 12, 25), 52),
    "52 from 25 3 9 12 7": ((3, 7, 9, 12, 25), 52),
    "Make 52 from 3, 7, 9, 12, 25.": ((3, 7, 9, 12, 25), 52),
    "  make 52 from 3,7 , 9  at once.  ": ((3, 7, 9), 52),
    "Make 5 from 200 0 5 at once": ((0, 5, 200), 5),
    "0 from 5": ((5,), 0),
    "MAKE 7 FROM 03 04": ((3, 4), 7),
}
FORMS_OF_24 = ["4 9 10 13", "13 4 10 9", "4, 9, 10, 13", "Make 24 from 4 9 10 13.", "make 24 from 9,4,10,13 at once."]


@pytest.mark.parametrize("problem", FORMS)
def test_problems_are_read(problem):
    assert TASK.numbers(problem) == FORMS[problem] and TASK.read(problem) == FORMS[problem][0]


@pytest.mark.parametrize("problem", FORMS_OF_24)
def test_games_of_24_are_read(problem):
    assert GAME.numbers(problem) == ((4, 9, 10, 13), 24)


BAD = ["", "52", "52 from", "52 from ,", "from 3 4", "52 from 3 -4", "52 from 3 4 x", "52 from 3.5 4", "5200 from 3 4"]
BAD += ["52 from 3 201", "52 from " + "1 " * 9, "52 from ٣ 4", "52 from " + "9" * 5000, "9" * 5000 + " from 1"]
BAD_24 = [
    "",
    "4 9 10",
    "4 9 10 13 1",
    "a b c d",
    "4 9 10 -3",
    "4 9 10 13 = 24",
    "25 from 4 9 10 13",
    "4 9 10 " + "9" * 9999,
]


@pytest.mark.parametrize(
    "task, problem", [(TASK, p) for p in BAD] + [(GAME, p) for p in BAD_24], ids=lambda value: str(value)[:20]
)
def test_what_is_no_problem_is_refused_in_a_sentence(task, problem):
    for what in (task.read, task.prompt, task.direct_prompt, TreeOfThoughts(Scripted({}), task=task).solve):
        with pytest.raises(InputError, match="like (52 from|4 9 10 13)|numbers; (give 1 to 8|the Game of 24 has four)"):
            what(problem)


@pytest.fixture(scope="module")
def tokenizer():
    return VishwamAITokenizer.from_pretrained("vishwamai/base")


def read(tokenizer, prompt):
    """A prompt's tokens as a local model reads its pieces."""
    local = Local(SimpleNamespace(config=SimpleNamespace(max_length=512), tokenizer=tokenizer, weights=None), rows=2)
    return [token for run in local.runs(prompt) for token in run]


def test_prompts_have_the_tokens_of_the_rows_that_were_trained_on(tokenizer):
    [equals] = tokenizer.encode(" =", add_special_tokens=False)
    rng, whole_rows = random.Random(0), 0
    for (state, target), _ in zip(itertools.cycle(random_puzzles(60)), range(300), strict=False):
        row = countdown.steps_row(state, target, rng)
        tokens, _ = encode_row(tokenizer, row)
        asked, lines = row.prompt, row.text.split("\n")[1:]
        steps = list(itertools.takewhile(lambda line: line.endswith("yes"), lines))
        whole_rows += len(steps) == len(state) - 1
        for n in range(len(steps) + 1):
            for task, problem in ((TASK, asked), (TASK, asked[5:]), (GAME, asked)):
                if task is GAME and (target, len(state)) != (24, 4):
                    continue
                prompt = task.prompt(problem, steps[:n])
                made = read(tokenizer, prompt)
                assert made == tokens[: len(made)] and join_prompt(prompt) == "\n".join([asked, *steps[:n], ""])
                assert tokenizer.decode(made) == join_prompt(prompt)
                if n < len(steps):
                    choice = (*prompt, steps[n].split(" =")[0])
                    made = read(tokenizer, choice)
                    assert made == tokens[: len(made)] and tokens[len(made)] == equals
    assert whole_rows > 30


def test_a_prompt_without_steps_has_the_tokens_of_its_rows(tokenizer):
    for state in game24.held_out_puzzles()[0][:20]:
        row = game24.at_once_row(state, random.Random(1))
        tokens, _ = encode_row(tokenizer, row)
        made = read(tokenizer, GAME.direct_prompt(row.prompt))
        assert made == tokens[: len(made)] and len(made) == len(tokenizer.encode(row.prompt)) + 1


def test_a_step_that_is_gone_on_from_is_not_taken_back():
    prompt = join_prompt(GAME.prompt("13 4 9 10", [" 10 - 4 = 6, left 6 9 13 no", "13 - 9 = 4, left 4 6 yes "]))
    assert prompt == "Make 24 from 13 4 9 10.\n 10 - 4 = 6, left 6 9 13 yes\n 13 - 9 = 4, left 4 6 yes\n"
    assert GAME.takes_back(" 10 - 4 = 6, left 6 9 13 no ") and not GAME.takes_back(" 10 - 4 = 6, left 6 9 13 yes")


def test_the_marks_are_tokens(tokenizer):
    for mark in (YES, NO):
        [token] = tokenizer.encode(mark, add_special_tokens=False)
        assert tokenizer.decode([token]) == mark


def test_the_value_is_read_from_the_likeliest_tokens():
    def value(*likeliest, reason="stop"):
        return TASK.value(Completion(text="x", tokens=1, finish_reason=reason, likeliest=likeliest))

    mark, end, before = {" yes": math.log(0.6), " no": math.log(0.2), " 3": -3.0}, {"\n": -0.01}, {" 4": 0.0}
    assert value(before, mark, end) == pytest.approx(0.75) == value(before, mark, reason="length")
    assert value(before, mark) == pytest.approx(0.75)  # of an endpoint that leaves out what stopped it
    assert value(mark, {"\n": -0.01, " yes": -9.0}) == pytest.approx(0.75)
    assert value({" yes": -9.0, " no": -9.0}, mark) == pytest.approx(0.75)
    assert value({" yes": -0.5}, end) == 1.0 and value({" no": -0.5}, end) == pytest.approx(0.0, abs=1e-300)
    assert value(before, end) is None and value() is None and value(mark, before, end) is None
    assert value({" yes": -math.inf, " no": -math.inf}, end) is None


def test_answers_are_composed_and_right():
    rng = random.Random(3)
    for state, target in random_puzzles(150, seed=1):
        given = countdown.shuffle_numbers(state, rng)
        problem = f"{target} from {' '.join(map(str, given))}"
        here, steps = TASK.read(problem), []
        for move in countdown.draw_solution(state, target, rng):
            assert TASK.answer(problem, steps, here) is None
            steps.append("".join(countdown.step_text(move, target)).strip("\n"))
            here = TASK.step(here, steps[-1])
            assert here == move.left
        answer = TASK.answer(problem, steps, here)
        assert worked_out(answer) == target and sorted(numbers_in(answer)) == list(state)
        assert (
            TASK.check(problem, answer) is True
            and TASK.check(f"{target + 1}{problem[len(str(target)) :]}", answer) is False
        )


def worked_out(expression):
    """Its value in exact fractions, by Python's own rules."""
    words = [f"Fraction({word})" if word.isdigit() else word for word in expression.split()]
    assert set(expression) <= set("0123456789+-*/() ")
    return eval(" ".join(words), {"Fraction": Fraction})


def numbers_in(expression):
    return [int(word) for word in expression.split() if word.isdigit()]


@pytest.mark.parametrize(
    "answer, right",
    [
        ("( 10 - 4 ) * ( 13 - 9 )", True),
        ("(10-4)*(13-9)", True),
        ("( 10 - 4 ) * 4", False),
        ("13 + 10 + 9 - 4", False),
        ("24", False),
        ("", False),
        ("( 10 - 4 ) * ( 13 - 9 ) = 24", False),
        ("4 / 0 + 9 + 10 + 13", False),
        ("((((" * 30, False),
        ("9" * 5000, False),
        ("( 10 - 4 )\n* ( 13 - 9 )", False),
    ],
    ids=lambda value: str(value)[:20],
)
def test_answers_are_checked(answer, right):
    assert GAME.check("4 9 10 13", answer) is right


def test_wrong_steps_are_refused_and_right_ones_are_not():
    """Every step of two numbers against arithmetic of our own."""
    state = (2, 3, 8)
    for a, b in itertools.product(range(10), repeat=2):
        for op, result in itertools.product("+-*/", range(0, 30)):
            rest = list(state)
            legal = all(rest.count(x) and not rest.remove(x) for x in (a, b))
            true = {"+": a + b, "-": a - b, "*": a * b, "/": Fraction(a, b) if b else None}[op] == result
            left = tuple(sorted([*rest, result]))
            line = f" {a} {op} {b} = {result}, left {' '.join(map(str, left))} yes"
            assert TASK.step(state, line) == (left if legal and true else None), line


@pytest.mark.parametrize(
    "line",
    [
        "", "10 - 4 = 6", "10 - 4 = 6, left 6 9 13", "10 - 4 = 6, left 6 9 yes", "10 - 4 = 6, left 6 9 13 4 yes",
        "10 - 4 = 7, left 7 9 13 yes", "4 - 10 = 6, left 6 9 13 yes", "10 - 5 = 5, left 5 9 13 yes", "10 - 4 = 6 yes",
        "10 ^ 4 = 6, left 6 9 13 yes", "10 - 4 = 6, left 6 9 13 yes no", "Answer: 24 = 24", "yes",
        "9 / 4 = 2, left 2 10 13 yes", "10 - 4 = 6, left 6 9 13 yes\n13 - 9 = 4", "9" * 5000 + " - 4 = 6, left 6 yes",
    ],
    ids=lambda line: line[:24],
)  # fmt: skip
def test_what_is_no_step(line):
    assert GAME.step((4, 9, 10, 13), line) is None


def test_products_beyond_the_bound_are_no_steps():
    assert (
        TASK.step((20, 10), "20 * 10 = 200 yes") == (200,)
        and TASK.step((3, 20, 12), "20 * 12 = 240, left 3 240 no") is None
    )


def test_a_chain_is_taken_apart():
    row = countdown.steps_row((4, 9, 10, 13), 24, random.Random(2)).completion
    assert TASK.split(row) == row.strip("\n").split("\n")[:-1]
    assert GAME.check("4 9 10 13", GAME.extract(row)) is True
    assert GAME.extract("") is None and GAME.extract("24") is None
    assert GAME.answer("4 9 10 13", [], (4, 9, 10, 13)) is None and TASK.answer("5 from 5", [], (5,)) == "5"
