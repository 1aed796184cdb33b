"""Stand-ins for what people typed, by which it is found again in a rendered chat.

Control tokens have something in them that is no letter, digit, space or quote: `<|`, `[`, `/`. In the messages of a
second render each such character is a private one (Unicode's plane 15) that stands for it and for how far its author is
trusted. Whatever the template does with it (cutting, joining, replacing, another case), it stays one, so a control
token of the result whose characters are all plain was put there by the template.

What a template's own expressions look for (`'</think>' in content`) keeps its characters, unless it could be a part of
a control token; so do control tokens that the author may write. A text that is a part of one as a whole, like the name
`s` in `'<' ~ name ~ '>'`, is replaced with its letters. It knows no Jinja, no tokenizer and no messages.
"""

import functools
import re
import unicodedata
from collections.abc import Collection, Mapping

from vishwamai.errors import InputError

USER, AUTHOR, TEMPLATE = 0, 1, 2
FIRST_PRIVATE, LAST_PRIVATE = 0xF0000, 0xFFFFD


class Marks:
    """The stand-ins of one render.

    `needed` has the trust that each control token needs, `known` are the texts in the template's expressions.
    """

    def __init__(self, needed: Mapping[str, int], known: Collection[str] = ()):
        self._known = frozenset(known)
        self._forbidden = {trust: tuple(t for t, need in needed.items() if need > trust) for trust in (USER, AUTHOR)}
        kept = self._known | needed.keys()
        self._kept = {trust: _kept(frozenset(kept), tokens) for trust, tokens in self._forbidden.items()}
        self._tables: dict[tuple[int, bool], _Table] = {}
        self._plain: dict[int, int] = {}
        self._trust: dict[str, int] = {}

    def mark(self, text: str, trust: int = USER) -> str:
        """The text with stand-ins that bear `trust` (USER or AUTHOR)."""
        forbidden = self._forbidden[trust]
        is_part = text not in self._known and any(text.strip() in token for token in forbidden)
        letters = is_part or any(all(map(_is_plain, token)) for token in forbidden)
        table = self._tables.setdefault((trust, letters), _Table(self, trust, letters))
        parts = self._kept[trust].split(text)  # every other one is kept
        return "".join(part if i % 2 else part.translate(table) for i, part in enumerate(parts))

    def plain(self, text: str) -> str:
        """The text that a marked one stands for."""
        return text.translate(self._plain)

    def trust(self, text: str) -> list[int]:
        """The trust of each character of a marked text."""
        return [self._trust.get(character, TEMPLATE) for character in text]

    def stand_in(self, code: int, trust: int) -> int:
        """A new private character for one of this code."""
        private = FIRST_PRIVATE + len(self._plain)
        if private > LAST_PRIVATE:
            raise InputError("the messages have too many different signs for a chat")
        self._plain[private], self._trust[chr(private)] = code, trust
        return private


class _Table(dict[int, int]):
    """What `str.translate` puts in a character's place, found when it is first asked for."""

    def __init__(self, marks: Marks, trust: int, letters: bool):
        self._marks, self._trust, self._letters = marks, trust, letters

    def __missing__(self, code: int) -> int:
        stays = _is_space(chr(code)) or not self._letters and _is_plain(chr(code))
        self[code] = code if stays else self._marks.stand_in(code, self._trust)
        return self[code]


def _is_space(character: str) -> bool:
    """White space, and what JSON writes otherwise: it keeps its self, for `trim` and `tojson`."""
    return character.isspace() or character in '"\\\x7f' or character < " "


def _is_plain(character: str) -> bool:
    return _is_space(character) or character == "_" or unicodedata.normalize("NFKC", character).isalnum()


@functools.lru_cache(maxsize=64)
def _kept(known: frozenset[str], forbidden: tuple[str, ...]) -> re.Pattern[str]:
    """Finds the known texts with signs in them that share nothing with a forbidden token, not even an end."""
    heads = {token[:i] for token in forbidden for i in range(1, len(token))}
    tails = {token[i:] for token in forbidden for i in range(1, len(token))}
    tokens = "\0".join(forbidden)

    def is_apart(text: str) -> bool:
        cuts = range(1, len(text))
        overlaps = any(text[:i] in tails for i in cuts) or any(text[i:] in heads for i in cuts)
        return text not in tokens and not overlaps and not any(token in text for token in forbidden)

    texts = [text for text in known if not all(map(_is_plain, text)) and is_apart(text)]
    longest_first = sorted(texts, key=len, reverse=True)
    return re.compile(f"({'|'.join(map(re.escape, longest_first)) or '(?!)'})")
