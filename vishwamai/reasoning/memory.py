"""What a reasoner keeps between searches and runs: values of states, and thoughts to recall by likeness.

A value belongs to a model's weights (`Model.identity`), a task and a state, and is given for these three alone.
Thoughts are texts with a priority; what is full forgets the lowest priority first, and among equals the one not used
for the longest. In RAM, or in a file that several processes may use. It knows no search.
"""

import dataclasses
import hashlib
import json
import math
import numbers
from collections.abc import Callable, Hashable
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np

from vishwamai.checks import check_whole
from vishwamai.errors import InputError
from vishwamai.reasoning.likeness import Embed, Likeness
from vishwamai.reasoning.store import COLUMNS, Store


@dataclasses.dataclass(frozen=True, kw_only=True)
class Entry:
    """A thought that is remembered; `similarity`, -1 to 1, is to what was asked for, and None where nothing was."""

    id: int
    text: str
    kind: str = "thought"
    problem: str | None = None
    task: str | None = None
    priority: float = 0.0
    score: float | None = None
    similarity: float | None = None


MOST = (1 << 62) - 1  # whole numbers that the file can hold
Words = Callable[[Entry], tuple[str, ...]]


class ThoughtMemory:
    """A memory in RAM, or in the file `path`, which is made where there is none.

    Bounds: `max_entries` thoughts, `max_bytes` of their texts and problems in UTF-8, `max_values` states. They stand in
    the file; None is what it has, and for a new one 10 000, 16 MiB and a million. `embed` gives the vectors that texts
    are compared by, [texts, width]; without it they are compared by their words. Raises `DataError` for a file that is
    damaged, not a memory, or out of reach. A memory may be used from several threads.
    """

    def __init__(
        self,
        path: str | Path | None = None,
        *,
        max_entries: int | None = None,
        max_bytes: int | None = None,
        max_values: int | None = None,
        embed: Embed | None = None,
    ):
        bounds = {
            "entries": check_whole("max_entries", max_entries, 1, MOST, optional=True),
            "bytes": check_whole("max_bytes", max_bytes, 1, MOST, optional=True),
            "valued": check_whole("max_values", max_values, 1, MOST, optional=True),
        }
        self._likeness = Likeness(embed)
        self._store = Store(path, bounds)

    def value(self, identity: str, task: str, state: Hashable) -> float | None:
        """The mean of the values noted for a state with these weights in this task (name and version), or None."""
        return self._store.value(*_key(identity, task, state))

    def note_value(self, identity: str, task: str, state: Hashable, value: float, visits: int = 1) -> None:
        """Notes what a state was found to be worth, as the mean of so many visits."""
        visits = check_whole("visits", visits, 1, MOST)
        self._store.note(_key(identity, task, state), _number("value", value), visits)

    def add(
        self,
        text: str,
        *,
        kind: str = "thought",
        problem: str | None = None,
        priority: float = 0.0,
        score: float | None = None,
        task: str | None = None,
    ) -> int:
        """Remembers a thought and returns its id; an infinite priority pins it.

        What is there already (text, kind, problem and task) keeps its id, with the new score and the higher priority.
        Others make room. Raises `InputError` where these would be pinned ones, and for an empty text.
        """
        words = {"text": _filled("text", text), "kind": _filled("kind", kind), "problem": problem, "task": task}
        sizes = {name: _bytes(name, word) for name, word in words.items()}
        same = hashlib.blake2b(json.dumps(list(words.values())).encode(), digest_size=16).digest()
        figures = {
            "priority": _priority("priority", priority),
            "score": None if score is None else _number("score", score),
        }
        return self._store.add({**words, **figures}, same, sizes["text"] + sizes["problem"])

    def recall(self, text: str, n: int = 3, *, task: str | None = None, kind: str | None = None) -> list[Entry]:
        """The `n` thoughts most like a text, the likest first; of equals the higher priority, then the later one.

        Only those of a task and a kind, where these are named. To be recalled is to be used.
        """
        n = check_whole("n", n, 0)
        with self._store.lock:
            likest = self._ranked(_filled("text", text), lambda e: (e.text,), task, kind)[:n]
            self._used([entry for entry, _ in likest])
        return [dataclasses.replace(entry, similarity=similarity) for entry, similarity in likest]

    def context(self, problem: str, max_chars: int, *, task: str | None = None, kind: str | None = None) -> str:
        """Thoughts for a prompt, one after another on lines of their own, in at most `max_chars` characters.

        Pinned ones first, then the likest to the problem, by their own words or by those of their problem; one that is
        not alike stands there for a priority above 0 only. What does not fit is left out whole.
        """
        max_chars = check_whole("max_chars", max_chars, 0)
        with self._store.lock:
            ranked = self._ranked(_filled("problem", problem), lambda e: (e.text, e.problem or e.text), task, kind)
            chosen: dict[str, Entry] = {}
            left = max_chars
            for entry, similarity in sorted(ranked, key=lambda pair: pair[0].priority != math.inf):
                cost = len(entry.text) + (1 if chosen else 0)
                if (entry.priority > 0 or similarity > 0) and cost <= left and entry.text not in chosen:
                    chosen[entry.text] = entry
                    left -= cost
            self._used(list(chosen.values()))
        return "\n".join(chosen)

    def promote(self, id: int, by: float) -> None:
        """Raises an entry's priority, or lowers it; infinity pins it. Raises `InputError` for an entry not there."""
        if not (_is_id(id) and self._store.promote(id, _priority("by", by))):
            raise InputError(f"the memory has no entry {id!r}; it may have been evicted")

    def forget(self, id: int) -> None:
        """Takes an entry out, a pinned one too. Raises `InputError` for an entry not there."""
        if not (_is_id(id) and self._store.forget(id)):
            raise InputError(f"the memory has no entry {id!r}; it may have been evicted")

    def entries(self) -> list[Entry]:
        """All entries, the one that would be evicted last first. To be listed is not to be used."""
        return [Entry(**dict(zip(COLUMNS, row, strict=True))) for row in self._store.entries()]

    def __len__(self) -> int:
        return self._store.total("entries")

    def __bool__(self) -> bool:
        """A memory with nothing in it is a memory still."""
        return True

    def close(self) -> None:
        """Closes the file; what was in RAM is gone."""
        self._store.close()

    def __enter__(self) -> "ThoughtMemory":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _ranked(self, text: str, words: Words, task: str | None, kind: str | None) -> list[tuple[Entry, float]]:
        """Entries by their likeness to a text, and this likeness: that of the likest of each entry's `words`."""
        known = self.entries()
        entries = [e for e in known if task in (None, e.task) and kind in (None, e.kind)]
        if not entries:
            return []
        similar = self._likeness.of(text, [word for e in entries for word in words(e)])
        similar = similar.reshape(len(entries), -1).max(axis=1)
        self._likeness.keep([word for e in known for word in words(e)])
        order = np.lexsort(([-e.id for e in entries], [-e.priority for e in entries], -similar))
        return [(entries[i], float(similar[i])) for i in order]

    def _used(self, entries: list[Entry]) -> None:
        if entries:
            self._store.touch([e.id for e in entries])


