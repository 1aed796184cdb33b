"""A tree of thoughts while it grows: what is asked for next, what a program says of it, and what a state is worth.

Every way of searching (`search/`) calls `Tree.expand` and decides where. It knows no model: it yields what it asks for.
"""

import dataclasses
import math
from collections.abc import Callable, Sequence
from typing import Any

from vishwamai.errors import InputError
from vishwamai.reasoning.budget import Budget
from vishwamai.reasoning.drive import Search
from vishwamai.reasoning.model import Completion, seed_of
from vishwamai.reasoning.task import Task, call_safely
from vishwamai.reasoning.trace import Thought, Trace


@dataclasses.dataclass(eq=False)
class Node:
    """A thought in the tree, with the steps that lead to it."""

    thought: Thought
    parent: "Node | None"
    steps: tuple[str, ...]
    state: Any
    answer: str | None = None
    verified: bool | None = None
    draws: int = 0  # how often thoughts were asked for here
    visits: int = 0  # how often a search chose to go on from here
    total: float = 0.0  # values backed up to here, of `visits`
    children: list["Node"] = dataclasses.field(default_factory=list)
    choices: set[str] = dataclasses.field(default_factory=set)  # that were written out
    made: Completion | None = None

    @property
    def value(self) -> float:
        """0 to 1; 0 where nothing is known."""
        return self.thought.value or 0.0

    @property
    def path(self) -> tuple[int, ...]:
        """Its place in the tree."""
        return self.thought.path

    @property
    def score(self) -> float:
        """The log-probability of all thoughts on the way here."""
        node, thoughts = self, []
        while node.parent is not None:
            thoughts.append(node.thought.logprob)
            node = node.parent
        return math.fsum(thoughts)


Values = Callable[["Tree", Sequence[Node]], Search[Sequence[float | None]]]  # None: nothing is known
Proposals = Callable[["Tree", Sequence[Node], Sequence[int]], Search[list[list[Completion]]]]


