"""Searches that run in step: whose requests are one call, who gets which reply, and what a failure reaches."""

import pytest

from vishwamai.errors import BackendError, InputError
from vishwamai.generation.sampling import SamplingParams
from vishwamai.reasoning import drive
from vishwamai.reasoning.budget import Budget, BudgetExhausted
from vishwamai.reasoning.model import Completion
from vishwamai.reasoning.scripted import Scripted

PLAIN = SamplingParams(max_tokens=8)


class Noted(Scripted):
    """A model that repeats its prompts, and notes how it was called; `fails` names a call that ends in a failure."""

    def __init__(self, fails=None):
        super().__init__(lambda prompt, n: [f"{prompt} {j}" for j in range(n)], lambda prompt, text: float(len(text)))
        self.calls, self.fails = [], fails

    def generate(self, prompts, n, sampling, seeds, *, deadline=None):
        self._called(("generate", list(prompts), list(n), sampling.max_tokens, list(seeds), deadline))
        return super().generate(prompts, n, sampling, seeds)

    def score(self, prompts, continuations, *, deadline=None):
        self._called(("score", list(prompts), list(continuations), deadline))
        return super().score(prompts, continuations)

    def _called(self, call):
        self.calls.append(call)
        if len(self.calls) == self.fails:
            raise BackendError("the server is on fire: put it out")


def asks(name, levels, n=(1,), budget=None, sampling=PLAIN):
    """Asks at so many levels and gives the words of all."""
    said = []
    for level in range(levels):
        prompts = [f"{name}{level}{i}" for i in range(len(n))]
        rows = yield from drive.ask(Budget() if budget is None else budget, prompts, n, sampling, range(len(n)))
        said.append([[c.text for c in row] for row in rows])
    return said


def rates(name):
    return (yield from drive.ask_scores(Budget(), [name], [("yes", "no")]))


def test_a_level_of_all_searches_is_one_call():
    model = Noted()
    found = drive.run(model, [asks("a", 2, (2, 1)), asks("b", 1), asks("c", 3)])
    assert found[0] == [[["a00 0", "a00 1"], ["a01 0"]], [["a10 0", "a10 1"], ["a11 0"]]]
    assert found[1:] == [[[["b00 0"]]], [[["c00 0"]], [["c10 0"]], [["c20 0"]]]]
    assert [call[1] for call in model.calls] == [["a00", "a01", "b00", "c00"], ["a10", "a11", "c10"], ["c20"]]
    assert model.calls[0][2:] == ([2, 1, 1, 1], 8, [0, 1, 0, 0], None)


def test_what_cannot_be_one_call_is_several():
    model = Noted()
    searches = [asks("a", 1), rates("b"), asks("c", 1, sampling=SamplingParams(max_tokens=9)), asks("d", 1), rates("e")]
    found = drive.run(model, searches)
    assert found == [[[["a00 0"]]], [[3.0, 2.0]], [[["c00 0"]]], [[["d00 0"]]], [[3.0, 2.0]]]
    assert [call[1] for call in model.calls] == [["a00", "d00"], ["b", "e"], ["c00"]]


def test_those_who_must_end_at_different_times_are_not_one_call():
    def budget(seconds):
        return Budget(seconds=seconds, clock=lambda: 0.0)

    model = Noted()
    ends = {"a": 2.0, "b": None, "c": 9.0, "d": 2.05, "e": 9.2, "f": None, "g": 9.05}
    drive.run(model, [asks(name, 1, budget=budget(seconds)) for name, seconds in ends.items()])
    calls = [("".join(prompt[0] for prompt in call[1]), call[-1]) for call in model.calls]
    assert calls == [("ad", 2.0), ("cg", 9.0), ("e", 9.2), ("bf", None)]


