"""Where rows come from: text files, JSONL files, and the generated corpora, each as row number -> `Row`.

A finite source is shuffled anew in every pass, by its seed alone. It knows no tokens.
"""

import functools
import itertools
import math
import random
import re
import zlib
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from vishwamai.config import parse_json
from vishwamai.data import generated
from vishwamai.data.rows import ChatRow, Row
from vishwamai.errors import ConfigError, DataError, VishwamAIError
from vishwamai.text.backend import MAX_CHARACTERS
from vishwamai.text.chat import ChatOptions
from vishwamai.text.messages import check_messages, check_value

BLOCK = 10_000  # rows of a mixture: a share of 0.01% is one of them
KEYS = ("text", "prompt", "completion", "messages")
FORMS = '{"text": …}, {"prompt": …, "completion": …}, all of them strings, or {"messages": […]}'
SURROGATE = re.compile("[\ud800-\udfff]")

Rows = Callable[[int], Row | ChatRow]


def from_generated(name: str, seed: int = 0, split: str = "train") -> Rows:
    """A generated corpus by name; it never ends."""
    generated.row_at(name, split, seed, 0)
    return functools.partial(generated.row_at, name, split, seed)


def from_text(path: str | Path) -> list[Row]:
    """A UTF-8 text file: one row a paragraph (blank lines between, of spaces too), all of it in the loss."""
    text = _read(path)
    paragraphs = [p.strip() for p in re.split(r"\n\s*\n", text)]
    for p in paragraphs:
        if len(p) > MAX_CHARACTERS:
            raise _too_long(p, path, text.count("\n", 0, text.index(p)) + 1)
    return [Row(((p, 1.0),)) for p in paragraphs if p]


def from_jsonl(path: str | Path) -> list[Row | ChatRow]:
    """A JSONL file of `{"text": …}`, `{"prompt": …, "completion": …}` or `{"messages": […]}`, with `tools` or without.

    A prompt is not in the loss, and of messages the assistant's are. Each line is read as strictly as a configuration.
    Keys beside these are left alone, and so is one that is null.
    """
    lines = enumerate(_read(path).split("\n"), 1)  # JSON strings may hold the other line ends that Unicode knows
    return [_row(line, path, n) for n, line in lines if line.strip()]


def split_rows(rows: Sequence[Row | ChatRow], held_out: float) -> dict[str, list[Row | ChatRow]]:
    """Rows to train on, and the share of them that is kept for evaluation: equal rows are always on the same side."""
    parts: dict[str, list[Row | ChatRow]] = {"train": [], "held_out": []}
    for row in rows:
        parts["held_out" if zlib.crc32(row.text.encode()) < held_out * 2**32 else "train"].append(row)
    return parts


def shuffle_rows(rows: Sequence[Row | ChatRow], seed: int, name: str) -> Rows:
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

    def row(i: int) -> Row:
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


def _row(line: str, path: str | Path, number: int) -> Row | ChatRow:
    where = f"{path}: line {number}"
    try:
        fields = parse_json(line, str(path), number)
    except ConfigError as e:
        raise DataError(str(e)) from None
    given = {key: value for key in KEYS if (value := fields.get(key)) is not None}
    match given:
        case {"text": str(text)} if len(given) == 1:
            spans = ((text, 1.0),)
        case {"prompt": str(prompt), "completion": str(completion)} if len(given) == 2:
            spans = ((prompt, 0.0), (completion, 1.0))
        case {"messages": messages} if len(given) == 1:
            return _chat_row(messages, fields.get("tools"), where)
        case {"text": _, **others} | {"messages": _, **others} if others:
            kind = "text" if "text" in given else "messages"
            beside = " and ".join(key for key in given if key != kind)
            raise DataError(f"{where}: has {kind} beside {beside}; a row is one or the other")
        case _:
            raise DataError(f"{where}: needs {FORMS}")
    if longest := next((text for text, _ in spans if len(text) > MAX_CHARACTERS), None):
        raise _too_long(longest, path, number)
    if any(SURROGATE.search(text) for text, _ in spans):
        raise DataError(f"{where}: holds half of a surrogate pair (\\ud800 to \\udfff), which is no character")
    return Row(spans)


def _chat_row(messages: Any, tools: Any, where: str) -> ChatRow:
    """Raises `DataError` for messages that are malformed, or of which none is the assistant's."""
    try:
        checked = check_messages(messages)
        ChatOptions(tools=tools if tools is None else check_value(tools, "tools"))
    except VishwamAIError as error:
        raise DataError(f"{where}: {error}") from None
    if not any(message["role"] == "assistant" for message in checked):
        raise DataError(f"{where}: has no message of the assistant, so there is nothing to learn from it")
    return ChatRow(checked, tools, where)


def _too_long(text: str, path: str | Path, line: int) -> DataError:
    size = f"{len(text):,} characters, and a tokenizer takes {MAX_CHARACTERS:,}"
    return DataError(f"{path}: line {line}: holds a text of {size}; part it into several rows")
