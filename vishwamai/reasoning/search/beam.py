"""Beam search over thoughts: the ways that the model itself finds likeliest, a state's value weighed in."""

import math

from vishwamai.reasoning.drive import Search
from vishwamai.reasoning.growth import Node, Tree, spread
from vishwamai.reasoning.search.settings import TreeSettings

LEAST = 1e-4  # stands for a value of 0, whose logarithm there is not


def search(tree: Tree, s: TreeSettings) -> Search[None]:
    """Keeps the `beam_width` ways whose thoughts' log-probability plus the logarithm of the value is highest."""
    frontier = [tree.root]
    for level in range(1, s.max_depth + 1):
        n = spread(s.width, len(frontier)) if s.even else [s.max_branches] * len(frontier)
        yield from tree.expand(frontier, n)
        if tree.solved and s.stop_early:
            return
        ranked = sorted(tree.live(level), key=lambda node: -score_path(node))
        frontier = ranked[: s.beam_width]
        for node in ranked:
            node.thought.status = "kept" if node in frontier else "pruned"
        if not frontier:
            return


def score_path(node: Node) -> float:
    """How good a way is."""
    return node.score + math.log(max(node.value, LEAST))
