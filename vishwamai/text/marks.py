"""Strings whose characters themselves say how far they are trusted, whatever a template does with them.

Before a chat is rendered, each character of the people's text is replaced by a private character of its own (planes 15
and 16 of Unicode), one per trust; the template's text keeps its characters. Cutting, joining, repeating or dropping
cannot wash the mark off, and no one can forge the template's trust. `Marked` answers a template's questions (`in`,
`startswith`, `==`, `split`) as the text it stands for would, so a template branches as it always does. A string that
lost the class still has its marks: the worst case is a question answered wrongly, never a control token.

A private character in a template's own text is read as a mark, so it can lose trust and gain none.
White space, quotes, backslashes and control characters keep their selves, for `trim` and JSON: no control token is
made of them alone. It knows no Jinja, no tokenizer and no messages.
"""

import functools
import re
from collections.abc import Callable, Iterable, Iterator
from typing import Any, SupportsIndex

from vishwamai.errors import InputError

USER, AUTHOR, TEMPLATE = 0, 1, 2
FIRST_PRIVATE = 0xF0000
_ANY_PRIVATE = re.compile(f"[{chr(FIRST_PRIVATE)}-\U0010fffd]")
_PRIVATE = (*range(FIRST_PRIVATE, 0xFFFFE), *range(0x100000, 0x10FFFE))


class Marks:
    """One render's table of marks: private character <-> (character, trust)."""

    def __init__(self) -> None:
        self._marks: tuple[dict[int, int], dict[int, int]] = ({}, {})
        self._plain: dict[int, int] = {}
        self._trust: dict[str, int] = {}

    def mark(self, text: str, trust: int = USER) -> "Marked":
        """The text with each character marked with `trust` (USER or AUTHOR)."""
        table = self._marks[trust]
        for character in set(text):
            if ord(character) not in table and not _kept(character):
                self._allot(table, character, trust)
        return Marked(text.translate(table), self)

    def plain(self, text: str) -> str:
        """The text that a marked one stands for."""
        return str(text).translate(self._plain)

    def trust(self, text: str) -> list[int]:
        """The trust of each character of a marked text."""
        return [self._trust.get(character, TEMPLATE) for character in str.__iter__(text)]

    def adopt(self, value: Any) -> Any:
        """A plain string with marks in it as `Marked` again; everything else as it is."""
        if type(value) is str and not value.isascii() and _ANY_PRIVATE.search(value):
            return Marked(value, self)
        return value

    def _allot(self, table: dict[int, int], character: str, trust: int) -> None:
        if len(self._plain) == len(_PRIVATE):
            raise InputError("the messages have too many different characters for a chat")
        private = _PRIVATE[len(self._plain)]
        table[ord(character)] = private
        self._plain[private] = ord(character)
        self._trust[chr(private)] = trust


def _kept(character: str) -> bool:
    return character.isspace() or character in '"\\' or ord(character) < 0x20 or ord(character) == 0x7F


def _asks(name: str) -> Callable[..., Any]:
    """A method of str that only asks: the plain text answers."""

    def ask(self: "Marked", *args: Any) -> Any:
        return getattr(self._text, name)(*map(self._plain_argument, args))

    return ask


def _remade(name: str) -> Callable[..., Any]:
    """A method of str that makes other characters: they are marked as the users' anew."""

    def remake(self: "Marked", *args: Any) -> "Marked":
        return self._marks.mark(getattr(self._text, name)(*args))

    return remake


