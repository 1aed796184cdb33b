"""Free text: prompts against texts written out here, and answers as models of both kinds put them."""

import pytest

from vishwamai.errors import InputError
from vishwamai.generation.sampling import SamplingParams
from vishwamai.reasoning import drive
from vishwamai.reasoning.budget import Budget
from vishwamai.reasoning.model import join_prompt, split_prompt
from vishwamai.reasoning.scripted import Scripted
from vishwamai.reasoning.task import Verdict
from vishwamai.reasoning.tasks.text import FreeText

QUESTION = "Asha has 3 apples and buys 4 more. How many has she?"
EXAMPLES = [
    ("What is 2 + 3 * 4?", ["3 * 4 = 12.", "2 + 12 = 14."], "14"),
    ("What is 10 - 4?", ["10 - 4 = 6."], "6"),
]
CHAT = (
    "{{ bos_token }}{% for m in messages %}<|{{ m.role }}|>\n{{ m.content | trim }}<|end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>\n{% endif %}"
)

FEW_SHOT = """Add up.

Question: What is 2 + 3 * 4?
Think.
Step 1: 3 * 4 = 12.
Step 2: 2 + 12 = 14.
Answer: 14

Question: What is 10 - 4?
Think.
Step 1: 10 - 4 = 6.
Answer: 6

Question: Asha has 3 apples and buys 4 more. How many has she?
Think.
Step 1: She has 3 + 4.
"""

CHATTED = """<|user|>
Add up.

What is 2 + 3 * 4?
Think.<|end|>
<|assistant|>
Step 1: 3 * 4 = 12.
Step 2: 2 + 12 = 14.
Answer: 14<|end|>
<|user|>
What is 10 - 4?
Think.<|end|>
<|assistant|>
Step 1: 10 - 4 = 6.
Answer: 6<|end|>
<|user|>
Asha has 3 apples and buys 4 more. How many has she?
Think.<|end|>
<|assistant|>
Step 1: She has 3 + 4.
"""


@pytest.mark.parametrize(("template", "text"), [(None, FEW_SHOT), (CHAT, CHATTED)])
def test_a_few_shot_prompt(template, text):
    task = FreeText(instruction=" Add up.\n", examples=EXAMPLES, cue="Think.", chat_template=template)
    assert join_prompt(task.prompt(f"{QUESTION}\n", [" Step 1: She has 3 + 4. "])) == text


def test_a_zero_shot_prompt_says_how_to_answer():
    rule, asked = FreeText().prompt(QUESTION)
    assert asked == f"Question: {QUESTION}\nLet's think step by step.\n"
    assert '"Step 1: ...", "Step 2: ..."' in rule and '"Answer: ..."' in rule
    rule, asked = FreeText(steps_marker="", answer_marker="So:", cue="").prompt(QUESTION)
    assert asked == f"Question: {QUESTION}\n" and '"So: ..."' in rule and "1:" not in rule
    assert FreeText(instruction="").prompt(QUESTION)[0] == ""
    assert len(split_prompt(FreeText(instruction="").prompt(QUESTION))) == 1


def test_a_direct_prompt_shows_answers_without_steps():
    task = FreeText(instruction="Add up.", examples=EXAMPLES)
    assert join_prompt(task.direct_prompt(QUESTION)) == (
        "Add up.\n\nQuestion: What is 2 + 3 * 4?\nAnswer: 14\n\nQuestion: What is 10 - 4?\nAnswer: 6\n\n"
        f"Question: {QUESTION}\n"
    )
    assert "step" not in join_prompt(FreeText(chat_template=CHAT).direct_prompt(QUESTION)).lower()


@pytest.mark.parametrize("template", [None, CHAT])
@pytest.mark.parametrize("examples", [(), EXAMPLES])
def test_pieces_are_shared_between_problems_and_between_steps(template, examples):
    task = FreeText(examples=examples, chat_template=template)
    one, other = task.prompt(QUESTION), task.prompt("Asha has 5 pears.")
    assert one[0] == other[0] and one[1] != other[1] and len(one) == 2
    assert one[0].startswith(("Solve", "<|user|>\nSolve")) and one[1].removeprefix("Question: ").startswith("Asha")
    longer = task.prompt(QUESTION, ["Step 1: a", "Step 2: b"])
    assert longer == (*one, "Step 1: a\n", "Step 2: b\n")


def test_a_template_that_rewrites_questions_is_still_whole():
    task = FreeText(
        instruction="", cue="", chat_template="{% for m in messages %}[{{ m.content | upper }}]{% endfor %}"
    )
    assert join_prompt(task.prompt("why?")) == "[WHY?]"
    named = FreeText(
        instruction="", cue="", chat_template="{{ who }}: {{ messages[0].content }}", variables={"who": "I"}
    )
    assert join_prompt(named.prompt("why?")) == "I: why?"


def test_states_differ_by_words_alone():
    task = FreeText()
    start = task.read(QUESTION)
    states = [
        task.step(start, text) for text in ("Step 1: She has  3.", "step 2) she HAS 3.", "\t**Step 1:** she has 3. ")
    ]
    assert start == () and states == [("she has 3.",)] * 3
    assert task.step(states[0], "Then 4 more.") == ("she has 3.", "then 4 more.")
    assert task.step(states[0], "Then 5 more.") != task.step(states[0], "Then 4 more.")
    assert task.step(start, "Stepping back: no.") == ("stepping back: no.",)
    assert FreeText(steps_marker="").step(start, "Step 1: x") == ("step 1: x",)
    hash(states[0])


