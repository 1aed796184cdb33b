"""Rows of ids made into one batch: padded, masked, as lists or arrays; and what is taken for rows of ids.

It knows no tokenizer and no text. The meaning of `padding`, of truncation and of the masks is that of Hugging Face's
tokenizers.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from vishwamai.checks import check_whole
from vishwamai.errors import InputError, TokenizerError

Padding = bool | Literal["longest", "max_length"]
Side = Literal["left", "right"]
MAX_ID = 2**31 - 1


@dataclass(frozen=True, eq=False)
class BatchEncoding(Mapping[str, Any]):
    """Ids of one or several texts and where they are real: lists, or int32 arrays [B, T].

    It is a mapping too, so that `generate(**batch)` works; `token_type_ids` are in it where the tokenizer gives them,
    `assistant_masks` (1: the assistant's) where they were asked for.
    """

    input_ids: Any
    attention_mask: Any
    token_type_ids: Any = None
    assistant_masks: Any = None

    def __getitem__(self, name: str) -> Any:
        if name not in tuple(self):
            raise KeyError(name)
        return getattr(self, name)

    def __iter__(self) -> Iterator[str]:
        names = ("input_ids", "token_type_ids", "attention_mask", "assistant_masks")
        return (name for name in names if getattr(self, name) is not None)

    def __len__(self) -> int:
        return sum(1 for _ in self)

    def first(self) -> "BatchEncoding":
        """The first row, flat."""
        return BatchEncoding(**{name: rows[0] for name, rows in self.items()})


def make_batch(
    rows: list[list[int]],
    padding: Padding = False,
    limit: int | None = None,
    side: str = "right",
    pad_id: int | None = None,
    return_tensors: str | None = None,
    type_ids: list[list[int]] | None = None,
    assistant: list[list[int]] | None = None,
) -> BatchEncoding:
    """Pads rows to the longest (True, "longest") or to `limit` ("max_length") and masks what was added.

    `type_ids` says of each id which text of a pair it is of, `assistant` whether it is the assistant's. Raises
    `InputError` for unknown choices and for arrays of ragged rows, `TokenizerError` where no pad id is known.
    """
    check_tensors(return_tensors)
    if side not in ("left", "right"):
        raise InputError(f'padding_side is {side!r}; it is "left" or "right"')
    width = _width(rows, padding, limit)
    gaps = [max(0, width - len(row)) for row in rows]
    if any(gaps) and pad_id is None:
        raise TokenizerError('this tokenizer has no pad token; choose one: tokenizer.with_tokens(pad_token="...")')

    def fill(values: list[list[int]], filler: int) -> Any:
        fills = ([filler] * gap for gap in gaps)
        padded = [fill + row if side == "left" else row + fill for row, fill in zip(values, fills, strict=True)]
        return padded if return_tensors is None else to_array(padded, return_tensors)

    return BatchEncoding(
        input_ids=fill(rows, pad_id or 0),
        attention_mask=fill([[1] * len(row) for row in rows], 0),
        token_type_ids=None if type_ids is None else fill(type_ids, 0),
        assistant_masks=None if assistant is None else fill(assistant, 0),
    )


def length_limits(
    padding: Padding, truncation: bool | str, max_length: int | None, own: int | None
) -> tuple[int | None, int | None]:
    """(the length that rows are padded or cut to, the one that they are cut to); `own` is the model's, for None.

    Raises `InputError` for a length that is none, is not known, or would do nothing.
    """
    if truncation not in (False, True, "longest_first", "do_not_truncate"):
        raise InputError(f"truncation is {truncation!r}; it is True or False")
    cuts = truncation not in (False, "do_not_truncate")
    if not cuts and padding != "max_length":
        if max_length is not None:
            raise InputError(
                f'max_length={max_length!r} would do nothing: pass truncation=True to cut, or padding="max_length"'
            )
        return None, None
    limit = own if max_length is None else max_length
    if limit is None:
        raise InputError("give max_length: this tokenizer does not say how long a text may be")
    limit = check_whole("max_length", limit, 1)
    return limit, limit if cuts else None


def truncated_lengths(first: int, second: int, limit: int) -> tuple[int, int]:
    """How many tokens two texts keep so that both have `limit` together: the longer one is cut first."""
    if first + second <= limit:
        return first, second
    if first <= second:
        kept = min(first, limit // 2)
        return kept, limit - kept
    kept = min(second, limit // 2)
    return limit - kept, kept


def rows_of_ids(ids: Any) -> tuple[list[list[int]], bool]:
    """(rows, whether they were a batch): of one id, a list, an array [T], a list of such rows, or an array [B, T].

    Raises `InputError` for what holds no whole numbers, `TokenizerError` for negative and huge ones.
    """
    first = ids[0] if isinstance(ids, list | tuple) and ids else None
    if isinstance(first, list | tuple) or getattr(first, "ndim", 0) > 0:
        rows, is_batch = [_row(row) for row in ids], True
    else:
        array = ids if isinstance(ids, list) else np.asarray(ids)
        is_batch = isinstance(array, np.ndarray) and array.ndim == 2
        rows = [_row(row) for row in array] if is_batch else [_row(array)]
    for row in rows:
        if row and not (0 <= min(row) and max(row) <= MAX_ID):
            wrong = next(index for index in row if not 0 <= index <= MAX_ID)
            raise TokenizerError(f"id {wrong} is no token of any vocabulary; ids are numbers from 0 up")
    return rows, is_batch


def _row(ids: Any) -> list[int]:
    if isinstance(ids, list) and all(type(index) is int for index in ids):
        return ids
    try:
        row = np.asarray(ids)
    except ValueError:
        raise InputError("ids are rows within rows; give whole numbers in one row, or a list of such rows") from None
    if row.size and (row.ndim > 1 or row.dtype.kind not in "iu"):
        what = f"{row.dtype}" if row.ndim < 2 else f"of shape {row.shape}"
        raise InputError(f"ids are {what}; give whole numbers in one row, or a list of such rows")
    return row.reshape(-1).tolist()


def check_tensors(return_tensors: str | None) -> None:
    """Raises `InputError` for a kind of array that there is not."""
    if return_tensors not in (None, "jax", "np"):
        raise InputError(f'return_tensors is {return_tensors!r}; it is "jax" or "np", or None for lists')


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
