"""The file behind a memory: entries and values in SQLite, inside their bounds, safe for threads and processes.

Every change is one short transaction: what was noted is there when the process is killed right after, and a second
process sees it. (A power cut may take the last changes with it; the file stays whole.) Without a path the same tables
stand in RAM. It knows no texts' meaning and no model.
"""

import contextlib
import math
import sqlite3
import threading
import time
import weakref
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from vishwamai.errors import DataError, InputError

PATIENCE = 30.0  # seconds that a change waits for those of other processes
OURS, VERSION = 0x7669736D, 1  # `application_id` and `user_version`: a memory, and how its tables are laid out
BOUNDS = {"entries": 10_000, "bytes": 16 << 20, "valued": 1_000_000}
COLUMNS = ("id", "text", "kind", "problem", "task", "priority", "score")

# The totals stand in a row of their own, for counting a table reads all of it. Both orders of eviction have an index.
SCHEMA = (
    """CREATE TABLE shared (one INTEGER PRIMARY KEY CHECK (one = 1), clock INTEGER NOT NULL,
       entries INTEGER NOT NULL, bytes INTEGER NOT NULL, valued INTEGER NOT NULL,
       max_entries INTEGER NOT NULL, max_bytes INTEGER NOT NULL, max_valued INTEGER NOT NULL)""",
    f"INSERT INTO shared VALUES (1, 0, 0, 0, 0, {BOUNDS['entries']}, {BOUNDS['bytes']}, {BOUNDS['valued']})",
    """CREATE TABLE entry (id INTEGER PRIMARY KEY AUTOINCREMENT, text TEXT NOT NULL, kind TEXT NOT NULL, problem TEXT,
       task TEXT, priority REAL NOT NULL, score REAL, same BLOB NOT NULL UNIQUE, bytes INTEGER NOT NULL,
       used INTEGER NOT NULL)""",
    """CREATE TABLE value (id INTEGER PRIMARY KEY, identity TEXT NOT NULL, task TEXT NOT NULL, state TEXT NOT NULL,
       mean REAL NOT NULL, visits INTEGER NOT NULL, used INTEGER NOT NULL, UNIQUE (identity, task, state))""",
    "CREATE INDEX entry_order ON entry (priority, used)",
    "CREATE INDEX value_order ON value (used)",
    """CREATE TRIGGER entry_comes AFTER INSERT ON entry BEGIN
       UPDATE shared SET entries = entries + 1, bytes = bytes + new.bytes; END""",
    """CREATE TRIGGER entry_goes AFTER DELETE ON entry BEGIN
       UPDATE shared SET entries = entries - 1, bytes = bytes - old.bytes; END""",
    "CREATE TRIGGER value_comes AFTER INSERT ON value BEGIN UPDATE shared SET valued = valued + 1; END",
    "CREATE TRIGGER value_goes AFTER DELETE ON value BEGIN UPDATE shared SET valued = valued - 1; END",
    f"PRAGMA application_id = {OURS}",
    f"PRAGMA user_version = {VERSION}",
)
LEAST_ENTRY = "SELECT id FROM entry WHERE priority < ? ORDER BY priority, used LIMIT 1"
LEAST_VALUE = "SELECT id FROM value ORDER BY used LIMIT 1"
VALUE = "identity = ? AND task = ? AND state = ?"

REFUSALS = {
    "SQLITE_CANTOPEN": "it cannot be opened or made; choose a file in a folder that can be written",
    "SQLITE_READONLY": "it cannot be written, nor perhaps its folder; allow it, or choose a folder that can be written",
    "SQLITE_BUSY": f"another process has held it for {PATIENCE:g} s; try again when that one is done",
    "SQLITE_FULL": "the disk is full; make room, and note again what was to be noted",
    "SQLITE_NOTADB": "this file is no memory and was left as it is; choose another path",
}


