"""Chains of thought, worked out by hand: what the model is asked, what is made of its words, and what that costs."""

import itertools

import pytest

from vishwamai.errors import BackendError, InputError
from vishwamai.reasoning.budget import Budget
from vishwamai.reasoning.chain import ChainOfThought
from vishwamai.reasoning.model import Completion, join_prompt, seed_of
from vishwamai.reasoning.scripted import Scripted
from vishwamai.reasoning.tasks.gsm8k import GSM8K
from vishwamai.reasoning.tasks.text import FreeText

QUESTION = "Nine eggs at $2. How much?"
ASKED = f"Question: {QUESTION}\n"


def bare(**options) -> FreeText:
    """Free text whose prompt is the question alone."""
    return FreeText(**{"instruction": "", "cue": ""} | options)


def right(*answers):
    """A judge that knows the right answers, and is unsure of "?"."""
    return lambda problem, answer: None if answer == "?" else answer in answers


def says(*lines) -> Scripted:
    """A model that says these lines in order, whatever it is asked; then it fails."""
    rest = iter(lines)
    return Scripted(lambda prompt, n: list(itertools.islice(rest, n)))


def told(answer: str) -> str:
    return f"Step 1: think.\nAnswer: {answer}"


# One chain.


def test_one_chain_shows_its_work():
    model = says("Step 1: 9 * 2 = 18.\nAnswer: 18")
    found = ChainOfThought(model, task=bare(final=right("18"))).solve(QUESTION)
    assert (found.answer, found.verified, found.method, found.confidence) == ("18", True, "cot", 1.0)
    assert found.work == "Step 1: 9 * 2 = 18.\nAnswer: 18" and found.complete
    assert (found.tokens, found.calls, found.nodes) == (9, 1, 0)
    assert model.asked == [[ASKED]]
    assert (model.sampling[0].temperature, model.sampling[0].max_tokens) == (0.0, 512)


def test_zero_shot_asks_for_steps_and_few_shot_shows_them():
    model = says(told("18"), told("18"))
    ChainOfThought(model).solve(QUESTION)
    assert model.asked[0][0].endswith("Let's think step by step.\n")
    ChainOfThought(model, task=FreeText(examples=[("1 + 1?", ["1 + 1 = 2."], "2")])).solve(QUESTION)
    assert "Step 1: 1 + 1 = 2.\nAnswer: 2\n\nQuestion: Nine eggs" in model.asked[1][0]


def test_a_chain_ends_where_a_base_model_goes_on_to_another_question():
    line = "She pays 9 * 2 = $<<9*2=18>>18.\n#### 18\n\nQuestion: Ten hens?\nAnswer:\n#### 10"
    for task, answer in ((GSM8K(golds={QUESTION: "18"}), "18"), (bare(answer_marker="####", final=right("18")), "18")):
        model = says(line)
        found = ChainOfThought(model, task=task).solve(QUESTION)
        assert (found.answer, found.verified, found.tokens) == (answer, True, 9)
        assert found.work.endswith("#### 18")
    assert FreeText(chat_template="{{ messages[0].content }}").chain_stop == ()


def test_the_stop_text_may_come_before_any_mark():
    model = says("It is 9 * 2 = 18\nQuestion: What is 3 + 3?\n#### 6")
    assert ChainOfThought(model, task=GSM8K()).solve(QUESTION).answer == "18"


def test_an_answer_without_steps_begins_in_the_prompt():
    model = says(" 18\nThat is for 9 eggs.")
    found = ChainOfThought(model, task=GSM8K(golds={QUESTION: "18"}), direct=True).solve(QUESTION)
    assert (found.answer, found.verified, found.method) == ("18", True, "direct")
    assert model.asked[0][0].endswith("\n####") and found.work == "#### 18"
    model = says("Answer: 18")
    assert ChainOfThought(model, task=bare(), direct=True).solve(QUESTION).answer == "18"


