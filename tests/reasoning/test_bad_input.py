"""Searches among models, checkers, values and endpoints that misbehave: each ends with a result or a sentence."""

import math

import numpy as np
import pytest

from vishwamai.errors import BackendError, InputError, VishwamAIError
from vishwamai.generation.sampling import SamplingParams
from vishwamai.reasoning import trace, values
from vishwamai.reasoning.budget import Budget
from vishwamai.reasoning.chain import ChainOfThought
from vishwamai.reasoning.hybrid import IntegratedReasoning
from vishwamai.reasoning.memory import ThoughtMemory
from vishwamai.reasoning.proposals import proposed, sampled
from vishwamai.reasoning.remote import Remote
from vishwamai.reasoning.scripted import Scripted
from vishwamai.reasoning.search import SEARCHES
from vishwamai.reasoning.tree import TreeOfThoughts


def solver(task, name="breadth", **how):
    settings = {"values": values.program(task.worth), "proposals": sampled(0.7)} | how
    return TreeOfThoughts(task.model, search=name, task=task, **settings)


@pytest.mark.parametrize("name", SEARCHES)
def test_a_model_that_never_closes_an_answer(name):
    count = iter(range(10**9))
    model = Scripted(lambda prompt, n: [f"so it is {next(count)} and so on" for _ in range(n)])
    made = TreeOfThoughts(model, search=name, task="text", max_depth=10**9, expansions=10**9).solve(
        "Why?", budget=Budget(tokens=6000)
    )
    assert (made.answer, made.verified, made.candidates) == (None, None, ()) and made.stopped == "tokens"
    assert made.tokens <= 6000 and str(made) == "no answer"
    made = TreeOfThoughts(model, search=name, task="text").solve("Why?")
    assert (made.answer, made.stopped) == (None, None) and max(len(t.path) for t in made.trace.thoughts) == 3


@pytest.mark.parametrize("name", SEARCHES)
@pytest.mark.parametrize(
    "roads", [{"start": ["a"] * 99, "a": ["a"] * 99}, {"start": ["a"], "a": ["b"], "b": ["start", "a"]}]
)
def test_thoughts_that_go_round_in_a_circle(name, roads, land):
    task = land(roads, {"a": 1.0, "b": 1.0})
    made = solver(task, name, max_depth=50, rounds=3).solve("x")
    assert (made.answer, made.stopped) == (None, None) and made.calls <= 12
    assert {t.status for t in made.trace.thoughts} <= {"expanded", "repeat", "wrong", "kept"}


@pytest.mark.parametrize("name", SEARCHES)
@pytest.mark.parametrize("what", ["check", "step", "answer"])
def test_a_verifier_that_raises(what, name, land):
    def broken(*args):
        raise ZeroDivisionError("by zero, of all things")

    task = land({"start": ["maybe 1", "right 2"]}, {"maybe 1": 0.5, "right 2": 0.5})
    setattr(task, what, broken)
    made = solver(task, name, max_branches=2).solve("x")
    assert made.notes == ("the checker raised ZeroDivisionError: by zero, of all things",)
    assert made.answer == ("maybe 1" if what == "check" else None) and made.verified is None and made.stopped is None


@pytest.mark.parametrize("name", SEARCHES)
@pytest.mark.parametrize("worth", [math.nan, 10**400])
def test_values_that_are_none(worth, name, land):
    task = land({"start": ["a", "b"], "b": ["right 1"]}, {"a": worth, "b": 0.5})
    with ThoughtMemory() as memory:
        made = solver(task, name, max_branches=2, memory=memory).solve("x")
    assert (made.answer, made.verified) == ("right 1", True)
    told = {"nan": "a value was no number (nan); it counts as 0"}
    assert made.notes == (told.get(str(worth), "the checker raised OverflowError: int too large to convert to float"),)


@pytest.mark.parametrize("name", SEARCHES)
@pytest.mark.parametrize("worth", [math.inf, -math.inf])
def test_values_beyond_all_bounds_are_refused(worth, name, land):
    task = land({"start": ["a", "b"], "b": ["right 1"]}, {"a": worth, "b": 0.5})
    with ThoughtMemory() as memory, pytest.raises(InputError, match=f"the value after 'a' is {worth!r}"):
        solver(task, name, max_branches=2, memory=memory).solve("x")


