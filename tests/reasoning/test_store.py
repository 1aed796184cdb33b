"""The file of a memory: reopened, shared, killed, damaged, foreign, out of reach."""

import math
import os
import signal
import sqlite3
import subprocess
import tempfile
import threading
from collections.abc import Sequence
from pathlib import Path

import pytest

from vishwamai.errors import DataError, InputError
from vishwamai.reasoning import store
from vishwamai.reasoning.memory import ThoughtMemory

from .conftest import begin


def child(source: str, *arguments: object) -> subprocess.Popen:
    """A process with a memory of its own at the path that is its first argument."""
    return begin(f"import os, sys\nfrom vishwamai.reasoning.memory import ThoughtMemory\n{source}", *arguments)


def filled(path: Path) -> bytes:
    """Makes a memory with many entries; the file's bytes."""
    with ThoughtMemory(path) as memory:
        for i in range(300):
            memory.add(f"thought number {i} " + "x" * 60)
    return path.read_bytes()


def test_what_was_noted_is_there_when_it_is_opened_again(tmp_path):
    path = tmp_path / "memory.db"
    with ThoughtMemory(path) as memory:
        number = memory.add("halve it", kind="step", problem="8", priority=2, score=0.5, task="t/1")
        gone = memory.add("forget it")
        memory.forget(gone)
        memory.note_value("m", "t/1", (8, "x"), 0.75, visits=3)
    assert os.listdir(tmp_path) == ["memory.db"]
    with ThoughtMemory(str(path)) as memory:
        [entry] = memory.entries()
        assert (entry.id, entry.text, entry.problem, entry.priority) == (number, "halve it", "8", 2)
        memory.note_value("m", "t/1", (8, "x"), -0.25, visits=1)
        assert memory.value("m", "t/1", (8, "x")) == 0.5
        assert memory.add("another") > gone  # an id is never used again


def test_a_file_of_the_first_version_goes_on(tmp_path):
    """Which had triggers, and ids of values with gaps where some were evicted."""
    path = tmp_path / "memory.db"
    first = sqlite3.connect(path)
    first.executescript(Path(__file__).with_name("memory_1.sql").read_text(encoding="utf-8"))
    first.close()

    def values(memory: ThoughtMemory, states: Sequence[int]) -> list[float | None]:
        return [memory.value("weights", "t/1", (i, "x")) for i in states]

    with ThoughtMemory(path, max_values=5) as memory:  # it had 4
        entries = [(e.id, e.text, e.problem, e.priority, e.score) for e in memory.entries()]
        pinned, step = (2, "check the sum", None, math.inf, None), (3, "halve it", "8", 2.0, 0.5)
        assert entries == [pinned, step, (4, "try 3 * 8", None, 0.0, None)]
        assert values(memory, range(6)) == [None, None, 0.25, pytest.approx(19 / 24), 0.5, 0.625]
        memory.note_value("weights", "t/1", (2, "x"), 1.0, visits=2)
        for i in (6, 7):
            memory.note_value("weights", "t/1", (i, "x"), i / 8)
        assert values(memory, range(2, 8)) == [0.75, None, 0.5, 0.625, 0.75, 0.875]
        assert memory.add("halve it", kind="step", problem="8", task="t/1") == 3
        assert memory.add("two halves") == 5  # 1 was forgotten, and 4 makes room
        assert [e.id for e in memory.entries()] == [2, 3, 5]
    with ThoughtMemory(path, max_values=2) as memory:
        assert values(memory, range(8)) == [None] * 6 + [0.75, 0.875]


def test_a_closed_memory_says_so(tmp_path):
    for memory in (ThoughtMemory(), ThoughtMemory(tmp_path / "m.db")):
        memory.close()
        memory.close()
        for call in (memory.entries, lambda m=memory: m.add("a"), lambda m=memory: m.note_value("m", "t", 1, 1.0)):
            with pytest.raises(InputError, match="this memory is closed"):
                call()


