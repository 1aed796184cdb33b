"""Prompts in any shape to rows of ids: what was padded comes back as it was before padding.

The padding is made here, row by row, and what kinds of prompt there are is written out; `tests/test_api.py` has the
kinds once more, through a model.
"""

import jax.numpy as jnp
import numpy as np
import pytest

from vishwamai.errors import InputError
from vishwamai.generation.prompts import PaddingToken, rows_of

PAD = 9


def encode(text: str) -> list[int]:
    return [ord(c) for c in text]


def plain_padding() -> PaddingToken:
    return PaddingToken(PAD)


def padded(rows: list[list[int]], before: list[int], width: int) -> tuple[np.ndarray, np.ndarray]:
    """(ids, mask): each row with so many padding tokens before it, and as many after it as are left."""
    after = [width - b - len(row) for row, b in zip(rows, before, strict=True)]
    ids = [[PAD] * b + row + [PAD] * a for row, b, a in zip(rows, before, after, strict=True)]
    mask = [[0] * b + [1] * len(row) + [0] * a for row, b, a in zip(rows, before, after, strict=True)]
    return np.array(ids, np.int32), np.array(mask)


def random_rows(rng: np.random.Generator, highest: int) -> tuple[list[list[int]], list[int], int]:
    rows = [rng.integers(0, highest + 1, rng.integers(1, 6)).tolist() for _ in range(4)]
    width = max(map(len, rows)) + 2
    return rows, [int(rng.integers(0, width - len(row) + 1)) for row in rows], width


def test_padding_by_its_id_is_taken_off_at_both_ends():
    rng = np.random.default_rng(0)
    for _ in range(50):
        rows, before, width = random_rows(rng, PAD - 1)
        assert rows_of(padded(rows, before, width)[0], encode, padding=plain_padding) == (rows, before)


def test_a_mask_says_what_is_padding_whatever_the_ids_are():
    rng = np.random.default_rng(1)
    for _ in range(50):
        rows, before, width = random_rows(rng, PAD)  # the rows hold the padding token too
        ids, mask = padded(rows, before, width)
        assert rows_of(ids, encode, mask=mask, padding=plain_padding) == (rows, before)
        assert rows_of(ids.tolist(), encode, mask=(mask > 0).tolist()) == (rows, before)


def test_rows_of_several_lengths_may_have_masks():
    assert rows_of([[1, 2], [PAD, 3, PAD]], encode, mask=[[1, 1], [0, 1, 0]]) == ([[1, 2], [3]], [0, 1])
    assert (
        rows_of([1, 2], encode, mask=[1, 1])
        == rows_of([np.array([1, 2])], encode, mask=[True, True])
        == ([[1, 2]], [0])
    )


# Where the padding token is an end or a start token too: one of it at an end of every row, or none, is real.
END = {"doubles_as": "an end token"}
DOUBLES = [
    ([[1, 2, 3]], END, [[1, 2, 3]]),
    ([[1, 2, PAD]], END, [[1, 2, PAD]]),
    ([[PAD, 1, 2]], END, [[PAD, 1, 2]]),
    ([[PAD]], END, [[PAD]]),
    ([[1, PAD, 2, PAD], [3, 4, 5, PAD]], END, [[1, PAD, 2, PAD], [3, 4, 5, PAD]]),
    ([[1, 2, PAD], [1, 2, PAD]], END | {"is_named": True}, [[1, 2, PAD], [1, 2, PAD]]),
    ([[1, PAD, PAD], [1, 2, 3]], END, None),
    ([[1, 2, PAD], [1, 2, 3]], END, None),
    ([[PAD, 1, 2], [1, 2, 3]], END, None),
    ([[1, PAD, PAD]], END, None),
    ([[1, PAD, PAD], [1, 2, 3]], END | {"is_named": True}, [[1], [1, 2, 3]]),
    ([[PAD, PAD, 1], [1, 2, 3]], END | {"is_named": True}, [[1], [1, 2, 3]]),
    # the tokenizer begins every text with it
    ([[PAD, 1, PAD], [PAD, 1, 2]], {"around": (1, 0), "is_named": True, **END}, [[PAD, 1], [PAD, 1, 2]]),
    ([[PAD, PAD, 1], [PAD, 1, 2]], {"around": (1, 0), "is_named": True, **END}, [[PAD, 1], [PAD, 1, 2]]),
    ([[1, PAD, PAD], [1, 2, PAD]], {"around": (0, 1), "is_named": True, **END}, [[1, PAD], [1, 2, PAD]]),
]


