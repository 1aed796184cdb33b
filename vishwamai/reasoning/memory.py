"""What a reasoner keeps between searches and runs: values of states, and thoughts to recall by likeness.

A value belongs to a model's weights (`Model.identity`), a task and a state, and is given for these three alone.
Thoughts are texts with a priority; what is full forgets the lowest priority first, and among equals the one not used
for the longest. In RAM, or in a file that several processes may use. It knows no search.
"""

import dataclasses
import hashlib
import json
import math
import numbers
import sqlite3
from collections.abc import Hashable
from fractions import Fraction
from pathlib import Path
from typing import Any

from vishwamai.checks import check_number, check_whole
from vishwamai.errors import InputError
from vishwamai.reasoning.likeness import Embed, likeness
from vishwamai.reasoning.store import Store

MAX_INTEGER = (1 << 62) - 1  # that the file can hold

# `used` counts up in each table: the latest use has the highest.
SCHEMA = (
    "CREATE TABLE shared (max_entries INTEGER NOT NULL, max_bytes INTEGER NOT NULL, max_valued INTEGER NOT NULL)",
    f"INSERT INTO shared VALUES (10000, {16 << 20}, 1000000)",
    """CREATE TABLE entry (id INTEGER PRIMARY KEY AUTOINCREMENT, text TEXT NOT NULL, kind TEXT NOT NULL, problem TEXT,
       task TEXT, priority REAL NOT NULL, score REAL, same BLOB NOT NULL UNIQUE, bytes INTEGER NOT NULL,
       used INTEGER NOT NULL)""",
    """CREATE TABLE value (id INTEGER PRIMARY KEY, identity TEXT NOT NULL, task TEXT NOT NULL, state TEXT NOT NULL,
       mean REAL NOT NULL, visits INTEGER NOT NULL, used INTEGER NOT NULL, UNIQUE (identity, task, state))""",
)
INDEXES = (
    "CREATE INDEX IF NOT EXISTS entry_used ON entry (used)",
    "CREATE INDEX IF NOT EXISTS entry_eviction ON entry (priority, used, bytes)",
    "CREATE INDEX IF NOT EXISTS value_order ON value (used)",
)
SET_BOUNDS = """UPDATE shared SET max_entries = coalesce(:max_entries, max_entries),
    max_bytes = coalesce(:max_bytes, max_bytes), max_valued = coalesce(:max_values, max_valued)"""
AT_KEY = "WHERE identity = :identity AND task = :task AND state = :state"
FIND_VALUE = f"SELECT mean, used = (SELECT max(used) FROM value) FROM value {AT_KEY}"
TOUCH_VALUE = f"UPDATE value SET used = (SELECT max(used) + 1 FROM value) {AT_KEY}"
ADD_TO_VALUE = f"""UPDATE value SET mean = mean + (:value - mean) * :visits / (visits + :visits),
    visits = visits + :visits, used = (SELECT max(used) + 1 FROM value) {AT_KEY}"""
INSERT_VALUE = """INSERT INTO value SELECT NULL, :identity, :task, :state, :value, :visits, coalesce(max(used), 0) + 1
    FROM value"""
EVICT_VALUES = "DELETE FROM value WHERE used <= (SELECT used FROM value ORDER BY used DESC LIMIT 1 OFFSET ?)"
ENTRY = "id, text, kind, problem, task, priority, score"
UPDATE_ENTRY = """UPDATE entry SET priority = max(priority, :priority), score = coalesce(:score, score),
    used = (SELECT max(used) + 1 FROM entry) WHERE same = :same"""
INSERT_ENTRY = """INSERT INTO entry SELECT NULL, :text, :kind, :problem, :task, :priority, :score, :same, :bytes,
    coalesce(max(used), 0) + 1 FROM entry"""
LEAST_ENTRY = "SELECT id, bytes FROM entry WHERE priority < :most ORDER BY priority, used LIMIT 1"


@dataclasses.dataclass(frozen=True, kw_only=True)
class Entry:
    """A thought that is remembered; `similarity`, -1 to 1, is to what was asked for, and None where nothing was."""

    id: int
    text: str
    kind: str = "thought"
    problem: str | None = None
    task: str | None = None
    priority: float = 0.0
    score: float | None = None
    similarity: float | None = None


