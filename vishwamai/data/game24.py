"""The Game of 24: its puzzles and rules, what is held out, training rows, and the judge of an answer.

Arithmetic is on non-negative whole numbers up to 200: each step replaces two numbers by one, the larger stands first.
A row is a prompt and steps, each followed by the numbers left and by `yes` or `no` (can 24 still be reached?), then
the expression put together. A step marked `no` is taken back: the next line goes on from the numbers before it. So a
row teaches what follows from any step, which steps are good, and to try again. The recipe was made for this project
(the idea of search written into the text is Gandhi et al. 2024, "Stream of Search", arXiv:2404.03683). No model,
tokenizer or search is known here.
"""

import functools
import itertools
import random
import re
from importlib import resources
from typing import NamedTuple

from vishwamai.data.expressions import evaluate
from vishwamai.data.rows import Problem, Row
from vishwamai.errors import DataError

TARGET = 24
MAX_VALUE = 200
HIGHEST = 13
HELD_OUT_RANKS = range(901, 1001)
N_EXTRA_HELD_OUT = 200
AT_ONCE_SHARE = 0.1
TRIES = (0.55, 0.25, 0.12, 0.08)  # the chance of 0, 1, 2, 3 bad steps before a good one

State = tuple[int, ...]
STEP = re.compile(r"([0-9]+) ([-+*/]) ([0-9]+) = ([0-9]+)(?:, left ([0-9 ]*[0-9]))? (yes|no)")
ANSWER = re.compile(r"Answer: (.+) = 24")


class Move(NamedTuple):
    """One step: `a op b = result`, and the sorted numbers that are left with the result among them."""

    a: int
    op: str
    b: int
    result: int
    left: State


@functools.cache
def moves(state: State) -> tuple[Move, ...]:
    """Every legal step from sorted numbers, each once, in a fixed order."""
    found = set()
    for i, j in itertools.combinations(range(len(state)), 2):
        small, large = state[i], state[j]
        rest = state[:i] + state[i + 1 : j] + state[j + 1 :]
        for op, result in _results(large, small):
            if result <= MAX_VALUE:
                found.add(Move(large, op, small, result, tuple(sorted((*rest, result)))))
    return tuple(sorted(found))


