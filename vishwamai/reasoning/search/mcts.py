"""Monte Carlo tree search with UCT (Kocsis and Szepesvari, 2006), a state's value in the place of a random playout."""

import math

from vishwamai.reasoning.drive import Search
from vishwamai.reasoning.growth import Node, Tree
from vishwamai.reasoning.search.settings import TreeSettings


def search(tree: Tree, s: TreeSettings) -> Search[None]:
    """`expansions` times: down by the upper confidence bound, new thoughts there, their values back up.

    A state whose thoughts lead to nothing new is closed, and one at `max_depth` is so from the start; where all that
    follows a state is closed, thoughts are drawn there again.
    """
    closed: set[Node] = set()
    for _ in range(s.expansions):
        if tree.root in closed:
            return
        node = _lowest(tree.root, closed, s.exploration)
        new = yield from tree.expand([node], [s.max_branches])
        if tree.solved and s.stop_early:
            return
        for child in new:
            _back_up(child, child.value)
        if not new:
            closed.add(node)
            _back_up(node, 0.0)
        closed |= {child for child in new if child.answer is not None or len(child.path) >= s.max_depth}


def _lowest(node: Node, closed: set[Node], exploration: float) -> Node:
    """The state to go on from."""
    while children := [child for child in node.children if child not in closed]:
        node = max(children, key=lambda child: _bound(child, exploration))
    return node


def _bound(child: Node, exploration: float) -> float:
    """The upper confidence bound; of equals `max` takes the child that was made first."""
    if child.visits == 0 or child.parent is None:
        return math.inf
    spread = math.sqrt(math.log(max(child.parent.visits, 1)) / child.visits)
    return child.total / child.visits + exploration * spread


def _back_up(node: Node | None, value: float) -> None:
    while node is not None:
        node.visits += 1
        node.total += value
        node = node.parent
