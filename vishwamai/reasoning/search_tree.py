"""The tree of one problem while it is searched: states are expanded and evaluated, answers are checked.

In the terms of Yao et al. 2023 (arXiv:2305.10601) a thought is one step, and a state the problem with the steps up to
it. Every algorithm of `search.py` calls `SearchTree.expand` and decides where. The tree knows no model: `expand` yields
what it asks for.
"""

import dataclasses
import math
from collections.abc import Callable, Sequence
from typing import Any

from vishwamai.errors import InputError
from vishwamai.reasoning.budget import Budget, cap
from vishwamai.reasoning.drive import Search
from vishwamai.reasoning.model import Completion, seed_of, split_prompt
from vishwamai.reasoning.task import Notes, Task, call_safely
from vishwamai.reasoning.trace import Thought, Trace


@dataclasses.dataclass(eq=False)
class Node:
    """A state that the search has come to. Its thought, the last step to it, stands in the trace with its value."""

    thought: Thought
    parent: "Node | None" = None
    steps: tuple[str, ...] = ()
    completion: Completion | None = None  # what the model wrote; None for the root, and for a step that was given
    answer: str | None = None
    verified: bool | None = None  # whether the answer is right; None where no program can tell
    children: list["Node"] = dataclasses.field(default_factory=list)
    recorded: int = 0  # thoughts after it in the trace, wrong and repeated ones too
    expansions: int = 0
    visits: int = 0  # how often the search went on from here
    value_sum: float = 0.0  # of the values backed up to here, of `visits` (MCTS)
    choices: set[str] = dataclasses.field(default_factory=set)  # that were written out (`proposals.distinct`)

    @property
    def state(self) -> Any:
        """The task's state after the steps."""
        return self.thought.state

    @property
    def value(self) -> float:
        """How promising the state is, 0 to 1; 0 where nothing is known."""
        return self.thought.value or 0.0

    @property
    def path(self) -> tuple[int, ...]:
        """Its place in the tree."""
        return self.thought.path

    @property
    def depth(self) -> int:
        """Steps from the root."""
        return len(self.steps)

    @property
    def ancestry(self) -> "list[Node]":
        """The nodes from the root to this one."""
        nodes, node = [], self
        while node is not None:
            nodes.append(node)
            node = node.parent
        return nodes[::-1]


# The paper's V(p, S): values of states, None where nothing is known; and G(p, s, k): up to n[i] thoughts after node i.
StateEvaluator = Callable[["SearchTree", Sequence[Node]], Search[Sequence[float | None]]]
ThoughtGenerator = Callable[["SearchTree", Sequence[Node], Sequence[int]], Search[list[list[Completion]]]]


