"""The generated corpora by name, as endless streams of rows, and the held-out problems of each.

Row number i of a stream depends on (name, split, seed, i) alone, so a stream can be resumed, sharded or read at any
place without reading what is before it. This file does not know tokens, batches or models.
"""

import itertools
import random
from collections.abc import Iterator, Mapping

from vishwamai.data import explanations, game24, word_problems
from vishwamai.data.rows import Problem, Row
from vishwamai.errors import DataError

CORPORA = {"game24": game24, "word_problems": word_problems, "explanations": explanations}
NAMES = (*CORPORA, "mixture")
SPLITS = ("train", "held_out")
WEIGHTS = {"game24": 0.5, "word_problems": 0.35, "explanations": 0.15}


def row_at(name: str, split: str, seed: int, index: int, weights: Mapping[str, float] = WEIGHTS) -> Row:
    """Row `index` of a corpus ("mixture" draws the corpus by `weights`, shares of rows); DataError if unknown."""
    rng = random.Random(f"{name} {split} {seed} {index}")
    if name == "mixture":
        name = rng.choices(list(weights), list(weights.values()))[0]
    if name not in CORPORA or split not in SPLITS:
        raise DataError(f"no generated rows {name!r}, {split!r}: names are {', '.join(NAMES)}; splits {SPLITS}.")
    return CORPORA[name].row(rng, split)


def generated(
    name: str, split: str = "train", seed: int = 0, start: int = 0, weights: Mapping[str, float] = WEIGHTS
) -> Iterator[Row]:
    """Rows `start`, `start + 1`, … of a corpus, endless. Splits: "train" and "held_out", which share no question."""
    row_at(name, split, seed, start, weights)
    return (row_at(name, split, seed, index, weights) for index in itertools.count(start))


def held_out(name: str) -> list[Problem]:
    """The held-out problems of one corpus, always the same ones in the same order."""
    if name not in CORPORA:
        raise DataError(f"no held-out problems {name!r}: names are {', '.join(CORPORA)}.")
    return CORPORA[name].held_out()


def tokenizer_texts(rows_each: int = 4000, seed: int = 0) -> Iterator[str]:
    """Text to train the built-in model's tokenizer on: every number up to 200 often, then rows of each corpus.

    Rows come in their pieces, the way they are encoded, so that no token is learned that crosses two pieces.
    """
    for _ in range(200):
        yield "".join(f" {number}" for number in range(game24.MAX_VALUE + 1))
    for name in CORPORA:
        for row in itertools.islice(generated(name, "train", seed), rows_each):
            yield from (text for text, _ in row.text_spans)