def test_without_work_nothing_is_judged():
    seen = []
    solver = ChainOfThought(says(told("18"), told("18")), task=bare(), checker=lambda step: seen.append(step))
    assert solver.solve(QUESTION, show_work=False).steps == () and seen == []
    found = solver.solve(QUESTION, validate_steps=False)
    assert [(s.text, s.valid, s.why) for s in found.steps] == [("Step 1: think.", None, ""), ("Answer: 18", None, "")]
    assert seen == []


# Several chains.


def test_self_consistency_is_by_equality():
    model = says(told("19"), told("18"), told("$18.00"), told("19"), told("18 dollars"))
    found = ChainOfThought(model, task=bare(), samples=5, temperature=0.6).solve(QUESTION)
    assert (found.answer, found.confidence, found.method) == ("18", 0.6, "self-consistency")
    assert found.candidates == ("18", "19") and found.samples == ("19", "18", "$18.00", "19", "18 dollars")
    assert (model.n, model.sampling[0].temperature, model.sampling[0].logprobs) == ([[5]], 0.6, None)
    assert found.trace.result["path"] == [1] and [t.path for t in found.trace.thoughts] == [(i,) for i in range(5)]


def test_a_vote_does_not_ask_the_judge_and_the_best_does():
    lines = [told("19"), told("19"), told("18")]
    task = bare(final=right("18"))
    vote = ChainOfThought(says(*lines), task=task, samples=3).solve(QUESTION)
    assert (vote.answer, vote.verified) == ("19", False)
    best = ChainOfThought(says(*lines), task=task, samples=3, choose="best").solve(QUESTION)
    assert (best.answer, best.verified, best.confidence) == ("18", True, 1.0)
    verifier = ChainOfThought(says(*lines), task=task, samples=3, weights="verifier").solve(QUESTION)
    assert (verifier.answer, verifier.verified) == ("18", True)
    assert [t.status for t in best.trace.thoughts] == ["refuted", "refuted", "answer"]


def test_log_probabilities_are_asked_for_and_weigh():
    chains = [
        Completion(text=told(a), tokens=t, logprob=x) for a, t, x in (("18", 8, -4), ("19", 1, -1), ("20", 1, -9))
    ]
    model = says(*chains)
    found = ChainOfThought(model, task=bare(), samples=3, weights="logprob").solve(QUESTION)
    assert found.answer == "18" and model.sampling[0].logprobs == 0
    assert found.confidence == pytest.approx(0.6065 / (0.6065 + 0.3679 + 0.0001), abs=1e-4)


def test_waves_stop_after_a_right_answer_and_spend_no_more():
    lines = [told("19"), told("20"), told("18"), told("21"), told("22"), told("18")]
    model = says(*lines)
    solver = ChainOfThought(model, task=bare(final=right("18")), samples=6, choose="best", wave=2, seed=3)
    found = solver.solve(QUESTION)
    assert (found.answer, found.verified, found.calls, found.tokens) == ("18", True, 2, 4 * 5)
    assert model.n == [[2], [2]]
    assert model.seeds == [[seed_of(3, QUESTION, "chain", 0)], [seed_of(3, QUESTION, "chain", 2)]]


def test_waves_of_a_vote_stop_where_the_rest_cannot_change_it():
    model = says(*map(told, ["18", "19", "18", "18", "18", "18"]))
    found = ChainOfThought(model, task=bare(), samples=6, wave=2).solve(QUESTION)
    assert (found.answer, model.n) == ("18", [[2], [2], [2]])  # after four, 3 to 1 could still become 3 to 3
    model = says(*map(told, ["18", "18", "18", "18", "19", "19"]))
    assert ChainOfThought(model, task=bare(), samples=6, wave=2).solve(QUESTION).answer == "18"
    assert model.n == [[2], [2]]


# Budgets.


def test_a_budget_of_tokens_leaves_room_for_the_answer_and_is_never_exceeded():
    for tokens in range(1, 120):
        model = Scripted(lambda prompt, n: ["w " * 200] * n)
        budget = Budget(tokens=tokens)
        found = ChainOfThought(model, task=bare(), samples=3, thinking=60).solve(QUESTION, budget=budget)
        assert found.tokens == budget.spent["tokens"] == model.usage.completion_tokens <= tokens
        assert found.stopped == "tokens"
        if tokens >= 4:
            assert found.samples[0] is not None and found.answer is not None
    assert model.sampling[0].max_tokens == 60 and model.sampling[1].max_tokens == 48