def state_key(state: Hashable) -> str:
    """A state as JSON: equal states have equal texts, and others others.

    A state is made of numbers, texts, None, tuples and frozen sets. Raises `InputError` for anything else.
    """
    return json.dumps(_plain(state), separators=(",", ":"))


def _plain(state: Any) -> Any:
    if state is None or isinstance(state, str):
        return state
    if isinstance(state, tuple):
        return [_plain(part) for part in state]
    if isinstance(state, frozenset):
        return {"set": sorted((_plain(part) for part in state), key=json.dumps)}
    if isinstance(state, numbers.Integral):
        return int(state)  # True is 1
    if isinstance(state, Fraction | float) and math.isfinite(state):
        exact = Fraction(state)  # 0.5 is 1/2, and 2.0 is 2
        return exact.numerator if exact.denominator == 1 else {"ratio": [exact.numerator, exact.denominator]}
    raise InputError(
        f"{state!r} ({type(state).__name__}) cannot be remembered; a state is made of finite numbers, texts, None, "
        "tuples and frozensets"
    )


def _is_id(number: object) -> bool:
    return isinstance(number, int) and 0 < number <= MOST


def _key(identity: str, task: str, state: Hashable) -> tuple[str, str, str]:
    return _filled("identity", identity), _filled("task", task), state_key(state)


def _filled(name: str, text: str) -> str:
    if not isinstance(text, str) or not text.strip():
        raise InputError(f"the {name} is {text!r}; it must be a text that is not empty")
    _bytes(name, text)
    return text


def _bytes(name: str, text: str | None) -> int:
    """How long a text is in UTF-8."""
    if text is None:
        return 0
    try:
        return len(text.encode())
    except (AttributeError, UnicodeEncodeError):
        raise InputError(f"the {name} {text!r} is no text, or has half of a surrogate pair: nothing to keep") from None


def _number(name: str, value: float) -> float:
    if not isinstance(value, numbers.Real) or not math.isfinite(value):
        raise InputError(f"{name} is {value!r}; it must be a finite number")
    return float(value)


def _priority(name: str, value: float) -> float:
    if not isinstance(value, numbers.Real) or not value > -math.inf:
        raise InputError(f"{name} is {value!r}; it must be a number, or infinity for what is to stay")
    return float(value)
