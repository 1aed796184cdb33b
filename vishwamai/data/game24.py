"""The Game of 24: its puzzles, what is held out, training rows, and the judge of an answer.

The rules, and the rows with steps, are those of Countdown with the target 24. No model, tokenizer or search is known
here.
"""

import functools
import itertools
import random
from importlib import resources

from vishwamai.data import countdown
from vishwamai.data.countdown import Move, State, draw_solution, shuffle_numbers, steps_row
from vishwamai.data.rows import Problem, Row

TARGET = 24
HIGHEST = 13
HELD_OUT_RANKS = range(901, 1001)
N_EXTRA_HELD_OUT = 200
AT_ONCE_SHARE = 0.1


def solvable(state: State) -> bool:
    """Whether 24 can be made from these sorted numbers by legal steps."""
    return countdown.is_solvable(state, TARGET)


def good(state: State) -> tuple[Move, ...]:
    """The legal steps after which 24 can still be reached."""
    return countdown.good_moves(state, TARGET)


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
    return countdown.prompt(numbers, TARGET, at_once=at_once)


def row(rng: random.Random, split: str = "train") -> Row:
    """A random row; `split` is "train" or "held_out" (whose puzzles are never in "train")."""
    state = rng.choice(training_puzzles() if split == "train" else sum(held_out_puzzles(), ()))
    return at_once_row(state, rng) if rng.random() < AT_ONCE_SHARE else steps_row(state, TARGET, rng)


def at_once_row(state: State, rng: random.Random) -> Row:
    """The expression without steps."""
    asked = prompt(shuffle_numbers(state, rng), at_once=True)
    return Row(((asked, 0.0), (countdown.answer(state, draw_solution(state, TARGET, rng)), 1.0)))


def grade(numbers: State, completion: str, *, at_once: bool = False) -> bool:
    """Whether a completion is right steps down to 24 and a right expression (or, at once, the latter alone)."""
    return countdown.grade(numbers, TARGET, completion, at_once=at_once)


def held_out(*, at_once: bool = False) -> list[Problem]:
    """The 100 problems of ranks 901-1000 (kind `game24.ranked`), then the 200 others (`game24.extra`)."""
    rng = random.Random(0)
    kinds = zip(("game24.ranked", "game24.extra"), held_out_puzzles(), strict=True)
    return [_problem(state, kind, rng, at_once) for kind, states in kinds for state in states]


def _problem(state: State, kind: str, rng: random.Random, at_once: bool) -> Problem:
    judge = functools.partial(grade, state, at_once=at_once)
    example = at_once_row(state, rng) if at_once else steps_row(state, TARGET, rng)
    return Problem(prompt(state, at_once=at_once), judge, kind + (".at_once" if at_once else ""), example.completion)
