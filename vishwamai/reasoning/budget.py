"""How much a search may use: tokens, calls, seconds and nodes, one budget within another. It knows no search."""

import math
import time
from collections.abc import Callable
from typing import Any

from vishwamai.errors import InputError

LIMITS = ("tokens", "calls", "seconds", "nodes")


class Spent(Exception):
    """A budget allows nothing more; a search that meets it gives the best answer it has. `limit` names what ran out."""

    def __init__(self, limit: str):
        super().__init__(f"the budget of {limit} is spent")
        self.limit = limit


class Budget:
    """Limits, each None where there is none: new tokens, model calls of one problem, seconds, thoughts in the tree.

    What is spent within `within(...)` is spent here too. Time runs from the making of the budget. 0 is a limit like any
    other. Raises `InputError` for a negative one, and for a part of a token, call or node.
    """

    def __init__(
        self,
        *,
        tokens: int | None = None,
        calls: int | None = None,
        seconds: float | None = None,
        nodes: int | None = None,
        clock: Callable[[], float] = time.monotonic,
        _outer: "Budget | None" = None,
    ):
        self.limits: dict[str, Any] = {"tokens": tokens, "calls": calls, "seconds": seconds, "nodes": nodes}
        for name, limit in self.limits.items():
            if limit is not None and not _is_limit(limit, whole=name != "seconds"):
                kind = "number" if name == "seconds" else "whole number"
                raise InputError(f"the budget's {name} is {limit!r}; it must be a {kind}, 0 or more, or None")
        self.spent: dict[str, int] = dict.fromkeys(("tokens", "calls", "nodes"), 0)
        self._held = 0  # of the tokens spent: those that calls under way may give back
        self.short: str | None = None  # the limit, if any, for which less was made than was wanted
        self._clock, self._begun, self._outer = clock, clock(), _outer

    def within(self, **limits: Any) -> "Budget":
        """A budget inside this one, with limits of its own. Raises `InputError` for a limit that there is not."""
        for name in limits:
            if name not in LIMITS:
                raise InputError(f"a budget has no limit {name!r}; it has {', '.join(LIMITS)}")
        return Budget(**limits, clock=self._clock, _outer=self)

    def fresh(self) -> "Budget":
        """A budget with the same limits of its own, of which nothing is spent, inside the same outer one."""
        return Budget(**self.limits, clock=self._clock, _outer=self._outer)

    @property
    def seconds(self) -> float:
        """Since this budget was made."""
        return self._clock() - self._begun

    @property
    def deadline(self) -> float | None:
        """When the first of the limits on seconds is reached, by the budget's clock."""
        own = self.limits["seconds"]
        ends = [] if own is None else [self._begun + own]
        ends += [] if self._outer is None or self._outer.deadline is None else [self._outer.deadline]
        return min(ends, default=None)

    def left(self, name: str, *, held: bool = False) -> float:
        """How much of a limit is left, inside the outer budgets too; infinite where there is none.

        With `held`, tokens that calls under way hold count as left, for those may give them back.
        """
        limit = self.limits[name]
        used = self.seconds if name == "seconds" else self.spent[name]
        used -= self._held if held and name == "tokens" else 0
        own = float("inf") if limit is None else max(limit - used, 0)
        return own if self._outer is None else min(own, self._outer.left(name, held=held))

    def spend(self, **used: int) -> None:
        """Notes what was used: `tokens`, `calls` or `nodes`."""
        for name, amount in used.items():
            self.spent[name] += amount
        if self._outer is not None:
            self._outer.spend(**used)

    def hold(self, tokens: int) -> None:
        """Counts tokens as spent that a call under way may use; a negative number gives them back."""
        self._held += tokens
        self.spent["tokens"] += tokens
        if self._outer is not None:
            self._outer.hold(tokens)

    def check(self) -> None:
        """Raises `Spent` where a limit is reached, whatever calls under way give back."""
        for name in LIMITS:
            if self.left(name, held=True) <= 0:
                raise Spent(name)


def _is_limit(limit: Any, whole: bool) -> bool:
    if isinstance(limit, bool) or not isinstance(limit, int | float) or not limit >= 0:
        return False
    return not whole or limit == math.inf or limit == int(limit)
