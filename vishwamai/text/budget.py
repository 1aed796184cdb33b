"""How much work a chat template may do: steps, time, and the size of what it makes.

A template comes with a model's files, so it may be hostile. Jinja's sandbox keeps it from the machine's objects, but
not from `range` in `range` in `range`, `10 ** 10 ** 8` or `"a" * 10 ** 10`: these checks run before each operation
that could be dear. It knows no Jinja.
"""

import re
import time
from collections.abc import Sized
from typing import Any

from vishwamai.errors import TokenizerError

LONG = (str, list, tuple, dict, range)
MAX_STEPS = 500_000
MAX_SECONDS = 5.0
MAX_TEXT = 16_000_000
MAX_BITS = 4096
# A width of four digits or one taken from an argument, in "%9999d" and "{:9999}" alike.
_WIDE = re.compile(r"\d{4}|%[^a-zA-Z%]*\*")
_WIDE_FIELD = re.compile(r"[:.][^{}]*\d{4}|\{[^{}]*\{")


class Budget:
    """The steps and seconds of computing (not of waiting) that one render may take.

    Each method raises `TokenizerError` when it is too much.
    """

    def __init__(self) -> None:
        self._steps = MAX_STEPS
        self._deadline = time.thread_time() + MAX_SECONDS

    def spend(self, *values: Any) -> None:
        """One step, and more for long values."""
        self._take(1 + sum(len(value) // 64 for value in values if isinstance(value, LONG)))

    def _take(self, steps: int) -> None:
        self._steps -= steps
        if self._steps < 0:
            raise TokenizerError(f"the chat template needs more than {MAX_STEPS:,} steps")
        if time.thread_time() > self._deadline:
            raise TokenizerError(f"the chat template takes longer than {MAX_SECONDS:g} seconds of computing")

    def spend_items(self, items: Any) -> Any:
        """The items of a loop, paid for before it starts."""
        if not isinstance(items, Sized):
            items = list(items)
        self._take(1 + len(items) // 8)
        return items

    def check_operation(self, operator: str, left: Any, right: Any) -> None:
        """Refuses `+ * ** %` whose result would be too large."""
        if isinstance(left, str) and operator == "%":
            _check_format(left, _WIDE)
            check_size(left.count("%") * _total(right) + len(left))
        elif operator == "+" and isinstance(left, Sized) and isinstance(right, Sized):
            check_size(len(left) + len(right))
        elif operator == "*" and (isinstance(left, Sized) or isinstance(right, Sized)):
            sized, times = (left, right) if isinstance(left, Sized) else (right, left)
            check_size(len(sized) * times if isinstance(times, int) else 0)
        elif operator in ("*", "**") and isinstance(left, int) and isinstance(right, int):
            bits = left.bit_length() * right if operator == "**" else left.bit_length() + right.bit_length()
            check_size(bits, MAX_BITS, "a number of {:,} bits")

    def check_method(self, text: str, name: str, args: tuple[Any, ...]) -> None:
        """Refuses a method of str whose result would be too large."""
        if name == "replace" and len(args) > 1:
            check_size(len(text) + (len(text) if args[0] == "" else text.count(args[0])) * len(args[1]))
        elif name == "join" and args and isinstance(args[0], Sized):
            check_size(len(text) * len(args[0]))
        elif name in ("format", "format_map"):
            _check_format(text, _WIDE_FIELD)

    def check_filter(self, name: str, values: tuple[Any, ...]) -> None:
        """Refuses a filter of these values (the filtered one first) whose result would be too large."""
        subject, *rest = values
        if name == "format":
            self.check_operation("%", str(subject), rest)
        elif name == "indent":
            width = rest[0] if rest else 4
            check_size((str(subject).count("\n") + 1) * (len(width) if isinstance(width, str) else width))
        elif name == "sum" and any(isinstance(value, (list, tuple)) for value in rest):
            raise TokenizerError("the chat template sums lists")
        elif name == "join":
            self.check_method(str(rest[0]) if rest else "", "join", (subject,))
        elif name == "replace":
            self.check_method(str(subject), "replace", tuple(map(str, rest[:2])))


def check_size(size: int, limit: int = MAX_TEXT, what: str = "{:,} characters or items") -> None:
    """Raises `TokenizerError` where a value is over its limit."""
    if size > limit:
        raise TokenizerError(f"the chat template makes {what.format(size)}; {limit:,} are allowed")


def _check_format(text: str, wide: re.Pattern[str]) -> None:
    if wide.search(text):
        raise TokenizerError("the chat template formats with a width of four digits or more, or a computed one")


def _total(values: Any) -> int:
    if isinstance(values, dict):
        values = list(values.values())
    items = values if isinstance(values, (list, tuple)) else [values]
    return sum(len(item) if isinstance(item, Sized) else 32 for item in items)