def test_an_empty_step_and_an_empty_problem_are_refused():
    assert [FreeText().step((), text) for text in ("", " \t", "Step 3:", "Step 3: ")] == [None] * 4
    with pytest.raises(InputError, match="the problem is empty"):
        FreeText().read(" \n")


def test_the_checker_refuses_only_what_it_knows_to_be_wrong():
    seen = []

    def checker(text):
        seen.append(text)
        return {"good": Verdict(True), "bad": Verdict(False, "why"), "open": Verdict(None)}[text]

    task = FreeText(checker=checker)
    assert [task.step((), f"Step 1: {t}") for t in ("good", "bad", "open", "unknown")] == [
        ("good",),
        None,
        ("open",),
        ("unknown",),
    ]
    assert seen == ["good", "bad", "open", "unknown"]


def test_an_answer_comes_with_its_mark():
    task = FreeText()
    assert task.answer(QUESTION, [], ()) is None
    assert task.answer(QUESTION, ["Step 1: the answer is near"], ()) is None
    assert task.answer(QUESTION, ["Step 1: a", "Answer: Seven Apples "], ()) == "Seven Apples"
    assert task.answer(QUESTION, ["Step 1: a", "Answer:", "7"], ()) == "7"
    assert FreeText(answer_marker="So").answer(QUESTION, ["Also 5", "So 7"], ()) == "7"


@pytest.mark.parametrize(
    ("text", "answer"),
    [
        ("Step 1: 3 + 4 = 7.\nAnswer: 7", "7"),
        ("Step 1: a.\nStep 2: answer:  7 \n\n", "7"),
        ("**Answer:** 7", "7"),
        ("**Answer: 7**\n", "7"),
        ("**Answer**: 7", "7"),
        ("Answer:\n\n2**3\n", "2**3"),
        ("Answer: 6\nNo.\nAnswer: 7\nDone.", "7"),
        ("Answer: 7\n\nQuestion: What is 1 + 1?\nAnswer: 2", "7"),
        ("Nonanswer: 5\nStep 2: 7", "7"),
        ("  7\n", "7"),
        ("Answer: \n ", None),
        (" \n", None),
        ("Step 1:", None),
    ],
)
def test_the_answer_of_a_chain(text, answer):
    assert FreeText().extract(text) == answer


def test_a_chain_ends_where_the_model_asks_itself_the_next_question():
    text = "Step 1: a\n\nAnswer: 7\n\nQuestion: b?\nStep 1: c"
    assert FreeText().split(text) == ["Step 1: a", "Answer: 7"]
    assert FreeText(chat_template=CHAT).split(text)[-1] == "Step 1: c"
    paragraphs = FreeText(separator="\n\n")
    assert paragraphs.split("a\nb\n\nc\n\n") == ["a\nb", "c"] and paragraphs.stop == ("\n\n",)
    assert paragraphs.prompt("d?", ["a\nb"])[-1] == "a\nb\n\n"


def test_an_answer_may_have_as_many_lines_as_a_step():
    paragraphs = FreeText(separator="\n\n")
    assert paragraphs.extract("Step 1: a\nb\n\nAnswer:\n1 2\n3 4\n\nDone.") == "1 2\n3 4"
    assert paragraphs.extract("Step 1: a\n\n1 2\n3 4\n") == "1 2\n3 4"
    assert paragraphs.answer(QUESTION, ["Step 1: a", "Answer:\n1 2\n3 4", "Done."], ()) == "1 2\n3 4"
    assert "each a paragraph" in paragraphs.prompt(QUESTION)[0] and "each a line" in FreeText().prompt(QUESTION)[0]


def test_the_judge_of_answers_is_the_callers():
    def final(problem, answer):
        return None if answer == "?" else int(answer) == len(problem)

    task = FreeText(final=final)
    assert [task.check("four", answer) for answer in ("4", "5", "?", "x")] == [True, False, None, None]
    assert FreeText().check("four", "4") is None


@pytest.mark.parametrize("example", ["text", ("q", "steps", "a"), ("q", ["s"]), ("q", ["s"], 4), ("q", [1], "a")])
def test_a_malformed_example_is_named(example):
    with pytest.raises(InputError, match=r"example 1 is .*; it must be \(question, \[step"):
        FreeText(examples=[EXAMPLES[0], example])


@pytest.mark.parametrize("options", [{"answer_marker": " "}, {"separator": ""}])
def test_marks_that_end_nothing_are_refused(options):
    with pytest.raises(InputError, match="answer_marker and separator"):
        FreeText(**options)


def test_a_model_reasons_to_an_answer():
    task = FreeText(checker=lambda text: Verdict("8" not in text), final=lambda problem, answer: answer == "7")
    replies = iter(["Step 1: 3 + 4 = 8.", "Step 1: 3 + 4 = 7.\nStep 2: no", "", "Answer: 7\n\nQuestion: and"])
    model = Scripted(lambda prompt, n: [next(replies)])
    sampling = SamplingParams(max_tokens=task.step_tokens, stop=task.stop)

    def solve():
        steps, state, budget = [], task.read(QUESTION), Budget(calls=4)
        while (found := task.answer(QUESTION, steps, state)) is None:
            [[made]] = yield from drive.ask(budget, [task.prompt(QUESTION, steps)], [1], sampling, [0])
            after = task.step(state, made.text)
            if after is not None:
                steps, state = [*steps, made.text], after
        return found, state

    [(found, state)] = drive.run(model, [solve()])
    assert (found, state) == ("7", ("3 + 4 = 7.", "answer: 7")) and task.check(QUESTION, found)
    assert model.asked[3][0].endswith("step by step.\nStep 1: 3 + 4 = 7.\n")