@pytest.mark.parametrize("name", ["breadth", "best_first"])
@pytest.mark.parametrize("faults", ["fails for ever", "hangs", "answers, then fails"])
def test_an_endpoint_that_fails_ends_a_search_in_time(faults, name, fake_endpoint):
    half = [(429, {"error": "slow down"}), "cut"]
    fake_endpoint.faults = {"fails for ever": half * 999, "hangs": ["hang"] * 99, "answers, then fails": []}[faults]
    answers = iter([f"Answer: {i}" if i % 2 else f"A step {i}." for i in range(3)])

    def say(path, body):
        said = next(answers, None)
        if said is None:
            fake_endpoint.faults = half * 999
        return {"choices": [fake_endpoint.choice(f"{said}\n", body)]}

    fake_endpoint.answer = say
    model = Remote(fake_endpoint.url, "tiny", retries=999, concurrency=2)
    mine = TreeOfThoughts(model, 3, search=name, even=False, task="text")
    if faults == "answers, then fails":
        made = mine.solve("Why?", budget=Budget(seconds=3))
        assert made.answer == "1" and made.verified is None
        assert made.stopped == "seconds" or "before the deadline" in made.stopped
    else:
        budget = Budget(seconds=0.4)
        try:
            made = mine.solve("Why?", budget=budget)
            assert (made.answer, made.stopped) == (None, "seconds") and "deadline" in made.notes[0]
        except BackendError as error:
            assert "before the deadline" in str(error) and fake_endpoint.url in str(error)


def test_an_endpoint_that_recovers_is_searched_to_the_end(fake_endpoint):
    fake_endpoint.faults = [(429, {"error": "slow down"}), "cut", (503, b"half a bod")]

    def say(path, body):
        return {"choices": [fake_endpoint.choice("Answer: 42" if "A step" in body["prompt"] else "A step", body)]}

    fake_endpoint.answer = say
    model = Remote(fake_endpoint.url, "tiny")
    made = TreeOfThoughts(model, 2, 2, 1, task="text", proposals=sampled(0.7)).solve("Why?", budget=Budget(seconds=60))
    assert (made.answer, made.stopped) == ("42", None) and model.usage.device_calls == len(fake_endpoint.seen) == 3 + 4


MALFORMED = [("game24", "4 9 10"), ("game24", "a b c d"), ("game24", ""), ("game24", "4 9 10 " + "9" * 9999)]
MALFORMED += [("countdown", "x from 3 4"), ("countdown", "9" * 9999 + " from 3"), ("text", ""), ("text", " \n")]


@pytest.mark.parametrize("task, problem", MALFORMED, ids=lambda text: text[:20])
def test_a_problem_that_cannot_be_read(task, problem):
    model = Scripted({})
    mine = TreeOfThoughts(model, task=task)
    good = {"game24": "4 9 10 13", "countdown": "7 from 3 4", "text": "Why?"}[task]
    for ask in (mine.solve, mine.generate_thoughts, mine.estimate_value, lambda text: mine.solve_all([good, text])):
        with pytest.raises(InputError, match=r"(?s)^.{20,300}$"):
            ask(problem)
    assert model.asked == []


@pytest.mark.parametrize("name", SEARCHES)
@pytest.mark.parametrize("limit", [{"nodes": 100}, {"tokens": 300}, {"calls": 20}, {"seconds": 0.1}], ids=str)
def test_huge_widths_and_depths_stay_in_the_budget(name, limit, land):
    task = land({"start": ["a", "b"], **{place * n: [place * (n + 1)] for place in "ab" for n in range(1, 60)}})
    task.worth = lambda problem, place: 0.5
    mine = solver(task, name, max_branches=4, beam_width=200, max_depth=10**12, expansions=10**12)
    made = mine.solve("x", budget=Budget(**limit))
    assert made.answer is None and made.stopped in (*limit, None)
    for used, most in limit.items():
        assert getattr(made, used) <= most or used == "seconds"


