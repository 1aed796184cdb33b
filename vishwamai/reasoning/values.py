"""How promising a state is: said in passing, asked for in words, read from one token, from the residuals, or computed.

Each function checks its settings and returns a `StateEvaluator`. Values are from 0 to 1, None where nothing is known; a
search refuses others.
"""

import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from vishwamai.checks import check_number
from vishwamai.errors import DataError, InputError
from vishwamai.generation.sampling import SamplingParams
from vishwamai.reasoning.drive import Search, ask, ask_features, ask_scores
from vishwamai.reasoning.memory import ThoughtMemory
from vishwamai.reasoning.model import Completion, seed_of
from vishwamai.reasoning.search_tree import Node, SearchTree, StateEvaluator
from vishwamai.reasoning.task import yes_probability

WORDS = {"sure": 1.0, "likely": 0.5, "impossible": 0.0}


def inline() -> StateEvaluator:
    """What the model wrote in passing with the step itself, as the task reads it, else 0.5: no call and no token.

    After a step that the model did not write, the task's marks are scored.
    """

    def evaluate(tree: SearchTree, nodes: Sequence[Node]) -> Search[list[float | None]]:
        task = tree.task
        values = {node: task.value(node.completion) for node in nodes if node.completion is not None}
        given = {node: node.parent for node in nodes if node.completion is None and node.parent is not None}
        if given and task.marks is not None:
            yes, no = task.marks
            bare = [node.steps[-1].rstrip().removesuffix(yes).removesuffix(no) for node in given]
            prompts = [(*tree.prompt(parent), step) for parent, step in zip(given.values(), bare, strict=True)]
            scores = yield from ask_scores(tree.budget, prompts, [task.marks] * len(given))
            values |= {node: yes_probability(*pair) for node, pair in zip(given, scores, strict=True)}
        return [0.5 if (value := values.get(node)) is None else value for node in nodes]

    return _with_kind("inline", evaluate)


def token(question: str, yes: str = " yes", no: str = " no") -> StateEvaluator:
    """The probability of `yes` against `no` after the state's prompt and a question: scored, so no token is made.

    None where the model gives neither any probability.
    """

    def evaluate(tree: SearchTree, nodes: Sequence[Node]) -> Search[list[float | None]]:
        prompts = [(*tree.prompt(node), question) for node in nodes]
        scores = yield from ask_scores(tree.budget, prompts, [(yes, no)] * len(nodes))
        return [yes_probability(*pair) for pair in scores]

    return _with_kind(f"token {question!r} {yes!r} {no!r}", evaluate)


def text(
    question: str, words: Mapping[str, float] = WORDS, samples: int = 3, temperature: float = 0.7
) -> StateEvaluator:
    """The mean of what the model says in words, `samples` times; an answer without one of the words counts as 0.

    Of words in an answer the last counts, where two begin at one place the longer; capitals and parts of longer words
    do not matter ("unlikely" is not "likely"). An answer that was cut off before a word is none.
    """
    if samples < 1 or not words:
        raise InputError("values in words need one sample or more, and words that say how promising a state is")
    for word, value in words.items():
        if not 0 <= value <= 1:
            raise InputError(f"the word {word!r} is worth {value!r}; values are 0 to 1: scale them to that")
    params = SamplingParams(temperature=temperature, max_tokens=24, stop=("\n",))
    value_of = {word.lower(): value for word, value in words.items()}
    longest_first = sorted(value_of, key=len, reverse=True)
    pattern = re.compile(rf"(?<!\w)(?:{'|'.join(map(re.escape, longest_first))})(?!\w)")

    def read(answer: Completion) -> float | None:
        found = pattern.findall(answer.text.lower())
        return value_of[found[-1]] if found else None if answer.finish_reason == "length" else 0.0

    def evaluate(tree: SearchTree, nodes: Sequence[Node]) -> Search[list[float | None]]:
        prompts = [(*tree.prompt(node), question) for node in nodes]
        seeds = [tree.seed_at(node, "value") for node in nodes]
        answers = yield from ask(tree.budget, prompts, [samples] * len(nodes), params, seeds)
        values = []
        for node, row in zip(nodes, answers, strict=True):
            node.thought.tokens += sum(answer.tokens for answer in row)
            known = [value for answer in row if (value := read(answer)) is not None]
            values.append(sum(known) / len(known) if known else None)
        return values

    return _with_kind(f"text {question!r} {sorted(words.items())} {samples} {temperature}", evaluate)


