"""Over an epoch of a mixture every row is seen as often as it should be, whatever happens on the way.

Runs are stopped ten times at random places and go on from their state as JSON in loaders that are made anew, with
batches of other sizes, and as two processes in place of one. What is counted is read out of the batches.
"""

import json
import random
import signal
from collections import Counter
from contextlib import contextmanager
from functools import partial

import numpy as np
import pytest

from vishwamai.data import corpus, readers, tokenised
from vishwamai.data.loader import BudgetBatches, PackedBatches
from vishwamai.data.packing import Batch
from vishwamai.data.sources import Mixture
from vishwamai.errors import DataError
from vishwamai.text.tokenizer import VishwamAITokenizer

BYTES = VishwamAITokenizer.bytes()
SIZES = {"a": 120, "b": 75}
LENGTH = 64


def text(name, i):
    return f"{name}{i} " + "x" * ((i * 37) % 50)  # all shorter than a line


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    folder = tmp_path_factory.mktemp("files")
    for name, size in SIZES.items():
        rows = [json.dumps({"text": text(name, i)}) for i in range(size)]
        (folder / f"{name}.jsonl").write_text("\n".join(rows))
    return folder


def samples(files, stop="all_exhausted", epochs=1, seed=0):
    """Made anew each time, as in a new process."""
    weights = {"a": 2.0, "b": 1.0}
    named = [corpus.Source(kind="jsonl", name=str(files / f"{n}.jsonl"), weight=w) for n, w in weights.items()]
    data = corpus.Data(sources=tuple(named), tokenizer="bytes", stop=stop, epochs=epochs, seed=seed)
    return corpus.Corpus(data, BYTES).samples()


def seen(batches) -> Counter:
    """The rows in batches, each as often as it occurs."""
    found = Counter()
    for batch in batches:
        for tokens, segments in zip(batch.tokens, batch.segments, strict=True):
            found.update(BYTES.decode(tokens[segments == k].tolist()) for k in range(1, segments.max() + 1))
    return found


def expected(files, **given) -> Counter:
    stream = samples(files, **given)
    return Counter(BYTES.decode(stream.read(i)[0].tolist()) for i in range(stream.end))


def packed(stream, size):
    return PackedBatches(stream, batch=size, length=LENGTH)


def budget(stream, size):
    return BudgetBatches(stream, budget=LENGTH * size, lengths=(16, 32, LENGTH) if size % 2 else (24, LENGTH))


def interrupted(files, make, sizes, rng, **given):
    """The batches of a run that is stopped ten times; each start has the next of `sizes`."""
    state, taken = None, []
    for start in range(11):
        loader = make(samples(files, **given), sizes[start % len(sizes)])
        if state is not None:
            loader.restore(json.loads(state))
        for _ in range(rng.randint(0, 3) if start < 10 else 10_000):
            if (batch := next(loader, None)) is None:
                break
            taken.append(batch)
        state = json.dumps(loader.state)
    return taken


@pytest.mark.parametrize("make", [packed, budget])
@pytest.mark.parametrize("sizes", [(4,), (3, 8, 5, 2)], ids=["the same size", "other sizes"])
@pytest.mark.parametrize("seed", range(3))
def test_ten_stops_lose_nothing_and_double_nothing(files, make, sizes, seed):
    rows = seen(interrupted(files, make, sizes, random.Random(seed)))
    assert rows == expected(files)
    assert set(rows) == {f"{text(name, i)}<|eos|>" for name, size in SIZES.items() for i in range(size)}


@pytest.mark.parametrize("make", [packed, budget])
def test_stops_change_no_batch(files, make):
    whole = list(make(samples(files), 4))
    for a, b in zip(whole, interrupted(files, make, (4,), random.Random(7)), strict=True):
        for x, y in zip(a, b, strict=True):
            np.testing.assert_array_equal(x, y)


