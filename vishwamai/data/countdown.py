"""Countdown: make a target from numbers, each used once. Its rules, training rows, what is held out, and the judge.

Arithmetic is on non-negative whole numbers up to 200: each step replaces two numbers by one, the larger stands first.
A row is a prompt and steps, each followed by the numbers left and by `yes` or `no` (can the target still be
reached?), then the expression put together. A step marked `no` is taken back: the next line goes on from the numbers
before it. So a row teaches what follows from any step, which steps are good, and to try again. The recipe was made for
this project (the idea of search written into the text is Gandhi et al. 2024, "Stream of Search", arXiv:2404.03683).
The Game of 24 is the same game with one target. No model, tokenizer or search is known here.
"""

import functools
import itertools
import random
import re
import zlib
from typing import NamedTuple

from vishwamai.data.expressions import evaluate
from vishwamai.data.rows import Problem, Row
from vishwamai.errors import DataError

MAX_VALUE = 200
TRIES = (0.55, 0.25, 0.12, 0.08)  # the chance of 0, 1, 2, 3 bad steps before a good one
NUMBERS, TARGETS = range(1, 26), range(10, 101)  # of the corpus: five numbers and a target
N_NUMBERS = 5
N_HELD_OUT = 200
HELD_OUT_SHARE = 50  # one multiset in so many is never trained on

State = tuple[int, ...]
STEP = re.compile(r"([0-9]+) ([-+*/]) ([0-9]+) = ([0-9]+)(?:, left ([0-9 ]*[0-9]))? (yes|no)")
ANSWER = re.compile(r"Answer: (.+) = ([0-9]{1,4})")


class Move(NamedTuple):
    """One step: `a op b = result`, and the sorted numbers that are left with the result among them."""

    a: int
    op: str
    b: int
    result: int
    left: State


@functools.lru_cache(maxsize=1 << 15)
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


@functools.lru_cache(maxsize=1 << 19)
def reachable(state: State) -> int:
    """The numbers that sorted numbers can become by legal steps, as a set of bits."""
    if len(state) == 1:
        return 1 << state[0]
    found = 0
    for i, j in itertools.combinations(range(len(state)), 2):
        rest = state[:i] + state[i + 1 : j] + state[j + 1 :]
        for result in {result for _, result in _results(state[j], state[i]) if result <= MAX_VALUE}:
            found |= reachable(tuple(sorted((*rest, result))))
    return found


def is_solvable(state: State, target: int) -> bool:
    """Whether the target can be made from these sorted numbers by legal steps."""
    return bool(reachable(state) >> target & 1)


def good_moves(state: State, target: int) -> tuple[Move, ...]:
    """The legal steps after which the target can still be reached."""
    return tuple(move for move in moves(state) if is_solvable(move.left, target))


def is_held_out(state: State) -> bool:
    """Whether the corpus keeps sorted numbers, with whatever target, out of training."""
    return zlib.crc32(repr(state).encode()) % HELD_OUT_SHARE == 0


def prompt(numbers: State, target: int, *, at_once: bool = False) -> str:
    """What a person types: `Make 24 from 4 9 10 13.`, or `Make 24 from 4 9 10 13 at once.` for no steps."""
    return f"Make {target} from {' '.join(map(str, numbers))}{' at once' if at_once else ''}."


def row(rng: random.Random, split: str = "train") -> Row:
    """A random row; `split` is "train" or "held_out" (whose numbers are never in "train")."""
    return steps_row(*_puzzle(rng, split == "held_out"), rng)


def _puzzle(rng: random.Random, held_out: bool) -> tuple[State, int]:
    while True:
        state, target = tuple(sorted(rng.choices(NUMBERS, k=N_NUMBERS))), rng.choice(TARGETS)
        if is_held_out(state) == held_out and is_solvable(state, target):
            return state, target


def steps_row(state: State, target: int, rng: random.Random) -> Row:
    """A uniformly random solution with some bad steps before the good ones.

    The choice of a bad step is not in the loss, only what follows from it.
    """
    path = draw_solution(state, target, rng)
    spans, here = [(prompt(shuffle_numbers(state, rng), target), 0.0)], state
    for move in path:
        for bad in _bad_moves(here, target, rng):
            asked, told = step_text(bad, target)
            spans += [(asked, 0.0), (told, 1.0)]
        spans.append(("".join(step_text(move, target)), 1.0))
        here = move.left
    return Row((*spans, (answer(state, path), 1.0)))