def test_a_failure_reaches_those_whose_call_it_ended():
    def guarded(search):
        try:
            return (yield from search)
        except BackendError as error:
            return str(error)

    budget = Budget(tokens=100)
    model = Noted(fails=2)
    short, long = SamplingParams(max_tokens=4), SamplingParams(max_tokens=5)
    found = drive.run(
        model,
        [guarded(asks("a", 2, sampling=short)), guarded(asks("b", 2, budget=budget, sampling=long)), rates("c")],
    )
    assert found[0] == [[["a00 0"]], [["a10 0"]]] and found[2] == [[3.0, 2.0]]
    assert found[1] == "the server is on fire: put it out" and budget.spent == {"tokens": 0, "calls": 1, "nodes": 0}
    with pytest.raises(BackendError, match="on fire"):
        drive.run(Noted(fails=1), [asks("a", 1)])


def test_a_search_that_breaks_ends_all_at_once():
    def broken():
        yield from drive.ask(Budget(), ["x"], [1], PLAIN, [0])
        raise InputError("the second line has no numbers")

    budget = Budget(tokens=99)
    with pytest.raises(InputError, match="no numbers"):
        drive.run(Noted(), [asks("a", 5, budget=budget), broken()])


def test_nothing_asked_is_no_call():
    def nothing():
        return "done"
        yield

    model, budget = Noted(), Budget(calls=5)
    assert drive.run(model, []) == [] and drive.run(model, [nothing(), asks("a", 2, (0, 0), budget)])[0] == "done"
    assert model.calls == [] and budget.spent["calls"] == 0


@pytest.mark.parametrize(
    "n, most, left, many, longest",
    [
        ((3, 2), 4, 100, [3, 2], 4),
        ((3, 2), 4, 20, [3, 2], 4),
        ((3, 2), 4, 19, [3, 1], 4),
        ((3, 2), 4, 8, [2, 0], 4),
        ((3, 2), 4, 3, [1, 0], 3),
        ((0, 2), 4, 7, [0, 1], 4),
        ((2, 2), None, 7, [1, 0], 7),
    ],
)
def test_what_a_budget_does_not_hold_is_cut_from_the_end(n, most, left, many, longest):
    model, budget = Noted(), Budget(tokens=left)
    [[said]] = drive.run(model, [asks("a", 1, n, budget, SamplingParams(max_tokens=most))])
    assert [len(row) for row in said] == many
    [(_, prompts, asked, max_tokens, seeds, _)] = model.calls
    places = [i for i, k in enumerate(many) if k]
    assert (prompts, asked, seeds) == ([f"a0{i}" for i in places], [many[i] for i in places], places)
    assert max_tokens == longest and budget.spent["tokens"] == 2 * sum(many) <= left


def test_a_budget_knows_that_less_was_made_than_was_wanted():
    def short(n, words, **limits):
        budget, model = Budget(**limits), Scripted(lambda prompt, many: [words] * many)
        drive.run(model, [asks("a", 1, (n,), budget, SamplingParams(max_tokens=4))])
        return budget.truncated_by

    assert short(2, "one two", tokens=8) is None and short(2, "one two", tokens=7) == "tokens"
    assert short(1, "1 2 3 4", tokens=3) == "tokens" and short(1, "1 2", tokens=3) is None
    assert short(1, "1 2 3 4 5", tokens=9) is None  # as long as the task lets it be


def test_what_a_deadline_cut_off_is_noted():
    now = [0.0]

    class Late(Scripted):
        def generate(self, prompts, n, sampling, seeds, *, deadline=None):
            now[0] = deadline
            return [[Completion(text="half", tokens=1, finish_reason="length")] * many for many in n]

    budget = Budget(seconds=3, clock=lambda: now[0])
    assert drive.run(Late({}), [asks("a", 1, budget=budget)]) == [[[["half"]]]] and budget.truncated_by == "seconds"
    with pytest.raises(BudgetExhausted, match="seconds"):
        drive.run(Late({}), [asks("a", 1, budget=budget)])
