"""`TreeOfThoughts` and the tree it grows: places, statuses, the answer that is submitted, what can be asked of it."""

import math

import pytest

from vishwamai.errors import BackendError, InputError
from vishwamai.reasoning import drive
from vishwamai.reasoning.budget import Budget
from vishwamai.reasoning.memory import ThoughtMemory
from vishwamai.reasoning.model import Completion
from vishwamai.reasoning.proposals import distinct, proposed, sampled
from vishwamai.reasoning.scripted import Scripted
from vishwamai.reasoning.search import MIN_VALUE, SEARCHES, path_score
from vishwamai.reasoning.tree import TreeOfThoughts
from vishwamai.reasoning.values import inline, program


def solver(task, branches=3, depth=3, width=5, **how):
    settings = {"values": program(task.worth), "proposals": sampled(0.7), "even": False} | how
    return TreeOfThoughts(task.model, branches, depth, width, task=task, **settings)


ROADS = {
    "start": ["a", "wrong way", "b", "a"],
    "a": ["maybe 1", "c"],
    "b": ["c", "refuted 2", "start"],
    "c": ["maybe 3"],
}
WORTH = {"a": 0.25, "b": 0.75, "c": 0.5}


def test_every_thought_has_its_place_and_status(land):
    task = land(ROADS, WORTH)
    made = solver(task, 4).solve("x")
    told = {".".join(map(str, t.path)): (t.text, t.status, t.why, t.value) for t in made.trace.thoughts}
    assert told == {
        "": ("", "expanded", "", None),
        "0": ("a", "expanded", "", 0.25), "1": ("wrong way", "wrong", "", None),
        "2": ("b", "expanded", "", 0.75), "3": ("a", "repeat", "0", None),
        "2.0": ("c", "expanded", "", 0.5), "2.1": ("refuted 2", "refuted", "", 0.0),
        "2.2": ("start", "repeat", "", None),
        "2.3": ("wrong way", "wrong", "", None),
        "0.0": ("maybe 1", "answer", "", 0.5), "0.1": ("c", "repeat", "2.0", None),
        "0.2": ("wrong way", "wrong", "", None), "0.3": ("wrong way", "wrong", "", None),
        "2.0.0": ("maybe 3", "answer", "", 0.5),
        "2.0.1": ("wrong way", "wrong", "", None), "2.0.2": ("wrong way", "wrong", "", None),
        "2.0.3": ("wrong way", "wrong", "", None),
    }  # fmt: skip
    # Of two that nobody can check, the one from the better state; what is refuted last.
    assert (made.answer, made.verified, made.confidence) == ("maybe 3", None, 0.5)
    assert made.candidates == ("maybe 3", "maybe 1", "refuted 2") and made.trace.result["path"] == [2, 0, 0]
    assert [step.text for step in made.steps] == ["b", "c", "maybe 3"] and made.work == "b\nc\nmaybe 3"
    assert (made.calls, made.nodes, made.method, made.complete) == (3, 16, "tot-breadth", True)
    assert made.tokens == sum(t.tokens for t in made.trace.thoughts) == task.model.usage.completion_tokens
    seconds = [t.seconds for t in made.trace.thoughts]
    assert seconds == sorted(seconds) and seconds[-1] <= made.seconds
    assert made.trace.result == made.summary() | {"path": [2, 0, 0]}


def test_a_right_answer_is_first_wherever_it_was_found(land):
    made = solver(land({"start": ["maybe 1", "refuted 1", "right 1"]}, {})).solve("x")
    assert made.candidates == ("right 1", "maybe 1", "refuted 1")
    assert (made.verified, made.confidence, made.trace.result["path"]) == (True, 1.0, [2])
    made = solver(land({"start": ["refuted 1", "refuted 2"]}, {})).solve("x")
    assert (made.answer, made.verified, made.confidence) == ("refuted 1", False, 0.0)
    made = solver(land({"start": ["wrong way"]}, {})).solve("x")
    assert (made.answer, made.steps, made.candidates, made.confidence, made.complete) == (None, (), (), None, True)


@pytest.mark.parametrize("name", SEARCHES)
@pytest.mark.parametrize("problem, verified", [("24 from 24", True), ("24 from 23", False)])
def test_a_problem_that_is_its_own_answer_needs_no_model(problem, verified, name):
    made = TreeOfThoughts(Scripted({}), task="countdown", search=name).solve(problem, budget=Budget(calls=0))
    assert (made.answer, made.verified, made.steps, made.stopped) == (problem[-2:], verified, (), None)
    assert made.trace.thoughts[0].status == ("answer" if verified else "refuted")


@pytest.mark.parametrize("value", [-3.0, 7.0, 1.0001, -1e-9, math.inf])
def test_a_value_outside_its_range_is_refused_and_not_cut_off(value, land):
    with pytest.raises(InputError, match=f"the value after 'b' is {value!r}; values are 0 to 1"):
        solver(land({"start": ["a", "b"]}, {"a": 0.5, "b": value}), 2, 1).solve("x")


