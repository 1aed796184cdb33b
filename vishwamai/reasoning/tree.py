"""`TreeOfThoughts`: solving by search over thoughts, each a step that a program can check (Yao et al. 2023).

The thoughts of a level, of all problems that are solved together, are one call of the model. The search algorithms are
in `search.py`, the tree in `search_tree.py`; `values.py` has ways to evaluate states, `proposals.py` to generate
thoughts. It knows no particular model or task.
"""

import itertools
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

from vishwamai.checks import check_whole, make_settings
from vishwamai.errors import InputError
from vishwamai.reasoning.budget import Budget
from vishwamai.reasoning.drive import Search, run, run_until_stopped, solve_all
from vishwamai.reasoning.local import as_model
from vishwamai.reasoning.memory import ThoughtMemory
from vishwamai.reasoning.model import Model, seed_of
from vishwamai.reasoning.proposals import distinct, sampled
from vishwamai.reasoning.search import SEARCHES, TreeSettings
from vishwamai.reasoning.search_tree import Node, SearchTree, StateEvaluator, ThoughtGenerator
from vishwamai.reasoning.solution import Solution, Step, submit_answer
from vishwamai.reasoning.task import Task
from vishwamai.reasoning.tasks import task_of
from vishwamai.reasoning.trace import Trace
from vishwamai.reasoning.values import inline, with_memory
from vishwamai.reasoning.verify import run_checker

MAX_DRAWS = 4  # calls of the model to generate as many thoughts as are asked for


class TreeOfThoughts:
    """Searches over thoughts (Yao et al. 2023, arXiv:2305.10601).

    A level of breadth-first and beam search has `max_branches * beam_width` thoughts, spread evenly over the states
    that are gone on from, so the root has all of them; with `even=False`, and in the other searches, each state has
    `max_branches`.
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
        values: StateEvaluator | None = None,
        proposals: ThoughtGenerator | None = None,
        memory: ThoughtMemory | None = None,
        seed: int = 0,
        **settings: Any,
    ):
        if search not in SEARCHES:
            raise InputError(f"there is no search {search!r}; there are {', '.join(SEARCHES)}")
        self.model: Model = as_model(model)
        self.task = task_of(task)
        widths = {"max_branches": max_branches, "max_depth": max_depth, "beam_width": beam_width}
        settings = widths | {"temperature": temperature} | settings
        self.settings = make_settings(TreeSettings, "TreeOfThoughts", settings)
        self.method, self.seed = search, seed
        self._values = values or inline()
        if memory is not None:
            self._values = with_memory(self._values, memory, self.model.identity)
        self._proposals = proposals or (distinct if self.task.choice_stop else sampled)(temperature)

    def solve(self, problem: str, *, budget: Budget | None = None) -> Solution:
        """The answer to one problem. Raises `InputError` for a problem that the task cannot read."""
        return run(self.model, [self.search(problem, budget or Budget())])[0]

    def solve_all(
        self, problems: Sequence[str], *, budget: Budget | None = None, each: Mapping[str, float] | None = None
    ) -> list[Solution]:
        """The answers to many problems, searched in step within one budget; `each` has the limits of every problem."""
        return solve_all(self.model, problems, self.search, f"tot-{self.method}", budget, each)

    def search(self, problem: str, budget: Budget) -> Search[Solution]:
        """The search as a generator, to be run by `drive.run` or as a part of another."""
        tree = self.tree(problem, budget.sub_budget())  # what is spent in it is the problem's own
        if (needed := self.task.depth_of(problem) or 0) > self.settings.max_depth:
            tree.notes.add(f"the problem may take {needed} steps, and max_depth is {self.settings.max_depth}")
        stopped = None
        if tree.root.answer is None:
            search = SEARCHES[self.method](tree, self.settings)
            stopped = yield from run_until_stopped(search, tree.budget, tree.notes, lambda: bool(tree.answers))
        if stopped is None and not (tree.is_solved and self.settings.stop_early):
            stopped = tree.budget.truncated_by
        answers = tree.ranked_answers()
        best = answers[0] if answers else None
        return submit_answer(
            tree.trace,
            best,
            tree.budget.usage,
            steps=() if best is None else tuple(itertools.starmap(self._judge_step, itertools.pairwise(best.ancestry))),
            candidates=tuple(dict.fromkeys(node.answer for node in answers if node.answer is not None)),
            confidence=None if best is None else best.value,
            stopped=stopped,
            notes=tuple(tree.notes),
        )

    def _judge_step(self, before: Node, after: Node) -> Step:
        """The step from one node to the next, with the task's word on it."""
        verdict = run_checker(partial(self.task.judge, before.state), after.thought.text)
        return Step(after.thought.text.strip(), verdict.valid, verdict.why)

    def tree(self, problem: str, budget: Budget | None = None) -> SearchTree:
        """A tree with nothing but its root."""
        seed, trace = seed_of(self.seed, problem), Trace(problem, f"tot-{self.method}")
        return SearchTree(self.task, problem, self._values, self._proposals, budget or Budget(), seed, trace)

    def generate_thoughts(self, problem: str, steps: Sequence[str] = (), n: int | None = None) -> list[str]:
        """Up to `n` new thoughts after some steps: right ones, no two of which lead to the same state.

        Fewer where the model has no others in `MAX_DRAWS` times as many draws.
        """
        most = self.settings.max_branches if n is None else check_whole("n", n, 0)
        tree = self.tree(problem)
        node = _follow(tree, steps)
        for _ in range(MAX_DRAWS):
            if len(node.children) < most:
                run(self.model, [tree.expand([node], [most])])
        return [child.thought.text for child in node.children[:most]]

    def estimate_value(self, problem: str, steps: Sequence[str] = ()) -> float:
        """How promising the state after some steps is, 0 to 1."""
        tree = self.tree(problem)
        node = _follow(tree, steps)
        if node.answer is None:
            run(self.model, [tree.evaluate([node])])
        return node.value


def _follow(tree: SearchTree, steps: Sequence[str]) -> Node:
    """The node after given steps, added to the tree. Raises `InputError` for a step that is wrong."""
    node = tree.root
    for number, text in enumerate(steps, 1):
        node = tree.add_step(node, text)
        if node is None:
            raise InputError(f"step {number} is wrong here: {text!r:.80}")
    return node