@pytest.mark.parametrize(
    "make",
    [partial(PackedBatches, batch=4, length=LENGTH), partial(BudgetBatches, budget=256, lengths=[32, LENGTH])],
    ids=["packed", "budget"],
)
def test_each_of_two_processes_reads_its_own_lines_alone(files, make):
    def half(index):
        return lambda n_lines: slice(index * n_lines // 2, (index + 1) * n_lines // 2)

    def counting(stream, read):
        stream.read = lambda i, real=stream.read: read.append(i) or real(i)
        return stream

    read = [[], []]
    whole = make(samples(files))
    halves = [make(counting(samples(files), read[index]), own=half(index)) for index in (0, 1)]
    for batch in whole:
        parts = [next(loader) for loader in halves]
        joined = []
        for index, field in enumerate(Batch._fields):
            n_lines = len(batch.tokens)
            joined.append(np.concatenate([parts[k][index][half(k)(n_lines)] for k in (0, 1)]))
            np.testing.assert_array_equal(joined[index], batch[index], err_msg=field)
        for part in parts:  # every process knows where all rows are
            np.testing.assert_array_equal(part.segments, batch.segments)
        assert halves[0].state == halves[1].state == whole.state
    assert sorted(read[0] + read[1]) == list(range(samples(files).end))


def test_one_process_goes_on_as_two(files):
    first = packed(samples(files), 4)
    taken = [next(first) for _ in range(5)]
    for index in (0, 1):
        own = slice(3 * index, 3 * index + 3)
        loader = PackedBatches(samples(files), batch=6, length=LENGTH, own=lambda n_lines, own=own: own)
        loader.restore(first.state)
        taken += [Batch(*(field[own] for field in batch)) for batch in loader]
    assert seen(taken) == expected(files)


def test_two_epochs_differ_in_order_and_in_nothing_else(files):
    source = corpus.Source(kind="jsonl", name=str(files / "a.jsonl"))
    data = corpus.Data(sources=(source,), tokenizer="bytes", stop="first_exhausted", epochs=2)
    stream = corpus.Corpus(data, BYTES).samples()
    texts = [BYTES.decode(stream.read(i)[0].tolist()) for i in range(stream.end)]
    first, second = texts[:120], texts[120:]
    assert sorted(first) == sorted(second) and first != second and len(set(first)) == 120
    assert sum(a == b for a, b in zip(first, second, strict=True)) < 12


@pytest.mark.parametrize(("stop", "whole", "others"), [("first_exhausted", 1, 1), ("all_exhausted", 1, 2)])
@pytest.mark.parametrize("epochs", [1, 3])
def test_a_mixture_ends_with_the_last_row_of_a_pass(stop, whole, others, epochs):
    sizes, weights = [40, 7, None], [0.5, 0.4, 0.1]
    mixture = Mixture(weights, 3, sizes, stop, epochs)
    places = [mixture[i] for i in range(len(mixture))]
    counts = Counter(k for k, _ in places)
    ended = [counts[k] >= sizes[k] * epochs for k in (0, 1)]
    assert any(ended) if stop == "first_exhausted" else all(ended)
    k, number = places[-1]
    assert k < 2 and number == sizes[k] * epochs - 1
    assert all([n for source, n in places if source == k] == list(range(counts[k])) for k in range(3))
    assert Mixture(weights, 3, sizes).end is None and Mixture(weights, 3, [None] * 3, stop).end is None


def parts_of(monkeypatch, size):
    for module in (readers, tokenised):
        monkeypatch.setattr(module, "PART_BYTES", size)


@pytest.mark.parametrize("killed", [0, 1, 2])
def test_a_process_that_is_killed_while_rows_are_made_costs_none(files, tmp_path, monkeypatch, killed):
    parts_of(monkeypatch, 1000)
    left = [killed]

    def start(job, real=tokenised._start):
        worker = real(job)
        if left[0]:
            left[0] -= 1
            worker.send_signal(signal.SIGKILL)
        return worker

    monkeypatch.setattr(tokenised, "_start", start)
    source = corpus.Source(kind="jsonl", name=str(files / "a.jsonl"))
    data = corpus.Data(sources=(source,), tokenizer="bytes", cache=str(tmp_path), processes=2, stop="first_exhausted")
    reports = []

    @contextmanager
    def progress(stage):
        assert stage == f"tokenising {source.name}"
        yield lambda done, total: reports.append((done, total))

    stream = corpus.Corpus(data, BYTES, progress=progress).samples()
    texts = {BYTES.decode(stream.read(i)[0].tolist()) for i in range(stream.end)}
    assert texts == {f"{text('a', i)}<|eos|>" for i in range(120)} and stream.end == 120
    size = (files / "a.jsonl").stat().st_size
    assert reports[-1] == (size, size) and len(reports) > 3 and not left[0]


def test_processes_that_all_die_end_in_a_sentence(files, tmp_path, monkeypatch):
    parts_of(monkeypatch, 1000)

    def start(job, real=tokenised._start):
        worker = real(job)
        worker.kill()
        return worker

    monkeypatch.setattr(tokenised, "_start", start)
    source = corpus.Source(kind="jsonl", name=str(files / "a.jsonl"))
    data = corpus.Data(sources=(source,), tokenizer="bytes", cache=str(tmp_path), processes=2)
    with pytest.raises(DataError, match="a.jsonl: a process that tokenises it ended 3 times, the last with code -9"):
        corpus.Corpus(data, BYTES)


def test_what_is_finished_before_the_end_is_not_done_again(files, tmp_path, monkeypatch):
    parts_of(monkeypatch, 1000)
    source = corpus.Source(kind="jsonl", name=str(files / "a.jsonl"))
    data = corpus.Data(sources=(source,), tokenizer="bytes", cache=str(tmp_path), processes=1)
    done = []

    def tokenise_part(job, number, *given, real=tokenised.tokenise_part):
        if number == 3 and 3 not in done:
            done.append(3)
            raise KeyboardInterrupt
        done.append(number)
        return real(job, number, *given)

    monkeypatch.setattr(tokenised, "tokenise_part", tokenise_part)
    with pytest.raises(KeyboardInterrupt):
        corpus.Corpus(data, BYTES)
    rows = corpus.Corpus(data, BYTES).rows[source]
    assert done == [0, 1, 2, 3, *range(3, max(done) + 1)] and len(rows) == 120
    assert [BYTES.decode(rows[i][0].tolist()) for i in range(120)] == [f"{text('a', i)}<|eos|>" for i in range(120)]
    corpus.Corpus(data, BYTES)
    assert len(done) == max(done) + 2  # nothing more