class Store:
    """The tables of a memory. `bounds` are at most how many "entries", "bytes" of entries and "valued" states.

    The bounds stand in the file, so None means those that it has. Raises `DataError` for a file that is damaged, not a
    memory, or out of reach; it is never written over.
    """

    def __init__(self, path: str | Path | None, bounds: dict[str, int | None]):
        self.path = None if path is None else Path(path).absolute()
        self.lock, self._closed = threading.RLock(), False
        if self.path is not None and not self.path.parent.is_dir():
            raise DataError(f"the memory {self.path}: its folder is not there; make it, or choose another path")
        with self._reasons():
            name = ":memory:" if self.path is None else str(self.path)
            self._db = sqlite3.connect(name, timeout=PATIENCE, isolation_level=None, check_same_thread=False)
        self._end = weakref.finalize(self, self._db.close)
        try:
            self._open({f"max_{name}": most for name, most in bounds.items() if most is not None})
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        """Closes the file. A second call does nothing."""
        with self.lock:
            self._closed = True
            self._end()

    def add(self, entry: dict[str, Any], same: bytes, size: int) -> int:
        """The entry's id. One with the same key that is there takes the new score and the higher priority."""
        with self._change() as db:
            now = _tick(db)
            if found := db.execute("SELECT id FROM entry WHERE same = ?", (same,)).fetchone():
                new = "priority = max(priority, ?), score = coalesce(?, score), used = ?"
                told = (entry["priority"], entry["score"], now, *found)
                db.execute(f"UPDATE entry SET {new} WHERE id = ?", told)
                return found[0]
            _make_room(db, entries=1, bytes=size)
            row = {**entry, "same": same, "bytes": size, "used": now}
            marks = ", ".join("?" * len(row))
            made = db.execute(f"INSERT INTO entry ({', '.join(row)}) VALUES ({marks})", tuple(row.values()))
            return int(made.lastrowid or 0)

    def entries(self) -> list[tuple[Any, ...]]:
        """All entries, their `COLUMNS`, the one that would be evicted last first."""
        return self._rows(f"SELECT {', '.join(COLUMNS)} FROM entry ORDER BY priority DESC, used DESC")

    def touch(self, ids: Sequence[int]) -> None:
        """These entries were used, the first of them last."""
        with self._change() as db:
            for number in reversed(ids):
                db.execute("UPDATE entry SET used = ? WHERE id = ?", (_tick(db), number))

    def promote(self, number: int, by: float) -> bool:
        """Raises an entry's priority; whether it is there."""
        with self._change() as db:
            return db.execute("UPDATE entry SET priority = priority + ? WHERE id = ?", (by, number)).rowcount > 0

    def forget(self, number: int) -> bool:
        """Takes an entry out; whether it was there."""
        with self._change() as db:
            return db.execute("DELETE FROM entry WHERE id = ?", (number,)).rowcount > 0

    def value(self, *key: str) -> float | None:
        """The mean of a state's values, which counts as a use of it; `key` is identity, task, state."""
        rows = self._rows(f"SELECT mean, id, used, clock FROM value, shared WHERE {VALUE}", *key)
        for mean, row, used, clock in rows:
            if used != clock:  # else it is the one used last
                with self._change() as db:
                    db.execute("UPDATE value SET used = ? WHERE id = ?", (_tick(db), row))
            return mean
        return None

    def note(self, key: tuple[str, str, str], value: float, visits: int) -> None:
        """Takes a state's value into its mean, as that of so many visits."""
        with self._change() as db:
            now = _tick(db)
            mean = "mean = mean + (? - mean) * ? / (visits + ?)"
            told = (value, visits, visits, visits, now, *key)
            noted = db.execute(f"UPDATE value SET {mean}, visits = visits + ?, used = ? WHERE {VALUE}", told)
            if not noted.rowcount:
                _make_room(db, valued=1)
                db.execute("INSERT INTO value VALUES (NULL, ?, ?, ?, ?, ?, ?)", (*key, value, visits, now))

    def total(self, name: str) -> int:
        """How many "entries", their "bytes", or "valued" states there are."""
        [(total,)] = self._rows(f"SELECT {name} FROM shared")
        return total

    def _open(self, bounds: dict[str, int]) -> None:
        """Looks at the file before anything is written to it, then makes the tables where it is new."""
        with self.lock, self._reasons():
            self._db.execute("BEGIN")  # one look: between two another process may make the tables
            known = self._is_known()
            self._db.execute("COMMIT")
            if known:
                if (found := self._db.execute("PRAGMA quick_check(1)").fetchone()[0]) != "ok":
                    raise DataError(self._damaged(found))
            _write_ahead(self._db)
        with self._change() as db:
            if not self._is_known():  # asked again: another process may have made them since
                for statement in SCHEMA:
                    db.execute(statement)
            for name, most in bounds.items():
                db.execute(f"UPDATE shared SET {name} = ?", (most,))
            _make_room(db)

    def _is_known(self) -> bool:
        """Whether the file has our tables; False for an empty one. Raises `DataError` for any other."""
        asked = ("PRAGMA application_id", "PRAGMA user_version", "SELECT count(*) FROM sqlite_master")
        ours, version, tables = (self._db.execute(question).fetchone()[0] for question in asked)
        if ours == OURS and version == VERSION:
            return True
        if ours == OURS:
            reads = f"its tables are of version {version}, and this VishwamAI reads {VERSION}"
            raise DataError(f"the memory {self.path}: {reads}; update VishwamAI, or choose another path")
        if ours or version or tables:
            whose = "this database is another program's and was left as it is"
            raise DataError(f"the memory {self.path}: {whose}; choose another path")
        return False

    def _rows(self, question: str, *values: Any) -> list[Any]:
        with self.lock, self._reasons():
            return self._db.execute(question, values).fetchall()

    @contextlib.contextmanager
    def _change(self) -> Iterator[sqlite3.Connection]:
        """One transaction, all of it or nothing."""
        with self.lock, self._reasons():
            try:
                self._db.execute("BEGIN IMMEDIATE")
                yield self._db
                self._db.execute("COMMIT")
            except BaseException:
                if self._db.in_transaction:
                    self._db.execute("ROLLBACK")
                raise

    @contextlib.contextmanager
    def _reasons(self) -> Iterator[None]:
        """Says in our words what SQLite could not do."""
        try:
            yield
        except sqlite3.Error as error:
            if self._closed:
                raise InputError("this memory is closed; open it again") from None
            if self.path is None or isinstance(error, sqlite3.InterfaceError | sqlite3.ProgrammingError):
                raise  # our own mistake
            name = str(getattr(error, "sqlite_errorname", "SQLITE_ERROR"))
            if name.startswith(("SQLITE_CORRUPT", "SQLITE_ERROR")):
                raise DataError(self._damaged(error)) from error
            known = (said for kind, said in REFUSALS.items() if name.startswith(kind))
            said = next(known, f"the disk gave an error ({error}); see whether its folder can be written")
            raise DataError(f"the memory {self.path}: {said}") from error

    def _damaged(self, found: object) -> str:
        first = str(found).strip().partition("\n")[0]
        keep = "move it away to begin anew, or save what can be read with `sqlite3 FILE .recover`"
        return f"the memory {self.path}: the file is damaged ({first}) and was left as it is; {keep}"


