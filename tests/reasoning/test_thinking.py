"""How chains are judged, made to answer and mended, worked out by hand."""

import itertools
import json

import pytest

from vishwamai.reasoning.budget import Budget
from vishwamai.reasoning.chain import ChainOfThought
from vishwamai.reasoning.model import Completion
from vishwamai.reasoning.scripted import Scripted
from vishwamai.reasoning.task import Task
from vishwamai.reasoning.tasks.countdown import Game24
from vishwamai.reasoning.tasks.gsm8k import GSM8K
from vishwamai.reasoning.tasks.text import FreeText
from vishwamai.reasoning.tasks.word_problems import WordProblems
from vishwamai.reasoning.verify import arithmetic, asks, calculator, expression, matches

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


# Steps are judged.


@pytest.mark.parametrize(
    ("checker", "line", "valid", "why"),
    [
        (arithmetic, "9 * 2 = 18", True, ""),
        (arithmetic, "9 * 2 = 19", False, "9 * 2 = 19 is wrong"),
        (arithmetic, "So it is.", None, "there is no equation"),
        (calculator, "9 * 2 = <<9*2=18>>18", True, ""),
        (calculator, "9 * 2 = <<9*2=17>>18", False, "9 * 2 = 17 is wrong"),
        (matches(r"\d+ [*] .*"), "9 * 2 = 18", True, ""),
        (matches(r"\d+ [*] .*"), "nine", False, r"it does not match \d+ [*] .*"),
        (expression, "9 * 2 == 18", True, ""),
        (expression, "9 * 2 == 19", False, "9 * 2 == 19 is false"),
    ],
)
def test_each_kind_of_checker_judges_a_step(checker, line, valid, why):
    found = ChainOfThought(says(f"{line}\nAnswer: 18"), task=bare(), checker=checker).solve(QUESTION)
    assert (found.steps[0].valid, found.steps[0].why) == (valid, why)
    own = ChainOfThought(says(f"Step 1: {line}\nAnswer: 18"), task=bare(checker=checker)).solve(QUESTION)
    assert (own.steps[0].valid, own.steps[0].why) == (valid, why)


def test_a_model_judges_a_step():
    judge = Scripted({}, lambda prompt, word: -0.1 if (word == " yes") == ("18" in prompt) else -3.0)
    found = ChainOfThought(says("so 18\nso 19"), task=bare(), checker=asks(judge)).solve(QUESTION)
    assert [step.valid for step in found.steps] == [True, False]


def test_a_task_judges_by_its_own_rules_and_what_it_cannot_tell_it_does_not_call_right():
    lines = "A week has 7 days.\nIt lays 3 * 7 = 21.\nSo 21 + 1 = 23.\nThat is 23 - 1 = 22.\n#### 22"
    steps = ChainOfThought(says(lines), task=GSM8K()).solve(QUESTION).steps
    assert [step.valid for step in steps] == [None, True, False, None, None]
    assert steps[2].why == "21 + 1 = 23 is wrong" and steps[3].why.startswith("a step before it is wrong")
    steps = ChainOfThought(says(told("18")), task=bare()).solve(QUESTION).steps
    assert [step.valid for step in steps] == [None, None]


def test_a_step_that_is_taken_back_leads_nowhere():
    lines = [
        "10 + 9 = 19, left 4 13 19 no",
        "13 - 9 = 4, left 4 4 10 yes",
        "9 - 4 = 4, left 4 4 10 no",
        "10 - 4 = 6, left 4 6 yes",
        "6 * 4 = 24 yes",
        "Answer: ( 10 - ( 13 - 9 ) ) * 4 = 24",
    ]
    found = ChainOfThought(says("\n".join(lines)), task=Game24()).solve("4 9 10 13")
    assert [step.valid for step in found.steps] == [True, True, False, True, True]
    assert (found.answer, found.verified) == ("( 10 - ( 13 - 9 ) ) * 4", True)
    lines[0] = lines[0].replace("no", "yes")
    found = ChainOfThought(says("\n".join(lines)), task=Game24()).solve("4 9 10 13")
    assert [step.valid for step in found.steps] == [True, False, None, None, None]


