"""Budgets: what they count, and that no search goes beyond one, whatever its limits are."""

import math
import random
import re

import pytest

from vishwamai.errors import BackendError, InputError
from vishwamai.reasoning import drive
from vishwamai.reasoning.budget import LIMITS, Budget, BudgetExhausted
from vishwamai.reasoning.chain import ChainOfThought
from vishwamai.reasoning.proposals import distinct, proposed, sampled
from vishwamai.reasoning.scripted import Scripted
from vishwamai.reasoning.search import SEARCHES
from vishwamai.reasoning.tasks.text import FreeText
from vishwamai.reasoning.tree import TreeOfThoughts
from vishwamai.reasoning.values import program, text, token


class Ticks:
    """A clock that moves on when somebody moves it."""

    def __init__(self):
        self.now = 10.0

    def __call__(self):
        return self.now


def test_what_is_left():
    clock = Ticks()
    budget = Budget(tokens=10, seconds=5, clock=clock)
    budget.spend(tokens=4, calls=1)
    clock.now = 12.0
    assert [budget.remaining(name) for name in LIMITS] == [6, math.inf, 3.0, math.inf]
    assert (budget.elapsed, budget.deadline, budget.spent) == (2.0, 15.0, {"tokens": 4, "calls": 1, "nodes": 0})
    budget.spend(tokens=40)
    clock.now = 99.0
    assert budget.remaining("tokens") == budget.remaining("seconds") == 0
    assert Budget().deadline is None and Budget().remaining("seconds") == math.inf


def test_a_budget_within_another():
    clock = Ticks()
    outer = Budget(tokens=10, calls=9, seconds=5, clock=clock)
    clock.now = 11.0
    inner = outer.sub_budget(tokens=20, calls=2, seconds=9)
    assert (inner.remaining("tokens"), inner.remaining("calls"), inner.deadline, inner.elapsed) == (10, 2, 15.0, 0.0)
    inner.spend(tokens=3, nodes=2)
    other = outer.sub_budget(seconds=1)
    assert (other.remaining("tokens"), other.deadline, other.spent["tokens"]) == (7, 12.0, 0)
    assert outer.spent == {"tokens": 3, "calls": 0, "nodes": 2} == inner.spent
    assert outer.sub_budget().remaining("tokens") == 7
    inner.sub_budget().sub_budget().spend(tokens=7)
    with pytest.raises(BudgetExhausted, match="the budget of tokens is spent"):
        other.check()


@pytest.mark.parametrize("name", LIMITS)
def test_a_limit_that_is_reached_is_named(name):
    clock = Ticks()
    budget = Budget(**{name: 2}, clock=clock)
    budget.check()
    if name == "seconds":
        clock.now += 2
    else:
        budget.spend(**{name: 2})
    with pytest.raises(BudgetExhausted) as spent:
        budget.sub_budget(tokens=5).check()
    assert spent.value.limit == name


WRONG = [{"tokens": -1}, {"calls": "3"}, {"seconds": math.nan}, {"nodes": True}, {"tokens": 0.5}, {"nodes": 2.5}]


@pytest.mark.parametrize("limit", WRONG, ids=str)
def test_limits_that_are_none(limit):
    with pytest.raises(InputError, match=f"the budget's {next(iter(limit))} is .*; it must be a .*number, 0 or more"):
        Budget(**limit)
    with pytest.raises(InputError, match="the budget's"):
        Budget().sub_budget(**limit)
    assert Budget(tokens=5.0, seconds=0.5, calls=math.inf).remaining("tokens") == 5


def test_an_unknown_limit_is_refused(land):
    with pytest.raises(InputError, match="no limit 'token'; it has tokens, calls, seconds, nodes"):
        TreeOfThoughts(Scripted({}), task=land()).solve_all(["x"], each={"token": 5})


class Slow(Scripted):
    """A model that takes its time, ends where it is at the deadline, and fails after it, as an endpoint does."""

    def __init__(self, script, scores, clock):
        super().__init__(script, scores)
        self.clock, self.most = clock, 0.0

    def generate(self, prompts, n, sampling, seeds, *, deadline=None):
        self._wait(sum(n), deadline)
        made = super().generate(prompts, n, sampling, seeds)
        assert sampling.max_tokens is None or all(c.tokens <= sampling.max_tokens for row in made for c in row)
        return made

    def score(self, prompts, continuations, *, deadline=None):
        self._wait(1, deadline)
        return super().score(prompts, continuations)

    def _wait(self, seconds, deadline):
        if deadline is not None and self.clock.now >= deadline:  # the calls of others took the time
            raise BackendError("nothing came before the deadline")
        self.clock.now = min(self.clock.now + seconds, math.inf if deadline is None else deadline)


