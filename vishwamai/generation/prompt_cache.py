"""`PromptCache`: a prompt's and its reply's keys and values, kept for the next prompt that begins as they do.

It compares token ids, so whatever a template makes of a conversation, what is reused is what would be read again. It
knows no text, and reads and makes nothing.
"""

import dataclasses
import weakref
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from vishwamai.models.cache import KVCache, can_crop


@dataclasses.dataclass(frozen=True)
class CachedRow:
    """A cache of one row, with room for `size` positions, that holds these tokens."""

    cache: KVCache
    size: int
    tokens: np.ndarray


class PromptCache:
    """What a model read and made in the last call. Given to each call of a conversation, only new tokens are read.

    The longest beginning that the next prompt shares with it is kept. A model whose weights are others by then (another
    adapter, say) reads everything, as one does whose layers with a sliding window have forgotten what they need.
    `cached_tokens` are those of the last prompt that were not read again.
    """

    def __init__(self):
        self.cached_tokens = 0
        self.clear()

    def clear(self) -> None:
        """Forgets everything, and gives the memory back."""
        self._owner: Any = None
        self._settings: Mapping[str, Any] = {}
        self._row: CachedRow | None = None

    def put(self, weights: Any, settings: Mapping[str, Any], row: CachedRow) -> None:
        """Keeps what these weights read; `settings` are all else that the numbers depend on."""
        self._owner, self._settings, self._row = weakref.ref(weights), settings, row

    def take(self, weights: Any, settings: Mapping[str, Any], prompt: Sequence[int]) -> CachedRow | None:
        """What is kept, with only those tokens that the prompt begins with, and not its last one.

        It is the caller's then, who may donate it: meanwhile nothing is kept. None where there is nothing in common.
        """
        row, is_ours = self._row, self._row is not None and self._owner() is weights and self._settings == settings
        self.clear()
        self.cached_tokens = 0
        if row is None or not is_ours:
            return None
        n = _common(row.tokens, prompt[:-1])
        if n == 0 or not can_crop(row.cache, len(row.tokens), n):
            return None
        self.cached_tokens = n
        return dataclasses.replace(row, tokens=row.tokens[:n])


def _common(a: Sequence[int], b: Sequence[int]) -> int:
    """How many tokens two rows have in common at their beginnings."""
    n = min(len(a), len(b))
    differ = np.flatnonzero(np.asarray(a[:n]) != np.asarray(b[:n]))
    return int(differ[0]) if len(differ) else n