class Broken(Task):
    """Everything but the reading and the asking raises, where it is told to."""

    def __init__(self, *parts: str):
        self.parts = parts

    def read(self, problem):
        return 0

    def prompt(self, problem, steps=()):
        return problem

    def step(self, state, text):
        return self._or_raise("step", state + 1)

    def answer(self, problem, steps, state):
        return None

    def check(self, problem, answer):
        return self._or_raise("check", 1 if answer == "7" else 0)

    def split(self, text):
        return self._or_raise("split", super().split(text))

    def extract(self, text):
        return self._or_raise("extract", 7)

    def _or_raise(self, part, value):
        if part in self.parts:
            raise ValueError(f"no {part}")
        return value


@pytest.mark.parametrize("part", ["step", "check", "split", "extract"])
@pytest.mark.parametrize("samples", [1, 2])
def test_what_raises_in_a_task_becomes_a_note(part, samples):
    found = ChainOfThought(says("a\nb", "a\nb"), task=Broken(part), samples=samples).solve("p")
    assert found.notes == (f"the checker raised ValueError: no {part}",)
    assert (found.answer, found.verified) == {"extract": (None, None), "check": ("7", None)}.get(part, ("7", True))
    assert [step.valid for step in found.steps] == {"split": [], "step": [None, None]}.get(part, [True, True])
    json.dumps(found.summary())


def test_what_a_checker_of_steps_gives_instead_of_a_verdict():
    for checker in (lambda step: 1 / 0, lambda step: True, lambda step: None):
        found = ChainOfThought(says(told("18")), task=bare(), checker=checker).solve(QUESTION)
        assert [step.valid for step in found.steps] == [None, None] and found.answer == "18"
    assert ChainOfThought(says(told("18")), task=bare(), checker=lambda step: 1 / 0).solve(QUESTION).notes == (
        "the checker raised ZeroDivisionError: division by zero",
    )


# Thinking for long enough.


def test_a_chain_that_has_thought_for_long_enough_is_made_to_answer():
    model = says("Step 1: we know that 9 eggs cost", " 18\nStep 2: no")
    found = ChainOfThought(model, task=bare(final=right("18")), thinking=5).solve(QUESTION)
    assert (found.answer, found.verified, found.stopped) == ("18", True, None)
    assert model.asked[1] == [f"{ASKED}Step 1: we know that\nAnswer:"]
    assert (found.tokens, found.calls) == (5 + 1, 2) and found.trace.thoughts[0].tokens == 6
    assert (model.sampling[0].max_tokens, model.sampling[1].temperature) == (5, 0.0)
    assert found.work == "Step 1: we know that\nAnswer: 18"


def test_numbers_in_a_thought_that_was_cut_off_are_no_answer():
    model = says("She has 3 * 7 = <<3*7=21>>21 and then some more", " 18")
    found = ChainOfThought(model, task=GSM8K(), thinking=8).solve(QUESTION)
    assert found.answer == "18" and model.asked[1][0].endswith("21 and\n####")


@pytest.mark.parametrize(
    ("thinking", "before", "said", "calls"),
    [
        (4, "Step 1: x\nAnswer:", " 18 dollars", 2),  # it was about to answer
        (5, "Step 1: x\nAnswer: 18", " dollars", 2),  # or had begun
        (6, None, None, 1),  # it had answered
    ],
)
def test_an_answer_that_is_cut_off_goes_on(thinking, before, said, calls):
    model = says("Step 1: x\nAnswer: 18\nwhich is nine times two", said)
    found = ChainOfThought(model, task=bare(), thinking=thinking).solve(QUESTION)
    assert model.usage.calls == found.calls == calls
    if before is not None:
        assert model.asked[1] == [f"{ASKED}{before}"]
    assert found.answer == ("18" if said is None else before.partition("Answer:")[2].strip() + said).strip()


