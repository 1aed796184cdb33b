"""Best-first search under a budget: always on from the most promising states of the whole tree."""

from vishwamai.reasoning.drive import Search
from vishwamai.reasoning.growth import Tree
from vishwamai.reasoning.search.settings import TreeSettings


def search(tree: Tree, s: TreeSettings) -> Search[None]:
    """Expands the `beam_width` best open states at once, until `expansions` were gone on from or none is left.

    Of equal values the deeper state is first, then the one that was made first.
    """
    waiting, done = [tree.root], 0
    while waiting and done < s.expansions:
        waiting.sort(key=lambda node: (-node.value, -len(node.path)))
        most = min(s.beam_width, s.expansions - done)
        now, waiting = waiting[:most], waiting[most:]
        new = yield from tree.expand(now, [s.max_branches] * len(now))
        done += len(now)
        if tree.solved and s.stop_early:
            return
        waiting += [node for node in new if node.answer is None and len(node.path) < s.max_depth]
    for node in waiting:
        node.thought.status = "pruned"
