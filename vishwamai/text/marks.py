"""Stand-ins for what people typed, by which it is found again in a rendered chat.

Control tokens have something in them that is no letter, digit, space or quote: `<|`, `[`, `/`. In the messages of a
second render each such character is a private one (Unicode's plane 15) that stands for it and for how far its author is
trusted. Whatever the template does with it (cutting, joining, replacing, another case), it stays one, so a control
token of the result whose characters are all plain was put there by the template. That a template asks about a text
and not about its stand-ins is what `Answers` is for: the second render is told what the first one found.

Control tokens that an author may write keep their characters, and so does a whole text that the template's own
expressions hold, like a key. A text that is a part of a control token, like the name `s` in `'<' ~ name ~ '>'`, has
stand-ins for its letters too. It knows no Jinja, no tokenizer and no messages.
"""

import re
import unicodedata
from collections.abc import Callable, Collection, Mapping
from typing import Any

from vishwamai.errors import InputError

USER, AUTHOR, TEMPLATE = 0, 1, 2
FIRST_PRIVATE, LAST_PRIVATE = 0xF0000, 0xFFFFD
_OTHER = object()


class Marks:
    """The stand-ins of one render.

    `needed` has the trust that each control token needs, `known` are the texts in the template's expressions.
    """

    def __init__(self, needed: Mapping[str, int], known: Collection[str] = ()):
        self._known = known
        self._forbidden = {trust: [t for t, need in needed.items() if need > trust] for trust in (USER, AUTHOR)}
        self._allowed = {
            trust: re.compile(f"({'|'.join(re.escape(t) for t, need in needed.items() if need <= trust) or '(?!)'})")
            for trust in (USER, AUTHOR)
        }
        self._tables: dict[tuple[int, bool], dict[int, int]] = {}
        self._plain: dict[int, int] = {}
        self._trust: dict[str, int] = {}

    def mark(self, text: str, trust: int = USER) -> str:
        """The text with stand-ins that bear `trust` (USER or AUTHOR)."""
        forbidden = self._forbidden[trust]
        is_part = any(text.strip() in token for token in forbidden)
        if text in self._known and not any(token in text for token in forbidden):
            if not is_part or all(map(_is_plain, text)):
                return text
        letters = is_part or any(all(map(_is_plain, token)) for token in forbidden)
        table = self._tables.setdefault((trust, letters), {})
        table |= {ord(c): self._stand_in(c, trust, letters) for c in sorted(set(text)) if ord(c) not in table}
        parts = self._allowed[trust].split(text)  # every other one is a token
        return "".join(part if i % 2 else part.translate(table) for i, part in enumerate(parts))

    def plain(self, text: str) -> str:
        """The text that a marked one stands for."""
        return text.translate(self._plain)

    def trust(self, text: str) -> list[int]:
        """The trust of each character of a marked text."""
        return [self._trust.get(character, TEMPLATE) for character in text]

    def _stand_in(self, character: str, trust: int, letters: bool) -> int:
        """What stands for a character: itself, or a new private one."""
        if _is_space(character) or not letters and _is_plain(character):
            return ord(character)
        private = FIRST_PRIVATE + len(self._plain)
        if private > LAST_PRIVATE:
            raise InputError("the messages have too many different signs for a chat")
        self._plain[private], self._trust[chr(private)] = ord(character), trust
        return private


def _is_space(character: str) -> bool:
    """White space, and what JSON writes otherwise: it keeps its self, for `trim` and `tojson`."""
    return character.isspace() or character in '"\\\x7f' or character < " "


def _is_plain(character: str) -> bool:
    return _is_space(character) or character == "_" or unicodedata.normalize("NFKC", character).isalnum()


class Answers:
    """What a render found out by asking, for a second one of the same template to be told the same.

    Only numbers, truth and nothing are told; what else comes of a question has characters of its own.
    """

    def __init__(self):
        self._found: list[tuple[str, Any, int]] = []  # the question, its answer, how many were asked by its end
        self._place: int | None = None  # in the second render

    def again(self) -> "Answers":
        """The same, to be told."""
        told = Answers()
        told._found, told._place = self._found, 0
        return told

    def ask(self, question: str, find: Callable[[], Any]) -> Any:
        """What `find` gives, or what the same question gave before."""
        if self._place is None:
            index = len(self._found)
            self._found.append((question, _OTHER, 0))
            answer = find()
            told = answer if isinstance(answer, bool | int | float | None) else _OTHER
            self._found[index] = question, told, len(self._found)
            return answer
        asked, answer, after = self._found[self._place] if self._place < len(self._found) else ("", _OTHER, 0)
        if asked != question:  # The renders went different ways.
            self._place = len(self._found)
            return find()
        self._place = self._place + 1 if answer is _OTHER else after
        return find() if answer is _OTHER else answer