def _bad_moves(state: State, target: int, rng: random.Random) -> list[Move]:
    bad = [move for move in moves(state) if not is_solvable(move.left, target)]
    wanted = rng.choices(range(len(TRIES)), TRIES)[0]
    return rng.sample(bad, min(wanted, len(bad)))


def shuffle_numbers(state: State, rng: random.Random) -> State:
    """The numbers in a random order."""
    return tuple(rng.sample(state, len(state)))


def draw_solution(state: State, target: int, rng: random.Random) -> list[Move]:
    """A solution, each step drawn from the good ones."""
    path = []
    while len(state) > 1:
        path.append(rng.choice(good_moves(state, target)))
        state = path[-1].left
    return path


def step_text(move: Move, target: int) -> tuple[str, str]:
    """A step as it is written, in two parts: the choice, and what follows from it."""
    left = f", left {' '.join(map(str, move.left))}" if len(move.left) > 1 else ""
    verdict = "yes" if is_solvable(move.left, target) else "no"
    return f"\n {move.a} {move.op} {move.b}", f" = {move.result}{left} {verdict}"


def answer(state: State, path: list[Move]) -> str:
    """The last line of a row."""
    return f"\n Answer: {compose(state, path)} = {path[-1].result}"


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


def move_of(state: State, line: str) -> Move | None:
    """The legal step from sorted numbers that a written one is, or None where it is malformed, illegal or wrong."""
    match = STEP.fullmatch(line.strip())
    if match is None or max(map(len, re.findall(r"[0-9]+", line))) > 4:
        return None
    a, b, result = int(match[1]), int(match[3]), int(match[4])
    legal = (move for move in moves(state) if {(a, b), (b, a)} & {(move.a, move.b)})
    ordered = (move for move in legal if move.op == match[2] and (move.op in "+*" or (a, b) == (move.a, move.b)))
    move = next((move for move in ordered if move.result == result), None)
    if move is None or tuple(sorted(map(int, (match[5] or str(result)).split()))) != move.left:
        return None
    return move


def is_answer(numbers: State, target: int, line: str) -> bool:
    """Whether `Answer: ... = target` uses each number exactly once and is exactly the target."""
    match = ANSWER.fullmatch(line.strip())
    if match is None or int(match[2]) != target:
        return False
    try:
        value, used = evaluate(match[1])
    except DataError:
        return False
    return value == target and sorted(used) == sorted(numbers)


def read_steps(numbers: State, lines: list[str]) -> State | None:
    """The numbers left after written steps, those marked `no` taken back; None where any of the lines is wrong."""
    state = tuple(sorted(numbers))
    for line in lines:
        move = move_of(state, line)
        if move is None:
            return None
        state = move.left if line.rstrip().endswith("yes") else state
    return state


def grade(numbers: State, target: int, completion: str, *, at_once: bool = False) -> bool:
    """Whether a completion is right steps down to the target and a right expression (or, at once, the latter alone).

    Every line must be true arithmetic on the numbers at hand, those marked `no` too; the marks are not judged.
    """
    *steps, last = completion.strip().split("\n")
    if not is_answer(numbers, target, last):
        return False
    return not steps if at_once else read_steps(numbers, steps) == (target,)


@functools.cache
def held_out_puzzles() -> tuple[tuple[State, int], ...]:
    """The puzzles of `held_out`: numbers and target."""
    rng = random.Random(0)
    return tuple(_puzzle(rng, held_out=True) for _ in range(N_HELD_OUT))


def held_out() -> list[Problem]:
    """200 problems whose numbers are never trained on (kind `countdown`)."""
    rng, found = random.Random(1), []
    for state, target in held_out_puzzles():
        judge = functools.partial(grade, state, target)
        example = steps_row(state, target, rng)
        found.append(Problem(prompt(shuffle_numbers(state, rng), target), judge, "countdown", example.completion))
    return found
