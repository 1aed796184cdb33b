"""Texts that a command takes: an argument, standard input for `-`, or files, all of them UTF-8."""

import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

from vishwamai.errors import DataError, InputError


def read_text(argument: str) -> str:
    """A text given on the command line, or standard input for `-` (without its last line end)."""
    if argument != "-":
        return argument
    return _utf8(sys.stdin.buffer.read(), "standard input").removesuffix("\n")


def _utf8(raw: bytes, where: str) -> str:
    try:
        return raw.decode("utf-8")
    except UnicodeDecodeError as error:
        raise InputError(f"{where} is not UTF-8 (byte {error.start} is 0x{raw[error.start]:02x})") from None


def file_texts(names: Sequence[str]) -> Iterator[str]:
    """The lines of these files, line ends included."""
    for name in names:
        try:
            raw = sys.stdin.buffer.read() if name == "-" else Path(name).read_bytes()
        except OSError as error:
            raise DataError(f"{name}: cannot be read ({error.strerror}); check the path") from None
        yield from _utf8(raw, "standard input" if name == "-" else name).splitlines(keepends=True)
