"""A source's rows, tokenised once and kept on disk, as a data source for Grain: rows by number, read one at a time.

What is kept lies in a folder whose name is made of all that its content depends on: the files, the tokenizer, how rows
are read. It is written apart, by several processes where there is much, and moved to its name when it is whole; parts
that a killed process has finished are not done again. Every row has a checksum. It knows no order and no batches.
"""

import hashlib
import json
import os
import pickle
import shutil
import subprocess
import sys
import threading
import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from vishwamai.data.readers import BLOCK, PART_BYTES, Part, Record
from vishwamai.data.tokenise import INDEX, RUN, TOLD, Job, tokenise_part, unpack_row
from vishwamai.errors import DataError
from vishwamai.files import replace_file, write_atomic
from vishwamai.progress import Report

FORMAT = 1
META, INDEX_FILE = "meta.json", "index.npy"
COUNTS = ("rows", "tokens", "targets", "skipped", "nothing")
TRIES = 3  # of a part whose process is killed

Given = Sequence[Any] | None  # records in memory, in place of files


class TokenisedRows:
    """The rows in a finished folder: `rows[i]` is (tokens, weights); `lengths[i]`, how many tokens it has.

    `facts` counts rows, tokens, targets, and rows that were skipped or have nothing to predict; `problems` tells of the
    first that were skipped. Raises `DataError` where a row is not what was written.
    """

    def __init__(self, folder: Path):
        meta = json.loads((folder / META).read_text(encoding="utf-8"))
        self.folder, self.facts, self.problems = folder, meta["facts"], meta["problems"]
        self._dtype, self._ends = np.dtype(meta["dtype"]), np.cumsum(meta["rows"])
        self._index = np.load(folder / INDEX_FILE, mmap_mode="r") if self.facts["rows"] else np.empty(0, INDEX)
        if digest_file(folder / INDEX_FILE) != meta["crc"] or len(self._index) != self.facts["rows"]:
            raise ValueError("the index is not what was written")
        self.lengths = self._index["tokens"]

    def __len__(self) -> int:
        return len(self._index)

    def __getitem__(self, i: int) -> tuple[np.ndarray, np.ndarray]:
        start, n_tokens, n_runs, crc, _ = self._index[i].tolist()
        part = int(np.searchsorted(self._ends, i, side="right"))
        try:
            with open(self.folder / f"{part:05}.rows", "rb", buffering=0) as file:
                file.seek(start)
                data = file.read(n_runs * RUN.itemsize + n_tokens * self._dtype.itemsize)
        except OSError as e:
            raise DataError(f"cannot read {e.filename}: {e.strerror}; the rows there are made anew at a start") from e
        if zlib.crc32(data) != crc:
            raise DataError(f"{self.folder}: row {i} is not what was written; remove the folder, and it is made anew")
        return unpack_row(data, n_runs, self._dtype)

    def find_split(self, held_out: float) -> tuple[np.ndarray, np.ndarray]:
        """(numbers of the rows to train on, of those held out): equal rows are always on the same side."""
        is_out = self._index["text"] < held_out * 2**32
        return np.flatnonzero(~is_out), np.flatnonzero(is_out)


def digest_file(path: Path) -> int:
    """The CRC-32 of a file. Raises `OSError`."""
    crc = 0
    with path.open("rb") as file:
        while block := file.read(BLOCK):
            crc = zlib.crc32(block, crc)
    return crc


def digest_known_file(path: Path, cache: Path) -> int:
    """The CRC-32 of a file, noted in `cache` so that it is not read again until its size or time is another.

    Raises `DataError`.
    """
    try:
        stat, name = path.stat(), hashlib.sha256(str(path.absolute()).encode()).hexdigest()[:32]
        seen, note = [stat.st_size, stat.st_mtime_ns], cache / "digests" / f"{name}.json"
        try:
            if (noted := json.loads(note.read_text(encoding="utf-8")))["seen"] == seen:
                return noted["crc"]
        except (OSError, ValueError, KeyError, TypeError):
            pass
        crc = digest_file(path)
    except OSError as e:
        raise DataError(f"cannot read {path}: {e.strerror}") from e
    with _told(cache):
        note.parent.mkdir(parents=True, exist_ok=True)
        write_atomic(note, [json.dumps({"path": str(path), "seen": seen, "crc": crc}).encode()])
    return crc


def digest_records(records: Sequence[Any]) -> int:
    """A number for what records in memory hold."""
    crc = 0
    for record in records:
        crc = zlib.crc32(json.dumps(record, sort_keys=True, default=repr).encode(), crc)
    return crc


def name_folder(what: Mapping[str, Any]) -> str:
    """A name for rows, made of all that they depend on."""
    return hashlib.sha256(json.dumps([FORMAT, PART_BYTES, what], sort_keys=True).encode()).hexdigest()[:32]


def tokenise(
    job: Job, parts: Callable[[], Sequence[Part]], given: Given, folder: Path, processes: int, report: Report
) -> TokenisedRows:
    """The rows of a source, from `folder` where they are whole there, else made now. Raises `DataError`.

    One process makes them; others of this machine that want the same wait for it.
    """
    if (found := _open(folder)) is not None:
        return found
    from filelock import FileLock

    with _told(folder.parent):
        folder.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(f"{folder}.lock"):
            if (found := _open(folder)) is not None:
                return found
            _make(job._replace(folder=f"{folder}.partial"), list(parts()), given, folder, processes, report)
            return TokenisedRows(folder)


