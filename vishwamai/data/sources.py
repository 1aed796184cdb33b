"""Where rows come from: text files, JSONL files, and the generated corpora, each as row number -> `Row`.

A finite source is shuffled anew in every pass, by its seed alone. It knows no tokens.
"""

import bisect
import functools
import json
import random
import zlib
from collections.abc import Callable, Sequence
from itertools import accumulate
from pathlib import Path

from vishwamai.data import generated
from vishwamai.data.rows import Row
from vishwamai.errors import DataError

Rows = Callable[[int], Row]


def from_generated(name: str, seed: int = 0, split: str = "train") -> Rows:
    """A generated corpus by name; it never ends."""
    generated.row_at(name, split, seed, 0)
    return functools.partial(generated.row_at, name, split, seed)


def from_text(path: str | Path) -> list[Row]:
    """A UTF-8 text file: one row a paragraph (blank lines between), all of it in the loss."""
    paragraphs = [p.strip() for p in _read(path).split("\n\n")]
    return [Row(((p, 1.0),)) for p in paragraphs if p]


def from_jsonl(path: str | Path) -> list[Row]:
    """A JSONL file of `{"text": …}` or `{"prompt": …, "completion": …}`; a prompt is not in the loss."""
    lines = enumerate(_read(path).split("\n"), 1)  # JSON strings may hold the other line ends that Unicode knows
    return [_row(line, f"{path}:{n}") for n, line in lines if line.strip()]


def split(rows: Sequence[Row], held_out: float) -> dict[str, list[Row]]:
    """Rows to train on, and the share of them that is kept for evaluation: equal rows are always on the same side."""
    parts: dict[str, list[Row]] = {"train": [], "held_out": []}
    for row in rows:
        parts["held_out" if zlib.crc32(row.text.encode()) < held_out * 2**32 else "train"].append(row)
    return parts


def shuffled(rows: Sequence[Row], seed: int, name: str) -> Rows:
    """Row number i of endless passes over `rows`, each in its own order."""
    if not rows:
        raise DataError(f"{name} holds no rows")

    @functools.lru_cache(maxsize=2)
    def order(turn: int) -> list[int]:
        places = list(range(len(rows)))
        random.Random(f"{name} {seed} {turn}").shuffle(places)
        return places

    return lambda i: rows[order(i // len(rows))[i % len(rows)]]


def mixture(parts: Sequence[tuple[Rows, float]], seed: int = 0) -> Rows:
    """Rows drawn from several sources by weight. Which source row i comes from depends on the seed and i alone."""
    sources, weights = [rows for rows, _ in parts], [weight for _, weight in parts]
    if not sources or min(weights) < 0 or sum(weights) <= 0:
        raise DataError(f"a mixture needs weights of 0 or more that do not sum to 0, not {weights}")
    edges = [edge / sum(weights) for edge in accumulate(weights)]

    def row(i: int) -> Row:
        at = random.Random(f"mixture {seed} {i}").random()
        return sources[min(bisect.bisect(edges, at), len(sources) - 1)](i)

    return row


def _read(path: str | Path) -> str:
    try:
        return Path(path).read_text(encoding="utf-8")
    except OSError as e:
        raise DataError(f"cannot read {path}: {e.strerror}") from e
    except UnicodeDecodeError as e:
        raise DataError(f"{path} is not UTF-8 text: byte {e.start} cannot be decoded") from e


def _row(line: str, where: str) -> Row:
    try:
        fields = json.loads(line)
    except ValueError as e:
        raise DataError(f"{where} is not JSON: {e}") from e
    match fields:
        case {"prompt": str(prompt), "completion": str(completion)}:
            return Row(((prompt, 0.0), (completion, 1.0)))
        case {"text": str(text)}:
            return Row(((text, 1.0),))
    raise DataError(f'{where} needs {{"text": …}} or {{"prompt": …, "completion": …}}, all of them strings')