def test_as_many_chains_as_the_tokens_hold_are_asked_for_at_once():
    model = Scripted(lambda prompt, n: [told("18")] * n)
    found = ChainOfThought(model, task=bare(), samples=5, thinking=20).solve(QUESTION, budget=Budget(tokens=200))
    assert model.n[0] == [2]  # of 20 tokens and 48 for the answer
    assert model.n[1] == [2] and len(found.samples) == 4 and found.complete  # the fifth would change nothing


def test_what_the_calls_and_the_seconds_do_not_hold():
    lines = [told("19"), told("18")]
    budget = Budget(calls=1)
    found = ChainOfThought(says(*lines), task=bare(), samples=2, wave=1).solve(QUESTION, budget=budget)
    assert (found.answer, found.stopped, found.samples) == ("19", "calls", ("19",))
    now = [0]

    def slowly(prompt, n):
        now[0] += 5
        return ["a b c d"] * n

    budget = Budget(seconds=5, clock=lambda: now[0])
    found = ChainOfThought(Scripted(slowly), task=bare(), thinking=3).solve(QUESTION, budget=budget)
    assert found.stopped == "seconds" and found.answer is None and found.work == "a b c"
    late = Completion(text="a b", tokens=2, finish_reason="length")  # what the deadline ended
    model = Scripted(lambda prompt, n: [slowly(prompt, n) and late] * n)
    found = ChainOfThought(model, task=bare()).solve(QUESTION, budget=Budget(seconds=5, clock=lambda: now[0]))
    assert found.stopped == "seconds" and found.answer is None and found.notes == ()
    for limit in ("tokens", "calls", "seconds"):
        found = ChainOfThought(says(told("18")), task=bare()).solve(QUESTION, budget=Budget(**{limit: 0}))
        assert (found.answer, found.stopped, found.tokens, found.candidates) == (None, limit, 0, ())


def test_a_budget_that_was_used_before_does_not_count_for_the_next_problem():
    budget = Budget(tokens=100)
    solver = ChainOfThought(Scripted(lambda prompt, n: [told("18")] * n), task=bare())
    assert [solver.solve(QUESTION, budget=budget).tokens for _ in range(3)] == [5, 5, 5]
    assert budget.spent == {"tokens": 15, "calls": 3, "nodes": 0}


def test_a_model_that_fails_leaves_what_was_found():
    model = says(told("18"))
    found = ChainOfThought(model, task=bare(), samples=2, wave=1).solve(QUESTION)
    assert (found.answer, found.samples) == ("18", ("18",)) and "the script has 0 of 1" in found.stopped
    assert not found.complete
    found = ChainOfThought(says("a b c"), task=bare(), thinking=2).solve(QUESTION)  # in the forced answer
    assert found.answer is None and "the script" in found.stopped and found.work == "a b"
    with pytest.raises(BackendError):
        ChainOfThought(says(), task=bare()).solve(QUESTION)


def test_a_chain_that_the_budget_cut_short_says_so_though_it_answers():
    budget = Budget(tokens=40)
    found = ChainOfThought(says("w " * 200, " 18"), task=bare()).solve(QUESTION, budget=budget)
    assert (found.answer, found.stopped, found.tokens) == ("18", "tokens", 31)
    found = ChainOfThought(says("w " * 200, " 18"), task=bare(), thinking=30).solve(QUESTION, budget=Budget(tokens=99))
    assert (found.answer, found.stopped, found.tokens) == ("18", None, 31)


def test_a_model_that_gives_nothing_in_time_is_no_failure():
    now = [0]

    def late(prompt, n):
        now[0] += 5
        raise BackendError("nothing came in time")

    found = ChainOfThought(Scripted(late), task=bare()).solve(QUESTION, budget=Budget(seconds=5, clock=lambda: now[0]))
    assert (found.answer, found.stopped, found.notes) == (None, "seconds", ("nothing came in time",))


