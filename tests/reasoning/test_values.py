"""What states are worth: each way against what it should say of words, scores and residuals that are given."""

import math
import random

import numpy as np
import pytest

from vishwamai.errors import DataError, InputError
from vishwamai.reasoning import drive, values
from vishwamai.reasoning.budget import Budget, BudgetExhausted
from vishwamai.reasoning.memory import ThoughtMemory
from vishwamai.reasoning.model import Completion
from vishwamai.reasoning.proposals import sampled
from vishwamai.reasoning.scripted import Scripted
from vishwamai.reasoning.tree import TreeOfThoughts


def valued(way, model, task, places=("a", "b"), budget=None):
    """What a way of valuing says of places one step from the start."""
    tree = TreeOfThoughts(model, task=task, values=way).tree("x", budget)
    nodes = [tree.add_step(tree.root, place) for place in places]
    [found] = drive.run(model, [way(tree, nodes)])
    return found, tree


def test_in_passing(land):
    task = land()
    task.value = lambda made: {"sure": 0.9}.get(made.text)
    tree = TreeOfThoughts(task.model, task=task).tree("x")
    nodes = [tree.add_step(tree.root, place) for place in "abc"]
    nodes[0].completion, nodes[1].completion = Completion(text="sure", tokens=1), Completion(text="hm", tokens=1)
    [found] = drive.run(task.model, [values.inline()(tree, nodes)])
    assert found == [0.9, 0.5, 0.5] and task.model.asked == [] and tree.budget.spent["calls"] == 0


def test_one_token_is_scored(land):
    scores = {"x\na\nGood?": (-1.0, -2.0), "x\nb\nGood?": (-math.inf, -1.0), "x\nc\nGood?": (-math.inf, -math.inf)}
    scores |= {"x\nd\nGood?": (-0.1, -math.inf), "x\ne\nGood?": (-2000.0, -1.0)}
    model = Scripted({}, lambda prompt, word: scores[prompt][[" yes", " no"].index(word)])
    found, tree = valued(values.token("Good?"), model, land(), "abcde")
    assert found[0] == pytest.approx(math.exp(-1) / (math.exp(-1) + math.exp(-2)), rel=1e-12)
    assert found[1:4] == [pytest.approx(0, abs=1e-300), None, 1.0] and found[4] == pytest.approx(0, abs=1e-300)
    assert tree.budget.spent == {"tokens": 0, "calls": 1, "nodes": 0} and len(model.asked) == 1
    other = Scripted({}, {("x\naGood?", "+"): 0.0, ("x\naGood?", "-"): 0.0})
    task = land()
    task.prompt = lambda problem, steps: f"{problem}\n{steps[-1]}"
    assert valued(values.token("Good?", "+", "-"), other, task, "a")[0] == [0.5]


WORDS = {
    "sure": 1.0, "It is SURE.": 1.0, "likely": 0.5, "impossible, or likely": 0.5, "likely. No: impossible": 0.0,
    "unlikely": 0.0, "unsure": 0.0, "I cannot say": 0.0, "": 0.0, "sure\nimpossible": 1.0,
}  # fmt: skip


@pytest.mark.parametrize("said", WORDS)
def test_the_last_word_counts(said, land):
    model = Scripted(lambda prompt, n: [said] * n)
    assert valued(values.text("So?", samples=1), model, land(), "a")[0] == [WORDS[said]]


def test_of_words_within_words_the_longer_counts(land):
    words = {"likely": 0.8, "Not likely": 0.1, "not": 0.3, "a+": 1.0}
    for said, value in (
        ("not likely", 0.1),
        ("it is likely", 0.8),
        ("NOT at all", 0.3),
        ("it is a+", 1.0),
        ("aaa", 0.0),
    ):
        model = Scripted(lambda prompt, n, said=said: [said] * n)
        assert valued(values.text("So?", words, samples=1), model, land(), "a")[0] == [value]


def test_words_are_asked_for_several_times(land):
    said = {"x\na\nSo?": ["sure", "likely", "never"], "x\nb\nSo?": ["impossible"] * 3}
    model = Scripted(said)
    found, tree = valued(values.text("So?"), model, land())
    assert found == [0.5, 0.0] and tree.budget.spent == {"tokens": 6, "calls": 1, "nodes": 0}
    with pytest.raises(InputError, match="one sample or more, and words"):
        values.text("So?", samples=0)
    with pytest.raises(InputError, match="one sample or more, and words"):
        values.text("So?", {})
    for worth in (20, -0.1, math.nan):
        with pytest.raises(InputError, match="the word 'sure' is worth .* values are 0 to 1"):
            values.text("So?", {"sure": worth, "never": 0})