class ThoughtMemory:
    """A memory in RAM, or in the file `path`, which is made where there is none.

    Bounds: `max_entries` thoughts, `max_bytes` of their texts and problems in UTF-8, `max_values` states. They stand in
    the file; None is what it has, and for a new one 10 000, 16 MiB and a million. `embed` gives the vectors that
    texts are compared by, [texts, width]; without it they are compared by their words. Raises `DataError` for a file
    that is damaged, not a memory, or out of reach. A memory may be used from several threads.
    """

    def __init__(
        self,
        path: str | Path | None = None,
        *,
        max_entries: int | None = None,
        max_bytes: int | None = None,
        max_values: int | None = None,
        embed: Embed | None = None,
    ):
        bounds = {"max_entries": max_entries, "max_bytes": max_bytes, "max_values": max_values}
        bounds = {name: check_whole(name, most, 1, MAX_INTEGER, optional=True) for name, most in bounds.items()}

        def apply_bounds(db: sqlite3.Connection) -> None:
            db.execute(SET_BOUNDS, bounds)
            for statement in INDEXES:
                db.execute(statement)
            _evict_entries(db)
            _evict_values(db)

        self._store, self._embed = Store(path, SCHEMA, apply_bounds), embed

    def value(self, identity: str, task: str, state: Hashable) -> float | None:
        """The mean of the values noted for a state with these weights in this task (name and version), or None."""
        key = _value_key(identity, task, state)
        for mean, is_latest in self._store.rows(FIND_VALUE, key):
            if not is_latest:
                with self._store.transaction() as db:
                    db.execute(TOUCH_VALUE, key)
            return mean
        return None

    def note_value(self, identity: str, task: str, state: Hashable, value: float, visits: int = 1) -> None:
        """Notes what a state was found to be worth, as the mean of so many visits."""
        noted = {"value": check_number("value", value), "visits": check_whole("visits", visits, 1, MAX_INTEGER)}
        noted |= _value_key(identity, task, state)
        with self._store.transaction() as db:
            if not db.execute(ADD_TO_VALUE, noted).rowcount:
                _evict_values(db, db.execute(INSERT_VALUE, noted).lastrowid)

    def add(
        self,
        text: str,
        *,
        kind: str = "thought",
        problem: str | None = None,
        priority: float = 0.0,
        score: float | None = None,
        task: str | None = None,
    ) -> int:
        """Remembers a thought and returns its id; an infinite priority pins it.

        What is there already (text, kind, problem and task) keeps its id, with the new score and the higher priority.
        Others make room. Raises `InputError` where these would be pinned ones, and for an empty text.
        """
        words = {"text": _check_text("text", text), "kind": _check_text("kind", kind), "problem": problem, "task": task}
        sizes = {name: _count_bytes(name, word) for name, word in words.items()}
        entry = words | {
            "priority": priority if priority == math.inf else check_number("priority (infinity pins)", priority),
            "score": None if score is None else check_number("score", score),
            "same": hashlib.blake2b(json.dumps(list(words.values())).encode(), digest_size=16).digest(),
            "bytes": sizes["text"] + sizes["problem"],
        }
        with self._store.transaction() as db:
            if known := db.execute("SELECT id FROM entry WHERE same = :same", entry).fetchone():
                db.execute(UPDATE_ENTRY, entry)
                return known[0]
            _evict_entries(db, 1, entry["bytes"])
            return int(db.execute(INSERT_ENTRY, entry).lastrowid or 0)

    def recall(self, text: str, n: int = 3, *, task: str | None = None, kind: str | None = None) -> list[Entry]:
        """The `n` thoughts most like a text, the likest first; of equals the higher priority, then the later one.

        Only those of a task and a kind, where these are named. To be recalled is to be used.
        """
        n, text = check_whole("n", n, 0), _check_text("text", text)
        with self._store.lock:
            entries = [e for e in self.entries() if task in (None, e.task) and kind in (None, e.kind)]
            similarities = likeness(text, [e.text for e in entries], self._embed).tolist()
            found = [dataclasses.replace(e, similarity=s) for e, s in zip(entries, similarities, strict=True)]
            found = sorted(found, key=lambda e: (e.similarity, e.priority, e.id), reverse=True)[:n]
            if found:
                with self._store.transaction() as db:
                    [(last,)] = db.execute("SELECT max(used) FROM entry")
                    used = [(last + i, entry.id) for i, entry in enumerate(reversed(found), 1)]  # the likest is latest
                    db.executemany("UPDATE entry SET used = ? WHERE id = ?", used)
        return found

    def forget(self, id: int) -> None:
        """Takes an entry out, a pinned one too. Raises `InputError` for an entry not there."""
        is_id = isinstance(id, int) and 0 < id <= MAX_INTEGER
        with self._store.transaction() as db:
            if not is_id or not db.execute("DELETE FROM entry WHERE id = ?", (id,)).rowcount:
                raise InputError(f"the memory has no entry {id!r}; it may have been evicted")

    def entries(self) -> list[Entry]:
        """All entries, the one that would be evicted last first. To be listed is not to be used."""
        rows = self._store.rows(f"SELECT {ENTRY} FROM entry ORDER BY priority DESC, used DESC")
        return [Entry(**dict(zip(ENTRY.split(", "), row, strict=True))) for row in rows]

    def __len__(self) -> int:
        return self._store.rows("SELECT count(*) FROM entry")[0][0]

    def __bool__(self) -> bool:
        """A memory with nothing in it is a memory still."""
        return True

    def close(self) -> None:
        """Closes the file; what was in RAM is gone."""
        self._store.close()

    def __enter__(self) -> "ThoughtMemory":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def _evict_entries(db: sqlite3.Connection, count: int = 0, size: int = 0) -> None:
    """Evicts entries until so many more, of `size` bytes, are inside the bounds."""
    max_entries, max_bytes = db.execute("SELECT max_entries, max_bytes FROM shared").fetchone()
    if size > max_bytes:
        what = f"a thought of {size} bytes does not fit a memory of {max_bytes} bytes"
        raise InputError(f"{what}; open it with a higher bound")
    held, total = db.execute("SELECT count(*), coalesce(sum(bytes), 0) FROM entry").fetchone()
    while held + count > max_entries or total + size > max_bytes:
        least = db.execute(LEAST_ENTRY, {"most": math.inf}).fetchone()
        if least is None:
            has_many = held + count > max_entries
            full = f"{held} of {max_entries} entries" if has_many else f"{total} of {max_bytes} bytes"
            todo = "forget one of them, or open it with a higher bound"
            raise InputError(f"the memory is full: its pinned entries alone hold {full}; {todo}")
        db.execute("DELETE FROM entry WHERE id = ?", least[:1])
        held, total = held - 1, total - least[1]


