"""Prompts as people say them (a text, texts, ids, rows of ids, padded arrays) to rows of ids. It knows no tokenizer."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import jax
import numpy as np

from vishwamai.errors import InputError

Prompts = str | Sequence[str] | Sequence[int] | Sequence[Sequence[int]] | np.ndarray | jax.Array
ROW = (list, tuple, np.ndarray, jax.Array)


@dataclass(frozen=True)
class PaddingToken:
    """What fills up the rows of an array that comes without a mask.

    `doubles_as` says what else its id is (an end token, say), "" where nothing. `is_named` says that the call names it.
    `around` counts how many of it the tokenizer itself puts before and after a text.
    """

    id: int
    doubles_as: str = ""
    is_named: bool = False
    around: tuple[int, int] = (0, 0)


def rows_of(
    prompts: Prompts,
    encode: Callable[[str], list[int]],
    *,
    mask: Any = None,
    padding: Callable[[], PaddingToken | None] = lambda: None,
) -> tuple[list[list[int]], list[int]]:
    """(rows, how much padding stood before each).

    Rows are padded, at either side, where `mask` is 0; without a mask those of arrays are where the padding token
    stands at their ends. Raises `InputError`, also where nobody can know which of these tokens are padding.
    """
    if isinstance(prompts, Mapping):
        raise InputError("the prompts are a mapping; unpack it, as in generate(**tokenizer(text))")
    if mask is not None:
        rows = id_rows(prompts)
        spans = _masked_spans(rows, id_rows(mask, "attention_mask"))
    elif isinstance(prompts, np.ndarray | jax.Array):
        rows = id_rows(prompts)
        spans = _unpadded_spans(rows, padding())
    else:
        listed = _listed(prompts, encode)
        return listed, [0] * len(listed)
    return [row[start:end].tolist() for row, (start, end) in zip(rows, spans, strict=True)], [
        start for start, _ in spans
    ]


def _listed(prompts: Any, encode: Callable[[str], list[int]]) -> list[list[int]]:
    """Rows without padding: of a text, texts, ids, or a list of texts and rows of ids."""
    if isinstance(prompts, str):
        return [encode(prompts)]
    if not isinstance(prompts, Sequence) or not len(prompts):
        raise InputError(f"the prompts are {prompts!r:.60}; give a text, texts, ids, rows of ids, or an array")
    if isinstance(prompts[0], int | np.integer):
        return [_ids(list(prompts), 0)]
    return [encode(p) if isinstance(p, str) else _ids(p, i) for i, p in enumerate(prompts)]


def _ids(prompt: Any, i: int) -> list[int]:
    try:
        if isinstance(prompt, ROW) and np.ndim(prompt) == 1:
            return np.asarray(prompt).tolist()
    except ValueError:
        pass  # NumPy's word for a row that holds both ids and rows
    raise InputError(f"prompt {i} is {prompt!r:.60}; it must be a text or a row of ids")


def id_rows(values: Any, what: str = "the prompts") -> list[np.ndarray]:
    """The rows of an array [T] or [B, T], of one list, or of a list of rows, which may differ in length."""
    is_list = isinstance(values, list | tuple) and bool(values) and all(isinstance(row, ROW) for row in values)
    try:
        rows = [np.asarray(row) for row in values] if is_list else list(np.atleast_2d(np.asarray(values)))
    except ValueError:
        raise InputError(f"{what} hold rows within rows; give whole numbers [B, T]") from None
    for row in rows:
        if row.ndim != 1 or (row.size and row.dtype.kind not in "iub"):
            shape = list(np.shape(values)) if not is_list else list(row.shape)
            hint = ': call the tokenizer first, as in model(**tokenizer("hi", return_tensors="jax"))'
            hint = hint if row.dtype.kind == "U" else ""
            raise InputError(f"{what} are {row.dtype} of shape {shape}; they must be whole numbers [B, T]{hint}")
    return rows


def _masked_spans(rows: list[np.ndarray], masks: list[np.ndarray]) -> list[tuple[int, int]]:
    """Where each row begins and ends by its mask."""
    sizes, others = [len(row) for row in rows], [len(mask) for mask in masks]
    if sizes != others:
        raise InputError(f"attention_mask has rows of {others} and the prompts of {sizes} tokens; they must be alike")
    spans = []
    for i, mask in enumerate(masks):
        real = np.flatnonzero(mask)
        if not len(real):
            raise InputError(f"prompt {i} has no tokens, or nothing but padding")
        if real[-1] - real[0] + 1 != len(real):
            raise InputError(f"attention_mask of prompt {i} has a hole; a prompt is padded at its ends only")
        spans.append((int(real[0]), int(real[-1]) + 1))
    return spans


def _unpadded_spans(rows: list[np.ndarray], padding: PaddingToken | None) -> list[tuple[int, int]]:
    """Where each row begins and ends but for its padding.

    A padding token that is nothing else is padding at both ends. One that doubles as an end or start token may be real:
    where all rows begin (or end) with one of it, or none does, it is; where their numbers differ, the call must say.
    """
    if padding is None:
        return [(0, len(row)) for row in rows]
    runs = [_count_padding(row, padding.id) for row in rows]
    if not padding.doubles_as:
        spans = [(before, len(row) - after) for row, (before, after) in zip(rows, runs, strict=True)]
    else:
        cuts = [_cuts([run[side] for run in runs], padding, padding.around[side]) for side in (0, 1)]
        spans = [(before, len(row) - after) for row, before, after in zip(rows, *cuts, strict=True)]
    for i, (start, end) in enumerate(spans):
        if start >= end:
            raise InputError(f"prompt {i} has no tokens, or nothing but padding")
    return spans


def _count_padding(row: np.ndarray, pad_id: int) -> tuple[int, int]:
    """How many padding tokens a row begins and ends with; all of it counts as the end."""
    real = np.flatnonzero(row != pad_id)
    return (int(real[0]), len(row) - int(real[-1]) - 1) if len(real) else (0, len(row))


def _cuts(counts: list[int], padding: PaddingToken, own: int) -> list[int]:
    """How many tokens at one end of each row are padding; `own` of them are the tokenizer's."""
    if len(set(counts)) == 1 and counts[0] <= 1:
        return [0] * len(counts)
    if not padding.is_named:
        raise InputError(
            f"the padding token {padding.id} is {padding.doubles_as} too, and at an end the rows have {counts} of it: "
            f"pass attention_mask (a tokenizer's call gives one), pad_token_id={padding.id} to take it off, or lists"
        )
    return [max(0, count - own) for count in counts]