def test_words_that_were_never_said_say_nothing(land):
    model = Scripted(lambda prompt, n: ["well " * 30 + "sure"] * n)
    assert valued(values.text("So?"), model, land())[0] == [None, None]  # cut off before a word
    model = Scripted(lambda prompt, n: ["sure " * 30] * n)
    assert valued(values.text("So?"), model, land())[0] == [1.0, 1.0]
    model = Scripted(lambda prompt, n: ["likely"] * n)
    found, tree = valued(values.text("So?"), model, land(), budget=Budget(tokens=50))
    assert found == [0.5, None] and tree.budget.truncated_by == "tokens"


class Residuals(Scripted):
    """A model whose residuals are given by the place."""

    def __init__(self, rows):
        super().__init__({})
        self.rows = rows

    def features(self, prompts):
        self.asked.append(["".join(prompt) for prompt in prompts])
        return np.array([self.rows[text.split("\n")[-2]] for text in self.asked[-1]], np.float32)


def test_a_head_reads_residuals(land):
    model = Residuals({"a": [1, 2], "b": [-3, 0], "c": [1e6, 0]})
    weights = np.array([0.5, -0.25])
    found, tree = valued(values.head(weights, 0.125), model, land(), "abc")
    assert found == pytest.approx([1 / (1 + math.exp(-0.125)), 1 / (1 + math.exp(1.375)), 1.0], rel=1e-12)
    assert model.asked == [["x\na\n", "x\nb\n", "x\nc\n"]] and tree.budget.spent["calls"] == 1
    with pytest.raises(BudgetExhausted, match="calls"):
        valued(values.head(weights), model, land(), budget=Budget(calls=0))
    with pytest.raises(
        InputError, match="a Scripted shows no residuals, which a learned head reads: take other values"
    ):
        valued(values.head(weights), Scripted({}), land())


def test_the_states_of_all_problems_are_looked_at_in_one_call(land):
    model = Residuals({"a": [1, 2], "b": [-3, 0]})
    way = values.head(np.array([0.5, -0.25]))
    trees = [TreeOfThoughts(model, task=land(), values=way).tree(problem) for problem in "xy"]
    searches = [way(tree, [tree.add_step(tree.root, place)]) for tree, place in zip(trees, "ab", strict=True)]
    assert drive.run(model, searches) == [[pytest.approx(0.5)], [pytest.approx(1 / (1 + math.exp(1.5)))]]
    assert model.asked == [["x\na\n", "y\nb\n"]]


def test_a_head_is_fitted_to_states_that_can_be_told_apart():
    x = np.array([[1.0], [-1.0]], np.float32)
    for decay in (1.0, 0.1):
        weights, bias = values.fit_head(x, [True, False], decay)
        low, high = 0.0, 50.0  # by symmetry the bias is 0, and 2 (1 - s(w)) = decay * w
        for _ in range(200):
            w = (low + high) / 2
            low, high = (w, high) if 2 / (1 + math.exp(w)) > decay * w else (low, w)
        assert weights == pytest.approx([w], rel=1e-9) and bias == pytest.approx(0.0, abs=1e-9)


def test_a_head_is_at_the_minimum_of_its_loss():
    rng = np.random.default_rng(0)
    x = rng.normal(size=(60, 5)).astype(np.float32) * 10
    y = x @ [1, -2, 0, 0.5, 0] + 3 > 0
    weights, bias = values.fit_head(x, y.tolist(), 0.5)

    def loss(w, b):
        z = (x.astype(np.float64) @ w + b) * np.where(y, 1, -1)
        return np.logaddexp(0, -z).sum() + 0.25 * w @ w + 0.5e-6 * b * b

    least = loss(weights, bias)
    for step in np.vstack([np.eye(6), -np.eye(6)]) * 1e-3:
        assert loss(weights + step[:5], bias + step[5]) > least
    assert ((x @ weights + bias > 0) == y).all()
    for features, labels, decay in ((x, y[:-1], 1.0), (x[0], y, 1.0), (x[:0], [], 1.0), (x, y, 0.0), (x, y, math.nan)):
        with pytest.raises(InputError, match="labels; give each|decay is"):
            values.fit_head(features, labels, decay)