def test_only_chains_that_were_cut_off_are_closed_and_all_at_once():
    model = says("a b c d e f", told("19"), "g h i j k l", " 18", " 18")
    found = ChainOfThought(model, task=bare(), samples=3, thinking=5).solve(QUESTION)
    assert model.asked[1] == [f"{ASKED}a b c d e\nAnswer:", f"{ASKED}g h i j k\nAnswer:"] and len(model.asked) == 2
    assert (found.answer, found.samples, found.tokens) == ("18", ("18", "19", "18"), 3 * 5 + 2)
    assert [how.temperature for how in model.sampling] == [0.7, 0.0]  # the answers are the likeliest, and not drawn


@pytest.mark.parametrize(
    ("task", "problem", "closing", "said", "answer"),
    [
        (bare(answer_marker="So:", separator="\n\n"), QUESTION, "\n\nSo:", " 18\nor so\n\nNext", "18\nor so"),
        (Game24(), "4 9 10 13", "\n Answer:", " ( 10 - ( 13 - 9 ) ) * 4 = 24", "( 10 - ( 13 - 9 ) ) * 4"),
        (GSM8K(), QUESTION, "\n####", " 18\n\nNext: 20", "18"),
        (WordProblems(), QUESTION, "\n Answer:", " 18\n 9 * 2", "18"),
    ],
)
def test_the_closing_words_are_those_by_which_the_task_finds_the_answer(task, problem, closing, said, answer):
    model = says("10 - 4 = 6, left 6", said)
    found = ChainOfThought(model, task=task, thinking=4).solve(problem)
    assert model.asked[1][0].endswith(f"10 - 4 ={closing}") and found.answer == answer


def test_all_are_closed_where_the_budget_holds_one_answer_at_a_time():
    model = Scripted(lambda prompt, n: [" 18"] * n if prompt.endswith("Answer:") else ["a b c d e f g"] * n)
    found = ChainOfThought(model, task=bare(), samples=3, thinking=5).solve(QUESTION, budget=Budget(tokens=100))
    assert model.n == [[3], [1], [1], [1]] and found.samples == ("18", "18", "18")


def test_a_task_of_ones_own_is_closed_by_default():
    class Plain(Broken):
        def extract(self, text):
            return Task.extract(self, text)

    assert ChainOfThought(says("a b c", " 7"), task=Plain(), thinking=2).solve("p").answer == "7"
    assert ChainOfThought(says("a b\n7"), task=Plain()).solve("p").answer == "7"


def test_a_chain_that_fills_the_models_context_gives_room_for_the_answer():
    text = "w" * 400
    model = says(Completion(text=text, tokens=200, finish_reason="length"), " 18")
    found = ChainOfThought(model, task=bare()).solve(QUESTION)
    assert found.answer == "18" and model.asked[1] == [f"{ASKED}{'w' * 208}\nAnswer:"]  # 104 of 200 tokens
    model = says(Completion(text=text, tokens=50, finish_reason="length"))
    found = ChainOfThought(model, task=bare()).solve(QUESTION)
    assert found.answer is None and "context" in found.notes[0]


# Mending.

WRONG = "She pays 9 * 2 = $<<9*2=19>>19.\n#### 19"
MENDED = "She pays 9 * 2 = $<<9*2=18>>18.\n#### 18"


def test_a_chain_is_told_what_is_wrong_and_mended():
    model = says(WRONG, MENDED)
    found = ChainOfThought(model, task=GSM8K(), refinements=3).solve(QUESTION)
    assert (found.answer, found.calls) == ("18", 2) and [s.valid for s in found.steps] == [True, None]
    asked, again = model.asked[0][0], model.asked[1][0]
    assert again == (
        f"{asked}{WRONG}\nThis is wrong: 'She pays 9 * 2 = $<<9*2=19>>19.' 9 * 2 = 19 is wrong. Try again.\n"
    )
    assert [t.path for t in found.trace.thoughts] == [(0,), (0, 0)] and found.trace.result["path"] == [0, 0]


