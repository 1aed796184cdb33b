"""Which stages run when, what is submitted, and what it costs; on a toy whose model says what each test needs.

The model is told apart by what it is asked for: answers at once, one chain, three chains, up to nine more chains, or
the thoughts of a search.
"""

import itertools
import math

import pytest

from vishwamai.errors import BackendError, InputError
from vishwamai.reasoning.budget import Budget
from vishwamai.reasoning.hybrid import MAX_DEPTH, IntegratedReasoning, measure_agreement
from vishwamai.reasoning.scripted import Scripted
from vishwamai.reasoning.solution import Solution
from vishwamai.reasoning.task import Task
from vishwamai.reasoning.tasks.text import FreeText

PROBLEM = "p"


class Toy(Task):
    """A step is a line; one that begins with = is an answer. `right` are the right answers, None: nobody knows."""

    stop = ("\n",)
    closing = "\n="

    def __init__(self, right=None, *, depth=None, prefers="tree"):
        self.right, self.depth, self.prefers = right, depth, prefers

    def read(self, problem):
        return ()

    def prompt(self, problem, steps=()):
        return (f"{problem}\n", *(f"{step}\n" for step in steps))

    def direct_prompt(self, problem):
        return f"{problem} at once\n"

    def step(self, state, text):
        return (*state, text) if text.strip() else None

    def answer(self, problem, steps, state):
        return state[-1][1:].strip() if state and state[-1].startswith("=") else None

    def check(self, problem, answer):
        return None if self.right is None or answer == "?" else answer in self.right


def model(*, at_once=(), once=(), several=(), more=(), search=(), deeper=()) -> Scripted:
    """Words for each stage, in order; it fails where it has none left. A chain's answer stands for the chain.

    `search` has the thoughts from the root, `deeper` those from every other state, again and again.
    """
    chains = {name: iter([f"think\n= {a}" for a in said]) for name, said in (("once", once), ("several", several))}
    chains |= {"more": iter([f"think\n= {a}" for a in more]), "at once": iter([f"= {a}" for a in at_once])}
    thoughts = iter(search)
    drawn = [0]

    def script(prompt, n):
        if prompt.endswith("at once\n"):
            return list(itertools.islice(chains["at once"], n))
        if prompt != f"{PROBLEM}\n":
            return (list(deeper) * n)[:n]
        if n == 4:
            return list(itertools.islice(thoughts, n))
        if n == 1:
            return list(itertools.islice(chains["once"], n))
        drawn[0] += 1
        return list(itertools.islice(chains["several" if several and drawn[0] == 1 else "more"], n))

    return Scripted(script)


def reasoner(words: Scripted, task: Task, **options) -> IntegratedReasoning:
    how = {"samples": 3, "max_branches": 2, "beam_width": 2, "rounds": 2, "most_chains": 9}
    return IntegratedReasoning(words, task=task, **how | options)


def names(found: Solution) -> list[str]:
    return [stage.partition(":")[0] for stage in found.stages]


FOUND = {"search": ["a", "b", "= 7", "= 8"]}


# Which stages run, where a program can tell.


@pytest.mark.parametrize(
    ("approach", "words", "stages"),
    [
        ("auto", {"at_once": ["5", "7", "5"]}, ["direct"]),
        ("auto", {"at_once": "555", "once": "7"}, ["direct", "cot"]),
        ("auto", {"at_once": "555", "once": "5", "several": "657"}, ["direct", "cot", "best-of-n"]),
        (
            "auto",
            {"at_once": "555", "once": "5", "several": "556"} | FOUND,
            ["direct", "cot", "best-of-n", "tot-breadth"],
        ),
        ("hybrid", {"once": "7"}, ["cot"]),
        ("hybrid", {"once": "5"} | FOUND, ["cot", "tot-breadth"]),
        ("cot", {"once": "7"}, ["cot"]),
        ("cot", {"once": "5", "more": "555657"}, ["cot", "best-of-n"]),
        ("tot", FOUND, ["tot-breadth"]),
    ],
)
def test_a_right_answer_ends_it_and_a_refuted_one_goes_on(approach, words, stages):
    found = reasoner(model(**words), Toy({"7"}, depth=2)).solve(PROBLEM, approach)
    assert (found.answer, found.verified, found.confidence, found.stopped) == ("7", True, 1.0, None)
    assert names(found) == stages