def head(weights: np.ndarray, bias: float = 0.0) -> StateEvaluator:
    """A learned head: the logistic function of the residuals after the state's prompt. `fit_head` makes the weights.

    It is a call of the model, and no token. The model must show its residuals, as `local.Local` does.
    """

    def evaluate(tree: SearchTree, nodes: Sequence[Node]) -> Search[list[float]]:
        rows = yield from ask_features(tree.budget, [tree.prompt(node) for node in nodes])
        return [float(_logistic(row.astype(np.float64) @ weights + bias)) for row in rows]

    return _with_kind(f"head {seed_of(0, np.asarray(weights).tobytes().hex(), repr(bias)):016x}", evaluate)


def program(value: Callable[[str, Any], float]) -> StateEvaluator:
    """A function of (problem, state); where it raises, the state counts as 0 and the solution's notes say so."""

    def evaluate(tree: SearchTree, nodes: Sequence[Node]) -> Search[list[float]]:
        return [tree.notes.call(lambda node: float(value(tree.problem, node.state)), node) or 0.0 for node in nodes]
        yield  # it asks the model for nothing

    name = f"{getattr(value, '__module__', '')}.{getattr(value, '__qualname__', repr(value))}"
    return _with_kind(f"program {name}", evaluate)


def with_memory(evaluator: StateEvaluator, memory: ThoughtMemory, identity: str) -> StateEvaluator:
    """Values that the same model gave to the same states of the same task before, and where there is none, new ones.

    Values of another kind, or of another question, are others. A memory that fails is told in the notes, and the search
    goes on without it.
    """
    kind = getattr(evaluator, "kind", getattr(evaluator, "__qualname__", "values"))

    def evaluate(tree: SearchTree, nodes: Sequence[Node]) -> Search[list[float | None]]:
        def use(method: Callable[..., Any], node: Node, *args: Any) -> Any:
            """What the memory says of a node; None where its file cannot be used, or the state not be written to it."""
            try:
                place = (tree.problem if tree.task.scoped else "", tree.task.key(node.state))
                return method(identity, f"{tree.task.name}: {kind}", place, *args)
            except (DataError, InputError) as error:
                tree.notes.add(str(error))
                return None

        values = {node: use(memory.value, node) for node in nodes}
        missing = [node for node, value in values.items() if value is None]
        if missing:
            values |= zip(missing, (yield from evaluator(tree, missing)), strict=True)
        for node in missing:
            value = values[node]
            if value is not None and 0 <= value <= 1:
                use(memory.note_value, node, value)
        return [values[node] for node in nodes]

    return evaluate


def _with_kind(kind: str, evaluator: StateEvaluator) -> StateEvaluator:
    """The evaluator, with what tells its values from others in a memory."""
    evaluator.kind = kind  # pyright: ignore[reportFunctionMemberAccess]
    return evaluator


def fit_head(
    features: np.ndarray, labels: Sequence[bool], decay: float = 1.0, steps: int = 25
) -> tuple[np.ndarray, float]:
    """Weights and bias of `head` by logistic regression: Newton's method, in float64.

    `features` are `[n, D]`, from `Local.features`; half of the weights' squares times `decay` is added to the loss.
    Raises `InputError` where there is not a label for each state, and for a `decay` that is not above 0.
    """
    shape = features.shape
    if len(shape) != 2 or len(features) != len(labels) or not len(labels):
        raise InputError(f"features of shape {shape} and {len(labels)} labels; give each state a row and a label")
    check_number("decay", decay, above=0)  # without any, states that can be separated have no best weights
    x = np.concatenate([features.astype(np.float64), np.ones((len(features), 1))], axis=1)
    y, w = np.asarray(labels, np.float64), np.zeros(x.shape[1])
    penalty = np.diag([decay] * shape[1] + [1e-6])
    for _ in range(steps):
        p = _logistic(x @ w)
        hessian = (x * (p * (1 - p))[:, None]).T @ x + penalty
        w -= np.linalg.solve(hessian, x.T @ (p - y) + penalty @ w)
    return w[:-1], float(w[-1])


def _logistic(z: np.ndarray) -> np.ndarray:
    return 1 / (1 + np.exp(-np.clip(z, -500, 500)))