@dataclasses.dataclass(eq=False)
class SearchTree:
    """The nodes of one problem by their states, in the order in which they were made; a state has one node."""

    task: Task
    problem: str
    evaluator: StateEvaluator
    generator: ThoughtGenerator
    budget: Budget
    seed: int
    trace: Trace
    notes: Notes = dataclasses.field(default_factory=Notes)
    nodes: dict[Any, Node] = dataclasses.field(default_factory=dict)
    answers: list[Node] = dataclasses.field(default_factory=list)

    def __post_init__(self):
        thought = self.trace.add(Thought((), "", self.task.read(self.problem)))
        self._find(thought.state)  # refuses a state that has no hash
        self.root = self._add_node(thought)

    def prompt(self, node: Node) -> tuple[str, ...]:
        """What the model continues with the step after a node, in pieces."""
        return split_prompt(self.task.prompt(self.problem, node.steps))

    def seed_at(self, node: Node, *purpose: int | str) -> int:
        """The seed of what is drawn at a node, whatever is drawn elsewhere."""
        return seed_of(self.seed, *node.path, *purpose)

    def expand(self, nodes: Sequence[Node], n: Sequence[int]) -> Search[list[Node]]:
        """Generates `n[i]` thoughts after node i, and evaluates the states that they lead to.

        Returns new nodes: those of right steps that lead to states not seen before.

        Raises `BudgetExhausted` where the budget allows none.
        """
        self.budget.check()
        affordable = cap(n, self.budget.remaining("nodes"))
        thoughts = yield from self.generator(self, nodes, affordable)
        new, is_truncated = [], sum(affordable) < sum(n)
        for node, completions in zip(nodes, thoughts, strict=True):
            node.expansions += 1
            if node.thought.status in ("open", "kept"):
                node.thought.status = "expanded"
            for completion in completions:
                if self.budget.remaining("nodes") <= 0:
                    self.record(node, completion, "open", "no node was left in the budget")
                    is_truncated = True
                elif (child := self._add_thought(node, completion)) is not None:
                    new.append(child)
        if is_truncated:
            self.budget.truncated_by = "nodes"
        if unanswered := [node for node in new if node.answer is None]:
            yield from self.evaluate(unanswered)
        return new

    def evaluate(self, nodes: Sequence[Node]) -> Search[None]:
        """Sets the values of nodes; what is not known, or no number, counts as 0.

        Raises `InputError` for a value outside 0..1: cut off, all that lie beyond would rank alike.
        """
        values = yield from self.evaluator(self, nodes)
        for node, value in zip(nodes, values, strict=True):
            if value is not None and math.isnan(value):
                self.notes.add("a value was no number (nan); it counts as 0")
                value = None
            if value is not None and not 0 <= value <= 1:
                step = node.steps[-1] if node.steps else self.problem
                raise InputError(f"the value after {step!r:.60} is {value!r}; values are 0 to 1: scale them to that")
            node.thought.value = None if value is None else float(value)

    def record(
        self, parent: Node, written: Completion, status: str = "open", why: str = "", state: Any = None
    ) -> Thought:
        """Adds what was written after a node to the trace, so that the trace has all tokens."""
        path = (*parent.path, parent.recorded)
        parent.recorded += 1
        thought = Thought(path, written.text, state, None, written.tokens, written.logprob, status, why)
        thought.seconds = round(self.budget.elapsed, 6)
        return self.trace.add(thought)

    def add_step(self, parent: Node, text: str) -> Node | None:
        """The node after a step that is given, a new one or that of a known state; None where the step is wrong."""
        state, _ = call_safely(self.task.step, parent.state, text)
        if state is None:
            return None
        step = Completion(text=text, tokens=0)
        return self._find(state) or self._add_node(self.record(parent, step, state=state), parent)

    def _add_thought(self, parent: Node, completion: Completion) -> Node | None:
        """Spends a node of the budget on a thought. Returns its node, or None where it is wrong or a repeat."""
        thought = self.record(parent, completion)
        self.budget.spend(nodes=1)
        thought.state, why = call_safely(self.task.step, parent.state, thought.text)
        if thought.state is None:
            thought.status, thought.why = "wrong", why
            self.notes.add(why)
            return None
        if (known := self._find(thought.state)) is not None:
            thought.status, thought.why = "repeat", ".".join(map(str, known.path))
            return None
        return self._add_node(thought, parent, completion)

    def _add_node(self, thought: Thought, parent: Node | None = None, completion: Completion | None = None) -> Node:
        """The node of a state not seen before, with the answer, if it is one, checked."""
        steps = () if parent is None else (*parent.steps, thought.text)
        node = self.nodes[self.task.key(thought.state)] = Node(thought, parent, steps, completion)
        if parent is not None:
            parent.children.append(node)
        answer = self.notes.call(self.task.answer, self.problem, steps, node.state)
        if answer is not None:
            node.answer = str(answer)
            node.verified = self.notes.check_answer(self.task, self.problem, node.answer)
            thought.status = "refuted" if node.verified is False else "answer"
            thought.value = {True: 1.0, False: 0.0, None: 0.5}[node.verified]
            self.answers.append(node)
        return node

    def _find(self, state: Any) -> Node | None:
        """The node of a state, if it was seen before. Raises `InputError` for a state that has no hash."""
        key = self.task.key(state)
        try:
            return self.nodes.get(key)
        except TypeError:
            kind = type(key).__name__
            raise InputError(
                f"a state of the task {self.task.name!r} is a {kind}, which has no hash; make it a tuple or a text"
            ) from None

    @property
    def is_solved(self) -> bool:
        """Whether an answer was found that a program calls right."""
        return any(node.verified for node in self.answers)

    def ranked_answers(self) -> list[Node]:
        """Right answers first, then those that nobody refuted, from the most promising state; of equals the first."""

        def rank(node: Node) -> tuple[int, float]:
            promise = node.parent.value if node.parent is not None and node.verified is None else node.value
            return (True, None, False).index(node.verified), -promise

        return sorted(self.answers, key=rank)

    def level(self, depth: int) -> list[Node]:
        """The nodes at a depth that are no answers, in the order in which they were made."""
        return [node for node in self.nodes.values() if node.depth == depth and node.answer is None]
