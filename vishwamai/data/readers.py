"""Records of files, one after the other: JSONL and text (gzip too), Parquet, and folders that `datasets` saved.

A source's files come in parts of some 32 MB that are read apart, so that several processes share a file and none is
ever held whole. It knows no rows and no tokens.
"""

import glob
import gzip
import json
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any, NamedTuple

from vishwamai.errors import DataError

PART_BYTES = 2**25
LONGEST_LINE = 2**26  # bytes; each character of a text takes up to six in JSON, and a tokenizer takes 2**23
BLOCK = 2**20
RECORDS = 1000  # of a columnar file that are made Python objects at a time
GZIP = b"\x1f\x8b"
BYTE_ORDER_MARK = b"\xef\xbb\xbf"
ENDINGS = {  # of the files that are taken from a folder
    "text": (".txt", ".txt.gz", ".md"),
    "jsonl": (".jsonl", ".jsonl.gz", ".ndjson", ".ndjson.gz"),
    "parquet": (".parquet",),
}


class Part(NamedTuple):
    """What is read in one go: bytes of a file of lines, or row groups of a Parquet file; all of any other file."""

    path: str
    start: int
    stop: int
    size: int  # bytes on disk, for signs of progress


class Record(NamedTuple):
    """What stands in a file, undecoded: bytes of a line or paragraph, or a mapping; `line` counts from the part's."""

    line: int
    value: Any


def find_files(kind: str, name: str) -> list[Path]:
    """The files of a source: one, those of a folder (of the endings of its kind), or those of a glob, in their order.

    Raises `DataError` where there is none.
    """
    path = Path(name)
    try:
        if kind == "datasets":
            return _saved_files(path)
        if path.is_dir():
            inside = (p for p in path.rglob("*") if p.name.endswith(ENDINGS[kind]) and p.is_file())
            found = sorted(p for p in inside if not any(part.startswith(".") for part in p.relative_to(path).parts))
            if not found:
                raise DataError(f"{name}: the folder holds no file that ends with {' or '.join(ENDINGS[kind])}")
            return found
        if path.exists() or not glob.has_magic(name):
            with path.open("rb"):
                return [path]
        if found := sorted(p for p in map(Path, glob.glob(name, recursive=True)) if p.is_file()):
            return found
        raise DataError(f"{name}: no file matches")
    except DataError:  # which is a ValueError
        raise
    except OSError as e:
        raise DataError(f"cannot read {name}: {e.strerror}") from e
    except ValueError:  # of a path with a NUL in it
        raise DataError(f"cannot read {name!r}: this is no file's name") from None


def _saved_files(path: Path) -> list[Path]:
    """The Arrow files of a folder that `datasets` saved, in the order that it says."""
    if (path / "dataset_dict.json").exists():
        splits = json.loads((path / "dataset_dict.json").read_text(encoding="utf-8"))["splits"]
        raise DataError(f"{path} holds the splits {', '.join(splits)}; name one of them, such as {path / splits[0]}")
    if not (path / "state.json").exists():
        raise DataError(f"{path}: is no folder that datasets saved (save_to_disk): it has no state.json")
    state = json.loads((path / "state.json").read_text(encoding="utf-8"))
    return [path / file["filename"] for file in state["_data_files"]]


def find_parts(kind: str, path: Path) -> list[Part]:
    """A file in parts that can be read apart; none of an empty file. Raises `DataError`."""
    try:
        size = path.stat().st_size
        if kind == "parquet":
            return _row_groups(path, size)
        if kind == "datasets":
            return [Part(str(path), 0, 0, size)]
        with path.open("rb") as file:
            if file.read(2) == GZIP:
                return [Part(str(path), 0, -1, size)]
            cuts = [0, *_find_cuts(file, size, kind), size]
    except OSError as e:
        raise DataError(f"cannot read {path}: {e.strerror or e}") from e
    return [Part(str(path), a, b, b - a) for a, b in zip(cuts, cuts[1:], strict=False) if b > a]


def _find_cuts(file: IO[bytes], size: int, kind: str) -> Iterator[int]:
    """Where a file can be parted: after a line, of a text after a blank one."""
    at = 0
    while (at := at + PART_BYTES) < size:
        file.seek(at)
        _read_line(file)  # the rest of one
        while kind == "text" and not _is_blank(line := _read_line(file)) and line:
            pass
        at = file.tell()
        if at < size:
            yield at


