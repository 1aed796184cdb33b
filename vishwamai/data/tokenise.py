"""Rows of a part of a source, tokenised into two files; and the process that does so for one that asks it to.

`rows` holds the rows one after the other: of each its runs of weights (a length and a weight), then its tokens.
`index` says of each where it begins, how many tokens and runs it has, the checksum of its bytes, and that of its text,
which decides whether it is held out. Nothing of JAX is imported here, for as many processes as there are cores do this.
"""

import json
import pickle
import sys
import zlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import numpy as np

from vishwamai.data.forms import AnyRow, RowFormat
from vishwamai.data.packing import Sample
from vishwamai.data.readers import Part, Record, find_first_line, read_part
from vishwamai.data.records import read_row
from vishwamai.data.rows import PairRow, encode_row
from vishwamai.errors import DataError
from vishwamai.files import replace_file, write_atomic

INDEX = np.dtype([("start", "<u8"), ("tokens", "<u4"), ("runs", "<u4"), ("crc", "<u4"), ("text", "<u4")])
RUN = np.dtype([("length", "<u4"), ("weight", "<f4")])
T = TypeVar("T")
TOLD = 10  # rows that break, by file and line


class Job(NamedTuple):
    """What is done with each part of a source: `kind` and `form` as of a `Source`."""

    tokenizer: Any
    kind: str
    form: RowFormat
    skip: bool  # rows that break
    folder: str  # where the files of parts go

    @property
    def dtype(self) -> np.dtype:
        """Of tokens on disk."""
        return np.dtype("<u2" if len(self.tokenizer) <= 2**16 else "<u4")


def read_rows(
    kind: str,
    part: Part,
    columns: tuple[str, ...],
    records: Iterable[Record] | None,
    make: Callable[[Any, str, int], T],
) -> Iterator[T | DataError]:
    """What `make` makes of each record's value, file and line, of a part (or of `records`); of one that breaks, why."""
    first = 1 if records is not None or not part.start else None
    try:
        for line, value in read_part(kind, part, columns) if records is None else records:
            try:
                yield make(value, part.path, line + (first or 0))
            except DataError as error:
                if first is not None:
                    yield error
                else:  # lines before this part are counted where somebody is told of one
                    first = find_first_line(kind, part)
                    yield _error_of(make, value, part.path, first + line)
    except DataError as error:  # of the file
        yield error


def _error_of(make: Callable[[Any, str, int], Any], value: Any, path: str, line: int) -> DataError:
    try:
        make(value, path, line)
    except DataError as error:
        return error
    raise AssertionError(f"{path}: line {line}: reads otherwise the second time")


def tokenise_part(job: Job, number: int, part: Part, records: Iterable[Record] | None = None) -> dict[str, Any]:
    """Writes `number`.rows, `number`.index.npy and, when they are whole, `number`.json, which it returns.

    Raises `DataError` at the first row that breaks, unless they are skipped, and `OSError` where it cannot write.
    """
    name = Path(job.folder) / f"{number:05}"
    index, at, counts = [], 0, {"rows": 0, "tokens": 0, "targets": 0, "skipped": 0, "nothing": 0}
    problems: list[str] = []

    def make(value: Any, path: str, line: int) -> tuple[AnyRow, Sample]:
        row = read_row(job.kind, value, job.form, path, line)
        if isinstance(row, PairRow):
            raise DataError(
                f"{path}: line {line}: is a pair of which one is preferred; this run's loss takes one answer"
            )
        return row, encode_row(job.tokenizer, row)

    with replace_file(name.with_suffix(".rows")) as path, path.open("wb") as file:
        for made in read_rows(job.kind, part, job.form.columns.names, records, make):
            if isinstance(made, DataError):
                if not job.skip:
                    raise made
                counts["skipped"] += 1
                problems += [str(made)] if len(problems) < TOLD else []
                continue
            row, (tokens, weights) = made
            targets = int(np.count_nonzero(np.asarray(weights[1:], np.float32)))
            if not targets:
                counts["nothing"] += 1
                continue
            data, n_runs = pack_row(tokens, weights, job.dtype)
            file.write(data)
            index.append((at, len(tokens), n_runs, zlib.crc32(data), zlib.crc32(row.text.encode())))
            at += len(data)
            for key, more in (("rows", 1), ("tokens", len(tokens)), ("targets", targets)):
                counts[key] += more
    with replace_file(name.with_suffix(".index.npy")) as path, path.open("wb") as file:
        np.save(file, np.array(index, INDEX))
    done = {**counts, "problems": problems}
    write_atomic(name.with_suffix(".json"), [json.dumps(done).encode()])
    return done


def pack_row(tokens: Sequence[int], weights: Sequence[float], dtype: np.dtype) -> tuple[bytes, int]:
    """(a row's bytes, its runs)."""
    of_each = np.asarray(weights, np.float32)
    begins = np.flatnonzero(np.diff(of_each, prepend=np.nan) != 0)
    runs = np.empty(len(begins), RUN)
    runs["length"], runs["weight"] = np.diff(begins, append=len(of_each)), of_each[begins]
    return runs.tobytes() + np.asarray(tokens, dtype).tobytes(), len(runs)


def unpack_row(data: bytes, n_runs: int, dtype: np.dtype) -> tuple[np.ndarray, np.ndarray]:
    """(tokens, their weights) of a row's bytes."""
    runs = np.frombuffer(data, RUN, n_runs)
    return np.frombuffer(data, dtype, offset=n_runs * RUN.itemsize), np.repeat(runs["weight"], runs["length"])


def main() -> None:
    """Reads the path of a job, then parts, a line each, and answers each with what became of it, to the last."""
    with open(json.loads(sys.stdin.readline()), "rb") as file:
        job = pickle.load(file)
    for line in sys.stdin:
        number, part = json.loads(line)
        try:
            found = {"done": tokenise_part(job, number, Part(*part))}
        except DataError as error:
            found = {"refused": str(error)}
        except OSError as error:
            found = {"failed": [error.errno, error.strerror]}
        print(json.dumps(found), flush=True)


if __name__ == "__main__":
    main()