def test_a_budget_that_is_spent_before_it_begins(land):
    task = land(seed=3)
    budget = Budget(calls=2)
    budget.spend(calls=2)
    made = solver(task).solve_all(["x", "y"], budget=budget)
    assert [(one.answer, one.stopped, one.calls) for one in made] == [(None, "calls", 0)] * 2 and task.model.asked == []


def test_a_list_with_nothing_in_it(land):
    task = land()
    task.model = Scripted(lambda prompt, n: ["\n \n\n"] * n)
    made = solver(task, proposals=proposed(task.question, 0.5)).solve("x")
    assert (made.answer, made.stopped, made.nodes, made.calls) == (None, None, 0, 1)


def test_arguments_that_are_none(land):
    wrong = [{"max_branches": 0}, {"search": "A*"}, {"beam_width": 10**9}, {"task": "chess"}, {"temperature": -1}]
    for how in wrong:
        with pytest.raises(VishwamAIError, match=r"^.{20,200}$"):
            TreeOfThoughts(Scripted({}), **{"task": land(), **how})
    with pytest.raises(InputError, match="tokens is -5; it must be a whole number, 0 or more, or None"):
        TreeOfThoughts(Scripted({}), task=land()).solve_all(["x"], each={"tokens": -5})


class Silent(Scripted):
    """A model that writes a chain, and nothing after it."""

    def generate(self, prompts, n, sampling: SamplingParams, seeds, *, deadline=None):
        made = super().generate(prompts, n, sampling, seeds, deadline=deadline)
        return made if self.usage.calls == 1 else [[] for _ in made]


def test_a_model_that_gives_nothing_is_not_asked_for_ever():
    model = Silent(lambda prompt, n: ["so " * 99] * n)
    made = ChainOfThought(model, task="text", samples=2, thinking=20).solve("Why?")
    assert (made.answer, model.usage.calls) == (None, 2) and made.stopped.startswith("the model gave no completion")
    made = ChainOfThought(Silent(model.script), task="text", thinking=20).solve("Why?", budget=Budget(seconds=999))
    assert (made.answer, made.stopped) == (None, "seconds")
    with pytest.raises(BackendError, match="the model gave no completion"):
        ChainOfThought(model, task="text").solve("Why?")


def test_a_task_without_closing_words(land):
    task = land()
    task.closing = " "
    model = Scripted(lambda prompt, n: ["right now and more"] * n)  # cut after two words, and asked for an answer
    made = ChainOfThought(model, task=task, thinking=2).solve("x")
    assert made.answer is not None and made.stopped is None


WORDS = [(np.bool_(False), False), (0, False), (np.bool_(True), True), (0.5, True), ("yes", True), (None, None)]


@pytest.mark.parametrize("said, means", WORDS, ids=str)
def test_a_verifier_that_gives_no_bool(said, means, land):
    for way in (TreeOfThoughts, ChainOfThought, IntegratedReasoning):
        task = land({"start": ["maybe 1"] * 9}, {"maybe 1": 0.5})
        task.check = lambda problem, answer: said
        made = way(task.model, task=task).solve("x")
        assert made.answer == "maybe 1" and made.verified is means


def test_a_task_that_raises_at_one_problem_loses_no_other(land):
    task = land({"start": ["a"], "a": ["right 1"]}, {"a": 0.5})
    plain = task.prompt

    def prompt(problem, steps=()):
        return [][0] if problem == "y" and steps else plain(problem, steps)

    task.prompt = prompt
    good, bad = solver(task).solve_all(["x", "y"])
    assert good.verified and (bad.answer, bad.stopped) == (None, "IndexError: list index out of range")
    task.model = Scripted(lambda prompt, n: ["a"] * n)
    with pytest.raises(IndexError):
        solver(task).solve("y")


def test_a_trace_with_half_a_character_can_be_saved(tmp_path):
    made = ChainOfThought(Scripted(lambda prompt, n: ["so \ud83d\nAnswer: é 7\n"] * n), task="text").solve("q?")
    made.trace.save(tmp_path / "t.jsonl")
    assert trace.load_trace(tmp_path / "t.jsonl").thoughts[0].text == "so \ud83d\nAnswer: é 7\n"
    assert "é" in (tmp_path / "t.jsonl").read_text(encoding="utf-8")