def _row_groups(path: Path, size: int) -> list[Part]:
    import pyarrow.parquet

    parts, first, held = [], 0, 0
    try:
        groups = pyarrow.parquet.read_metadata(path)
    except pyarrow.ArrowException as e:
        raise DataError(f"{path} is no whole Parquet file: {e}") from None
    for number in range(groups.num_row_groups):
        held += groups.row_group(number).total_byte_size
        if held >= PART_BYTES or number == groups.num_row_groups - 1:
            parts.append(Part(str(path), first, number + 1, size * (number + 1 - first) // groups.num_row_groups))
            first, held = number + 1, 0
    return parts


def read_part(kind: str, part: Part, columns: tuple[str, ...]) -> Iterator[Record]:
    """The records of a part; of a columnar file the `columns` that it has. Raises `DataError` where it is damaged."""
    if kind == "parquet":
        yield from _read_parquet(part, columns)
    elif kind == "datasets":
        yield from _read_arrow(part, columns)
    else:
        yield from _read_lines(part, kind)


def find_first_line(kind: str, part: Part) -> int:
    """The number of a part's first line (or row, from 1) in its file."""
    if kind == "parquet":
        import pyarrow.parquet

        groups = pyarrow.parquet.read_metadata(part.path)
        return 1 + sum(groups.row_group(number).num_rows for number in range(part.start))
    lines, left = 1, part.start
    with open(part.path, "rb") as file:
        while left > 0 and (block := file.read(min(BLOCK, left))):
            lines, left = lines + block.count(b"\n"), left - len(block)
    return lines


def _read_lines(part: Part, kind: str) -> Iterator[Record]:
    line = 0
    try:
        with gzip.open(part.path) if part.stop < 0 else open(part.path, "rb") as file:
            file.seek(part.start)
            if not part.start and file.read(3) != BYTE_ORDER_MARK:
                file.seek(0)
            ends = part.stop if part.stop >= 0 else None
            for record in (_paragraphs if kind == "text" else _lines)(file, ends):
                line = record.line
                yield record
    except OSError as e:
        raise DataError(f"{part.path}: cannot be read after line {line} of it: {e.strerror or e}") from e
    except (EOFError, zlib.error):
        raise DataError(f"{part.path}: the gzip file is cut short or damaged after line {line}; get it anew") from None


def _number_lines(file: IO[bytes], stop: int | None) -> Iterator[tuple[int, bytes]]:
    number = 0
    while (stop is None or file.tell() < stop) and (line := _read_line(file)):
        yield number, line
        number += 1


def _lines(file: IO[bytes], stop: int | None) -> Iterator[Record]:
    return (Record(number, line) for number, line in _number_lines(file, stop) if not _is_blank(line))


def _paragraphs(file: IO[bytes], stop: int | None) -> Iterator[Record]:
    held, size, first = [], 0, 0
    for number, line in _number_lines(file, stop):
        if _is_blank(line):
            if held:
                yield Record(first, b"".join(held))
            held, size = [], 0
            continue
        first = first if held else number
        if size <= LONGEST_LINE:
            held.append(line)
            size += len(line)
    if held:
        yield Record(first, b"".join(held))


def _read_line(file: IO[bytes]) -> bytes:
    """A line with its end; of one that is over `LONGEST_LINE` only so much and a byte."""
    line = file.readline(LONGEST_LINE + 1)
    if len(line) > LONGEST_LINE:
        while (more := file.readline(BLOCK)) and not more.endswith(b"\n"):
            pass
    return line


def _is_blank(line: bytes) -> bool:
    rest = line.lstrip()
    return not rest or (rest[0] >= 128 and not line[:BLOCK].decode("utf-8", "replace").strip())  # spaces of Unicode


def _read_parquet(part: Part, columns: tuple[str, ...]) -> Iterator[Record]:
    import pyarrow
    import pyarrow.parquet

    line = 0
    try:
        with pyarrow.parquet.ParquetFile(part.path, memory_map=True) as file:
            names = _present(file.schema_arrow.names, columns, part.path)
            groups = list(range(part.start, part.stop))
            for batch in file.iter_batches(batch_size=RECORDS, row_groups=groups, columns=names):
                for record in batch.to_pylist():
                    yield Record(line, record)
                    line += 1
    except (pyarrow.ArrowException, OSError) as e:
        raise DataError(f"{part.path}: is damaged after row {line} of row group {part.start}: {e}") from None


def _read_arrow(part: Part, columns: tuple[str, ...]) -> Iterator[Record]:
    import pyarrow
    import pyarrow.ipc

    line = 0
    try:
        with pyarrow.memory_map(part.path) as file:
            stream = pyarrow.ipc.open_stream(file)
            names = _present(stream.schema.names, columns, part.path)
            for batch in stream:
                for start in range(0, batch.num_rows, RECORDS):
                    for record in batch.select(names).slice(start, RECORDS).to_pylist():
                        yield Record(line, record)
                        line += 1
    except (pyarrow.ArrowException, OSError) as e:
        raise DataError(f"{part.path}: is damaged after row {line}: {e}") from None


def _present(names: list[str], columns: tuple[str, ...], path: str) -> list[str]:
    if found := [name for name in columns if name in names]:
        return found
    raise DataError(
        f"{path} has the columns {', '.join(names)} and none of {', '.join(columns)}; "
        "say in the source's rows.columns which is which"
    )
