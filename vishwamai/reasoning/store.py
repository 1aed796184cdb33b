"""The file behind a memory: a database of SQLite, safe for threads and processes, or in RAM where there is no path.

Every change is one short transaction: what was noted is there when the process is killed right after, and a second
process sees it. (A power cut may take the last changes with it; the file stays whole.) It knows no table.
"""

import contextlib
import sqlite3
import threading
import time
import weakref
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from vishwamai.errors import DataError, InputError

BUSY_TIMEOUT = 30.0  # seconds that a change waits for those of other processes
APPLICATION_ID, VERSION = 0x7669736D, 1  # SQLite's `application_id` and `user_version`: a memory, and its tables
PROBLEMS = {
    "SQLITE_CANTOPEN": "it cannot be opened or made; choose a file in a folder that can be written",
    "SQLITE_READONLY": "it cannot be written, nor perhaps its folder; allow it, or choose a folder that can be written",
    "SQLITE_BUSY": f"another process has held it for {BUSY_TIMEOUT:g} s; try again when that one is done",
    "SQLITE_FULL": "the disk is full; make room, and note again what was to be noted",
    "SQLITE_NOTADB": "this file is no memory and was left as it is; choose another path",
}


class Store:
    """A database with the tables of `schema`, made where there are none. `prepare` is the first change after that.

    Raises `DataError` for a file that is damaged, not a memory, or out of reach; it is never written over.
    """

    def __init__(self, path: str | Path | None, schema: Sequence[str], prepare: Callable[[sqlite3.Connection], None]):
        self._path, self.lock = None if path is None else Path(path).absolute(), threading.RLock()
        if self._path is not None and not self._path.parent.is_dir():
            raise self._error("its folder is not there; make it, or choose another path")
        how: dict[str, Any] = {"timeout": BUSY_TIMEOUT, "isolation_level": None, "check_same_thread": False}
        with self._errors():
            self._db = sqlite3.connect(self._path or ":memory:", **how)
        self._finalizer = weakref.finalize(self, self._db.close)
        try:
            with self._errors():
                if self._has_tables() and (found := self._db.execute("PRAGMA quick_check(1)").fetchone()[0]) != "ok":
                    raise self._damage(found)
                self._write_ahead()
            with self.transaction() as db:
                if not self._has_tables():  # another process may have made them since
                    marks = f"PRAGMA application_id = {APPLICATION_ID}", f"PRAGMA user_version = {VERSION}"
                    for statement in (*schema, *marks):
                        db.execute(statement)
                prepare(db)
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        """Closes the file. A second call does nothing."""
        with self.lock:
            self._finalizer()

    def rows(self, query: str, values: Sequence[Any] | dict[str, Any] = ()) -> list[Any]:
        """What a query finds."""
        with self.lock, self._errors():
            return self._db.execute(query, values).fetchall()

    @contextlib.contextmanager
    def transaction(self) -> Iterator[sqlite3.Connection]:
        """A change: all of it or nothing."""
        with self.lock, self._errors():
            self._db.execute("BEGIN IMMEDIATE")
            with self._db:
                yield self._db

    def _has_tables(self) -> bool:
        """Whether the file has our tables; False for an empty one. Raises `DataError` for any other."""
        query = "SELECT *, (SELECT count(*) FROM sqlite_master) FROM pragma_application_id, pragma_user_version"
        application, version, tables = self._db.execute(query).fetchone()
        if application == APPLICATION_ID and version != VERSION:
            reads = f"its tables are of version {version}, and this VishwamAI reads {VERSION}"
            raise self._error(f"{reads}; update VishwamAI, or choose another path")
        if application != APPLICATION_ID and (application or version or tables):
            raise self._error("this database is another program's and was left as it is; choose another path")
        return application == APPLICATION_ID

    def _write_ahead(self) -> None:
        """Lets others read while one writes; tried again, for it is refused at once while others open the file."""
        end = time.monotonic() + BUSY_TIMEOUT
        self._db.execute("PRAGMA synchronous = NORMAL")
        while True:
            try:
                self._db.execute("PRAGMA journal_mode = WAL")
                return
            except sqlite3.OperationalError as error:
                if not error.sqlite_errorname.startswith("SQLITE_BUSY") or time.monotonic() > end:
                    raise
            time.sleep(0.01)

    @contextlib.contextmanager
    def _errors(self) -> Iterator[None]:
        """Says in our words what SQLite could not do."""
        try:
            yield
        except sqlite3.Error as error:
            if isinstance(error, sqlite3.ProgrammingError) and "closed" in str(error):
                raise InputError("this memory is closed; open it again") from None
            if self._path is None or isinstance(error, sqlite3.InterfaceError | sqlite3.ProgrammingError):
                raise  # our own mistake
            name = str(getattr(error, "sqlite_errorname", "SQLITE_ERROR"))
            if name.startswith(("SQLITE_CORRUPT", "SQLITE_ERROR")):
                raise self._damage(error) from error
            other = f"the disk gave an error ({error}); see whether its folder can be written"
            raise self._error(
                next((text for kind, text in PROBLEMS.items() if name.startswith(kind)), other)
            ) from error

    def _damage(self, found: object) -> DataError:
        first = str(found).strip().partition("\n")[0]
        todo = "move it away to begin anew, or save what can be read with `sqlite3 FILE .recover`"
        return self._error(f"the file is damaged ({first}) and was left as it is; {todo}")

    def _error(self, what: str) -> DataError:
        return DataError(f"the memory {self._path}: {what}")
