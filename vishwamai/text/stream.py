"""Text as it comes: complete characters (`Detokenizer`), up to a stop string (`StopMatcher`), trimmed (`Trimmer`).

All give, over all calls and whatever the cuts between them, what they would give for the whole at once. They know no
model and no transport.
"""

from collections.abc import Iterable, Sequence

from vishwamai.errors import InputError
from vishwamai.text.tokenizer import VishwamAITokenizer

REPLACEMENT = "\ufffd"
CONTEXT = 16


class Detokenizer:
    """Turns a stream of ids into text, never cutting a character: what it gave, joined, is `decode` of all the ids.

    It decodes a short window that begins where a character begins and holds tokens whose text is known already: the
    decoders of `tokenizers` treat the first token apart (they drop its space), so the new ids never come first.
    """

    def __init__(self, tokenizer: VishwamAITokenizer, skip_special_tokens: bool = True, context: Sequence[int] = ()):
        """`context`: the ids that stand before, whose text is not given again, but for a character that they begin."""
        self._tokenizer = tokenizer
        self._skip = skip_special_tokens
        self._bytes = _byte_ids(tokenizer)
        self._window: list[int] = []
        self._before = 0  # How many ids of the window were there before the latest that gave text.
        self._sent = 0  # How many characters of the window's text were given.
        self._in_run = False
        start = max(0, len(context) - CONTEXT)
        while start > 0 and context[start] in self._bytes:
            start -= 1
        self.push(context[start:])
        self._sent = len(self._decode(self._window).removesuffix(REPLACEMENT))

    def push(self, tokens: int | Iterable[int]) -> str:
        """The text that these ids complete, "" where they end within a character."""
        return "".join(map(self._push, tokens)) if isinstance(tokens, Iterable) else self._push(int(tokens))

    def pending(self) -> str:
        """The whole characters of a run of byte tokens at the end, whose text is known only when the run is over."""
        text = self._decode(self._window)[self._sent :] if self._in_run else ""
        return "" if text.endswith(REPLACEMENT) else text

    def end_run(self) -> str:
        """The whole characters of a run of byte tokens that is taken to be over."""
        text = self.pending()
        self._sent += len(text)
        return text

    def finish(self) -> str:
        """What is left when no more ids come: U+FFFD for the bytes of a broken character, or nothing."""
        rest = self._decode(self._window)[self._sent :]
        self._window, self._before, self._sent, self._in_run = [], 0, 0, False
        return rest

    def _push(self, token: int) -> str:
        if self._skip and token in self._tokenizer.special_ids or self._tokenizer.id_to_token(token) is None:
            return ""
        self._window.append(int(token))
        self._in_run = token in self._bytes
        # A run of byte tokens becomes text as a whole: one wrong byte at its end turns all of it into U+FFFD.
        if self._in_run:
            return ""
        text = self._decode(self._window)
        known = text.removesuffix(REPLACEMENT)
        new = known[self._sent :]
        self._sent = max(self._sent, len(known))
        if text == known and new:
            self._advance(self._before)
        elif text != known and len(self._window) > 8:
            self._advance_past_broken(text)
        return new

    def _advance(self, start: int) -> None:
        self._window = self._window[start:]
        self._before = len(self._window)
        self._sent = len(self._decode(self._window))

    def _advance_past_broken(self, text: str) -> None:
        """Drops all but the tail of a window full of broken bytes: a character has four at most."""
        for start in range(len(self._window) - 1, len(self._window) - 5, -1):
            tail = self._decode(self._window[start:])
            if self._decode(self._window[:start]) + tail == text and tail:
                self._window, self._before = self._window[start:], 0
                self._sent -= len(text) - len(tail)
                return

    def _decode(self, ids: list[int]) -> str:
        return self._tokenizer.decode(ids, skip_special_tokens=self._skip)