def test_the_way_that_a_task_prefers_is_the_last():
    words = {"at_once": "555", "once": "5", "several": "556", "more": "567"}
    found = reasoner(model(**words), Toy({"7"}, prefers="samples")).solve(PROBLEM)
    assert names(found) == ["direct", "cot", "best-of-n", "best-of-n"] and found.answer == "7"
    asked = model(**words | {"more": "555556777"})
    found = reasoner(asked, Toy({"7"}, prefers="samples")).solve(PROBLEM)
    assert asked.n == [[3], [1], [3], [3], [3], [3]] and found.nodes == 0


def test_stages_never_draw_the_same_chains_again():
    words = model(at_once="555", once="5", several="556", more="555666555", **FOUND)
    reasoner(words, Toy({"7"}, prefers="samples")).solve(PROBLEM)
    assert len({row[0] for row in words.seeds}) == len(words.seeds) == 6


def test_a_refuted_answer_is_submitted_where_there_is_no_better_one():
    words = model(once="5", search=["= 4", "= 4", "= 5", "a"] * 2, deeper=["= 5"])
    found = reasoner(words, Toy({"7"}, depth=2)).solve(PROBLEM, "hybrid")
    assert (found.answer, found.verified, found.confidence) == ("5", False, 0.0)
    assert set(found.candidates) == {"5", "4"} and found.candidates[0] == "5"


def test_what_nobody_refuted_is_better_than_what_is_refuted_and_worse_than_what_is_right():
    words = {"once": "?", "several": "555"}
    wrong = model(**words, search=["= 5", "= 6", "a", "b"], deeper=["= 4"])
    found = reasoner(wrong, Toy({"7"}, depth=2)).solve(PROBLEM, "hybrid")
    assert (found.answer, found.verified) == ("?", None)
    found = reasoner(model(**words, **FOUND), Toy({"7"}, depth=2)).solve(PROBLEM, "hybrid")
    assert (found.answer, found.verified) == ("7", True)


# Where no program can tell.


def test_samples_that_agree_end_it():
    found = reasoner(model(at_once=["18", "$18", "18.0"]), Toy()).solve(PROBLEM)
    assert (found.answer, found.verified, found.confidence, names(found)) == ("18", None, 1.0, ["direct"])
    assert found.stages == ("direct: 6 tokens, 100% agree",)
    found = reasoner(model(once="5", several="555"), Toy()).solve(PROBLEM, "hybrid")
    assert (found.answer, found.confidence, names(found)) == ("5", 1.0, ["cot", "best-of-n"])
    assert found.work == "think\n= 5" and found.method == "cot"


def test_one_chain_alone_agrees_with_nobody():
    found = reasoner(model(once="6", several="555"), Toy()).solve(PROBLEM, "hybrid")
    assert (found.answer, found.confidence) == ("5", 0.75)
    assert reasoner(model(once="6"), Toy()).solve(PROBLEM, "cot").confidence is None


def test_cot_thinks_once_where_nobody_can_tell_and_again_where_there_is_no_answer():
    words = model(once="6")
    found = reasoner(words, Toy()).solve(PROBLEM, "cot")
    assert (found.answer, words.usage.calls) == ("6", 1)
    assert reasoner(model(once=[""], more="666777"), Toy()).solve(PROBLEM, "cot").answer == "6"


SPREAD = {"samples": 5, "agreement": 0.6, "most_entropy": 0.8}  # 3 and 2 of five have 0.67 nats; 3, 1 and 1 have 0.95


@pytest.mark.parametrize(
    ("how", "several", "stages"),
    [({}, "556", 3), ({"agreement": 0.6}, "556", 2), ({"agreement": 0.7}, "556", 3), ({}, "555", 2)]
    + [(SPREAD, "55566", 2), (SPREAD, "55567", 3)],
)
def test_how_much_must_agree(how, several, stages):
    words = model(once="5", several=several, search=["a", "b", "c", "d"], deeper=["e"])
    found = reasoner(words, Toy(depth=1), **how).solve(PROBLEM, "hybrid")
    assert len(found.stages) == stages and found.answer == "5"


