"""Texts that a command takes: an argument, standard input for `-`, or files, all of them UTF-8."""

import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TextIO

from vishwamai.errors import DataError, InputError


def read_text(argument: str) -> str:
    """A text given on the command line, or standard input for `-` (without its last line end)."""
    if argument != "-":
        return argument
    return _utf8(standard_input().buffer.read(), "standard input").removesuffix("\n")


def standard_input() -> TextIO:
    """Standard input. Raises `InputError` where the process was started without one."""
    if sys.stdin is None:
        raise InputError("standard input is closed; give the text as an argument, or pipe it in")
    return sys.stdin


def _utf8(raw: bytes, where: str) -> str:
    """The text of these bytes, without the byte order mark that Windows puts before it."""
    try:
        return raw.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise utf8_error(where, error) from None


def check_utf8(text: str) -> str:
    """The same text. Raises `UnicodeDecodeError` where Python smuggled bytes into it, as the C locale has it do."""
    return text.encode("utf-8", "surrogateescape").decode("utf-8")


def utf8_error(where: str, error: UnicodeDecodeError) -> InputError:
    """The sentence for bytes that are no text."""
    return InputError(f"{where} is not UTF-8 (byte {error.start} is 0x{error.object[error.start]:02x})")


def read_lines(names: Sequence[str]) -> Iterator[str]:
    """The lines of these files, line ends included."""
    for name in names:
        try:
            raw = standard_input().buffer.read() if name == "-" else Path(name).read_bytes()
        except OSError as error:
            raise DataError(f"{name}: cannot be read ({error.strerror}); check the path") from None
        yield from _utf8(raw, "standard input" if name == "-" else name).splitlines(keepends=True)