class StopMatcher:
    """Looks for stop strings in text that comes in pieces, and holds back what may be the beginning of one.

    `matched` is the stop string found, or None. Of several the one that is complete first counts, the longest of those
    that end together; the stop string itself and all after it are not given out. Hidden text (that of special tokens)
    is never given out, and is seen by those stop strings alone that have some `hidden_states` text in them.
    """

    def __init__(self, stop: Sequence[str], hidden: Iterable[str] = ()):
        """Raises `InputError` where `stop` is not a list of strings with at least one character each."""
        if isinstance(stop, str) or not all(isinstance(text, str) and text for text in stop):
            raise InputError(f"stop is {stop!r:.80}; it is a list of strings, none of them empty")
        self.matched: str | None = None
        hidden = list(hidden) if stop else []
        self._stop = {text: any(part in text for part in hidden) for text in stop}  # whether it sees hidden text
        self._held = ""  # given out by nobody yet, hidden text and all
        self._shown: list[int] = []  # the places in it that are not hidden

    @property
    def sees_hidden(self) -> bool:
        """Whether a stop string has hidden text in it."""
        return any(self._stop.values())

    def completes(self, text: str) -> bool:
        """Whether a stop string has matched, or would with this text; the text is not taken."""
        return self.matched is not None or any(
            stop in self._visible_text(sees) + text for stop, sees in self._stop.items()
        )

    def push(self, text: str, hidden: bool = False) -> str:
        """The text that is certainly not part of a stop string; nothing once one has matched."""
        if self.matched is not None:
            return ""
        self._shown += [] if hidden else range(len(self._held), len(self._held) + len(text))
        self._held += text
        ends = []
        for stop, sees in self._stop.items():
            start = self._visible_text(sees).find(stop)
            if start >= 0:
                ends.append((self._place(start + len(stop) - 1, sees), -len(stop), self._place(start, sees), stop))
        if ends:
            _, _, start, self.matched = min(ends)
            given = self._release(start)
            self._release(None)
            return given
        return self._release(min((self._first_held(stop, sees) for stop, sees in self._stop.items()), default=None))

    def finish(self) -> str:
        """What was held back, when no more text comes."""
        return self._release(None)

    def _visible_text(self, sees_hidden: bool) -> str:
        return self._held if sees_hidden else "".join(self._held[place] for place in self._shown)

    def _place(self, index: int, sees_hidden: bool) -> int:
        """Where in the text held a character lies that a stop string sees at `index`."""
        return index if sees_hidden else self._shown[index]

    def _first_held(self, stop: str, sees_hidden: bool) -> int:
        """Where what may be the beginning of a stop string begins."""
        text = self._visible_text(sees_hidden)
        overlap = _overlap(text, stop)
        return self._place(len(text) - overlap, sees_hidden) if overlap else len(self._held)

    def _release(self, end: int | None) -> str:
        """The text held up to a place, or all of it, without what is hidden; it is held no longer."""
        end = len(self._held) if end is None else end
        given = "".join(self._held[place] for place in self._shown if place < end)
        self._held, self._shown = self._held[end:], [place - end for place in self._shown if place >= end]
        return given


class Trimmer:
    """Takes text in pieces and leaves white space at both ends away: what it gives, joined, is `strip` of the whole."""

    def __init__(self, leading: bool = True):
        """`leading`: whether white space at the beginning is left away too."""
        self._held = ""
        self._has_begun = not leading

    def push(self, text: str) -> str:
        """The text up to its last visible character; white space after it waits for the next one."""
        text = self._held + text
        text = text if self._has_begun else text.lstrip()
        known = text.rstrip()
        self._held, self._has_begun = text[len(known) :], self._has_begun or bool(known)
        return known


def _overlap(text: str, stop: str) -> int:
    """How many characters at the end of the text are a beginning of the stop string, and not the whole of it."""
    sizes = range(min(len(stop) - 1, len(text)), 0, -1)
    return next((size for size in sizes if text.endswith(stop[:size])), 0)


def _byte_ids(tokenizer: VishwamAITokenizer) -> frozenset[int]:
    """The ids of byte tokens (`<0xE4>`) where the tokenizer decodes them as bytes."""
    if "ByteFallback" not in repr(tokenizer.backend.decoder):
        return frozenset()
    ids = (tokenizer.token_to_id(f"<0x{byte:02X}>") for byte in range(256))
    return frozenset(index for index in ids if index is not None)