def test_chains_without_an_answer_do_not_agree():
    words = model(once="5", several=["5", "5", ""], search=["= 5", "b", "c", "d"])
    found = reasoner(words, Toy(depth=1)).solve(PROBLEM, "hybrid")
    assert names(found) == ["cot", "best-of-n", "tot-breadth"]
    assert (found.answer, found.confidence) == ("5", 4 / 5)


def test_a_search_that_nobody_can_judge_has_one_round_and_its_answers_are_votes():
    words = model(once="5", several="566", search=["= 9", "= 8", "a", "b"], deeper=["= 6"])
    found = reasoner(words, Toy(depth=2), rounds=8).solve(PROBLEM, "hybrid")
    assert (found.answer, found.method) == ("6", "best-of-n")  # twice in chains, once in the search
    assert found.confidence == 3 / 7 and sum(row == [4] for row in words.n) == 1
    # A search decides between answers of chains, and one that finds nothing changes nothing.
    words = model(once="5", several="678", search=["= 8", "a", "b", "c"], deeper=["x"])
    assert reasoner(words, Toy(depth=2)).solve(PROBLEM, "hybrid").answer == "8"
    words = model(once="5", several="655", search=["a", "b", "c", "d"], deeper=["x"])
    found = reasoner(words, Toy(depth=2)).solve(PROBLEM, "hybrid")
    assert (found.answer, found.confidence, found.nodes > 0) == ("5", 0.75, True)


def test_of_equal_votes_the_likeliest_chain_stands_before_drawn_ones_and_guesses():
    words = model(at_once="123", once="5", several="678", search=["= 9", "a", "b", "c"], deeper=["x"])
    found = reasoner(words, Toy(depth=1)).solve(PROBLEM)
    assert (found.answer, found.confidence) == ("5", 1 / 8)
    assert {t.path: t.text for t in found.trace.thoughts}[tuple(found.trace.result["path"])] == "think\n= 5"
    assert found.tokens == sum(thought.tokens for thought in found.trace.thoughts)
    assert sorted(found.trace.thoughts, key=lambda t: t.seconds) == found.trace.thoughts  # of one clock


def test_more_chains_vote_until_the_rest_cannot_change_it():
    words = model(at_once="123", once="5", several="678", more="555" + "556" + "999")
    found = reasoner(words, Toy(prefers="samples")).solve(PROBLEM)
    assert words.n == [[3], [1], [3], [3], [3]] and (found.answer, found.nodes) == ("5", 0)
    assert found.confidence == 6 / 13 and found.stages[-1].endswith("83% agree")


def test_free_text_without_a_judge_is_sampled_and_not_searched():
    assert FreeText().prefers == "samples" and FreeText(final=lambda problem, answer: True).prefers == "tree"
    answers = iter(["1", "2", "3", "5", "6", "7", "8", *"5556"])
    words = Scripted(lambda prompt, n: [f"Step 1: think.\nAnswer: {a}" for a in itertools.islice(answers, n)])
    found = IntegratedReasoning(words, most_chains=4).solve("Nine eggs at $2. How much?")
    assert (found.answer, found.nodes) == ("5", 0) and found.confidence == pytest.approx(4 / 10)
    assert found.stages[-1].startswith("best-of-n")


def test_one_sample_is_not_drawn_twice():
    words = model(at_once="5", once="5", search=["a", "b", "c", "d"])
    found = reasoner(words, Toy(depth=1), samples=1).solve(PROBLEM)
    assert (names(found), words.n) == (["direct", "cot", "tot-breadth"], [[1], [1], [4]])


# How deep.


def depths(words: Scripted) -> int:
    return max(text.count("\n") for texts in words.asked for text in texts)


def test_a_task_that_knows_its_depth_is_searched_once_and_no_deeper():
    class Known(Toy):
        def depth_of(self, problem):
            return 4 if problem == PROBLEM else None

    for task, max_depth, deep in ((Toy({"7"}, depth=2), None, 2), (Toy({"7"}, depth=2), 9, 2), (Known({"7"}), 3, 3)):
        counter = itertools.count()
        words = Scripted(lambda p, n, c=counter: [f"s{next(c)}" for _ in range(n)])
        found = reasoner(words, task, rounds=1).solve(PROBLEM, "tot", max_depth)
        assert (depths(words), names(found), found.answer) == (deep, ["tot-breadth"], None)
    assert len(reasoner(words, Known({"7"}), rounds=1).solve(PROBLEM, "tot").stages) == 1


