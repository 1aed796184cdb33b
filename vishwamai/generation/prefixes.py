"""Which prefix lies in which slot of a pool, and what a prompt needs to be prefilled.

A prompt is runs of tokens, one after the other; a prefix is the first of them. Prompts share a prefix in whole runs
only. Each run is prefilled once, after its parent, together with runs of the same depth.
"""

import dataclasses
from collections import OrderedDict
from collections.abc import Callable, Iterator, Sequence

Runs = tuple[tuple[int, ...], ...]


@dataclasses.dataclass(frozen=True)
class PlannedPrefill:
    """One run to prefill: `tokens` after the first `n_cached` of slot `src`, into slot `dst`."""

    src: int
    dst: int
    n_cached: int
    tokens: tuple[int, ...]


class Prefixes:
    """The slots of a pool by the prefixes in them, the least recently used given up first."""

    def __init__(self, n_slots: int):
        self._slots: OrderedDict[Runs, int] = OrderedDict()
        self._free = list(range(n_slots))[::-1]

    def __len__(self) -> int:
        return len(self._slots)

    def slot(self, prefix: Runs) -> int:
        """The slot of a prefix that was prefilled."""
        return self._slots[prefix]

    def assign_slots(self, prompts: Sequence[Runs]) -> Iterator[list[PlannedPrefill]]:
        """Gives each missing prefix a slot, evicting others, and yields what to prefill, parents before children.

        At most half of the slots may be prompts.
        """
        for depth in range(1, max(map(len, prompts), default=0) + 1):
            known = [self._deepest(prompt) for prompt in prompts]
            ready = [p[:depth] for p, k in zip(prompts, known, strict=True) if len(k) == depth - 1 and len(p) >= depth]
            missing = list(dict.fromkeys(ready))
            needed = {*known, *missing}
            for prefix in needed & self._slots.keys():
                self._slots.move_to_end(prefix)
            if missing:
                yield [self._next_read(prefix, needed) for prefix in missing]

    def _deepest(self, prompt: Runs) -> Runs:
        """The longest prefix of a prompt that has a slot; () where none has."""
        return next((prompt[:n] for n in range(len(prompt), 0, -1) if prompt[:n] in self._slots), ())

    def _next_read(self, prefix: Runs, needed: set[Runs]) -> PlannedPrefill:
        parent = prefix[:-1]
        src = self._slots[parent] if parent else 0
        dst = self._free.pop() if self._free else self._evict(needed)
        self._slots[prefix] = dst
        return PlannedPrefill(src, dst, sum(map(len, parent)), prefix[-1])

    def _evict(self, needed: set[Runs]) -> int:
        """Frees and returns the slot of the prefix that was not used for longest and is not needed now."""
        oldest = next(prefix for prefix in self._slots if prefix not in needed)
        return self._slots.pop(oldest)


def group_by_length(
    prefills: Sequence[PlannedPrefill], size: Callable[[int], int]
) -> dict[int, list[tuple[int, PlannedPrefill]]]:
    """Groups prefills, each with its index, by the length to which its tokens are padded, which depends on it alone."""
    groups: dict[int, list[tuple[int, PlannedPrefill]]] = {}
    for i, prefill in enumerate(prefills):
        groups.setdefault(size(len(prefill.tokens)), []).append((i, prefill))
    return groups