def chance(case, task, clock):
    """A solver with settings, ways to propose and to value that are drawn by chance."""
    rng = random.Random(case)

    def says(prompt, n):
        if prompt.endswith("How good?"):
            return ["it is " + rng.choice(["sure", "likely", "impossible"])] * n
        return [said if isinstance(said, str) else said.text for said in task.says(prompt, n)]

    values = [program(task.worth), text("How good?", samples=2), token("How good?")]
    proposals = [sampled(0.7), distinct(0.7), proposed(task.question, 0.7, max_tokens=20)]
    return TreeOfThoughts(
        Slow(says, lambda prompt, word: -rng.random(), clock), rng.randint(1, 4), rng.randint(1, 4), rng.randint(1, 4),
        task=task, search=rng.choice(list(SEARCHES)), values=rng.choice(values), proposals=rng.choice(proposals),
        rounds=rng.randint(1, 2), even=rng.random() < 0.5, stop_early=rng.random() < 0.5,
    )  # fmt: skip


NO_NODE = re.compile("this choice was|no choice|no node was left|no thought is listed")  # of what was made, and no more


@pytest.mark.parametrize("many", [1, 3])
def test_no_search_spends_more_than_there_is(many, land):
    stops = dict.fromkeys([*LIMITS, None], 0)
    for case in range(200):
        rng, clock = random.Random(-1 - case), Ticks()
        mine = chance(case, land(seed=case), clock)
        limits = {name: rng.randrange(40) for name in rng.sample(LIMITS, rng.randint(1, 3))}
        each = {name: rng.randrange(30) for name in rng.sample(LIMITS, rng.randint(0, 2))}
        whole = Budget(**limits, clock=clock)
        made = mine.solve_all(["x", "y", "z"][:many], budget=whole, each=each)
        for one in made:
            for name, used in (("tokens", one.tokens), ("calls", one.calls), ("nodes", one.nodes)):
                assert used <= each.get(name, math.inf), case
            assert one.seconds <= min(each.get("seconds", math.inf), limits.get("seconds", math.inf)), case
            assert one.stopped is None or one.stopped in {**limits, **each}, case
            told = [t for t in one.trace.thoughts[1:] if not NO_NODE.search(t.why)]
            assert one.nodes == len(told), case
            assert one.tokens == sum(t.tokens for t in one.trace.thoughts), case
            stops[one.stopped] += 1
        for name, used in whole.spent.items():
            assert used <= limits.get(name, math.inf), case
            assert used == sum(getattr(one, name) for one in made), case
        assert whole.spent["tokens"] == mine.model.usage.completion_tokens, case
    assert min(stops.values()) > 10


@pytest.mark.parametrize("search", SEARCHES)
@pytest.mark.parametrize("name", LIMITS)
def test_nothing_is_asked_for_with_a_budget_of_nothing(name, search, land):
    task = land(seed=1)
    made = TreeOfThoughts(task.model, task=task, search=search).solve("x", budget=Budget(**{name: 0}))
    assert (made.answer, made.stopped, made.complete, made.verified) == (None, name, False, None)
    assert (made.tokens, made.calls, made.nodes, task.model.asked) == (0, 0, 0, [])
    assert [thought.status for thought in made.trace.thoughts] == ["open"] and str(made) == "no answer"


@pytest.mark.parametrize("name, limit", [("tokens", 8), ("calls", 1), ("nodes", 4)])
def test_the_best_answer_before_the_limit_is_submitted(name, limit, land):
    task = land({"start": ["refuted 1", "maybe 2", "a", "b"], "a": ["right 3"]}, {"a": 1.0, "b": 0.0})
    how = {"task": task, "proposals": sampled(0.7), "values": program(task.worth), "even": False}
    made = TreeOfThoughts(task.model, 4, **how).solve("x", budget=Budget(**{name: limit}))
    assert (made.answer, made.stopped, made.verified) == ("maybe 2", name, None)
    assert made.candidates == ("maybe 2", "refuted 1") and made.trace.result["stopped"] == name
    assert TreeOfThoughts(land(task._roads).model, 4, **how).solve("x").answer == "right 3"


