"""Batches: padding on each side, masks, arrays."""

import jax
import numpy as np
import pytest

from vishwamai.errors import InputError, TokenizerError
from vishwamai.text.batch import make_batch, to_array, truncated_lengths

ROWS = [[1, 2, 3], [4], []]


def test_padding_on_the_right_and_left():
    right = make_batch(ROWS, padding=True, pad_id=9)
    assert right.input_ids == [[1, 2, 3], [4, 9, 9], [9, 9, 9]]
    assert right.attention_mask == [[1, 1, 1], [1, 0, 0], [0, 0, 0]]
    left = make_batch(ROWS, padding="longest", side="left", pad_id=9)
    assert left.input_ids == [[1, 2, 3], [9, 9, 4], [9, 9, 9]]
    assert left.attention_mask == [[1, 1, 1], [0, 0, 1], [0, 0, 0]]


def test_padding_to_a_length_never_cuts():
    assert make_batch(ROWS, padding="max_length", limit=2, pad_id=0).input_ids == [[1, 2, 3], [4, 0], [0, 0]]


def test_without_padding_rows_stay_as_they_are():
    batch = make_batch(ROWS)
    assert batch.input_ids == ROWS and batch["attention_mask"] == [[1, 1, 1], [1], []]
    assert len(batch) == 2 and list(batch) == ["input_ids", "attention_mask"] and "token_type_ids" not in batch
    with pytest.raises(KeyError):
        batch["ids"]


@pytest.mark.parametrize(("kind", "array"), [("np", np.ndarray), ("jax", jax.Array)])
def test_arrays(kind, array):
    batch = make_batch(ROWS, padding=True, pad_id=0, return_tensors=kind)
    for values in (batch.input_ids, batch.attention_mask):
        assert isinstance(values, array) and values.shape == (3, 3) and values.dtype == np.int32
    assert to_array([], kind).shape == (0, 0) and to_array([[]], kind).shape == (1, 0)


@pytest.mark.parametrize(
    ("lengths", "kept"),
    [
        ((6, 3, 4), (2, 2)),
        ((2, 6, 5), (2, 3)),
        ((6, 1, 5), (4, 1)),
        ((5, 5, 5), (2, 3)),
        ((3, 3, 6), (3, 3)),
        ((4, 0, 2), (2, 0)),
    ],
)
def test_of_a_pair_the_longer_is_cut_first(lengths, kept):
    assert truncated_lengths(*lengths) == kept


def test_a_missing_pad_token_is_named_only_where_it_is_needed():
    assert make_batch([[1], [2]], padding=True).input_ids == [[1], [2]]
    with pytest.raises(TokenizerError, match="no pad token"):
        make_batch([[1], [2, 3]], padding=True)
    with pytest.raises(InputError, match="max_length"):
        make_batch([[1]], padding="max_length")