def test_one_that_is_never_mended_ends():
    lines = [WRONG.replace("19", str(i)) for i in (19, 20, 21, 22)]
    found = ChainOfThought(says(*lines), task=GSM8K(), refinements=2).solve(QUESTION)
    assert (found.answer, found.calls, found.complete) == ("21", 3, True)
    model = says(WRONG, WRONG, MENDED)  # the likeliest tokens would repeat it for ever
    assert ChainOfThought(model, task=GSM8K(), refinements=9).solve(QUESTION).calls == 2


def test_a_refuted_answer_and_no_answer_are_complaints_and_a_right_one_is_none():
    task = bare(final=right("18"))
    model = says(told("19"), "Answer:", told("18"))
    found = ChainOfThought(model, task=task, refinements=5).solve(QUESTION)
    assert (found.answer, found.verified, found.calls) == ("18", True, 3)
    assert model.asked[1][0].endswith("This is wrong: 19 is not the answer. Try again.\n")
    assert model.asked[2][0].endswith("This is wrong: there is no answer. Try again.\n")
    model = says("Step 1: 9 * 2 = 17\nAnswer: 18")  # wrong work, right answer
    assert (
        ChainOfThought(model, task=bare(final=right("18"), checker=arithmetic), refinements=5).solve(QUESTION).calls
        == 1
    )


def test_a_wrong_step_that_was_taken_back_is_no_complaint():
    line = "9 - 4 = 4, left 4 4 10 no\nAnswer: ( 4 + 9 ) + ( 10 + 13 ) = 24"
    model = says(line, "Answer: ( 10 - ( 13 - 9 ) ) * 4 = 24")
    found = ChainOfThought(model, task=Game24(), refinements=1).solve("4 9 10 13")
    assert "\nThis is wrong: ( 4 + 9 ) + ( 10 + 13 ) is not the answer. Try again." in model.asked[1][0]
    assert found.verified


def test_a_worse_attempt_takes_no_place():
    found = ChainOfThought(says(WRONG, "I give up", "#### ?"), task=GSM8K(), refinements=1).solve(QUESTION)
    assert found.answer == "19"


def test_every_chain_of_a_wave_is_mended_and_votes_once():
    other = WRONG.replace("19", "17")
    model = says(WRONG, MENDED, other, MENDED, "<<1+1=3>>3\n#### 3")
    found = ChainOfThought(model, task=GSM8K(), samples=3, refinements=1).solve(QUESTION)
    assert [len(asked) for asked in model.asked] == [1, 2]
    assert (found.answer, found.samples) == ("18", ("18", "18", "3")) and found.confidence == pytest.approx(2 / 3)
    assert [t.path for t in found.trace.thoughts] == [(0,), (1,), (2,), (0, 0), (2, 0)]


def test_a_wave_with_a_right_answer_is_not_mended_for_the_best():
    model = says(told("19"), told("18"), told("18"))
    task = bare(final=right("18"))
    assert ChainOfThought(model, task=task, samples=2, choose="best", refinements=2).solve(QUESTION).calls == 1


def test_an_attempt_may_be_made_to_answer_too():
    model = says("19 is it\nAnswer: 19", "a b c d e f g", " 18")
    found = ChainOfThought(model, task=bare(final=right("18")), thinking=6, refinements=1).solve(QUESTION)
    assert (found.answer, found.tokens) == ("18", 5 + 6 + 1)
    assert model.asked[2][0].endswith("Try again.\na b c d e f\nAnswer:")


def test_without_validation_only_the_answer_is_a_complaint():
    assert ChainOfThought(says(WRONG), task=GSM8K(), refinements=3).solve(QUESTION, validate_steps=False).calls == 1