@pytest.mark.parametrize(("max_depth", "searches"), [(1, [1]), (3, [3]), (4, [3, 4]), (None, [3, 6, MAX_DEPTH])])
def test_a_depth_that_nobody_knows_is_doubled(max_depth, searches):
    counter = itertools.count()
    words = Scripted(lambda p, n: [f"s{next(counter)}" for _ in range(n)])
    found = reasoner(words, Toy({"7"}), rounds=1).solve(PROBLEM, "tot", max_depth)
    assert names(found) == ["tot-breadth"] * len(searches) and depths(words) == searches[-1]
    assert found.calls == sum(searches)
    roots = [seeds[0] for texts, seeds in zip(words.asked, words.seeds, strict=True) if texts == ["p\n"]]
    assert len(set(roots)) == len(roots) == len(searches)


def test_only_the_deepest_search_has_all_its_rounds_and_an_answer_ends_it():
    counter = itertools.count()
    words = Scripted(lambda p, n: [f"s{next(counter)}" for _ in range(n)])
    reasoner(words, Toy({"7"}), rounds=3).solve(PROBLEM, "tot", 6)
    assert sum(texts == ["p\n"] for texts in words.asked) == 1 + 3
    words = model(search=["= 7", "a", "b", "c"] * 2, deeper=["x", "y"])
    assert names(reasoner(words, Toy({"7"})).solve(PROBLEM, "tot")) == ["tot-breadth"]
    words = model(search=["= 5", "a", "b", "c"] * 9, deeper=["x", "y"])
    assert names(reasoner(words, Toy()).solve(PROBLEM, "tot")) == ["tot-breadth"]


def test_a_search_is_as_deep_as_the_chain_was_long():
    thought = "\n".join("abcd") + "\n= 5"
    words = Scripted(lambda p, n: [thought] if n == 1 and p == "p\n" else [f"{p.count(chr(10))}.{i}" for i in range(n)])
    found = reasoner(words, Toy({"7"}), rounds=1).solve(PROBLEM, "hybrid", 5)
    assert names(found) == ["cot", "tot-breadth"] and depths(words) == 5


# What it costs.


def test_every_stage_counts_and_tells_what_it_took():
    words = model(at_once="555", once="5", several="556", **FOUND)
    budget = Budget()
    found = reasoner(words, Toy({"7"}, depth=2)).solve(PROBLEM, budget=budget)
    assert found.stages == ("direct: 6 tokens", "cot: 3 tokens", "best-of-n: 9 tokens", "tot-breadth: 6 tokens")
    assert found.tokens == 24 == words.usage.completion_tokens == budget.spent["tokens"]
    assert (found.calls, found.nodes) == (4, 4) == (budget.spent["calls"], budget.spent["nodes"])
    assert found.method == found.trace.method == "tot-breadth" and found.work == "= 7"
    assert found.candidates[:1] == ("7",) and set(found.candidates) == {"5", "6", "7", "8"}
    assert found.seconds >= 0 and found.summary()["stages"] == found.stages


def test_the_budget_is_one_for_all_stages_and_is_never_exceeded():
    for tokens in range(0, 60):
        words = Scripted(lambda p, n: ["w x\n= 5"] * n if not p.endswith("at once\n") else ["= 5"] * n)
        found = reasoner(words, Toy({"7"}, depth=2)).solve(PROBLEM, budget=Budget(tokens=tokens))
        assert found.tokens == words.usage.completion_tokens <= tokens
        assert found.stopped == "tokens" or found.nodes > 0
        if tokens >= 8:
            assert found.answer == "5"
    for limit, most in (("calls", 3), ("nodes", 4)):
        words = model(at_once="555", once="5", several="556", search="abcd", deeper=["x", "y"])
        found = reasoner(words, Toy({"7"}, depth=3)).solve(PROBLEM, budget=Budget(**{limit: most}))
        assert found.stopped == limit and getattr(found, limit) == most and found.answer == "5"


