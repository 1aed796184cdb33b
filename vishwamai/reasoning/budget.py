"""How much a search may use: tokens, calls, seconds and nodes, one budget within another. It knows no search."""

import contextlib
import math
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from vishwamai.checks import check_number, check_whole
from vishwamai.errors import InputError

LIMITS = ("tokens", "calls", "seconds", "nodes")


class BudgetExhausted(Exception):
    """A budget allows nothing more; a search that meets it gives the best answer it has. `limit` names what ran out."""

    def __init__(self, limit: str):
        super().__init__(f"the budget of {limit} is spent")
        self.limit = limit


class Budget:
    """Limits, each None where there is none: new tokens, model calls of one problem, seconds, thoughts in the tree.

    What is spent in a `sub_budget` is spent here too. Time runs from the making of the budget. 0 is a limit like any
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
        limits = {"tokens": tokens, "calls": calls, "seconds": seconds, "nodes": nodes}
        self._limits = {name: math.inf if limit is None else _checked(name, limit) for name, limit in limits.items()}
        self.spent: dict[str, int] = dict.fromkeys(("tokens", "calls", "nodes"), 0)
        self.truncated_by: str | None = None  # the limit, if any, for which less was made than was asked for
        self._reserved = 0  # tokens that calls under way may use
        self._clock, self._start = clock, clock()
        self._nested: tuple[Budget, ...] = (self, *(() if _outer is None else _outer._nested))  # with all outer ones

    def sub_budget(self, **limits: Any) -> "Budget":
        """A budget inside this one, with limits of its own. Raises `InputError` for a limit that there is not."""
        for name in limits:
            if name not in LIMITS:
                raise InputError(f"a budget has no limit {name!r}; it has {', '.join(LIMITS)}")
        return Budget(**limits, clock=self._clock, _outer=self)

    @property
    def elapsed(self) -> float:
        """Seconds since this budget was made."""
        return self._clock() - self._start

    @property
    def deadline(self) -> float | None:
        """When the first of the limits on seconds is reached, by the budget's clock; None where there is none."""
        end = min(budget._start + budget._limits["seconds"] for budget in self._nested)
        return None if end == math.inf else end

    @property
    def usage(self) -> dict[str, Any]:
        """What was spent and how long it took, as the fields of a solution."""
        return {**self.spent, "seconds": round(self.elapsed, 6)}

    def remaining(self, name: str, *, with_reserved: bool = False) -> float:
        """How much of a limit is left, in the outer budgets too; infinite where there is none.

        `with_reserved` counts the tokens that calls under way may still give back.
        """

        def own(budget: Budget) -> float:
            used = budget.elapsed if name == "seconds" else budget.spent[name]
            reserved = budget._reserved if name == "tokens" and not with_reserved else 0
            return max(budget._limits[name] - used - reserved, 0)

        return min(map(own, self._nested))

    def check(self) -> None:
        """Raises `BudgetExhausted` where a limit is reached, whatever calls under way give back."""
        for name in LIMITS:
            if self.remaining(name, with_reserved=True) <= 0:
                raise BudgetExhausted(name)

    def spend(self, **used: int) -> None:
        """Counts what was used: `tokens`, `calls` or `nodes`."""
        for budget in self._nested:
            for name, amount in used.items():
                budget.spent[name] += amount

    @contextlib.contextmanager
    def reserve(self, tokens: int) -> Iterator[None]:
        """Keeps tokens for a call while it is under way, so that searches in one budget do not overdraw it together."""
        for budget in self._nested:
            budget._reserved += tokens
        try:
            yield
        finally:
            for budget in self._nested:
                budget._reserved -= tokens


def cap(counts: Sequence[int], total: float) -> list[int]:
    """Counts lowered, the last ones first, until their sum is at most `total`."""
    capped = []
    for count in counts:
        capped.append(int(min(count, total)))
        total -= capped[-1]
    return capped


def _checked(name: str, limit: Any) -> float:
    if limit == math.inf:
        return limit
    if name == "seconds":
        return check_number(f"the budget's {name}", limit, 0)
    is_integer = isinstance(limit, float) and limit.is_integer()
    return check_whole(f"the budget's {name}", int(limit) if is_integer else limit, 0, optional=True)