class Marked(str):
    """A string of marked and plain characters that acts like the plain text; its parts are `Marked` again."""

    _marks: Marks

    def __new__(cls, text: str, marks: Marks) -> "Marked":
        made = super().__new__(cls, text)
        made._marks = marks
        return made

    @functools.cached_property
    def _text(self) -> str:
        return self._marks.plain(self)

    __eq__ = _asks("__eq__")
    __ne__ = _asks("__ne__")
    __lt__ = _asks("__lt__")
    __gt__ = _asks("__gt__")
    __le__ = _asks("__le__")
    __ge__ = _asks("__ge__")
    __contains__ = _asks("__contains__")
    startswith = _asks("startswith")
    endswith = _asks("endswith")
    find = _asks("find")
    rfind = _asks("rfind")
    index = _asks("index")
    rindex = _asks("rindex")
    count = _asks("count")
    isalnum = _asks("isalnum")
    isalpha = _asks("isalpha")
    isdigit = _asks("isdigit")
    isdecimal = _asks("isdecimal")
    isnumeric = _asks("isnumeric")
    islower = _asks("islower")
    isupper = _asks("isupper")
    isspace = _asks("isspace")
    istitle = _asks("istitle")
    lower = _remade("lower")
    upper = _remade("upper")
    title = _remade("title")
    capitalize = _remade("capitalize")
    swapcase = _remade("swapcase")
    casefold = _remade("casefold")
    __repr__ = _remade("__repr__")

    def __hash__(self) -> int:
        return hash(self._text)

    def __str__(self) -> str:
        return self

    def __format__(self, spec: str) -> str:
        return super().__format__(spec)

    def __iter__(self) -> Iterator[str]:
        return (self[index] for index in range(len(self)))

    def __getitem__(self, key: SupportsIndex | slice) -> str:
        return Marked(super().__getitem__(key), self._marks)

    def __add__(self, other: str) -> str:
        return Marked(super().__add__(other), self._marks)

    def __radd__(self, other: str) -> str:
        return Marked(str.__add__(other, self), self._marks)

    def __mul__(self, times: SupportsIndex) -> str:
        return Marked(super().__mul__(times), self._marks)

    def __rmul__(self, times: SupportsIndex) -> str:
        return self * times

    def join(self, parts: Iterable[str]) -> str:
        return Marked(super().join(parts), self._marks)

    def lstrip(self, chars: str | None = None) -> str:
        return self[len(self) - len(self._text.lstrip(self._plain_argument(chars))) :]

    def rstrip(self, chars: str | None = None) -> str:
        return self[: len(self._text.rstrip(self._plain_argument(chars)))]

    def strip(self, chars: str | None = None) -> str:
        return self.lstrip(chars).rstrip(chars)

    def removeprefix(self, prefix: str) -> str:
        return self[len(prefix) :] if self.startswith(prefix) else self

    def removesuffix(self, suffix: str) -> str:
        return self[: len(self) - len(suffix)] if suffix and self.endswith(suffix) else self

    def split(self, sep: str | None = None, maxsplit: SupportsIndex = -1) -> list[str]:
        return self._parts(self._text.split(self._plain_argument(sep), maxsplit), len(sep or ""))

    def rsplit(self, sep: str | None = None, maxsplit: SupportsIndex = -1) -> list[str]:
        return self._parts(self._text.rsplit(self._plain_argument(sep), maxsplit), len(sep or ""))

    def partition(self, sep: str) -> tuple[str, str, str]:
        head, middle, tail = self._parts(self._text.partition(self._plain_argument(sep)), 0)
        return head, middle, tail

    def rpartition(self, sep: str) -> tuple[str, str, str]:
        head, middle, tail = self._parts(self._text.rpartition(self._plain_argument(sep)), 0)
        return head, middle, tail

    def splitlines(self, keepends: bool = False) -> list[str]:
        lines = self._parts(self._text.splitlines(True), 0)
        texts = self._text.splitlines(keepends)
        return [line[: len(text)] for line, text in zip(lines, texts, strict=True)]

    def replace(self, old: str, new: str, count: SupportsIndex = -1) -> str:
        if not old:
            return Marked(super().replace(old, new, count), self._marks)
        return Marked(str.join(new, self.split(old, count)), self._marks)

    def _parts(self, texts: Iterable[str], gap: int) -> list[str]:
        """The parts of this string that these parts of the plain text are; `gap` characters lie between two."""
        parts, start = [], 0
        for text in texts:
            start = self._text.index(text, start)
            parts.append(self[start : start + len(text)])
            start += len(text) + gap
        return parts

    def _plain_argument(self, value: Any) -> Any:
        if isinstance(value, tuple):
            return tuple(map(self._plain_argument, value))
        return self._marks.plain(value) if isinstance(value, str) else value
