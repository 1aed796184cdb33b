"""How promising a state is: said in passing, asked for in words, read from one token, from the residuals, or computed.

Each is made by a call that checks its settings and gives a function of (tree, nodes), which asks through the tree's
budget. Values are from 0 to 1, None where nothing is known; a search refuses others.
"""

import math
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from vishwamai.errors import DataError, InputError
from vishwamai.generation.sampling import SamplingParams
from vishwamai.reasoning.drive import Search, ask, ask_features, ask_scores
from vishwamai.reasoning.growth import Node, Tree, Values
from vishwamai.reasoning.memory import ThoughtMemory
from vishwamai.reasoning.model import Completion, pieces, seed_of
from vishwamai.reasoning.task import call_safely, yes_probability

WORDS = {"sure": 1.0, "likely": 0.5, "impossible": 0.0}


def inline() -> Values:
    """What the model wrote in passing with the step itself, as the task reads it; no call, no token. 0.5: nothing.

    After a step that the model did not write, the task's marks are scored.
    """

    def values(tree: Tree, nodes: Sequence[Node]) -> Search[list[float | None]]:
        task = tree.task
        found = {node: task.value(node.made) for node in nodes if node.made is not None}
        given = [node for node in nodes if node.made is None and node.steps]
        if given and task.marks is not None:
            texts = [node.steps[-1].rstrip() for node in given]
            bare = [text.removesuffix(task.marks[0]).removesuffix(task.marks[1]) for text in texts]
            before = [pieces(task.prompt(tree.problem, node.steps[:-1])) for node in given]
            prompts = [(*prompt, text) for prompt, text in zip(before, bare, strict=True)]
            scores = yield from ask_scores(tree.budget, prompts, [task.marks] * len(given))
            found |= {node: yes_probability(*pair) for node, pair in zip(given, scores, strict=True)}
        return [0.5 if found.get(node) is None else found[node] for node in nodes]

    return _of_kind("inline", values)


def token(question: str, yes: str = " yes", no: str = " no") -> Values:
    """The probability of `yes` against `no` after the state's prompt and a question: scored, so no token is made.

    None where the model gives neither any probability.
    """

    def values(tree: Tree, nodes: Sequence[Node]) -> Search[list[float | None]]:
        prompts = [(*_pieces(tree, node), question) for node in nodes]
        scores = yield from ask_scores(tree.budget, prompts, [(yes, no)] * len(nodes))
        return [yes_probability(of, against) for of, against in scores]

    return _of_kind(f"token {question!r} {yes!r} {no!r}", values)


def text(question: str, words: Mapping[str, float] = WORDS, samples: int = 3, temperature: float = 0.7) -> Values:
    """The mean of what the model says in words, `samples` times; an answer without one of the words counts as 0.

    Of words in an answer the last counts, where two begin at one place the longer; capitals and parts of longer words
    do not matter ("unlikely" is not "likely"). An answer that was cut off before a word is none.
    """
    if samples < 1 or not words:
        raise InputError("values in words need one sample or more, and words that say how promising a state is")
    for word, value in words.items():
        if not 0 <= value <= 1:
            raise InputError(f"the word {word!r} is worth {value!r}; values are 0 to 1: scale them to that")
    how = SamplingParams(temperature=temperature, max_tokens=24, stop=("\n",))
    worth = {word.lower(): value for word, value in words.items()}
    longest = sorted(worth, key=len, reverse=True)
    pattern = re.compile(rf"(?<!\w)(?:{'|'.join(map(re.escape, longest))})(?!\w)")

    def said_of(made: Completion) -> float | None:
        found = pattern.findall(made.text.lower())
        return worth[found[-1]] if found else None if made.finish_reason == "length" else 0.0

    def values(tree: Tree, nodes: Sequence[Node]) -> Search[list[float | None]]:
        prompts = [(*_pieces(tree, node), question) for node in nodes]
        seeds = [seed_of(tree.seed, *node.path, "value") for node in nodes]
        said = yield from ask(tree.budget, prompts, [samples] * len(nodes), how, seeds)
        for node, row in zip(nodes, said, strict=True):
            node.thought.tokens += sum(c.tokens for c in row)
        return [_mean([worth for c in row if (worth := said_of(c)) is not None]) for row in said]

    return _of_kind(f"text {question!r} {sorted(words.items())} {samples} {temperature}", values)


