"""Rows of ids made into one batch: padded, masked, as lists or arrays. It knows no tokenizer and no text.

The meaning of `padding` and of the mask is that of Hugging Face's tokenizers.
"""

from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from vishwamai.errors import InputError, TokenizerError

Padding = bool | Literal["longest", "max_length"]
Side = Literal["left", "right"]


@dataclass(frozen=True)
class Batch:
    """Ids of several texts and where they are real: lists, or int32 arrays [B, T]; `batch["input_ids"]` works too."""

    input_ids: Any
    attention_mask: Any

    def __getitem__(self, name: str) -> Any:
        if name not in ("input_ids", "attention_mask"):
            raise KeyError(name)
        return getattr(self, name)


def batch_of(
    rows: list[list[int]],
    padding: Padding = False,
    limit: int | None = None,
    side: Side = "right",
    pad_id: int | None = None,
    return_tensors: str | None = None,
) -> Batch:
    """Pads rows to the longest (True, "longest") or to `limit` ("max_length") and masks what was added.

    Raises `InputError` for unknown choices and for arrays of ragged rows, `TokenizerError` where no pad id is known.
    """
    check_tensors(return_tensors)
    if side not in ("left", "right"):
        raise InputError(f'padding_side is {side!r}; it is "left" or "right"')
    width = _width(rows, padding, limit)
    gaps = [max(0, width - len(row)) for row in rows]
    if any(gaps) and pad_id is None:
        raise TokenizerError('this tokenizer has no pad token; choose one: tokenizer.with_tokens(pad_token="...")')
    ids = [_beside(row, [pad_id or 0] * gap, side) for row, gap in zip(rows, gaps, strict=True)]
    mask = [_beside([1] * len(row), [0] * gap, side) for row, gap in zip(rows, gaps, strict=True)]
    if return_tensors is None:
        return Batch(ids, mask)
    return Batch(to_array(ids, return_tensors), to_array(mask, return_tensors))


def check_tensors(return_tensors: str | None) -> None:
    """Raises `InputError` for a kind of array that there is not."""
    if return_tensors not in (None, "jax", "np"):
        raise InputError(f'return_tensors is {return_tensors!r}; it is "jax", "np" or None')


def to_array(rows: list[list[int]], kind: str) -> Any:
    """An int32 array [B, T] of NumPy ("np") or JAX ("jax"). Raises `InputError` for rows of several lengths."""
    if len({len(row) for row in rows}) > 1:
        raise InputError("rows of different lengths make no array: pass padding=True, or truncation with max_length")
    array = np.asarray(rows, np.int32).reshape(len(rows), len(rows[0]) if rows else 0)
    if kind == "np":
        return array
    import jax.numpy as jnp

    return jnp.asarray(array)


def _width(rows: list[list[int]], padding: Padding, limit: int | None) -> int:
    if padding is False:
        return 0
    if padding == "max_length" and limit is not None:
        return limit
    if padding is True or padding == "longest":
        return max(map(len, rows), default=0)
    raise InputError(f'padding is {padding!r}; it is True, False, "longest", or "max_length" with a max_length')


def _beside(row: list[int], fill: list[int], side: Side) -> list[int]:
    return fill + row if side == "left" else row + fill