def _evict_values(db: sqlite3.Connection, new_id: int | None = None) -> None:
    """Makes room for a batch of values, a 64th of all: it would take long to count them for each new one."""
    [(most,)] = db.execute("SELECT max_valued FROM shared")
    batch = most // 64 + 1
    if new_id is None or new_id % batch == 0:
        db.execute(EVICT_VALUES, (most - batch + 1,))


def state_key(state: Hashable) -> str:
    """A state as JSON: equal states have equal texts, and others others.

    A state is made of numbers, texts, None, tuples and frozen sets. Raises `InputError` for anything else.
    """
    return json.dumps(_to_json(state), separators=(",", ":"))


def _to_json(state: Any) -> Any:
    if state is None or isinstance(state, str):
        return state
    if isinstance(state, tuple):
        return [_to_json(part) for part in state]
    if isinstance(state, frozenset):
        return {"set": sorted((_to_json(part) for part in state), key=json.dumps)}
    if isinstance(state, numbers.Integral):
        return int(state)  # True is 1
    if isinstance(state, Fraction | float) and math.isfinite(state):
        exact = Fraction(state)  # 0.5 is 1/2, and 2.0 is 2
        return exact.numerator if exact.denominator == 1 else {"ratio": [exact.numerator, exact.denominator]}
    wanted = "a state is made of finite numbers, texts, None, tuples and frozensets"
    raise InputError(f"{state!r} ({type(state).__name__}) cannot be remembered; {wanted}")


def _value_key(identity: str, task: str, state: Hashable) -> dict[str, Any]:
    names = {"identity": _check_text("identity", identity), "task": _check_text("task", task)}
    return {**names, "state": state_key(state)}


def _check_text(name: str, text: str) -> str:
    if not isinstance(text, str) or not text.strip():
        raise InputError(f"the {name} is {text!r}; it must be a text that is not empty")
    _count_bytes(name, text)
    return text


def _count_bytes(name: str, text: str | None) -> int:
    """How long a text is in UTF-8."""
    try:
        return 0 if text is None else len(text.encode())
    except (AttributeError, UnicodeEncodeError):
        raise InputError(f"the {name} {text!r} is no text, or has half of a surrogate pair: nothing to keep") from None
