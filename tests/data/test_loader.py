"""Loaders: resumed exactly, nothing lost or doubled, batches of like cost."""

import itertools

import numpy as np
import pytest

from vishwamai.data.loader import BudgetBatches, PackedBatches, prefetch, select_own_lines
from vishwamai.data.packing import Samples
from vishwamai.errors import ConfigError, DataError


def samples(i):
    n = 3 + (i * 7919) % 11
    return [i + 1] * n, [1.0] * n


def packed():
    return PackedBatches(Samples(samples), batch=3, length=16)


def budget():
    return BudgetBatches(Samples(samples), budget=48, lengths=[16, 8])


@pytest.mark.parametrize("make", [packed, budget])
@pytest.mark.parametrize("after", [0, 1, 5])
def test_a_fresh_loader_goes_on_from_a_state(make, after):
    whole, fresh = make(), make()
    for _ in range(after):
        next(whole)
    fresh.restore({**whole.state})
    for a, b in itertools.islice(zip(whole, fresh, strict=True), 6):
        for x, y in zip(a, b, strict=True):
            np.testing.assert_array_equal(x, y)


def test_packing_takes_every_sample_once():
    seen = [t for batch in itertools.islice(packed(), 20) for t in np.unique(batch.tokens) if t]
    assert sorted(seen) == list(range(1, len(seen) + 1))


def test_a_budget_gives_batches_of_equal_cost_and_loses_nothing():
    loader = budget()
    batches = list(itertools.islice(loader, 20))
    assert {b.tokens.shape for b in batches} == {(6, 8), (3, 16)}
    given = sorted(int(t) - 1 for b in batches for t in np.unique(b.tokens) if t)
    waiting = sorted(number for pieces in loader.state["waiting"].values() for number, _, _ in pieces)
    assert sorted(given + waiting) == list(range(loader.state["next"][0]))
    assert all(b.tokens.shape[1] == 8 or (b.segments > 0).sum(1).min() > 8 for b in batches)


@pytest.mark.parametrize(
    "make",
    [
        lambda s: PackedBatches(Samples(s), batch=2, length=8),
        lambda s: BudgetBatches(Samples(s), budget=16, lengths=[4, 8]),
    ],
)
def test_of_a_long_sample_nothing_is_lost(make):
    def long(i):
        return list(range(100 * i, 100 * i + 30)), [1.0] * 30

    seen = set()
    for batch in itertools.islice(make(long), 12):
        ends = np.roll(batch.segments, -1, 1) != batch.segments
        ends[:, -1] = True
        seen |= set(batch.targets[~ends & (batch.segments > 0)].tolist())
    assert {*range(1, 30), *range(101, 130), *range(201, 230)} <= seen and not seen & {0, 100, 200}


def test_what_waits_is_cut_anew_for_other_lengths():
    long = Samples(lambda i: (list(range(100 * i, 100 * i + 30)), [1.0] * 30), end=3)
    first, second = (BudgetBatches(long, budget=budget, lengths=[n]) for budget, n in ((128, 32), (21, 7)))
    batch = next(first)
    assert (batch.segments > 0).sum() == 90 and next(first, None) is None
    first.restore({"next": [3, 0], "waiting": {"32": [[0, 0, 30], [2, 0]]}})  # the second as the first version had it
    second.restore(first.state)
    targets = [t for batch in second for t in batch.targets[batch.weights > 0].tolist()]
    assert sorted(targets) == [*range(1, 30), *range(201, 230)]


def test_a_state_of_other_batches_is_refused():
    with pytest.raises(ConfigError, match="token_budget"):
        budget().restore(packed().state)
    with pytest.raises(ConfigError, match="token_budget"):
        packed().restore(budget().state)


def test_a_budget_too_small_is_refused():
    with pytest.raises(ConfigError, match="does not hold one row"):
        BudgetBatches(Samples(samples), budget=8, lengths=[16])


def test_prefetching_changes_nothing_and_carries_the_state():
    plain = packed()
    for batch, state in itertools.islice(prefetch(packed()), 5):
        np.testing.assert_array_equal(batch.tokens, next(plain).tokens)
        assert state == plain.state


def test_an_error_in_the_thread_reaches_the_reader():
    def broken(i):
        raise DataError("row 0 is broken")

    with pytest.raises(DataError, match="row 0"):
        next(prefetch(PackedBatches(Samples(broken), batch=1, length=4)))


def test_one_process_feeds_all_lines():
    batch = next(packed())
    np.testing.assert_array_equal(select_own_lines(batch).tokens, batch.tokens)