class Tree:
    """One problem's tree. `best` is the answer to submit so far."""

    def __init__(
        self, task: Task, problem: str, values: Values, proposals: Proposals, *, budget: Budget, seed: int, method: str
    ):
        self.task, self.problem, self.budget = task, problem, budget
        self.seed = seed_of(seed, problem)
        self.trace = Trace(problem, method)
        self.notes: list[str] = []
        self._values, self._proposals = values, proposals
        state = task.read(problem)
        self.root = Node(self.trace.add(Thought((), "", state)), None, (), state)
        self.nodes = [self.root]
        self.answers: list[Node] = []
        self._places: dict[Any, Node] = {self._key(state): self.root}
        self._tried: dict[tuple[int, ...], int] = {}
        self._judge(self.root)

    def expand(self, nodes: Sequence[Node], n: Sequence[int]) -> Search[list[Node]]:
        """New nodes after `n[i]` thoughts of node i: those that are right steps and lead to states not seen before.

        Raises `BudgetExhausted` where the budget allows none.
        """
        self.budget.check()
        wanted, n = n, _within(n, self.budget.remaining("nodes"))
        proposed = yield from self._proposals(self, nodes, n)
        new, less = [], sum(n) < sum(wanted)
        for node, thoughts in zip(nodes, proposed, strict=True):
            node.draws += 1
            if node.thought.status in ("open", "kept"):
                node.thought.status = "expanded"
            [room] = _within([len(thoughts)], self.budget.remaining("nodes"))  # others may spend from the same budget
            less = less or room < len(thoughts)
            new += [child for made in thoughts[:room] if (child := self._child(node, made)) is not None]
            for made in thoughts[room:]:
                self.left(node, made, "open", "no node was left in the budget")
        if less:
            self.budget.truncated_by = "nodes"
        live = [node for node in new if node.answer is None]
        if live:
            yield from self.value(live)
        return new

    def value(self, nodes: Sequence[Node]) -> Search[None]:
        """Notes what states are worth; what is not known, or no number, counts as 0.

        Raises `InputError` for a value outside 0..1: cut off, all that lie beyond would rank alike.
        """
        for node, value in zip(nodes, (yield from self._values(self, nodes)), strict=True):
            if value is not None and math.isnan(value):
                self._note("a value was no number (nan); it counts as 0")
                value = None
            if value is not None and not 0 <= value <= 1:
                step = node.steps[-1] if node.steps else self.problem
                raise InputError(f"the value after {step!r:.60} is {value!r}; values are 0 to 1: scale them to that")
            node.thought.value = None if value is None else float(value)

    def _child(self, parent: Node, made: Completion) -> Node | None:
        """The node of a thought, or None where it is wrong or leads to a known state; the trace has it either way."""
        thought = self.trace.add(Thought(self._place(parent), made.text, tokens=made.tokens, logprob=made.logprob))
        thought.seconds = round(self.budget.elapsed, 6)
        self.budget.spend(nodes=1)
        return self._placed(parent, thought, made)

    def left(self, parent: Node, made: Completion, status: str, why: str) -> None:
        """Notes what was made at a state and is no thought of its own, for the trace to have all tokens."""
        seconds = round(self.budget.elapsed, 6)
        told = {"tokens": made.tokens, "logprob": made.logprob, "status": status, "why": why, "seconds": seconds}
        self.trace.add(Thought(self._place(parent), made.text, **told))

    def given(self, parent: Node, text: str) -> Node | None:
        """The node after a step that is given, or None where the step is wrong; of a known state, its node."""
        state, _ = call_safely(self.task.step, parent.state, text)
        known = None if state is None else self._places.get(self._key(state))
        if state is None or known is not None:
            return known
        return self._placed(parent, self.trace.add(Thought(self._place(parent), text)), None)

    def _place(self, parent: Node) -> tuple[int, ...]:
        """The path of the next thought there."""
        tried = self._tried.get(parent.path, 0)
        self._tried[parent.path] = tried + 1
        return (*parent.path, tried)

    def _key(self, state: Any) -> Any:
        """The state, by which it is told whether it was seen before. Raises `InputError` where it has no hash."""
        try:
            hash(state)
        except TypeError:
            kind = type(state).__name__
            raise InputError(
                f"a state of the task {self.task.name!r} is a {kind}, which has no hash; make it a tuple or a text"
            ) from None
        return state

    def _placed(self, parent: Node, thought: Thought, made: Completion | None) -> Node | None:
        state, why = call_safely(self.task.step, parent.state, thought.text)
        if state is None:
            thought.status, thought.why = "wrong", why
            self._note(why)
            return None
        thought.state = state
        key = self._key(state)
        if key in self._places:
            thought.status, thought.why = "repeat", ".".join(map(str, self._places[key].path))
            return None
        node = Node(thought, parent, (*parent.steps, thought.text), state, made=made)
        self._places[key] = node
        parent.children.append(node)
        self.nodes.append(node)
        self._judge(node)
        return node

    def _judge(self, node: Node) -> None:
        """Notes whether a node is an answer, and whether it is right."""
        answer, why = call_safely(self.task.answer, self.problem, node.steps, node.state)
        self._note(why)
        if answer is None:
            return
        node.answer = str(answer)
        right, why = call_safely(self.task.check, self.problem, node.answer)
        self._note(why)
        node.verified = None if right is None else bool(right)
        node.thought.status = "refuted" if node.verified is False else "answer"
        node.thought.value = {True: 1.0, False: 0.0, None: 0.5}[node.verified]
        self.answers.append(node)

    def _note(self, why: str) -> None:
        if why and why not in self.notes:
            self.notes.append(why)

    @property
    def solved(self) -> bool:
        """Whether an answer was found that a program calls right."""
        return any(node.verified for node in self.answers)

    @property
    def ranked(self) -> list[Node]:
        """The answers, right ones first, then those that nobody refuted; of equals the most promising way first."""
        rank = {True: 0, None: 1, False: 2}
        return sorted(self.answers, key=lambda node: (rank[node.verified], -_promise(node)))

    def live(self, level: int) -> list[Node]:
        """The nodes of a level that are no answers, in the order in which they were made."""
        return [node for node in self.nodes if len(node.path) == level and node.answer is None]


def _promise(node: Node) -> float:
    return node.parent.value if node.parent is not None and node.verified is None else node.value


def _within(n: Sequence[int], most: float) -> list[int]:
    """The numbers cut so that their sum is at most `most`, the last ones first."""
    out, left = [], most
    for many in n:
        out.append(int(min(many, left)))
        left -= out[-1]
    return out


def spread(width: int, parts: int) -> list[int]:
    """A level's thoughts over its nodes, as evenly as can be, the first ones taking what is over."""
    each, over = divmod(width, parts)
    return [each + (i < over) for i in range(parts)]
