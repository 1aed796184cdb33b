"""Samples packed into lines: everything comes through once, nothing predicts across a boundary."""

import itertools
from functools import partial

import numpy as np
import pytest

from vishwamai.data.loader import BudgetBatches, PackedBatches
from vishwamai.data.packing import Piece, Samples, iterate_pieces, pack_samples
from vishwamai.errors import DataError


def sample(i, n):
    return [100 * i + j for j in range(1, n + 1)], [0.0] * (n // 2) + [1.0] * (n - n // 2)


SAMPLES = [sample(i, n) for i, n in enumerate([5, 6, 4, 3, 9, 2, 7, 7], 1)]


def pack(batch, length, own=slice(None)):
    """The samples as whole pieces, each with its own number as the place after it."""
    pieces = ((Piece(i, 0, len(tokens)), (i + 1, 0)) for i, (tokens, _) in enumerate(SAMPLES))
    return pack_samples(Samples(SAMPLES.__getitem__), pieces, batch, length, own)


def unpack(batch):
    """The samples found in a batch by their segments, as sets of (tokens, weights of their targets)."""
    found = []
    for line in range(batch.tokens.shape[0]):
        for segment in range(1, batch.segments[line].max() + 1):
            at = batch.segments[line] == segment
            found.append((batch.tokens[line, at].tolist(), batch.weights[line, at].tolist()))
    return found


def test_every_taken_sample_is_whole_and_once_in_the_batch():
    batch, (taken, _) = pack(3, 12)
    found = unpack(batch)
    assert taken == len(found) == 6  # 7 does not fit after 5+6, 4+3+2, 9
    for tokens, weights in SAMPLES[:taken]:
        assert (tokens, [*weights[1:], 0.0]) in found


def test_targets_positions_and_padding():
    batch, _ = pack(3, 12)
    for line in range(3):
        for i in range(12):
            if batch.segments[line, i] == 0:
                assert batch.weights[line, i] == 0 == batch.tokens[line, i]
            elif i + 1 < 12 and batch.segments[line, i + 1] == batch.segments[line, i]:
                assert batch.targets[line, i] == batch.tokens[line, i + 1]
                assert batch.positions[line, i + 1] == batch.positions[line, i] + 1
            else:
                assert batch.weights[line, i] == 0  # the last of a segment predicts nothing
            if batch.segments[line, i] and (i == 0 or batch.segments[line, i - 1] != batch.segments[line, i]):
                assert batch.positions[line, i] == 0
    assert batch.segments.max() == 3
    assert batch.fill == (5 + 6 + 4 + 3 + 9 + 2) / 36


def test_what_is_longer_than_a_line_comes_in_pieces_that_predict_every_token_once():
    place, targets, lines = (0, 0), [], 0
    samples = Samples(lambda i: sample(i + 1, (20, 3)[i % 2]))
    while place < (2, 0):
        batch, place = pack_samples(samples, iterate_pieces(samples, place, 8), 1, 8)
        inside = np.roll(batch.segments, -1) == batch.segments  # the last of a segment predicts nothing
        targets += batch.targets[inside & (batch.segments > 0) & (np.arange(8) < 7)].tolist()
        lines += 1
    assert targets == [*range(109, 121), 202, 203] and lines == 3  # the first piece of the first is a prompt alone


@pytest.mark.parametrize(
    ("tokens", "weights", "has_target"),
    [([], [], False), ([1], [1.0], False), ([1, 2], [1.0, 0.0], False), ([1, 2], [0.0, 1.0], True)],
    ids=str,
)
def test_what_has_nothing_to_predict_is_passed_over(tokens, weights, has_target):
    def samples(i):
        return (tokens, weights) if i % 3 else ([7, 8], [1.0, 1.0])

    taken = [place[0] for _, place in itertools.islice(iterate_pieces(Samples(samples), (0, 0), 8), 4)]
    assert taken == ([1, 2, 3, 4] if has_target else [1, 4, 7, 10])


def test_of_a_long_prompt_only_the_end_that_a_target_follows_is_computed():
    samples = Samples(lambda i: (list(range(100)), [0.0] * 95 + [1.0] * 5))
    parts = itertools.islice(iterate_pieces(samples, (0, 0), 10), 2)
    assert [(piece.read(samples)[0][0], place) for piece, place in parts] == [(90, (1, 0)), (90, (2, 0))]


@pytest.mark.parametrize(
    "batches", [partial(PackedBatches, batch=2, length=8), partial(BudgetBatches, budget=16, lengths=[8])]
)
@pytest.mark.parametrize("row", [([], []), ([5], [1.0]), ([5, 6, 7], [0.0] * 3)], ids=str)
def test_rows_without_any_target_end_in_a_sentence(batches, row):
    with pytest.raises(DataError, match="10,000 rows on end have nothing to predict"):
        next(batches(Samples(lambda i: row)))


def test_a_budget_passes_over_rows_without_a_target_and_goes_on_from_its_state():
    def samples(i):
        return ([i] * 3, [1.0] * 3) if i % 5 == 0 else ([i], [1.0])

    whole, fresh = (BudgetBatches(Samples(samples), budget=16, lengths=[4, 8]) for _ in range(2))
    first = next(whole)
    assert sorted({int(t) for t in first.tokens.reshape(-1)}) == [0, 5, 10, 15] and first.weights.sum() == 8
    fresh.restore(whole.state)
    np.testing.assert_array_equal(next(fresh).tokens, next(whole).tokens)


def test_dtypes_are_those_of_the_step():
    batch, _ = pack(2, 12)
    assert [a.dtype for a in batch] == [np.int32, np.int32, np.float32, np.int32, np.int32]
