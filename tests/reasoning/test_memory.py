"""What is remembered, recalled and evicted, against a memory in plain Python that is driven by the same operations."""

import math
import random
import threading
from fractions import Fraction
from typing import NamedTuple

import numpy as np
import pytest

from vishwamai.errors import InputError
from vishwamai.reasoning.memory import Entry, ThoughtMemory, state_key

from .conftest import begin


@pytest.fixture
def memory():
    with ThoughtMemory() as made:
        yield made


class Plain:
    """The bounds and the order of eviction, with lists."""

    def __init__(self, max_entries: int, max_bytes: int, max_values: int):
        self.max_entries, self.max_bytes, self.max_values = max_entries, max_bytes, max_values
        self.rows: list[list] = []  # [id, text, priority], the one used last at the end
        self.values: dict = {}  # the one used last at the end
        self.made = 0

    def add(self, text: str, priority: float) -> int | None:
        for row in [row for row in self.rows if row[1] == text]:
            row[2] = max(row[2], priority)
            self.use(row[0])
            return row[0]
        kept = list(self.rows)
        while len(kept) >= self.max_entries or sum(len(r[1].encode()) for r in kept) > self.max_bytes - len(text):
            loose = [row for row in kept if row[2] < math.inf]
            if not loose:
                return None
            kept.remove(min(loose, key=lambda row: row[2]))  # the first of equals
        self.made += 1
        self.rows = [*kept, [self.made, text, priority]]
        return self.made

    def use(self, number: int) -> None:
        self.rows.sort(key=lambda row: row[0] == number)

    def order(self) -> list[list]:
        return sorted(reversed(self.rows), key=lambda row: -row[2])

    def note(self, key, value: float, visits: int) -> None:
        seen = [*self.values.pop(key, []), *[value] * visits]
        if len(self.values) == self.max_values:
            del self.values[next(iter(self.values))]
        self.values[key] = seen

    def value(self, key) -> float | None:
        if key not in self.values:
            return None
        self.values[key] = self.values.pop(key)
        return sum(self.values[key]) / len(self.values[key])


def one_step(rng: random.Random, memory: ThoughtMemory, plain: Plain) -> None:
    known = [row[0] for row in plain.rows]
    match rng.choice(["add"] * 5 + ["recall", "promote", "forget"] + ["note", "value"] * 3):
        case "add":
            text = f"{rng.randint(1, 40)} " + "x" * rng.choice([1, 1, 10, 30])
            priority = rng.choice([-1.5, 0, 0, 0, 0, 1, 2, 7, *[math.inf] * (rng.random() < 0.2)])
            expected = plain.add(text, priority)
            if expected is None:
                with pytest.raises(InputError, match="pinned entries alone hold"):
                    memory.add(text, priority=priority)
            else:
                assert memory.add(text, priority=priority) == expected
        case "recall" if known:
            number, text, _ = rng.choice(plain.rows)
            assert [(e.id, e.similarity) for e in memory.recall(text, 1)] == [(number, 1)]
            plain.use(number)
        case "promote" if known:
            number, text, priority = rng.choice(plain.rows)
            higher = priority + rng.choice([1, 0, 0.5, *[math.inf] * (rng.random() < 0.05)])
            assert memory.add(text, priority=higher) == plain.add(text, higher) == number
        case "forget" if known and rng.random() < 0.4:
            pinned = [row[0] for row in plain.rows if row[2] == math.inf]
            number = rng.choice(pinned or known)
            memory.forget(number)
            plain.rows = [row for row in plain.rows if row[0] != number]
        case "note":
            key, value = ("m", "t/1", (rng.randint(0, 8),)), rng.uniform(-1, 1)
            memory.note_value(*key, value, visits := rng.randint(1, 3))
            plain.note(key, value, visits)
        case "value":
            key = ("m", "t/1", (rng.randint(0, 8),))
            assert memory.value(*key) == pytest.approx(plain.value(key), abs=1e-12)


@pytest.mark.parametrize("seed", range(6))
def test_bounds_and_eviction_are_those_of_a_plain_memory(seed, tmp_path):
    rng = random.Random(seed)
    bounds = {"max_entries": rng.randint(2, 9), "max_bytes": rng.randint(60, 150), "max_values": rng.randint(1, 7)}
    path = tmp_path / "memory.db" if seed % 2 else None
    memory, plain = ThoughtMemory(path, **bounds), Plain(**bounds)
    for _ in range(400):
        one_step(rng, memory, plain)
        if path is not None and rng.random() < 0.02:
            memory.close()
            memory = ThoughtMemory(path)  # the bounds stand in the file
        assert [[e.id, e.text, e.priority] for e in memory.entries()] == plain.order()
        assert len(memory) == len(plain.rows)
    assert plain.made > 100
    memory.close()


def test_many_values_are_evicted_in_batches_inside_their_bound():
    with ThoughtMemory(max_values=640) as memory:
        for i in range(2000):
            memory.note_value("m", "t", i, float(i))
            memory.value("m", "t", 3)  # in use all the time
            [(count,)] = memory._store.rows("SELECT count(*) FROM value")
            assert min(i + 1, 630) <= count <= 640
        latest = range(2000 - 629, 2000)
        assert [memory.value("m", "t", i) for i in (3, 2000 - 640, *latest)] == [3, None, *latest]


