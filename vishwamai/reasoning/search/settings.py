"""How a tree is searched."""

import dataclasses

from vishwamai.checks import check_number, check_whole
from vishwamai.errors import InputError

WIDEST = 1 << 16  # thoughts of a level: more is a slip, and would ask for memory without end


@dataclasses.dataclass(frozen=True, kw_only=True)
class TreeSettings:
    """Widths and depths. Raises `InputError` for values out of range.

    A level has `max_branches * beam_width` thoughts, evenly over the states that are gone on from (`even`; the root has
    all of them), or `max_branches` for each state. `rounds` are passes of breadth-first search; `expansions` bounds
    depth-first, best-first and Monte Carlo search. `threshold` is the value under which depth-first search turns back;
    `exploration` weighs the rarely visited in MCTS.
    """

    max_branches: int = 3
    max_depth: int = 3
    beam_width: int = 5
    temperature: float = 0.7
    even: bool = True
    rounds: int = 1
    stop_early: bool = True
    expansions: int = 64
    threshold: float = 0.0
    exploration: float = 1.0

    def __post_init__(self):
        for name in ("max_branches", "max_depth", "beam_width", "rounds", "expansions"):
            object.__setattr__(self, name, check_whole(name, getattr(self, name), 1))
        for name in ("temperature", "threshold", "exploration"):
            check_number(name, getattr(self, name), 0)
        if self.threshold > 1:
            raise InputError(f"threshold is {self.threshold!r}; it must be a number from 0 to 1, as values are")
        if self.width > WIDEST:
            raise InputError(f"max_branches times beam_width is {self.width}; a level has at most {WIDEST} thoughts")

    @property
    def width(self) -> int:
        """Thoughts of a level."""
        return self.max_branches * self.beam_width