def _tick(db: sqlite3.Connection) -> int:
    """The next time of the clock that orders uses: a count, the same for all processes."""
    db.execute("UPDATE shared SET clock = clock + 1")
    return db.execute("SELECT clock FROM shared").fetchone()[0]


def _make_room(db: sqlite3.Connection, **more: int) -> None:
    """Evicts until so much more is inside the bounds. Raises `InputError` where only pinned entries are left."""
    for name in BOUNDS:
        while True:
            held, most = db.execute(f"SELECT {name}, max_{name} FROM shared").fetchone()
            if more.get(name, 0) > most:
                what = f"a thought of {more[name]} bytes" if name == "bytes" else "a thought"
                raise InputError(f"{what} does not fit a memory of {most} {name}; open it with a higher bound")
            if held + more.get(name, 0) <= most:
                break
            if name == "valued":
                gone = db.execute(f"DELETE FROM value WHERE id = ({LEAST_VALUE})")
            else:
                gone = db.execute(f"DELETE FROM entry WHERE id = ({LEAST_ENTRY})", (math.inf,))
            if not gone.rowcount:
                pinned = f"its pinned entries alone hold {held} of {most} {name}"
                raise InputError(f"the memory is full: {pinned}; forget one of them, or open it with a higher bound")


def _write_ahead(db: sqlite3.Connection) -> None:
    """Lets others read while one writes. The switch is refused at once, not after the patience, while others open."""
    end = time.monotonic() + PATIENCE
    db.execute("PRAGMA synchronous = NORMAL")
    while True:
        try:
            db.execute("PRAGMA journal_mode = WAL")
            return
        except sqlite3.OperationalError as error:
            if not str(error.sqlite_errorname).startswith("SQLITE_BUSY") or time.monotonic() > end:
                raise
        time.sleep(0.01)
