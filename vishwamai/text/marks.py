"""Which characters of a rendered chat people typed, whatever its template did with them.

A chat is rendered twice. The first text is the prompt. In the second render each character that people typed has a
stand-in, a private character (Unicode's plane 15) that says how far its author is trusted; and each operation of the
template is told what it gave before. A number is given again; so is a text, in the stand-ins of the second render if
those stand for it, else in nothing but stand-ins. So the two texts are as long, and a character of the prompt is the
template's own where the second text has no stand-in.

White space, quotes and backslashes stay, for `trim` and JSON: no control token is made of them alone. So do the names
in the template that are no word of a control token, for keys, and in an author's text the tokens that he may write. It
knows no Jinja and no tokenizer.
"""

import re
from collections import deque
from collections.abc import Callable, Collection, Mapping
from itertools import chain, repeat
from typing import Any

from vishwamai.errors import InputError, VishwamAIError
from vishwamai.text.messages import change_texts

USER, AUTHOR, TEMPLATE = 0, 1, 2
FIRST, LAST = 0xF0000, 0xFFFFD


class Marks:
    """The stand-ins of one chat, and what its first render found.

    `needed` has the trust that each control token needs, `known` are the texts in the template. What an operation makes
    of one author's texts, and its stand-ins do not say, is nobody's, or that author's where `inherits`.
    """

    def __init__(self, needed: Mapping[str, int], known: Collection[str] = (), *, inherits: bool = False):
        self._inherits = inherits
        tokens, words = list(filter(str.isidentifier, needed)), {*re.findall(r"\w+", " ".join(needed))}
        self._names = {*filter(str.isidentifier, known)} - words
        self._names -= {name for name in self._names if any(token in name for token in tokens)}
        kept = "|".join(re.escape(token) for token, need in needed.items() if need == AUTHOR)
        self._kept = re.compile(f"({kept or '(?!)'})")
        self._tables: dict[int, dict[int, int]] = {}
        self._plain: dict[int, int] = {}
        self._owners: dict[int, int] = {}
        self._found: deque[Any] = deque()
        self._twins: dict[tuple[int, int], tuple[Any, Any, Any]] = {}  # with both values, so that their ids count

    def mark(self, text: str, trust: int = USER) -> str:
        """The text with stand-ins that bear `trust`: USER or AUTHOR, or another number that says whose they are."""
        if text in self._names:
            return text
        table = self._tables.setdefault(trust, {})
        table |= {ord(c): self._stand_in(c, trust) for c in sorted(set(text)) if ord(c) not in table}
        parts = self._kept.split(text) if trust == AUTHOR else [text]  # every other one is a token
        return "".join(part if i % 2 else part.translate(table) for i, part in enumerate(parts))

    def plain(self, text: str) -> str:
        """The text that a marked one stands for."""
        return text.translate(self._plain)

    def trust(self, text: str, template: int = TEMPLATE) -> list[int]:
        """The trust of each character of a marked text, `template` for the template's own."""
        return [self._owners.get(code, USER if FIRST <= code <= LAST else template) for code in map(ord, text)]

    def run_first(self, operation: Callable[[], Any]) -> Any:
        """What an operation of the first render gives."""
        self._found.append(operation())
        return self._found[-1]

    def run_again(self, operation: Callable[[], Any]) -> Any:
        """What the same operation of the second render gives."""
        try:
            seen = operation()
        except VishwamAIError:
            raise
        except Exception:  # Like `index`, which finds no sign where its stand-in is.
            seen = None
        return self._twin(self._found.popleft() if self._found else None, seen)

    def _stand_in(self, character: str, trust: int) -> int:
        """What stands for a character: itself, or a new private one."""
        if character.isspace() or character < " " or character in '"\\':
            return ord(character)
        private = FIRST + len(self._plain)
        if private > LAST:
            raise InputError("the messages have too many different characters for a chat")
        self._plain[private], self._owners[private] = ord(character), trust
        return private

    def _twin(self, true: Any, seen: Any) -> Any:
        """The value of the first render, in stand-ins: those of `seen`, as far as that stands for it."""
        key = id(true), id(seen)
        if key not in self._twins:
            self._twins[key] = true, seen, self._make_twin(true, seen)
        return self._twins[key][2]

    def _author(self, seen: Any) -> int:
        """Whose all the texts of a value are, or USER."""
        found: set[int] = set()
        change_texts(seen, lambda text: found.update(self._owners.get(ord(c), USER) for c in text) or text)
        found -= {USER}
        return found.pop() if len(found) == 1 else USER

    def _make_twin(self, true: Any, seen: Any) -> Any:
        if isinstance(true, str):
            is_same = isinstance(seen, str) and self.plain(seen) == true
            return seen if is_same else self.mark(true, self._author(seen) if self._inherits else USER)
        if isinstance(true, dict):
            return dict(self._twin([*true.items()], [*seen.items()] if isinstance(seen, dict) else None))
        if isinstance(true, list | tuple):
            rest = repeat(seen if self._inherits else None)
            items = map(self._twin, true, chain(seen if isinstance(seen, list | tuple) else (), rest))
            twin = tuple(items) if isinstance(true, tuple) else [*items]
            return seen if twin == seen else twin
        return true if isinstance(true, bool | int | float | None) else seen
