"""Breadth-first search (Yao et al. 2023, "Tree of Thoughts", arXiv:2305.10601, algorithm 1): the best b of each level.

With `rounds`, later passes go on with what the earlier ones found: more thoughts at every level, and a choice among all
states of the level that are known, in which those count for less that were chosen before.
"""

from vishwamai.reasoning.drive import Search
from vishwamai.reasoning.growth import Node, Tree, spread
from vishwamai.reasoning.search.settings import TreeSettings

DEMOTION = 0.5  # what a state's value loses for each pass that went on from it


def search(tree: Tree, s: TreeSettings) -> Search[None]:
    """Grows the tree level by level; ties go to the state that was made first."""
    for _ in range(s.rounds):
        frontier = [tree.root]
        for level in range(1, s.max_depth + 1):
            n = spread(s.width, len(frontier)) if s.even else [s.max_branches] * len(frontier)
            yield from tree.expand(frontier, n)
            if tree.solved and s.stop_early:
                return
            frontier = select(tree.live(level), s.beam_width)
            if not frontier:
                break


def select(nodes: list[Node], most: int) -> list[Node]:
    """The nodes to go on from, the most promising first."""
    ranked = sorted(nodes, key=lambda node: -(node.value - DEMOTION * node.visits))
    for place, node in enumerate(ranked):
        if place < most:
            node.visits += 1
            node.thought.status = "kept"
        elif node.thought.status == "open":
            node.thought.status = "pruned"
    return ranked[:most]