@pytest.mark.parametrize(("array", "kind", "rows"), DOUBLES, ids=str)
def test_a_padding_token_that_is_something_else_too(array, kind, rows):
    padding = PaddingToken(PAD, **kind)
    if rows is not None:
        assert rows_of(np.array(array), encode, padding=lambda: padding)[0] == rows
        return
    with pytest.raises(InputError, match=f"{PAD} is an end token too, .* pass attention_mask .*pad_token_id={PAD}"):
        rows_of(jnp.array(array), encode, padding=lambda: padding)


def test_the_padding_token_within_a_row_is_a_token():
    assert rows_of(np.array([[PAD, 1, PAD, 2, PAD]]), encode, padding=plain_padding) == ([[1, PAD, 2]], [1])


def test_without_a_mask_or_padding_token_nothing_is_padding():
    assert rows_of(np.array([[0, 1, 0]]), encode) == ([[0, 1, 0]], [0])


def test_lists_are_never_padded():
    assert rows_of([[PAD, 1], [2, PAD]], encode, padding=plain_padding) == ([[PAD, 1], [2, PAD]], [0, 0])


@pytest.mark.parametrize(
    ("prompts", "rows"),
    [
        ("ab", [[97, 98]]),
        ("", [[]]),
        (["ab", "c"], [[97, 98], [99]]),
        (("ab",), [[97, 98]]),
        ([5, 6], [[5, 6]]),
        ((np.int64(5), 6), [[5, 6]]),
        ([[5, 6], [7]], [[5, 6], [7]]),
        ([(5, 6), np.array([7], np.uint8), jnp.array([8])], [[5, 6], [7], [8]]),
        ([[5, 6], "ab"], [[5, 6], [97, 98]]),
        (np.array([5, 6], np.uint16), [[5, 6]]),
        (jnp.array([[5, 6], [7, 8]]), [[5, 6], [7, 8]]),
    ],
    ids=repr,
)
def test_every_way_to_say_prompts(prompts, rows):
    assert rows_of(prompts, encode) == (rows, [0] * len(rows))


def test_ids_of_arrays_are_plain_numbers():
    for prompts in (np.array([[5]], np.int32), jnp.array([[5]]), [np.array([5], np.int16)]):
        rows, before = rows_of(prompts, encode)
        assert [type(rows[0][0]), type(before[0])] == [int, int]


@pytest.mark.parametrize(
    ("prompts", "given", "says"),
    [
        ([], {}, "the prompts are .*give a text"),
        ({"a": 1}, {}, r"unpack it, as in generate\(\*\*tokenizer"),
        (7, {}, "the prompts are 7"),
        (["a", 7], {}, "prompt 1 is 7"),
        ([[1], [[2]]], {}, "prompt 1 is"),
        ([1, [2]], {}, "prompt 0 is"),
        ([[1], [2, [3]]], {}, "prompt 1 is"),
        ([[1, 2], [3]], {"mask": [[1, 1], [1, 0]]}, r"attention_mask has rows of \[2, 2\] and the prompts of \[2, 1\]"),
        ([[1, 2], [3, 4]], {"mask": [[1, 1], [1]]}, r"attention_mask has rows of \[2, 1\] and the prompts of \[2, 2\]"),
        ([[1, 2], [3]], {"mask": [[1, 1], [[1]]]}, r"attention_mask are int64 of shape \[1, 1\]"),
        ([[1, [2]]], {"mask": [[1, 1]]}, "the prompts hold rows within rows"),
        (np.array([[0.5]]), {}, r"float64 of shape \[1, 1\]"),
        (np.array(["a"]), {}, "must be whole numbers"),
        (np.ones((1, 1, 1), int), {}, r"of shape \[1, 1, 1\]"),
        (np.array([[1, PAD], [PAD, PAD]]), {"padding": plain_padding}, "prompt 1 has no tokens"),
        (np.array([[1, 2], [3, 4]]), {"mask": [[0, 1], [0, 0]]}, "prompt 1 has no tokens"),
        (np.array([[1, 2, 3], [4, 5, 6]]), {"mask": [[1, 1, 1], [1, 0, 1]]}, "prompt 1 has a hole"),
        (np.array([[1, 2], [3, 4]]), {"mask": [1, 1]}, r"attention_mask has rows of \[2\] and the prompts of \[2, 2\]"),
        ("text", {"mask": [[1]]}, "must be whole numbers"),
    ],
)
def test_what_is_no_prompt_is_refused(prompts, given, says):
    with pytest.raises(InputError, match=says):
        rows_of(prompts, encode, **given)