def test_a_program_says(land):
    def worth(problem, state):
        return {"a": 1, "b": 0.25, "c": "much", "d": None, "e": 1 / 0 if state == "e" else 0}[state]

    found, tree = valued(values.program(worth), Scripted({}), land(), "abde")
    assert found == [1.0, 0.25, 0.0, 0.0]
    assert tree.notes[0].startswith("the checker raised TypeError: float()") and len(tree.notes) == 2
    assert tree.notes[1] == "the checker raised ZeroDivisionError: division by zero"
    found, tree = valued(values.program(worth), Scripted({}), land(), "cc")
    assert found == [0.0, 0.0] and tree.notes == [
        "the checker raised ValueError: could not convert string to float: 'much'"
    ]


def spoken(task, rng):
    """The task's model, which also says how good places are, otherwise each time."""

    def says(prompt, n):
        if prompt.endswith("So?"):
            return [rng.choice(["sure", "likely", "impossible"]) for _ in range(n)]
        return task.says(prompt, n)

    return says


def searched(memory, land, identity="one", problem="x", scoped=True):
    task = land(seed=9)
    task.scoped = scoped
    model = Scripted(spoken(task, random.Random(0)), identity=identity)
    how = {"task": task, "values": values.text("So?"), "proposals": sampled(0.7), "stop_early": False}
    made = TreeOfThoughts(model, 4, memory=memory, **how).solve(problem)
    return made, sum(call[0].endswith("So?") for call in model.asked)


def test_values_are_remembered_for_the_same_weights(land):
    memory = ThoughtMemory()
    first, calls = searched(memory, land)
    again, more = searched(memory, land)
    assert calls == 3 and more == 0 and again.tokens < first.tokens
    assert [t.value for t in again.trace.thoughts] == [t.value for t in first.trace.thoughts]
    assert searched(memory, land, identity="another")[1] == 3
    assert searched(memory, land, problem="y")[1] > 0  # what a place is worth depends on the problem here
    assert [searched(memory, land, scoped=False)[1] for _ in range(2)] == [3, 0]


def test_what_is_missing_alone_is_asked_for(land):
    memory, model = ThoughtMemory(), Scripted(lambda prompt, n: ["likely"] * n)
    asked = values.text("So?", samples=1)
    memory.note_value("one", f"land: {asked.kind}", ("x", "b"), 0.875)
    way = values.with_memory(asked, memory, "one")
    assert valued(way, model, land(), "abc")[0] == [0.5, 0.875, 0.5]
    assert model.asked == [["x\na\nSo?", "x\nc\nSo?"]]
    assert valued(way, model, land(), "cba")[0] == [0.5, 0.875, 0.5] and len(model.asked) == 1


def test_values_of_another_kind_or_question_are_others(land):
    memory, model = ThoughtMemory(), Scripted(lambda prompt, n: ["likely" if "So?" in prompt else "sure"] * n)
    ways = [
        values.text("So?", samples=1),
        values.text("Is it?", samples=1),
        values.program(lambda problem, state: 0.25),
    ]
    for _ in range(2):
        found = [valued(values.with_memory(way, memory, "one"), model, land(), "a")[0] for way in ways]
        assert found == [[0.5], [1.0], [0.25]]
    assert len(model.asked) == 2


def test_a_memory_that_fails_is_told_and_the_search_goes_on(land, monkeypatch):
    memory = ThoughtMemory()

    def full(*args):
        raise DataError("the disk is full")

    monkeypatch.setattr(memory, "note_value", full)
    made, _ = searched(memory, land)
    assert made.notes == ("the disk is full",) and made.nodes > 10 and made.stopped is None


def test_what_is_no_value_is_not_remembered(land):
    memory = ThoughtMemory()
    worth = {"a": math.nan, "b": None, "c": 0.25, "d": math.inf, "e": 7.0, "f": -0.5}

    def unsure(tree, nodes):
        return [worth[node.state] for node in nodes]
        yield

    for places, wanted in (("abc", [None, None, 0.25]), ("d", None), ("e", None), ("f", None)):
        task = land({"start": list(places)})
        ways = {"task": task, "values": unsure, "memory": memory, "proposals": sampled(0.7)}
        tree = TreeOfThoughts(task.model, len(places), 1, **ways)
        if wanted is None:
            with pytest.raises(InputError, match="values are 0 to 1"):
                tree.solve("x")
        else:
            assert [t.value for t in tree.solve("x").trace.thoughts[1 : 1 + len(places)]] == wanted
    name = f"land: {unsure.__qualname__}"
    known = [memory.value("scripted", name, ("x", place)) for place in worth]
    assert known == [None, None, 0.25, None, None, None]