def test_values_belong_to_weights_task_and_state(memory):
    memory.note_value("weights a", "countdown/1", (3, 5), 0.25)
    assert memory.value("weights a", "countdown/1", (3, 5)) == 0.25
    for other in [("weights b", "countdown/1", (3, 5)), ("weights a", "countdown/2", (3, 5))]:
        assert memory.value(*other) is None
    for state in [(5, 3), (3, 5, 0), (35,), ("3", 5), ((3, 5),), 3]:
        assert memory.value("weights a", "countdown/1", state) is None


def test_observations_are_averaged_by_their_visits(memory):
    memory.note_value("m", "t", "s", 1.0)
    memory.note_value("m", "t", "s", -0.5, visits=2)
    memory.note_value("m", "t", "s", np.float32(0.5), visits=1)
    assert memory.value("m", "t", "s") == pytest.approx((1 - 0.5 - 0.5 + 0.5) / 4)
    for _ in range(3):
        memory.note_value("m", "t", "u", 0.1, visits=3)
    assert memory.value("m", "t", "u") == 0.1


class Pair(NamedTuple):
    left: int
    right: int


def test_equal_states_have_equal_keys_and_others_others():
    groups = [
        [1, True, 1.0, Fraction(2, 2), np.int64(1)],
        [0.5, Fraction(1, 2)],
        [(1, 2), Pair(1, 2), (1.0, Fraction(2))],
        [frozenset((1, "a", (2,))), frozenset(((2,), 1.0, "a"))],
        *[[x] for x in ["1", (1,), ((1,),), (), "", None, ("1", "2"), (12,), "[1,2]", "é", "\ud800", -1, 10**40]],
        *[[x] for x in [frozenset(), frozenset((1,)), ("ratio", 1, 2), (1, (2,)), ((1,), 2), Fraction(1, 3), 1 / 3]],
    ]
    keys = [{state_key(state) for state in group} for group in groups]
    assert all(len(found) == 1 for found in keys)
    assert len(set().union(*keys)) == len(groups)
    assert all(key.isascii() for found in keys for key in found)


@pytest.mark.parametrize("state", [object(), (1, [2]), math.nan, (math.inf,), b"x", {"a": 1}])
def test_a_state_of_other_things_is_refused(memory, state):
    with pytest.raises(InputError, match=r"cannot be remembered; a state is made of"):
        memory.note_value("m", "t", state, 1.0)


def test_what_is_remembered_comes_back_whole(memory):
    text = "एक\0two\n三 🙂 "
    number = memory.add(text, kind="step", problem="1 2 3", priority=2, score=-0.25, task="countdown/1")
    expected = dict(id=number, text=text, kind="step", problem="1 2 3", priority=2.0, score=-0.25, task="countdown/1")
    assert memory.recall(text) == [Entry(**expected, similarity=1.0)]
    assert memory.entries() == [Entry(**expected)]


def test_the_same_thought_is_one_entry(memory):
    number = memory.add("halve it", priority=2, score=0.5)
    assert memory.add("halve it", priority=1) == number
    assert [(e.priority, e.score) for e in memory.entries()] == [(2, 0.5)]
    assert memory.add("halve it", priority=3, score=0.75) == number
    assert [(e.priority, e.score) for e in memory.entries()] == [(3, 0.75)]
    others = [dict(kind="step"), dict(problem="8"), dict(problem=""), dict(task="t"), dict(problem="t")]
    assert len({number, *(memory.add("halve it", **other) for other in others)}) == 6 == len(memory)


def test_the_likest_come_first_and_ties_by_priority_then_the_later(memory):
    ids = [
        memory.add(t, kind=k, priority=p) for t, k, p in [("10 - 4", "a", 0), ("10 - 4", "b", 1), ("10 - 4", "c", 0)]
    ]
    near, far = memory.add("10 - 5"), memory.add("water", priority=9)
    for _ in range(2):  # to be recalled does not change the order
        assert [e.id for e in memory.recall("10 - 4", 5)] == [ids[1], ids[2], ids[0], near, far]
    found = [e.similarity for e in memory.recall("10 - 4", 5)]
    assert found[:3] == [1, 1, 1] > found[3:] and found[3] > 0.3 > 0.01 > found[4]
    assert len(memory.recall("10 - 4")) == 3 and memory.recall("10 - 4", 0) == []


def test_recall_is_of_a_task_and_a_kind_where_they_are_named(memory):
    for kind in ("thought", "step"):
        for task in (None, "t/1", "t/2"):
            memory.add("x", kind=kind, task=task)
    assert len(memory.recall("x", 9)) == 6
    assert {e.kind for e in memory.recall("x", 9, task="t/1")} == {"thought", "step"}
    assert [(e.kind, e.task) for e in memory.recall("x", 9, task="t/2", kind="step")] == [("step", "t/2")]
    assert memory.recall("x", 9, task="t/3") == memory.recall("x", 9, kind="other") == []


