"""Conversations: each reply follows from what was said before it, and nobody held out is met in training."""

import itertools
import re

import pytest

from vishwamai.data import arithmetic, explanations, phrases, word_problems
from vishwamai.data import conversations as c
from vishwamai.data.generated import generated, held_out
from vishwamai.text.chat import render
from vishwamai.text.templates import ROLE_TEMPLATE

TURN = re.compile(r"<\|(system|user|assistant)\|>(.*?)(?:<\|eos\|>|$)", re.DOTALL)
N = 400


def rows(split="train", n=N):
    return list(itertools.islice(generated("conversations", split), n))


@pytest.fixture(scope="module")
def talks():
    """Each conversation as (role, text) messages, read back from its text."""
    return [TURN.findall(row.text) for row in rows()]


def any_of(questions):
    """A pattern of these questions, with a small letter at the beginning and without the last sign as well."""
    return "|".join(f"(?i:{re.escape(question.rstrip('.?!'))})[.?!]?" for question in questions)


def replies(talks, pattern, reply):
    """(messages before, the groups of the pattern, what was replied) of every question that the pattern matches."""
    for messages in talks:
        for i, (role, text) in enumerate(messages):
            if role == "user" and (found := re.fullmatch(pattern, text)) and re.fullmatch(reply, messages[i + 1][1]):
                yield messages[:i], found, messages[i + 1][1]


def test_rows_are_what_the_chat_template_renders(talks):
    for row, messages in zip(rows(), talks, strict=True):
        listed = [{"role": role, "content": text} for role, text in messages]
        assert row.text + "<|eos|>" == render(listed, ROLE_TEMPLATE, variables={"eos_token": "<|eos|>"})


def test_only_replies_and_their_ends_are_in_the_loss(talks):
    for row, messages in zip(rows(), talks, strict=True):
        learnt = "".join(text for text, weight in row.text_spans if weight == 1.0)
        assert learnt + "<|eos|>" == "".join(
            f"{text}<|eos|>" for role, text in messages if role == "assistant"
        ) or has_problem(row)
        assert {weight for _, weight in row.text_spans} == {0.0, 1.0}


def has_problem(row):
    """Whether a question of another corpus is asked, whose answer has weights of its own."""
    return any(" left " in text for text, _ in row.text_spans)


def test_roles_alternate_after_an_optional_system_line(talks):
    shares = 0
    for messages in talks:
        roles = [role for role, _ in messages]
        shares += roles[0] == "system"
        turns = roles[1:] if roles[0] == "system" else roles
        assert turns == ["user", "assistant"] * (len(turns) // 2) and 2 <= len(turns) // 2 <= c.MAX_TURNS
    assert 0.3 < shares / N < 0.5


def test_a_name_that_is_asked_for_was_said_before(talks):
    known = unknown = 0
    asks = any_of(phrases.ASK_NAME)
    for before, _, reply in replies(talks, asks, ".*"):
        text = " ".join(text for role, text in before if role != "assistant")
        if reply == "You have not told me your name.":
            unknown += 1
            assert not any(role == "assistant" and text.startswith("Hello, ") for role, text in before)
        else:
            known += 1
            assert reply.removeprefix("Your name is ").removesuffix(".") in re.findall(r"\w+", text)
    assert known > 50 and unknown > 10


def test_the_assistant_is_called_what_the_system_line_calls_it(talks):
    named = 0
    for before, _, reply in replies(talks, any_of(phrases.ASK_ASSISTANT), ".*"):
        system = before[0][1] if before and before[0][0] == "system" else ""
        found = re.search(r"(?:You are called|Your name is|You are) ([A-Z]\w+)\.", system)
        named += found is not None
        assert reply == f"My name is {found[1] if found else c.ASSISTANT}."
    assert named > 5


def test_counts_are_kept_from_turn_to_turn(talks):
    asked = 0
    for before, found, reply in replies(talks, r"[Hh]ow many (\w+) (?:do I have|are there).*", ".*"):
        last = [text for role, text in before if role == "assistant" and f" {found[1]}." in text][-1]
        assert reply == last.split("\n ")[-1]
        asked += 1
    assert asked > 20


def test_worked_sums_are_right_and_never_held_out(talks):
    steps = re.compile(r"^ ?([0-9]+) ([-+*]) ([0-9]+) = (?:.* = )?([0-9]+)$", re.MULTILINE)
    seen = 0
    for messages in talks:
        for role, text in messages:
            for x, op, y, result in steps.findall(text) if role == "assistant" else ():
                step = word_problems.StoryStep(int(x), op, int(y), int(result))
                assert {"+": step.before + step.number, "-": step.before - step.number, "*": step.before * step.number}[
                    op
                ] == step.result
                assert arithmetic.write_steps(*step) in text and not word_problems.is_held_out_step(step)
                seen += 1
    assert seen > 200


def test_short_answers_are_first_sentences(talks):
    texts = set(explanations.explanations().values())
    for messages in talks:
        brief = messages[0][0] == "system" and any(w in messages[0][1] for w in ("one sentence", "brief", "short"))
        answers = [text for role, text in messages if role == "assistant" and text in texts]
        assert not (brief and answers)
    asks = any_of(phrases.SHORTER)
    found = list(replies(talks, asks, ".*"))
    assert len(found) > 20
    for before, _, reply in found:
        assert before[-1][1].startswith(reply) or any(text.startswith(reply) for _, text in before)


def test_splits_share_no_name_place_or_liking():
    names = {split: set() for split in ("train", "held_out")}
    for split, found in names.items():
        for row in rows(split, 1500):
            found |= set(re.findall(r"(?:Your name is|Hello,|You live in|The word was) (\w+)[.!]", row.text))
    assert len(names["train"]) > 300 and len(names["held_out"]) > 100 and not names["train"] & names["held_out"]


def test_explanations_are_not_asked_in_their_held_out_phrasing(talks):
    asked = {text for messages in talks for role, text in messages if role == "user"}
    assert not asked & {problem.prompt for problem in held_out("explanations")}


def test_problems_end_in_a_question_and_are_graded_by_the_reply():
    problems = held_out("conversations")
    assert len(problems) == 8 * c.N_HELD_OUT == len({p.prompt for p in problems})
    for problem in problems:
        assert problem.prompt.endswith("<|eos|><|assistant|>")
        assert (
            problem.grade(f" {problem.answer}\n")
            and not problem.grade(f"{problem.answer} No.")
            and not problem.grade("")
        )


@pytest.mark.parametrize("name", ["game24", "word_problems", "explanations", "countdown"])
def test_a_corpus_asked_as_a_chat_keeps_its_questions_and_answers(name):
    pairs = zip(held_out(name), held_out(f"{name}_chat"), strict=True)
    for plain, chat in itertools.islice(pairs, 50):
        assert chat.prompt == f"<|user|>{plain.prompt}<|eos|><|assistant|>"
        assert chat.grade(chat.answer) and f"\n {chat.answer}" == plain.answer
    for row in itertools.islice(generated(f"{name}_chat"), 50):
        question, answer = TURN.findall(row.text)[-2:]
        assert question[0] == "user" and answer[0] == "assistant" and not answer[1].startswith((" ", "\n"))
        assert "".join(text for text, weight in row.text_spans[1:]) == answer[1]
