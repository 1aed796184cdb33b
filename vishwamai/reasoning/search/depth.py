"""Depth-first search with pruning and backtracking (Yao et al. 2023, arXiv:2305.10601, algorithm 2)."""

from vishwamai.reasoning.drive import Search
from vishwamai.reasoning.growth import Node, Tree
from vishwamai.reasoning.search.settings import TreeSettings


def search(tree: Tree, s: TreeSettings) -> Search[None]:
    """Goes on from the best child that is not under the threshold, and turns back where there is none.

    Ends with `expansions` states gone on from, or with an answer that is right.
    """
    waiting = [tree.root]
    for _ in range(s.expansions):
        while waiting and len(waiting[-1].path) >= s.max_depth:
            waiting.pop()
        if not waiting:
            return
        new = yield from tree.expand([waiting.pop()], [s.max_branches])
        if tree.solved and s.stop_early:
            return
        waiting += _worth(new, s)[::-1]


def _worth(nodes: list[Node], s: TreeSettings) -> list[Node]:
    """The nodes to go on from, the best first, ties in the order in which they were made."""
    ranked = sorted((node for node in nodes if node.answer is None), key=lambda node: -node.value)
    for node in ranked:
        node.thought.status = "pruned" if node.value < s.threshold else "kept"
    return [node for node in ranked if node.thought.status == "kept"]
