"""Where rows come from: text files, JSONL files, and the generated corpora, each as row number -> `Row`.

A finite source is shuffled anew in every pass, by its seed alone. It knows no tokens.
"""

import dataclasses
import functools
import itertools
import math
import random
import re
import zlib
from collections.abc import Callable, Sequence
from pathlib import Path

from vishwamai.config import parse_json
from vishwamai.data import generated
from vishwamai.data.forms import PLAIN, AnyRow, RowFormat, read_record
from vishwamai.data.rows import ChatRow, Row
from vishwamai.errors import ConfigError, DataError
from vishwamai.text.backend import MAX_CHARACTERS

BLOCK = 10_000  # rows of a mixture: a share of 0.01% is one of them

Rows = Callable[[int], AnyRow]


def from_generated(name: str, seed: int = 0, split: str = "train") -> Rows:
    """A generated corpus by name; it never ends."""
    generated.row_at(name, split, seed, 0)
    return functools.partial(generated.row_at, name, split, seed)


def from_text(path: str | Path, form: RowFormat = PLAIN) -> list[AnyRow]:
    """A UTF-8 text file: one row a paragraph (blank lines between, of spaces too), all of it in the loss."""
    text = _read(path)
    paragraphs = [p.strip() for p in re.split(r"\n\s*\n", text)]
    for p in paragraphs:
        if len(p) > MAX_CHARACTERS:
            raise _too_long(p, path, text.count("\n", 0, text.index(p)) + 1)
    return [Row(((p, 1.0),), form.read_special_tokens) for p in paragraphs if p]


def from_jsonl(path: str | Path, form: RowFormat = PLAIN) -> list[AnyRow]:
    """A JSONL file, a record of `data.forms` a line. Each line is read as strictly as a configuration."""
    lines = enumerate(_read(path).split("\n"), 1)  # JSON strings may hold the other line ends that Unicode knows
    return [_row(line, path, n, form) for n, line in lines if line.strip()]


def split_rows(rows: Sequence[AnyRow], held_out: float) -> dict[str, list[AnyRow]]:
    """Rows to train on, and the share of them that is kept for evaluation: equal rows are always on the same side."""
    parts: dict[str, list[AnyRow]] = {"train": [], "held_out": []}
    for row in rows:
        parts["held_out" if zlib.crc32(row.text.encode()) < held_out * 2**32 else "train"].append(row)
    return parts


def shuffle_rows(rows: Sequence[AnyRow], seed: int, name: str) -> Rows:
    """Row number i of endless passes over `rows`, each in its own order."""
    if not rows:
        raise DataError(f"{name} holds no rows")

    @functools.lru_cache(maxsize=2)
    def order(turn: int) -> list[int]:
        places = list(range(len(rows)))
        random.Random(f"{name} {seed} {turn}").shuffle(places)
        return places

    return lambda i: rows[order(i // len(rows))[i % len(rows)]]


def mix(parts: Sequence[tuple[Rows, float]], seed: int = 0) -> Rows:
    """Rows of several sources by weight, each source's own rows in their order: row 0, 1, 2, … of it, none left out.

    Rows come in blocks. Every block holds the same number of rows of each source, its share of `BLOCK` rounded to a
    whole number and 1 at the least, in an order that depends on the seed and the block's number alone; so any row can
    be asked for without those before it. Over whole blocks the shares are exact where they are whole hundredths of a
    percent, and else within half a row in `BLOCK`.
    """
    sources, weights = [rows for rows, _ in parts], [weight for _, weight in parts]
    total = sum(weights)
    if not sources or not min(weights) >= 0 or not 0 < total < math.inf:
        raise DataError(f"a mixture needs weights of 0 or more that do not sum to 0, not {weights}")
    counts = [max(1, round(weight / total * BLOCK)) if weight else 0 for weight in weights]

    @functools.lru_cache(maxsize=2)
    def order(block: int) -> list[tuple[int, int]]:
        """(source, how many of its rows come before in the block) of each row of a block."""
        turns = [k for k, count in enumerate(counts) for _ in range(count)]
        random.Random(f"mixture {seed} {block}").shuffle(turns)
        before = [itertools.count() for _ in counts]
        return [(k, next(before[k])) for k in turns]

    def row(i: int) -> AnyRow:
        block, place = divmod(i, sum(counts))
        k, before = order(block)[place]
        return sources[k](block * counts[k] + before)

    return row


def _read(path: str | Path) -> str:
    try:
        return Path(path).read_text(encoding="utf-8-sig")
    except OSError as e:
        raise DataError(f"cannot read {path}: {e.strerror}") from e
    except UnicodeDecodeError as e:
        raise DataError(f"{path} is not UTF-8 text: byte {e.start} cannot be decoded") from e
    except ValueError:  # of a path with a NUL in it
        raise DataError(f"cannot read {str(path)!r}: this is no file's name") from None


def _row(line: str, path: str | Path, number: int, form: RowFormat) -> AnyRow:
    try:
        fields = parse_json(line, str(path), number)
    except ConfigError as e:
        raise DataError(str(e)) from None
    where = f"{path}: line {number}"
    try:
        row = read_record(fields, form)
    except DataError as e:
        raise DataError(f"{where}: {e}") from None
    return dataclasses.replace(row, where=where) if isinstance(row, ChatRow) else row


def _too_long(text: str, path: str | Path, line: int) -> DataError:
    size = f"{len(text):,} characters, and a tokenizer takes {MAX_CHARACTERS:,}"
    return DataError(f"{path}: line {line}: holds a text of {size}; part it into several rows")