def head(weights: np.ndarray, bias: float = 0.0) -> Values:
    """A learned head: the logistic function of the residuals after the state's prompt. `fit_head` makes the weights.

    It is a call of the model, and no token. The model must show its residuals, as `local.Local` does.
    """

    def values(tree: Tree, nodes: Sequence[Node]) -> Search[list[float]]:
        rows = yield from ask_features(tree.budget, [_pieces(tree, node) for node in nodes])
        return [float(_logistic(row.astype(np.float64) @ weights + bias)) for row in rows]

    return _of_kind(f"head {seed_of(0, np.asarray(weights).tobytes().hex(), repr(bias)):016x}", values)


def program(value: Callable[[str, Any], float]) -> Values:
    """A function of (problem, state); where it raises, the state counts as 0 and the solution's notes say so."""

    def values(tree: Tree, nodes: Sequence[Node]) -> Search[list[float]]:
        found = []
        for node in nodes:
            number, why = call_safely(lambda state: float(value(tree.problem, state)), node.state)
            found.append(0.0 if number is None else number)
            if why and why not in tree.notes:
                tree.notes.append(why)
        return found
        yield

    return _of_kind(f"program {getattr(value, '__module__', '')}.{getattr(value, '__qualname__', repr(value))}", values)


def remembered(values: Values, memory: ThoughtMemory, identity: str) -> Values:
    """Values that the same model gave to the same states of the same task before, and where there is none, new ones.

    Values of another kind, or of another question, are others. A memory that fails is told in the notes, and the search
    goes on without it.
    """
    kind = getattr(values, "kind", getattr(values, "__qualname__", "values"))

    def seen(tree: Tree, nodes: Sequence[Node]) -> Search[list[float | None]]:
        name = f"{tree.task.name}: {kind}"
        keys = [(tree.problem if tree.task.scoped else "", node.state) for node in nodes]
        known = [_kept(tree, memory.value, identity, name, key) for key in keys]
        missing = [node for node, value in zip(nodes, known, strict=True) if value is None]
        new = iter((yield from values(tree, missing)) if missing else [])
        found = [next(new) if value is None else value for value in known]
        for key, old, value in zip(keys, known, found, strict=True):
            if old is None and value is not None and 0 <= value <= 1:
                _kept(tree, memory.note_value, identity, name, key, value)
        return found

    return seen


def _kept(tree: Tree, use: Callable[..., Any], *args: Any) -> Any:
    """What a memory says, or None with a note where its file cannot be used, or a state not be written to it."""
    try:
        return use(*args)
    except (DataError, InputError) as error:
        if str(error) not in tree.notes:
            tree.notes.append(str(error))
        return None


def _of_kind(kind: str, values: Values) -> Values:
    """The same values, with what tells them from others in a memory."""
    values.kind = kind  # pyright: ignore[reportFunctionMemberAccess]
    return values


def fit_head(
    features: np.ndarray, labels: Sequence[bool], decay: float = 1.0, steps: int = 25
) -> tuple[np.ndarray, float]:
    """Weights and bias of `head` by logistic regression: Newton's method, in float64.

    `features` are `[n, D]`, from `Local.features`; half of the weights' squares times `decay` is added to the loss.
    Raises `InputError` where there is not a label for each state, and for a `decay` that is not above 0.
    """
    if features.ndim != 2 or len(features) != len(labels) or not len(labels):
        raise InputError(
            f"features of shape {features.shape} and {len(labels)} labels; give each state a row and a label"
        )
    if not 0 < decay < math.inf:
        raise InputError(f"decay is {decay!r}; it must be a number above 0, or separable states have no best weights")
    x = np.concatenate([features.astype(np.float64), np.ones((len(features), 1))], axis=1)
    y, w = np.asarray(labels, np.float64), np.zeros(x.shape[1])
    penalty = np.diag([decay] * features.shape[1] + [1e-6])
    for _ in range(steps):
        p = _logistic(x @ w)
        hessian = (x * (p * (1 - p))[:, None]).T @ x + penalty
        w -= np.linalg.solve(hessian, x.T @ (p - y) + penalty @ w)
    return w[:-1], float(w[-1])


def _logistic(z: np.ndarray) -> np.ndarray:
    return 1 / (1 + np.exp(-np.clip(z, -500, 500)))


def _mean(known: Sequence[float]) -> float | None:
    return sum(known) / len(known) if known else None


def _pieces(tree: Tree, node: Node) -> tuple[str, ...]:
    return pieces(tree.task.prompt(tree.problem, node.steps))