def test_a_budget_that_is_used_again_is_spent_together(land):
    task = land({"start": ["a", "maybe 1"], "a": ["maybe 2"]}, {"a": 1.0})
    mine = TreeOfThoughts(task.model, 2, 2, 1, task=task, proposals=sampled(0.7), values=program(task.worth))
    budget = Budget(calls=3)
    first, second = mine.solve("x", budget=budget), mine.solve("y", budget=budget)
    assert (first.calls, first.stopped, second.calls, second.stopped) == (2, None, 1, "calls")
    assert first.tokens + second.tokens == budget.spent["tokens"] and budget.spent["calls"] == 3


def test_searches_in_step_do_not_overdraw_a_budget_together(land):
    """Each of them holds what its words may come to, until they are there; the others wait for what is given back."""
    asked = []

    def search(budget, words):
        try:
            [row] = yield from drive.ask(budget, ["x"], [3], drive.SamplingParams(max_tokens=4), [0])
        except BudgetExhausted as spent:
            return spent.limit
        asked.append(len(row))
        return sum(c.tokens for c in row)

    budget = Budget(tokens=21)
    model = Scripted(lambda prompt, n: ["two words"] * n)
    found = drive.run(model, [search(budget.sub_budget(), 2) for _ in range(3)])
    assert found == [6, 6, 4] and asked == [3, 3, 2]  # 9 are left in the end, and a third of 4 may not fit
    assert budget.spent["tokens"] == 16 and model.usage.calls == 3


@pytest.mark.parametrize("way", [ChainOfThought, lambda model, task: TreeOfThoughts(model, 2, 1, 2, task=task)])
def test_problems_in_one_budget_wait_for_what_others_give_back(way):
    """All 20 are answered by a tenth of the tokens, though one chain alone might have taken half of them."""
    model = Scripted(lambda prompt, n: ["Answer: 7\n"] * n)
    budget = Budget(tokens=2 * FreeText().chain_tokens)
    made = way(model, task="text").solve_all([f"question {i}?" for i in range(20)], budget=budget)
    assert [(one.answer, one.stopped) for one in made] == [("7", None)] * 20
    assert sum(one.tokens for one in made) == budget.spent["tokens"] == model.usage.completion_tokens


def test_no_thought_is_made_that_the_tree_has_no_room_for(land):
    task = land({"start": ["a", "b", "c"]}, dict.fromkeys("abc", 0.5))
    mine = TreeOfThoughts(task.model, 3, task=task, proposals=sampled(0.7), values=program(task.worth), even=False)
    made = mine.solve("x", budget=Budget(nodes=7))
    assert (made.nodes, made.stopped) == (7, "nodes")
    assert task.model.usage.completion_tokens == sum(thought.tokens for thought in made.trace.thoughts)


@pytest.mark.parametrize("limit, asked", [(99, [3, 3, 3]), (11, [3, 3, 2]), (7, [3, 1]), (6, [3]), (4, [1])])
def test_a_level_shares_out_the_nodes_that_are_left(limit, asked, land):
    roads = {"start": ["a", "b", "c"]} | {place: [f"{place}{i}" for i in range(3)] for place in "abc"}
    worth = {way: 0.5 for ways in roads.values() for way in ways}
    task = land(roads, worth)
    how = {"task": task, "proposals": sampled(0.7), "values": program(task.worth), "even": False}
    made = TreeOfThoughts(task.model, 3, 2, **how).solve("x", budget=Budget(nodes=limit))
    assert task.model.n == [[3], asked]
    assert (made.nodes, made.stopped) == (3 + sum(asked), None if limit == 99 else "nodes")


def test_a_search_that_was_cut_short_says_so_though_it_came_to_an_end(land):
    """With nothing to go on from, for the good thoughts are those that the budget did not hold."""
    for limit, name in ((2, "nodes"), (4, None)):
        task = land({"start": ["wrong way", "wrong way", "a", "maybe 1"]}, {"a": 0.5})
        mine = TreeOfThoughts(
            task.model, 4, 1, task=task, proposals=sampled(0.7), values=program(task.worth), even=False
        )
        assert mine.solve("x", budget=Budget(nodes=limit)).stopped == name