def test_seconds_end_it_with_the_best_so_far():
    now = [0]

    def slowly(prompt, n):
        now[0] += 3
        return ["= 5"] * n

    budget = Budget(seconds=5, clock=lambda: now[0])
    found = reasoner(Scripted(slowly), Toy({"7"}, depth=2)).solve(PROBLEM, budget=budget)
    assert (found.answer, found.stopped, names(found)) == ("5", "seconds", ["direct", "cot", "best-of-n"])


def test_a_budget_that_was_used_before_does_not_count_for_the_next_problem():
    solver = reasoner(Scripted(lambda p, n: ["= 7"] * n), Toy({"7"}))
    budget = Budget()
    assert [solver.solve(PROBLEM, "hybrid", budget=budget).tokens for _ in range(2)] == [2, 2]


def test_a_model_that_fails_leaves_the_best_so_far():
    found = reasoner(model(at_once="555", once="5", several="556"), Toy({"7"}, depth=2)).solve(PROBLEM)
    assert (found.answer, found.complete) == ("5", False) and "the script has 0 of 4" in found.stopped
    assert found.stages[-1] == "breadth: 0 tokens, then an error" and found.calls == 4
    with pytest.raises(BackendError):
        reasoner(model(), Toy()).solve(PROBLEM)


def test_notes_of_all_stages_are_kept():
    class Raises(Toy):
        def check(self, problem, answer):
            return int(answer) == 7

    found = reasoner(model(once="x", several="777"), Raises(depth=1)).solve(PROBLEM, "hybrid")
    assert found.answer == "7" and found.notes[0].startswith("the checker raised ValueError")


# Many problems, and what is refused.


def test_many_problems_are_as_they_are_alone():
    def script(prompt, n):
        hard = "hard" in prompt
        return [f"= {9 if hard else 7}"] * n if "at once" in prompt else [f"= {8 if hard else 7}"] * n

    solver = reasoner(Scripted(script), Toy({"7"}, depth=1), rounds=1)
    many = solver.solve_all(["easy", "hard", "easy 2"])
    assert [(s.answer, s.verified) for s in many] == [("7", True), ("8", False), ("7", True)]
    for problem, found in zip(["easy", "hard", "easy 2"], many, strict=True):
        assert solver.solve(problem).summary() | {"seconds": 0} == found.summary() | {"seconds": 0}
    limited = solver.solve_all(["easy", "hard"], "hybrid", budget=Budget(calls=9), each={"calls": 1})
    assert [s.calls for s in limited] == [1, 1] and [s.stopped for s in limited] == [None, "calls"]


def test_agreement_is_a_share_and_an_entropy():
    share, entropy = measure_agreement(("18", "$18.00", "19", None))
    assert share == pytest.approx(0.5)
    assert entropy == pytest.approx(-sum(p * math.log(p) for p in (2 / 3, 1 / 3)))
    assert measure_agreement(("5", "5.0")) == (1.0, 0.0)
    assert measure_agreement(()) == (0.0, 0.0)


OUT_OF_RANGE = [("agreement", 0), ("agreement", 1.5), ("most_entropy", -1), ("most_entropy", math.nan), ("samples", 0)]
OUT_OF_RANGE += [("most_chains", 0), ("rounds", 0), ("beam_width", -1), ("temperature", -0.5)]


@pytest.mark.parametrize(("name", "value"), OUT_OF_RANGE)
def test_what_is_out_of_range_is_refused_at_once(name, value):
    with pytest.raises(InputError, match=f"{name} is {value}"):
        reasoner(model(), Toy(), **{name: value})
    with pytest.raises(InputError, match="there is no search 'wide'"):
        reasoner(model(), Toy(), search="wide")


def test_unknown_approaches_and_depths_are_refused_before_the_model_is_asked():
    words = model(once="5")
    for arguments, message in (
        (("think",), "no approach 'think'; there are auto, hybrid, cot, tot"),
        (("tot", 0), "max_depth is 0"),
        (("tot", True), "max_depth is True"),
        (("tot", 2.5), "max_depth is 2.5"),
    ):
        with pytest.raises(InputError, match=message):
            reasoner(words, Toy()).solve(PROBLEM, *arguments)
    assert words.asked == []
