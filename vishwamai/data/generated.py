"""The generated corpora by name, as endless streams of rows, and the held-out problems of each.

Row number i of a stream depends on (name, split, seed, i) alone, so a stream can be resumed, sharded or read at any
place without reading what is before it. This file does not know tokens, batches or models.
"""

import dataclasses
import itertools
import random
from collections.abc import Iterator

from vishwamai.data import conversations, countdown, explanations, game24, word_problems
from vishwamai.data.chats import AsChat
from vishwamai.data.rows import Problem, Row
from vishwamai.errors import DataError

QUESTIONS = {"game24": game24, "word_problems": word_problems, "explanations": explanations, "countdown": countdown}
CHATS = {"conversations": conversations, **{f"{name}_chat": AsChat(corpus) for name, corpus in QUESTIONS.items()}}
CORPORA = QUESTIONS | CHATS
SPLITS = ("train", "held_out")


def row_at(name: str, split: str, seed: int, index: int) -> Row:
    """Row `index` of a corpus. Splits: "train" and "held_out", which share no question. DataError if unknown."""
    if name not in CORPORA or split not in SPLITS:
        raise DataError(f"no generated rows {name!r}, {split!r}: names are {', '.join(CORPORA)}; splits {SPLITS}.")
    row = CORPORA[name].row(random.Random(f"{name} {split} {seed} {index}"), split)
    return dataclasses.replace(row, read_special_tokens=True, add_special_tokens=False)


def generated(name: str, split: str = "train", seed: int = 0, start: int = 0) -> Iterator[Row]:
    """Rows `start`, `start + 1`, … of a corpus, endless."""
    row_at(name, split, seed, start)
    return (row_at(name, split, seed, index) for index in itertools.count(start))


def held_out(name: str) -> list[Problem]:
    """The held-out problems of one corpus, always the same ones in the same order."""
    if name not in CORPORA:
        raise DataError(f"no held-out problems {name!r}: names are {', '.join(CORPORA)}.")
    return CORPORA[name].held_out()
