"""`TreeOfThoughts`: solving by search over thoughts, each a step that a program can check.

The thoughts of a level, of all problems that are solved together, are one call of the model. The ways of searching are
in `search/`, what a state is worth in `values.py`. It knows no particular model or task.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from vishwamai.checks import check_whole
from vishwamai.errors import InputError
from vishwamai.reasoning import values as ways_to_value
from vishwamai.reasoning.budget import Budget
from vishwamai.reasoning.drive import Search, run
from vishwamai.reasoning.growth import Node, Proposals, Tree, Values
from vishwamai.reasoning.local import as_model
from vishwamai.reasoning.memory import ThoughtMemory
from vishwamai.reasoning.model import Model
from vishwamai.reasoning.proposals import distinct, sampled
from vishwamai.reasoning.search import beam, best_first, breadth, depth, mcts
from vishwamai.reasoning.search.settings import TreeSettings
from vishwamai.reasoning.solution import Solution, Step
from vishwamai.reasoning.solve import run_until_stopped, solve_all
from vishwamai.reasoning.task import Task, Verdict, call_safely
from vishwamai.reasoning.tasks import task_of

DRAWS = 4
SEARCHES = {"breadth": breadth, "depth": depth, "beam": beam, "best_first": best_first, "mcts": mcts}


class TreeOfThoughts:
    """Searches over thoughts (Yao et al. 2023, arXiv:2305.10601).

    `task` is a `Task` or the name of one. `search` is one of `SEARCHES`, `settings` the rest of `TreeSettings`.
    `values` evaluates states (`values.py`; None: by what the model writes in passing), `proposals` generates thoughts
    (`proposals.py`; None: each is drawn by itself, and where a step begins with a choice, each distinct choice is
    written out once). With a `memory`, values that this model gave before are used again. The same `seed` grows the
    same tree, alone or among others.
    """

    def __init__(
        self,
        model: Any,
        max_branches: int = 3,
        max_depth: int = 3,
        beam_width: int = 5,
        temperature: float = 0.7,
        *,
        task: Task | str = "text",
        search: str = "breadth",
        values: Values | None = None,
        proposals: Proposals | None = None,
        memory: ThoughtMemory | None = None,
        seed: int = 0,
        **settings: Any,
    ):
        if search not in SEARCHES:
            raise InputError(f"there is no search {search!r}; there are {', '.join(SEARCHES)}")
        self.model: Model = as_model(model)
        self.task = task_of(task)
        widths = {"max_branches": max_branches, "max_depth": max_depth, "beam_width": beam_width}
        self.settings = TreeSettings(**widths, temperature=temperature, **settings)
        self.method, self.seed, self.memory = search, seed, memory
        self._values = ways_to_value.inline() if values is None else values
        if memory is not None:
            self._values = ways_to_value.remembered(self._values, memory, self.model.identity)
        drawn = distinct if self.task.choice_stop else sampled
        self._proposals = proposals or drawn(temperature)

    def solve(self, problem: str, *, budget: Budget | None = None) -> Solution:
        """The answer to one problem. Raises `InputError` for a problem that the task cannot read."""
        return run(self.model, [self.search(problem, Budget() if budget is None else budget)])[0]

    def solve_all(
        self, problems: Sequence[str], *, budget: Budget | None = None, each: Mapping[str, float] | None = None
    ) -> list[Solution]:
        """The answers to many problems, searched in step within one budget; `each` has the limits of every problem."""
        return solve_all(self.model, problems, self.search, f"tot-{self.method}", budget, each)

    def search(self, problem: str, budget: Budget) -> Search[Solution]:
        """The search as a generator, to be run by `drive.run` or as a part of another."""
        tree = self.tree(problem, budget.sub_budget())  # what is spent in it is the problem's own
        if (needed := self.task.depth_of(problem) or 0) > self.settings.max_depth:
            tree.notes.append(f"the problem may take {needed} steps, and max_depth is {self.settings.max_depth}")
        stopped = None
        if tree.root.answer is None:
            search = SEARCHES[self.method].search(tree, self.settings)
            stopped = yield from run_until_stopped(search, tree.budget, tree.notes, lambda: bool(tree.answers))
        if stopped is None and not (tree.solved and self.settings.stop_early):
            stopped = tree.budget.truncated_by
        return solution(tree, stopped)

    def tree(self, problem: str, budget: Budget | None = None) -> Tree:
        """A tree with nothing but its root."""
        budget = Budget() if budget is None else budget
        parts = self.task, problem, self._values, self._proposals
        return Tree(*parts, budget=budget, seed=self.seed, method=f"tot-{self.method}")

    def generate_thoughts(self, problem: str, steps: Sequence[str] = (), n: int | None = None) -> list[str]:
        """Up to `n` new thoughts after some steps: right ones, no two of which lead to the same state.

        Fewer where the model has no others in `DRAWS` times as many draws.
        """
        n = check_whole("n", self.settings.max_branches if n is None else n, 0)
        tree = self.tree(problem)
        node = _at(tree, steps)
        for _ in range(DRAWS):
            if len(node.children) < n:
                run(self.model, [tree.expand([node], [n])])
        return [child.thought.text for child in node.children[:n]]

    def estimate_value(self, problem: str, steps: Sequence[str] = ()) -> float:
        """How promising the state after some steps is, 0 to 1."""
        tree = self.tree(problem)
        node = _at(tree, steps)
        if node.answer is None:
            run(self.model, [tree.value([node])])
        return node.value


def _judged(tree: Tree, node: Node) -> list[Step]:
    """The steps to a node, each with the task's word on it."""
    if node.parent is None:
        return []
    verdict, why = call_safely(tree.task.judge, node.parent.state, node.thought.text)
    verdict = Verdict(None, why) if verdict is None else verdict
    return [*_judged(tree, node.parent), Step(node.thought.text.strip(), verdict.valid, verdict.why)]


def _at(tree: Tree, steps: Sequence[str]) -> Node:
    """The node after given steps, put into the tree. Raises `InputError` for a step that is wrong."""
    node = tree.root
    for number, text in enumerate(steps, 1):
        node = tree.given(node, text)
        if node is None:
            raise InputError(f"step {number} is wrong here: {text!r:.80}")
    return node


def solution(tree: Tree, stopped: str | None) -> Solution:
    """What a tree has come to."""
    ranked, spent = tree.ranked, tree.budget.spent
    best = ranked[0] if ranked else None
    found = Solution(
        problem=tree.problem,
        method=tree.trace.method,
        answer=None if best is None else best.answer,
        verified=None if best is None else best.verified,
        steps=() if best is None else tuple(_judged(tree, best)),
        candidates=tuple(dict.fromkeys(node.answer for node in ranked if node.answer is not None)),
        confidence=None if best is None else best.value,
        stopped=stopped,
        tokens=spent["tokens"],
        calls=spent["calls"],
        nodes=spent["nodes"],
        seconds=round(tree.budget.elapsed, 6),
        trace=tree.trace,
        notes=tuple(tree.notes),
    )
    tree.trace.result = found.summary() | {"path": None if best is None else list(best.path)}
    return found