def test_values_rank_as_they_are_and_one_that_is_no_number_counts_as_0(land):
    worth = {"a": 0.0, "b": 1.0, "c": 0.123456, "d": math.nan, "e": 0.123457}
    made = solver(land({"start": list(worth)}, worth), 5, 1).solve("x")
    assert [t.value for t in made.trace.thoughts[1:]] == [0.0, 1.0, 0.123456, None, 0.123457]
    assert made.notes == ("a value was no number (nan); it counts as 0",)
    close = {"a": 0.90001, "b": 0.90002, "c": 0.90003}
    kept = solver(land({"start": list(close)}, close), 3, 1, 1).solve("x")
    assert [t.status for t in kept.trace.thoughts[1:]] == ["pruned", "pruned", "kept"]


def test_a_long_way_has_a_score():
    """Longer than Python calls may be nested."""
    mine = TreeOfThoughts(Scripted({}), task="text")
    tree = mine.tree("How long?")
    node = tree.root
    for i in range(3000):
        node = tree.add_step(node, f"step {i}")
        node.thought.logprob = -0.5
    assert path_score(node) == -1500.0 + math.log(MIN_VALUE) and node.depth == 3000


def test_a_step_that_is_given_takes_a_place_of_its_own(land):
    task = land(ROADS, WORTH)
    tree = solver(task).tree("x")
    a = tree.add_step(tree.root, "a")
    assert tree.add_step(tree.root, "a") is a and tree.add_step(a, "start") is tree.root
    assert tree.add_step(tree.root, "wrong way") is None and a.path == (0,)
    [new] = drive.run(task.model, [tree.expand([tree.root], [3])])
    assert [(node.thought.text, node.path) for node in new] == [("b", (3,))]
    assert [t.path for t in tree.trace.thoughts] == [(), (0,), (1,), (2,), (3,)]


def test_thoughts_and_values_for_the_asking(land):
    mine = solver(land(ROADS, WORTH), 2)
    assert mine.generate_thoughts("x") == ["a", "b"] and mine.generate_thoughts("y", n=4) == ["a", "b"]
    assert mine.generate_thoughts("x", ["b"]) == ["c", "refuted 2"] and mine.generate_thoughts("z", n=0) == []
    assert mine.estimate_value("x", ["b", "c"]) == 0.5 and mine.estimate_value("x", ["b", "refuted 2"]) == 0.0
    assert solver(land({}, {"a": 0.12345})).estimate_value("x", ["a"]) == 0.12345
    with pytest.raises(InputError, match="step 2 is wrong here: 'wrong way'"):
        mine.estimate_value("x", ["a", "wrong way"])
    for n in (-1, 1.5, True):
        with pytest.raises(InputError, match="n is .*; it must be a whole number, 0 or more"):
            mine.generate_thoughts("x", n=n)


def test_an_answer_outlives_a_failure_of_the_model(land):
    class Failing(Scripted):
        def generate(self, *args, **more):
            if len(self.asked) == 1:
                raise BackendError("the server is gone: start it")
            return super().generate(*args, **more)

    def solve(roads):
        task = land(roads, {"a": 1.0})
        task.model = Failing(task.says)
        return solver(task, 2).solve("x")

    made = solve({"start": ["a", "maybe 1"]})
    assert (made.answer, made.stopped, made.complete) == ("maybe 1", "the server is gone: start it", False)
    with pytest.raises(BackendError, match="gone"):
        solve({"start": ["a", "wrong way"]})


class Choices(Scripted):
    """Draws choices in the order that is given, and writes out each as the numbers that follow; notes the calls."""

    def __init__(self, *choices):
        super().__init__({})
        self.choices, self.calls = choices, []

    def generate(self, prompts, n, sampling, seeds, *, deadline=None):
        self.asked.append(["".join(prompt) for prompt in prompts])
        self.calls.append((list(n), sampling.stop, sampling.max_tokens, sampling.temperature, sampling.logprobs, seeds))
        if sampling.stop == (" =",):
            drawn = self.choices[len([call for call in self.calls if call[1] == (" =",)]) - 1]
            return [[Completion(text=text, tokens=4, logprob=-1.0) for text in drawn[:many]] for many in n]
        return [[Completion(text=self.rest(text), tokens=6, logprob=-0.5)] for text in self.asked[-1]]

    def rest(self, text):
        a, op, b = text.split("\n")[-1].split()
        left = [12 - int(a), int(b)] if op == "x" else [int(a) + int(b)]
        return f" = {left[0]} yes"