ADDING = """
print("ready", flush=True)
sys.stdin.readline()
name = sys.argv[2]
with ThoughtMemory(sys.argv[1]) as memory:
    for i in range(60):
        memory.add(f"{name} {i}")
        memory.add(f"common {i}")
        memory.note_value("m", "t", "s", float(name))
        memory.value("m", "t", "s")
"""


def test_processes_share_a_file(tmp_path):
    path = tmp_path / "memory.db"
    processes = [child(ADDING, path, name) for name in range(3)]
    assert [process.stdout.readline() for process in processes] == ["ready\n"] * 3
    for process in processes:  # all make the file at the same time
        process.stdin.write("go\n")
        process.stdin.flush()
    ends = [(process.communicate(timeout=60), process.returncode) for process in processes]
    assert [code for _, code in ends] == [0] * 3, ends
    with ThoughtMemory(path) as memory:
        expected = {f"{name} {i}" for name in ("0", "1", "2", "common") for i in range(60)}
        assert sorted(entry.text for entry in memory.entries()) == sorted(expected)
        assert memory.value("m", "t", "s") == pytest.approx(1.0)
    used = sqlite3.connect(path)
    [(times, different)] = used.execute("SELECT count(used), count(DISTINCT used) FROM entry")
    used.close()
    assert times == different == 240


def test_one_process_sees_what_another_does(tmp_path):
    with ThoughtMemory(tmp_path / "m.db") as one, ThoughtMemory(tmp_path / "m.db") as two:
        number = one.add("a")
        assert [e.id for e in two.recall("a")] == [number]
        two.forget(number)
        assert one.recall("a") == []


ENDLESS = """
memory = ThoughtMemory(sys.argv[1])
for i in range(1000000):
    memory.note_value("m", "t", (sys.argv[2], i), float(i))
    print(memory.add(f"{sys.argv[2]} {i}"), flush=True)
"""


def test_nothing_is_lost_when_the_process_is_killed(tmp_path):
    path = tmp_path / "memory.db"
    noted: dict[int, str] = {}
    for round in ("first", "second"):
        process = child(ENDLESS, path, round)
        lines = [process.stdout.readline() for _ in range(40)]
        os.kill(process.pid, signal.SIGKILL)
        lines += process.stdout.read().splitlines()  # `communicate` would pass over what `readline` read ahead
        process.communicate(timeout=60)
        assert process.returncode == -signal.SIGKILL
        now = {int(line): f"{round} {i}" for i, line in enumerate(lines) if line.strip()}
        noted |= now
        with ThoughtMemory(path) as memory:
            there = {entry.id: entry.text for entry in memory.entries()}
            values = [memory.value("m", "t", (round, i)) for i in range(len(now))]
        assert there.items() >= noted.items() and len(there) - len(noted) <= 2
        assert values == list(range(len(now)))
        noted = there


def test_a_change_that_fails_half_way_leaves_nothing(tmp_path):
    with ThoughtMemory(tmp_path / "m.db", max_entries=2, max_bytes=8) as memory:
        memory.add("pin", priority=float("inf"))
        memory.add("ab")
        before = memory.entries()
        with pytest.raises(InputError):
            memory.add("123456")  # "ab" goes first, and it does not suffice
        assert memory.entries() == before
        memory.add("12345")
        assert [e.text for e in memory.entries()] == ["pin", "12345"]


def other_database(path: Path, version: int) -> None:
    database = sqlite3.connect(path)
    database.executescript(f"CREATE TABLE songs (name TEXT); PRAGMA user_version = {version};")
    database.close()


def spoil(path: Path, statement: str) -> None:
    filled(path)
    database = sqlite3.connect(path)
    database.executescript(statement)
    database.close()


