"""From what stands in a file to a row: bytes of a line or a paragraph, or a record with its columns.

What a record may hold is `data.forms`' to say; here errors get the file and the line. It knows no tokens.
"""

import dataclasses
from collections.abc import Mapping
from typing import Any

from vishwamai.config import parse_json
from vishwamai.data.forms import AnyRow, RowFormat, read_record
from vishwamai.data.readers import LONGEST_LINE
from vishwamai.data.rows import ChatRow, PairRow
from vishwamai.errors import ConfigError, DataError


def read_row(kind: str, value: Any, form: RowFormat, path: str, line: int) -> AnyRow:
    """The row of a record: of bytes of a line or paragraph, or of a mapping. Raises `DataError` with file and line."""
    where = f"{path}: {'line' if kind in ('text', 'jsonl') else 'row'} {line}"
    if kind == "text":
        value = {form.columns.text: _decode_text(value, where)}
    elif kind == "jsonl":
        try:
            value = parse_json(_decode(value, where), path, line)
        except ConfigError as e:
            raise DataError(str(e)) from None
    elif not isinstance(value, Mapping):
        raise DataError(f"{where}: is {type(value).__name__}, and a record is a mapping of columns")
    else:
        value = _leave_out_nulls(value)
    try:
        return _with_place(read_record(value, form), where)
    except DataError as e:
        raise DataError(f"{where}: {e}") from None


def _with_place(row: AnyRow, where: str) -> AnyRow:
    match row:
        case ChatRow():
            return dataclasses.replace(row, where=where)
        case PairRow(chosen, rejected):
            return PairRow(_with_place(chosen, where), _with_place(rejected, where))
    return row


def _decode(value: bytes, where: str) -> str:
    if len(value) > LONGEST_LINE:
        raise DataError(f"{where}: is over {LONGEST_LINE:,} bytes; part it into several rows")
    try:
        return value.decode("utf-8")
    except UnicodeDecodeError as e:
        raise DataError(
            f"{where}: is not UTF-8 text: byte {e.start} of it cannot be decoded; save it as UTF-8"
        ) from None


def _decode_text(value: bytes, where: str) -> str:
    text = _decode(value, where).replace("\r\n", "\n").replace("\r", "\n").strip()
    if "\0" in text:
        raise DataError(f"{where}: holds a NUL character, so this is no text in UTF-8")
    return text


def _leave_out_nulls(value: Any) -> Any:
    """Columnar files fill up with nulls what one record has and another lacks."""
    if isinstance(value, Mapping):
        return {key: _leave_out_nulls(inner) for key, inner in value.items() if inner is not None}
    return [_leave_out_nulls(inner) for inner in value] if isinstance(value, list) else value