def test_of_equal_choices_one_is_written_out():
    model = Choices([" 1 + 2", " 1 + 2", " 2 + 1", "  "], [" 1 + 2", " 2 + 1", " 2 + 2"])
    mine = TreeOfThoughts(model, 4, 1, 1, task="countdown", rounds=2, temperature=0.9)
    made = mine.solve("9 from 1 2")
    assert [(t.text, t.tokens, t.logprob, t.status) for t in made.trace.thoughts[1:]] == [
        ("  ", 4, -1.0, "repeat"),
        (" 1 + 2 = 3 yes", 14, -1.5, "refuted"),
        (" 2 + 1 = 3 yes", 10, -1.5, "repeat"),
        (" 1 + 2", 4, -1.0, "repeat"),
        (" 2 + 1", 4, -1.0, "repeat"),
        (" 2 + 2 = 4 yes", 10, -1.5, "wrong"),
    ]
    assert made.tokens == sum(t.tokens for t in made.trace.thoughts)
    first, written, again, last = model.calls
    assert first[:5] == ([4], (" =",), 8, 0.9, 0) and written[:5] == ([1, 1], ("\n",), 24, 0.0, 5)
    assert (again[0], last[0]) == ([4], [1]) and again[5] != first[5]  # drawn anew, with other seeds
    prompt = "Make 9 from 1 2.\n"
    assert model.asked == [[prompt], [prompt + " 1 + 2", prompt + " 2 + 1"], [prompt], [prompt + " 2 + 2"]]
    assert made.tokens == 16 + 12 + 12 + 6


def test_a_choice_that_the_budget_did_not_hold_can_be_drawn_again():
    model = Choices([" 1 + 2", " 2 + 1"])
    mine = TreeOfThoughts(model, task="countdown")
    tree = mine.tree("9 from 1 2", Budget(tokens=8 + 24 + 7))
    drive.run(model, [tree.expand([tree.root], [2])])
    assert tree.root.choices == {" 1 + 2"} and tree.budget.truncated_by == "tokens"


WRONG = Completion(text="wrong way", tokens=2)


@pytest.mark.parametrize("logprobs, asked", [({}, [0, 5]), ({"logprobs": 2}, [0, 2]), ({"logprobs": None}, [None] * 2)])
def test_log_probabilities_are_asked_for_unless_the_endpoint_has_none(logprobs, asked, land):
    model = Choices([" 1 + 2"])
    TreeOfThoughts(model, 1, 1, 1, task="countdown", proposals=distinct(0.5, **logprobs)).solve("3 from 1 2")
    assert [call[4] for call in model.calls] == asked
    seen = []
    task = land({"start": ["a"]}, {"a": 0.5})
    task.model.generate = lambda prompts, n, sampling, seeds, deadline: seen.append(sampling) or [[WRONG] for _ in n]
    solver(task, proposals=sampled(0.5, **logprobs)).solve("x")
    assert [how.logprobs for how in seen] == asked[1:]


def test_a_list_is_cut_to_what_counts(land):
    task = land({"start": ["a", "b", "c"], "a": ["d"]}, dict.fromkeys("abcd", 0.5))
    made = solver(task, 2, 2, 1, proposals=proposed(task.question, 0.5)).solve("x")
    assert [(t.text, t.tokens) for t in made.trace.thoughts[1:]] == [("a", 3), ("b", 0), ("d", 1)]
    assert task.model.asked == [["x\nWays:"], ["x\na\nWays:"]] and made.tokens == 4


def test_thoughts_beyond_what_was_asked_for_do_not_break_a_budget(land):
    def many(tree, nodes, n):
        return [[Completion(text=f"{node.state[:1]}{i}", tokens=0) for i in range(9)] for node in nodes]
        yield

    made = solver(land(worth=dict.fromkeys([f"s{i}" for i in range(9)], 0.5)), proposals=many).solve(
        "x", budget=Budget(nodes=5)
    )
    assert (made.nodes, made.stopped) == (5, "nodes")


def test_a_seed_is_of_the_problem_and_of_the_solver(land):
    def seeds(seed, problem):
        return TreeOfThoughts(Scripted({}), task="text", seed=seed).tree(problem).seed

    assert seeds(0, "a") == seeds(0, "a") and len({seeds(0, "a"), seeds(1, "a"), seeds(0, "b")}) == 3


def test_states_with_one_key_are_one_place(land):
    task = land({"start": ["a", "b", "c"]}, {"a": 0.5, "b": 0.5, "c": 0.5})
    task.key = lambda state: "first" if state in ("a", "b") else state
    memory = ThoughtMemory()
    made = solver(task, depth=1, memory=memory).solve("x")
    assert {t.text: (t.status, t.why) for t in made.trace.thoughts if t.path}["b"] == ("repeat", "0")
    valued = {state for (state,) in memory._store.rows("SELECT state FROM value")}
    assert len(valued) == 2 and any("first" in state for state in valued)


def test_a_task_whose_states_cannot_be_known_again_is_told_so(land):
    task = land({"start": ["a"]}, {"a": 0.5})
    task.step = lambda state, text: [text]
    with pytest.raises(InputError, match="a state of the task 'land' is a list, which has no hash; make it a tuple"):
        solver(task).solve("x")


def test_what_a_model_is():
    with pytest.raises(InputError, match="a str is no model"):
        TreeOfThoughts("gpt", task="text")
    with pytest.raises(InputError, match="there is no task 'chess'"):
        TreeOfThoughts(Scripted({}), task="chess")
    with pytest.raises(InputError, match="the problem is empty"):
        TreeOfThoughts(Scripted({}), task="text", values=inline()).solve_all(["fine", " "])