def scribble(path: Path, at: float, size: int) -> None:
    whole = bytearray(filled(path))
    start = int(len(whole) * at)
    whole[start : start + size] = bytes(range(1, 256)) * (size // 255 + 1)
    path.write_bytes(whole)


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda path: path.write_text("my notes\n"), "this file is no memory and was left as it is"),
        (lambda path: path.write_bytes(b"\0" * 5000), "this file is no memory"),
        (lambda path: other_database(path, 0), "another program's and was left as it is; choose another path"),
        (lambda path: other_database(path, 1), "another program's"),
        (lambda path: spoil(path, "PRAGMA user_version = 2"), "of version 2, and this VishwamAI reads 1; update"),
        (lambda path: spoil(path, "DROP TABLE shared"), "the file is damaged .* move it away to begin anew"),
        (lambda path: path.write_bytes(filled(path)[: 5 * 4096]), "the file is damaged .* `sqlite3 FILE .recover`"),
        (lambda path: scribble(path, 0.5, 5000), "the file is damaged"),
        (lambda path: scribble(path, 0, 60), "this file is no memory"),
        (lambda path: path.mkdir(), "cannot be opened or made"),
    ],
)
def test_a_file_that_is_no_memory_is_refused_and_left_alone(tmp_path, make, said):
    path = tmp_path / "memory.db"
    make(path)
    before = path.read_bytes() if path.is_file() else None
    with pytest.raises(DataError, match=said) as caught:
        ThoughtMemory(path)
    assert str(path) in str(caught.value)
    assert before is None or path.read_bytes() == before
    assert os.listdir(tmp_path) == ["memory.db"]


def test_damage_that_comes_later_is_said_too(tmp_path):
    path = tmp_path / "memory.db"
    filled(path)
    with ThoughtMemory(path) as memory:
        other = sqlite3.connect(path)
        other.execute("DROP TABLE entry")
        other.close()
        with pytest.raises(DataError, match="the file is damaged"):
            memory.recall("thought")


def test_an_empty_file_becomes_a_memory(tmp_path):
    (tmp_path / "m.db").touch()
    with ThoughtMemory(tmp_path / "m.db") as memory:
        memory.add("a")


def test_a_folder_that_is_not_there_is_not_made(tmp_path):
    with pytest.raises(DataError, match="its folder is not there; make it"):
        ThoughtMemory(tmp_path / "no" / "m.db")


REACH = """
from vishwamai.errors import DataError
if os.getuid() == 0:
    os.setuid(65534)  # root may write everywhere
for name in ("new.db", "old.db"):
    try:
        ThoughtMemory(os.path.join(sys.argv[1], name))
    except DataError as error:
        print(error)
"""


def test_a_folder_that_cannot_be_written_is_said():
    with tempfile.TemporaryDirectory() as folder:  # not in pytest's, which only its owner may enter
        filled(Path(folder) / "old.db")
        os.chmod(folder, 0o555)
        new, old, *rest = child(REACH, folder).communicate(timeout=60)[0].splitlines()
        os.chmod(folder, 0o755)
    assert not rest and f"{folder}/new.db: it cannot be opened or made; choose a file in a folder that can" in new
    assert f"{folder}/old.db: it cannot be" in old


def test_a_file_that_another_holds_is_waited_for_and_then_said(tmp_path, monkeypatch):
    monkeypatch.setattr(store, "BUSY_TIMEOUT", 0.05)
    with ThoughtMemory(tmp_path / "m.db") as memory:
        other = sqlite3.connect(tmp_path / "m.db", isolation_level=None)
        other.execute("BEGIN IMMEDIATE")
        with pytest.raises(DataError, match="another process has held it"):
            memory.add("a")
        assert memory.recall("a") == []  # to read needs no waiting
        other.execute("COMMIT")
        other.close()
        memory.add("a")
        assert len(memory) == 1


def test_a_new_file_that_another_is_making_is_waited_for(tmp_path):
    other = sqlite3.connect(tmp_path / "m.db", isolation_level=None, check_same_thread=False)
    other.execute("BEGIN IMMEDIATE")  # the switch to the write-ahead log is refused at once meanwhile
    end = threading.Timer(0.2, lambda: other.execute("COMMIT"))
    end.start()
    with ThoughtMemory(tmp_path / "m.db") as memory:
        memory.add("a")
    end.join()
    other.close()
