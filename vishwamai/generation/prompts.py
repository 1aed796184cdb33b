"""Prompts as people say them (a text, texts, ids, rows of ids, padded arrays) to rows of ids. It knows no tokenizer."""

from collections.abc import Callable, Sequence
from typing import Any

import jax
import numpy as np

from vishwamai.errors import InputError

Prompts = str | Sequence[str] | Sequence[int] | Sequence[Sequence[int]] | np.ndarray | jax.Array


def rows_of(
    prompts: Prompts, encode: Callable[[str], list[int]], *, mask: Any = None, pad_id: int | None = None
) -> tuple[list[list[int]], list[int]]:
    """(rows, how much padding stood before each).

    Only arrays may be padded, at either side: where `mask` is 0, or without a mask where `pad_id` stands at the ends.
    Raises `InputError`.
    """
    if isinstance(prompts, np.ndarray | jax.Array) or mask is not None:
        return _unpadded(_array(prompts, "the batch"), mask, pad_id)
    if isinstance(prompts, str):
        return [encode(prompts)], [0]
    if not isinstance(prompts, Sequence) or not len(prompts):
        raise InputError(f"the prompts are {prompts!r:.60}; give a text, texts, ids, rows of ids, or an array")
    if isinstance(prompts[0], int | np.integer):
        rows = [_ids(list(prompts), 0)]
    else:
        rows = [encode(p) if isinstance(p, str) else _ids(p, i) for i, p in enumerate(prompts)]
    return rows, [0] * len(rows)


def _ids(prompt: Any, i: int) -> list[int]:
    try:
        if isinstance(prompt, np.ndarray | jax.Array | list | tuple) and np.ndim(prompt) == 1:
            return np.asarray(prompt).tolist()
    except ValueError:
        pass  # NumPy's word for a row that holds both ids and rows
    raise InputError(f"prompt {i} is {prompt!r:.60}; it must be a text or a row of ids")


def _array(values: Any, what: str) -> np.ndarray:
    try:
        return np.asarray(values)
    except ValueError:
        raise InputError(
            f"{what} has rows of different lengths, which need no attention_mask: leave it out, or pad the rows"
        ) from None


def _unpadded(ids: np.ndarray, mask: Any, pad_id: int | None) -> tuple[list[list[int]], list[int]]:
    ids = np.atleast_2d(ids)
    if ids.ndim != 2 or ids.dtype.kind not in "iu":
        raise InputError(f"the prompts are {ids.dtype} of shape {list(ids.shape)}; they must be whole numbers [B, T]")
    real = np.full(ids.shape, True) if pad_id is None else ids != pad_id
    real = real if mask is None else np.atleast_2d(_array(mask, "attention_mask")) != 0
    if real.shape != ids.shape:
        raise InputError(f"attention_mask has shape {list(real.shape)} and the prompts {list(ids.shape)}")
    places = [np.flatnonzero(row) for row in real]
    for i, place in enumerate(places):
        if not len(place):
            raise InputError(f"prompt {i} has no tokens, or nothing but padding")
        if mask is not None and place[-1] - place[0] + 1 != len(place):
            raise InputError(f"attention_mask of prompt {i} has a hole; a prompt is padded at its ends only")
    rows = [row[place[0] : place[-1] + 1].tolist() for row, place in zip(ids, places, strict=True)]
    return rows, [int(place[0]) for place in places]