# Many problems.


def draws(model: Scripted, mark: str) -> list:
    """What was asked of the problems with this mark."""
    asked = zip(model.asked, model.n, model.seeds, model.sampling, strict=True)
    return [
        (text, many, seed, how)
        for texts, ns, seeds, how in asked
        for text, many, seed in zip(texts, ns, seeds, strict=True)
        if mark in text
    ]


def test_a_problem_is_asked_the_same_alone_and_among_others():
    def script(prompt, n):
        return ["w x y z"] * n if "Answer:" not in prompt else [" 18"] * n

    problems = [f"What is number {i}?" for i in range(4)]
    how = {"task": bare(final=right("19")), "samples": 4, "wave": 2, "thinking": 3, "refinements": 1, "choose": "best"}
    together, alone = Scripted(script), Scripted(script)
    many = ChainOfThought(together, seed=5, **how).solve_all(problems)
    one = ChainOfThought(alone, seed=5, **how).solve(problems[2])
    assert draws(together, problems[2]) == draws(alone, problems[2]) != []
    assert one.summary() | {"seconds": 0} == many[2].summary() | {"seconds": 0}
    assert together.usage.calls == alone.usage.calls and len(together.asked[0]) == 4
    seeds = [seed for row in together.seeds for seed in row]
    assert len(set(seeds)) == len(seeds)
    other = Scripted(script)
    ChainOfThought(other, seed=6, **how).solve(problems[2])
    assert not {seed for row in other.seeds for seed in row} & set(seeds)


def test_many_problems_share_a_budget_and_have_limits_of_their_own():
    model = Scripted(lambda prompt, n: [told("18")] * n)
    solver = ChainOfThought(model, task=bare(), samples=3, wave=1, choose="best", weights="logprob")
    found = solver.solve_all(["a", "b"], budget=Budget(calls=4), each={"calls": 3})
    assert [s.calls for s in found] == [2, 2] and [s.stopped for s in found] == ["calls", "calls"]
    found = solver.solve_all(["a", "b"], each={"calls": 1}, show_work=False, validate_steps=False)
    assert [s.calls for s in found] == [1, 1] and found[0].steps == ()
    assert solver.solve_all([]) == []


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"choose": "all"}, "choose is 'all'; it must be one of vote, best"),
        ({"weights": "none"}, "weights is 'none'; it must be one of count"),
        ({"samples": 0}, "samples is 0"),
        ({"samples": None}, "samples is None"),
        ({"samples": True}, "samples is True"),
        ({"wave": 0}, "wave is 0"),
        ({"thinking": 0}, "thinking is 0"),
        ({"refinements": -1}, "refinements is -1"),
        ({"samples": 2, "temperature": -1}, "temperature is -1"),
        ({"task": "chess"}, "there is no task 'chess'"),
    ],
)
def test_what_is_out_of_range_is_refused_at_once(options, message):
    with pytest.raises(InputError, match=message):
        ChainOfThought(says(), **options)


def test_a_problem_that_cannot_be_read_is_refused_before_the_model_is_asked():
    model = says()
    with pytest.raises(InputError, match="the problem is empty"):
        ChainOfThought(model, task=bare()).solve_all([QUESTION, " "])
    assert model.asked == []


def test_the_prompt_of_a_task_stays_in_pieces():
    """What problems share is read once."""
    seen = []

    class Pieces(Scripted):
        def generate(self, prompts, *args, **how):
            seen.extend(prompts)
            return super().generate(prompts, *args, **how)

    ChainOfThought(Pieces(lambda p, n: ["a b c"] * n), task=GSM8K(), thinking=2, refinements=1).solve(QUESTION)
    start = GSM8K().prompt(QUESTION)
    assert all(prompt[: len(start)] == start for prompt in seen) and len(seen) > 1
    assert join_prompt(seen[-1]).startswith(join_prompt(start))
