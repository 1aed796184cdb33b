"""Files and folders that are whole or not there, and folders that one process works in at a time.

A process may be killed between any two instructions. A file is written beside its place and moved there when all of it
is on disk; a folder's files are written apart and moved in together. It knows no format.
"""

import os
import shutil
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

PARTIAL = ".partial"  # what is being written; whatever a killed process left of it is written over


def write_atomic(path: str | Path, chunks: Iterable) -> None:
    """Writes a file that appears under its name only once it is complete and on disk. Raises `OSError`.

    What is there and is no file, such as a pipe, is written into.
    """
    path = Path(path)
    if path.exists() and not path.is_file() and not path.is_dir():
        path.write_bytes(b"".join(chunks))
        return
    with replace_file(path) as partial, partial.open("wb") as file:
        for chunk in chunks:
            file.write(chunk)
            del chunk  # before the next is made, so that only one is held


@contextmanager
def replace_file(path: Path) -> Iterator[Path]:
    """A path to write a file to; when the block ends it is flushed to disk and moved to `path`. Raises `OSError`."""
    partial = path.with_name(f".{path.name}{PARTIAL}")
    try:
        yield partial
        with partial.open("rb") as file:
            os.fsync(file.fileno())
        os.replace(partial, path)
    except BaseException as error:
        partial.unlink(missing_ok=True)
        if isinstance(error, OSError) and error.filename == str(partial):
            raise OSError(error.errno, error.strerror, str(path)) from None
        raise


@contextmanager
def replace_files(folder: str | Path, last: str, obsolete: Sequence[str] = ()) -> Iterator[Path]:
    """A folder to write files into; when the block ends they replace those of the same names in `folder`.

    `last` is the file without which nobody takes the folder for whole: it goes first and comes last, so a process that
    is killed leaves the old files, or the new ones, or a folder without `last`. Files that match `obsolete` (patterns)
    and were not written anew go too. Raises `OSError`.
    """
    folder = Path(folder)
    staging = folder / PARTIAL
    shutil.rmtree(staging, ignore_errors=True)
    staging.mkdir(parents=True)
    try:
        yield staging
        new = sorted(
            (path.relative_to(staging) for path in staging.rglob("*") if path.is_file()), key=Path(last).__eq__
        )
        (folder / last).unlink(missing_ok=True)
        for path in {path for pattern in obsolete for path in folder.glob(pattern)} - {folder / name for name in new}:
            path.unlink()
        for name in new:
            (folder / name).parent.mkdir(exist_ok=True)
            os.replace(staging / name, folder / name)
    finally:
        shutil.rmtree(staging, ignore_errors=True)


@contextmanager
def lock_folder(folder: str | Path) -> Iterator[bool]:
    """Holds a folder: False where another process (or thread) holds it. The lock ends with its process, however."""
    from filelock import FileLock, Timeout

    lock = FileLock(Path(folder) / ".lock")
    try:
        lock.acquire(blocking=False)
    except Timeout:
        yield False
        return
    try:
        yield True
    finally:
        lock.release()