def _open(folder: Path) -> TokenisedRows | None:
    """What is whole; what is damaged counts as nothing."""
    try:
        return TokenisedRows(folder)
    except (OSError, ValueError, KeyError, TypeError):
        return None


def _make(job: Job, parts: list[Part], given: Given, folder: Path, processes: int, report: Report) -> None:
    staging = Path(job.folder)
    staging.mkdir(exist_ok=True)
    left = {number: part for number, part in enumerate(parts) if not (staging / f"{number:05}.json").exists()}
    total, done = sum(part.size for part in parts), sum(part.size for n, part in enumerate(parts) if n not in left)
    processes = min(processes, len(left), 1 + sum(part.size for part in left.values()) // PART_BYTES)
    if given is not None:
        tokenise_part(job, 0, parts[0], (Record(line, record) for line, record in enumerate(given)))
    elif processes <= 1:
        for number, part in left.items():
            tokenise_part(job, number, part)
            report(done := done + part.size, total)
    else:
        _share(job, left, processes, lambda size: report(done + size, total))
    _finish(job, staging, len(parts))
    shutil.rmtree(folder, ignore_errors=True)
    os.replace(staging, folder)


def _finish(job: Job, staging: Path, n_parts: int) -> None:
    """Joins the parts' indices, and writes what the folder holds."""
    done = [json.loads((staging / f"{n:05}.json").read_text(encoding="utf-8")) for n in range(n_parts)]
    facts = {key: sum(part[key] for part in done) for key in COUNTS}
    with replace_file(staging / INDEX_FILE) as path:
        if facts["rows"]:
            index, at = np.lib.format.open_memmap(path, "w+", INDEX, (facts["rows"],)), 0
            for n, part in enumerate(done):
                index[at : (at := at + part["rows"])] = np.load(staging / f"{n:05}.index.npy")
            index.flush()
        else:
            path.write_bytes(b"")
    meta = {
        "facts": facts,
        "rows": [part["rows"] for part in done],
        "problems": [text for part in done for text in part["problems"]][:TOLD],
        "dtype": job.dtype.str,
        "crc": digest_file(staging / INDEX_FILE),
    }
    for n in range(n_parts):
        for ending in ("index.npy", "json"):
            (staging / f"{n:05}.{ending}").unlink()
    write_atomic(staging / META, [json.dumps(meta, indent=1).encode()])


def _share(job: Job, parts: Mapping[int, Part], processes: int, report: Callable[[int], None]) -> None:
    """Has processes tokenise parts, each taking the next when it is done with one."""
    staging = Path(job.folder)
    path = staging / "job.pickle"
    with replace_file(path) as partial:
        partial.write_bytes(pickle.dumps(job))
    workers, lock, free, sizes = [], threading.Lock(), threading.local(), [0]

    def work(number: int, part: Part) -> None:
        for _ in range(TRIES):
            if getattr(free, "worker", None) is None:
                free.worker = _start(path)
                with lock:
                    workers.append(free.worker)
            if (answer := _ask(free.worker, [number, part])) is not None:
                break
            code, free.worker = free.worker.wait(), None
        else:
            raise DataError(
                f"{part.path}: a process that tokenises it ended {TRIES} times, the last with code {code}; where "
                "memory is short, set training.data.processes to 1"
            )
        _check(answer)
        with lock:
            sizes[0] += part.size
            report(sizes[0])

    try:
        with ThreadPoolExecutor(processes) as pool:
            futures = [pool.submit(work, number, part) for number, part in parts.items()]
            try:
                for future in futures:
                    future.result()
            finally:
                pool.shutdown(wait=False, cancel_futures=True)
    finally:
        for worker in workers:
            worker.kill()
            worker.communicate()
    path.unlink()


def _start(job: Path) -> subprocess.Popen:
    paths = os.pathsep.join([str(Path(__file__).parents[2]), *os.environ.get("PYTHONPATH", "").split(os.pathsep)])
    worker = subprocess.Popen(
        [sys.executable, "-m", "vishwamai.data.tokenise"],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env={**os.environ, "PYTHONPATH": paths},
    )  # fmt: skip
    worker.stdin.write(json.dumps(str(job)) + "\n")
    return worker


def _ask(worker: subprocess.Popen, task: list) -> dict[str, Any] | None:
    """A worker's answer; None where it has ended."""
    try:
        worker.stdin.write(json.dumps(task) + "\n")
        worker.stdin.flush()
        return json.loads(line) if (line := worker.stdout.readline()).endswith("\n") else None
    except OSError:
        return None


def _check(answer: dict[str, Any]) -> None:
    if "refused" in answer:
        raise DataError(answer["refused"])
    if "failed" in answer:
        raise OSError(*answer["failed"])


@contextmanager
def _told(cache: Path) -> Iterator[None]:
    """Errors of writing become a sentence."""
    try:
        yield
    except OSError as error:
        raise DataError(
            f"{cache}: rows cannot be kept there ({error.strerror or error}); make room or make it writable, or set "
            "training.data.cache to another folder"
        ) from error


def open_given(records: Iterable[Any]) -> Sequence[Any]:
    """Records in memory that can be gone through twice: a list of those that cannot."""
    return records if hasattr(records, "__len__") and hasattr(records, "__getitem__") else list(records)