def test_pinned_entries_stay(memory):
    with ThoughtMemory(max_entries=2) as small:
        first, second = small.add("a", priority=math.inf), small.add("b")
        assert small.add("b", priority=math.inf) == second
        with pytest.raises(InputError, match="pinned entries alone hold 2 of 2 entries; forget one of them"):
            small.add("c", priority=5)
        small.forget(first)
        third = small.add("c")
        assert {e.id for e in small.entries()} == {second, third}
    with ThoughtMemory(max_bytes=10) as small:
        small.add("ab", problem="é")
        with pytest.raises(InputError, match="a thought of 11 bytes does not fit a memory of 10 bytes; open it with"):
            small.add("12345678901")
        assert len(small) == 1  # a thought that finds no room drives none out
        small.add("12345", problem="é")
        assert [e.text for e in small.entries()] == ["12345"]


def test_lower_bounds_hold_at_once(tmp_path):
    path = tmp_path / "m.db"
    with ThoughtMemory(path) as memory:
        for i in range(9):
            memory.add(str(i), priority=-i)
            memory.note_value("m", "t", i, i)
    with ThoughtMemory(path, max_entries=4, max_values=2) as memory:
        assert [e.text for e in memory.entries()] == ["0", "1", "2", "3"]
        assert [memory.value("m", "t", i) for i in range(9)] == [None] * 7 + [7, 8]


@pytest.mark.parametrize(
    ("call", "said"),
    [
        (lambda m: m.add(""), "the text is ''"),
        (lambda m: m.add(" \n\t"), "must be a text that is not empty"),
        (lambda m: m.add("a\ud800"), "half of a surrogate pair"),
        (lambda m: m.add("a", problem=3), "the problem 3 is no text"),
        (lambda m: m.add("a", kind=""), "the kind is ''"),
        (lambda m: m.add("a", priority=math.nan), "priority .infinity pins. is nan"),
        (lambda m: m.add("a", priority=-math.inf), "priority .infinity pins. is -inf"),
        (lambda m: m.add("a", score=math.inf), "score is inf"),
        (lambda m: m.recall(" "), "the text is ' '"),
        (lambda m: m.recall("a", -1), "n is -1"),
        (lambda m: m.forget(7), "no entry 7; it may have been evicted"),
        (lambda m: m.forget(1 << 80), "no entry"),
        (lambda m: m.forget(None), "no entry None"),
        (lambda m: m.value("", "t", 1), "the identity is ''"),
        (lambda m: m.note_value("m", "", 1, 1.0), "the task is ''"),
        (lambda m: m.note_value("m", "t", 1, math.nan), "value is nan"),
        (lambda m: m.note_value("m", "t", 1, 1.0, visits=0), "visits is 0"),
        (lambda m: ThoughtMemory(max_entries=0), "max_entries is 0"),
        (lambda m: ThoughtMemory(max_bytes=1.5), "max_bytes is 1.5"),
    ],
)
def test_what_makes_no_sense_is_refused(memory, call, said):
    with pytest.raises(InputError, match=said):
        call(memory)
    assert len(memory) == 0 and memory


def test_threads_share_a_memory(tmp_path):
    errors = []

    def work(memory, name):
        try:
            for i in range(25):
                memory.add(f"{name} {i}")
                memory.note_value("m", "t", "s", 1.0 if name % 2 else 0.0)
                memory.recall(f"{name} {i}", 1)
        except Exception as error:
            errors.append(error)

    with ThoughtMemory(tmp_path / "m.db") as memory:
        threads = [threading.Thread(target=work, args=(memory, name)) for name in range(4)]
        [thread.start() for thread in threads]
        [thread.join() for thread in threads]
        assert errors == [] and len(memory) == 100 and memory.value("m", "t", "s") == pytest.approx(0.5)


RECALL = """
from vishwamai.reasoning.memory import ThoughtMemory, state_key
with ThoughtMemory() as memory:
    for i in range(60):
        memory.add(f"{i % 7} + {i % 5} = {i % 11} thought", problem=str(i), priority=i % 3)
    print([(e.id, e.similarity) for e in memory.recall("3 + 4 = 7", 60)])
    print(state_key(frozenset("abcdef")))
"""


def test_recall_is_the_same_in_every_process():
    runs = [begin(RECALL, PYTHONHASHSEED=seed) for seed in ("0", "1", "2")]
    said = [run.communicate(timeout=60)[0] for run in runs]
    assert said[0].count("(") == 60 and said[0] == said[1] == said[2]


def test_recall_by_embeddings():
    """By the length of a text, which its words do not tell."""
    memory = ThoughtMemory(embed=lambda texts: np.array([[len(text), 10.0] for text in texts]))
    for text in ("aaaa bbbb cccc", "dd", "eeeeeee"):
        memory.add(text)
    assert [entry.text for entry in memory.recall("xx yy z", n=2)] == ["eeeeeee", "aaaa bbbb cccc"]
