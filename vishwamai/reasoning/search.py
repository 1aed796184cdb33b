"""Search algorithms: each calls `SearchTree.expand` and decides where. Ties go to the state that was made first.

Breadth-first and depth-first search are algorithms 1 and 2 of Yao et al. 2023 ("Tree of Thoughts", arXiv:2305.10601).
They are generators that `drive.run` runs in step.
"""

import dataclasses
import math
from collections.abc import Callable

from vishwamai.checks import check_number, check_whole
from vishwamai.errors import InputError
from vishwamai.reasoning.drive import Search
from vishwamai.reasoning.search_tree import Node, SearchTree

MAX_WIDTH = 1 << 16  # thoughts of a level: more is a slip, and would ask for memory without end
DEMOTION = 0.5  # what a state's value loses for each round that chose it
MIN_VALUE = 1e-4  # stands for a value of 0, which has no logarithm


@dataclasses.dataclass(frozen=True, kw_only=True)
class TreeSettings:
    """Widths and depths. Raises `InputError` for values out of range.

    A level has `max_branches * beam_width` thoughts, evenly over the states that are expanded (`even`; the root has all
    of them), or `max_branches` for each state. `rounds` are passes of breadth-first search; `expansions` bounds
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
        for name, most in (("temperature", math.inf), ("threshold", 1), ("exploration", math.inf)):
            check_number(name, getattr(self, name), 0, most)
        width = self.max_branches * self.beam_width
        if width > MAX_WIDTH:
            raise InputError(f"max_branches times beam_width is {width}; a level has at most {MAX_WIDTH} thoughts")

    def thoughts_of_level(self, states: int) -> list[int]:
        """How many thoughts each of so many states has: as evenly as can be, the first ones taking what is over."""
        if not self.even:
            return [self.max_branches] * states
        each, over = divmod(self.max_branches * self.beam_width, states)
        return [each + (i < over) for i in range(states)]


def breadth_first(tree: SearchTree, settings: TreeSettings) -> Search[None]:
    """Keeps the `beam_width` most promising states of each level.

    With `rounds`, later passes expand what the earlier ones found: more thoughts at every level, and a choice among all
    its states that are known, in which those count for less that were chosen before.
    """
    return by_level(tree, settings, settings.rounds, lambda node: node.value - DEMOTION * node.visits)


def beam(tree: SearchTree, settings: TreeSettings) -> Search[None]:
    """Keeps the `beam_width` states of each level that the model finds likeliest, with their values weighed in."""
    return by_level(tree, settings, 1, path_score)


def path_score(node: Node) -> float:
    """The log-probability of all thoughts up to a node, plus the logarithm of its value."""
    return math.fsum(one.thought.logprob for one in node.ancestry) + math.log(max(node.value, MIN_VALUE))


def by_level(tree: SearchTree, settings: TreeSettings, rounds: int, score: Callable[[Node], float]) -> Search[None]:
    """Grows the tree level by level, in each from the `beam_width` states with the highest score."""
    for _ in range(rounds):
        frontier = [tree.root]
        for depth in range(1, settings.max_depth + 1):
            yield from tree.expand(frontier, settings.thoughts_of_level(len(frontier)))
            if tree.is_solved and settings.stop_early:
                return
            ranked = sorted(tree.level(depth), key=lambda node: -score(node))
            frontier, rest = ranked[: settings.beam_width], ranked[settings.beam_width :]
            for node in frontier:
                node.visits += 1
                node.thought.status = "kept"
            for node in rest:
                if node.thought.status == "open":
                    node.thought.status = "pruned"
            if not frontier:
                break


def depth_first(tree: SearchTree, settings: TreeSettings) -> Search[None]:
    """Expands the best child whose value reaches the threshold, and backtracks where there is none."""
    stack = [tree.root]
    for _ in range(settings.expansions):
        while stack and stack[-1].depth >= settings.max_depth:
            stack.pop()
        if not stack:
            return
        new = yield from tree.expand([stack.pop()], [settings.max_branches])
        if tree.is_solved and settings.stop_early:
            return
        ranked = sorted((node for node in new if node.answer is None), key=lambda node: -node.value)
        for node in ranked:
            node.thought.status = "kept" if node.value >= settings.threshold else "pruned"
        stack += [node for node in reversed(ranked) if node.thought.status == "kept"]


def best_first(tree: SearchTree, settings: TreeSettings) -> Search[None]:
    """Expands the `beam_width` most promising states of the whole tree at once; of equals the deeper ones first."""
    waiting, expanded = [tree.root], 0
    while waiting and expanded < settings.expansions:
        waiting.sort(key=lambda node: (-node.value, -node.depth))
        width = min(settings.beam_width, settings.expansions - expanded)
        best, waiting = waiting[:width], waiting[width:]
        new = yield from tree.expand(best, [settings.max_branches] * len(best))
        expanded += len(best)
        if tree.is_solved and settings.stop_early:
            return
        waiting += [node for node in new if node.answer is None and node.depth < settings.max_depth]
    for node in waiting:
        node.thought.status = "pruned"


def mcts(tree: SearchTree, settings: TreeSettings) -> Search[None]:
    """Monte Carlo tree search with UCT (Kocsis and Szepesvari, 2006), a state's value in the place of a playout.

    A state whose thoughts lead to nothing new is closed, and one at `max_depth` is so from the start; where all that
    follows a state is closed, thoughts are drawn there again.
    """
    closed: set[Node] = set()
    for _ in range(settings.expansions):
        if tree.root in closed:
            return
        leaf = tree.root
        while children := [child for child in leaf.children if child not in closed]:
            bounds = [_upper_bound(child, leaf, settings.exploration) for child in children]
            leaf = children[bounds.index(max(bounds))]
        new = yield from tree.expand([leaf], [settings.max_branches])
        if tree.is_solved and settings.stop_early:
            return
        for child in new:
            _back_up(child, child.value)
        if not new:
            closed.add(leaf)
            _back_up(leaf, 0.0)
        closed |= {child for child in new if child.answer is not None or child.depth >= settings.max_depth}


def _upper_bound(child: Node, parent: Node, exploration: float) -> float:
    """The upper confidence bound of a child's value, infinite before its first visit."""
    if child.visits == 0:
        return math.inf
    return child.value_sum / child.visits + exploration * math.sqrt(math.log(parent.visits) / child.visits)


def _back_up(node: Node, value: float) -> None:
    """Adds a value to a node and to all before it."""
    for one in node.ancestry:
        one.visits += 1
        one.value_sum += value


SEARCHES = {"breadth": breadth_first, "depth": depth_first, "beam": beam, "best_first": best_first, "mcts": mcts}