def _results(large: int, small: int) -> list[tuple[str, int]]:
    results = [("+", large + small), ("-", large - small), ("*", large * small)]
    if small and large % small == 0:
        results.append(("/", large // small))
    return results


@functools.cache
def solvable(state: State) -> bool:
    """Whether 24 can be made from these sorted numbers by legal steps."""
    if len(state) == 1:
        return state[0] == TARGET
    return any(solvable(move.left) for move in moves(state))


@functools.cache
def good(state: State) -> tuple[Move, ...]:
    """The legal steps after which 24 can still be reached."""
    return tuple(move for move in moves(state) if solvable(move.left))


@functools.cache
def puzzles() -> dict[int, State]:
    """Rank -> sorted numbers, for the 1,362 ranked puzzles (16 of them need fractions)."""
    lines = resources.files("vishwamai").joinpath("assets/game24.csv").read_text().split("\n")[1:]
    pairs = (line.split(",") for line in lines if line)
    return {int(rank): tuple(sorted(map(int, numbers.split()))) for rank, numbers in pairs}


@functools.cache
def held_out_puzzles() -> tuple[tuple[State, ...], tuple[State, ...]]:
    """Never trained on: the 100 of ranks 901-1000, and 200 more drawn once from the other solvable ones."""
    ranked = tuple(puzzles()[rank] for rank in HELD_OUT_RANKS)
    others = [state for state in puzzles().values() if state not in set(ranked) and solvable(state)]
    random.Random(0).shuffle(others)
    return ranked, tuple(others[:N_EXTRA_HELD_OUT])


@functools.cache
def training_puzzles() -> tuple[State, ...]:
    """All solvable multisets of four numbers 1..13 that are not held out."""
    held_out = set(sum(held_out_puzzles(), ()))
    multisets = itertools.combinations_with_replacement(range(1, HIGHEST + 1), 4)
    return tuple(state for state in multisets if state not in held_out and solvable(state))


def prompt(numbers: State, *, at_once: bool = False) -> str:
    """What a person types: `Make 24 from 4 9 10 13.`, or `Make 24 from 4 9 10 13 at once.` for no steps."""
    return f"Make 24 from {' '.join(map(str, numbers))}{' at once' if at_once else ''}."


def row(rng: random.Random, split: str = "train") -> Row:
    """A random row; `split` is "train" or "held_out" (whose puzzles are never in "train")."""
    state = rng.choice(training_puzzles() if split == "train" else sum(held_out_puzzles(), ()))
    return at_once_row(state, rng) if rng.random() < AT_ONCE_SHARE else steps_row(state, rng)


def steps_row(state: State, rng: random.Random) -> Row:
    """A uniformly random solution with some bad steps before the good ones.

    The choice of a bad step is not in the loss, only what follows from it.
    """
    path = _walk(state, rng)
    spans, here = [(_shuffled_prompt(state, rng), 0.0)], state
    for move in path:
        for bad in _bad_moves(here, rng):
            asked, told = step_text(bad)
            spans += [(asked, 0.0), (told, 1.0)]
        spans.append(("".join(step_text(move)), 1.0))
        here = move.left
    return Row((*spans, (_answer(state, path), 1.0)))


def _bad_moves(state: State, rng: random.Random) -> list[Move]:
    bad = [move for move in moves(state) if not solvable(move.left)]
    wanted = rng.choices(range(len(TRIES)), TRIES)[0]
    return rng.sample(bad, min(wanted, len(bad)))


def at_once_row(state: State, rng: random.Random) -> Row:
    """The expression without steps."""
    asked = _shuffled_prompt(state, rng, at_once=True)
    return Row(((asked, 0.0), (_answer(state, _walk(state, rng)), 1.0)))


def _shuffled_prompt(state: State, rng: random.Random, *, at_once: bool = False) -> str:
    return prompt(tuple(rng.sample(state, len(state))), at_once=at_once)


def _walk(state: State, rng: random.Random) -> list[Move]:
    path = []
    while len(state) > 1:
        path.append(rng.choice(good(state)))
        state = path[-1].left
    return path


def step_text(move: Move) -> tuple[str, str]:
    """A step as it is written, in two parts: the choice, and what follows from it."""
    left = f", left {' '.join(map(str, move.left))}" if len(move.left) > 1 else ""
    verdict = "yes" if solvable(move.left) else "no"
    return f"\n {move.a} {move.op} {move.b}", f" = {move.result}{left} {verdict}"


def _answer(state: State, path: list[Move]) -> str:
    return f"\n Answer: {compose(state, path)} = {TARGET}"


def compose(state: State, path: list[Move]) -> str:
    """The path as one expression, every inner step in parentheses; of equal numbers the latest made is used first."""
    parts = [(number, str(number)) for number in state]
    for move in path:
        left, right = _take(parts, move.a), _take(parts, move.b)
        parts.append((move.result, f"( {left} {move.op} {right} )"))
    return parts[0][1][2:-2]


def _take(parts: list[tuple[int, str]], number: int) -> str:
    at = max(i for i, (value, _) in enumerate(parts) if value == number)
    return parts.pop(at)[1]


def apply_step(state: State, line: str) -> State | None:
    """The sorted numbers after one written step, or None where it is malformed, illegal or wrong."""
    match = STEP.fullmatch(line.strip())
    if match is None or max(map(len, re.findall(r"[0-9]+", line))) > 4:
        return None
    a, b, result = int(match[1]), int(match[3]), int(match[4])
    legal = (move for move in moves(state) if {(a, b), (b, a)} & {(move.a, move.b)})
    ordered = (move for move in legal if move.op == match[2] and (move.op in "+*" or (a, b) == (move.a, move.b)))
    move = next((move for move in ordered if move.result == result), None)
    if move is None or tuple(sorted(map(int, (match[5] or str(result)).split()))) != move.left:
        return None
    return move.left


def is_answer(numbers: State, line: str) -> bool:
    """Whether `Answer: ... = 24` uses each number exactly once and is exactly 24."""
    match = ANSWER.fullmatch(line.strip())
    if match is None:
        return False
    try:
        value, used = evaluate(match[1])
    except DataError:
        return False
    return value == TARGET and sorted(used) == sorted(numbers)


def read_steps(numbers: State, lines: list[str]) -> State | None:
    """The numbers left after written steps, those marked `no` taken back; None where any of the lines is wrong."""
    state = tuple(sorted(numbers))
    for line in lines:
        after = apply_step(state, line)
        if after is None:
            return None
        state = after if line.rstrip().endswith("yes") else state
    return state


def grade(numbers: State, completion: str, *, at_once: bool = False) -> bool:
    """Whether a completion is right steps down to 24 and a right expression (or, at once, the latter alone).

    Every line must be true arithmetic on the numbers at hand, those marked `no` too; the marks are not judged.
    """
    *steps, answer = completion.strip().split("\n")
    if not is_answer(numbers, answer):
        return False
    return not steps if at_once else read_steps(numbers, steps) == (TARGET,)


def held_out(*, at_once: bool = False) -> list[Problem]:
    """The 100 problems of ranks 901-1000 (kind `game24.ranked`), then the 200 others (`game24.extra`)."""
    rng = random.Random(0)
    kinds = zip(("game24.ranked", "game24.extra"), held_out_puzzles(), strict=True)
    return [_problem(state, kind, rng, at_once) for kind, states in kinds for state in states]


def _problem(state: State, kind: str, rng: random.Random, at_once: bool) -> Problem:
    judge = functools.partial(grade, state, at_once=at_once)
    example = at_once_row(state, rng) if at_once else steps_row(state, rng)
    return Problem(prompt(state, at_once=at_once), judge, kind + (".at_once" if at_once else ""), example.completion)
