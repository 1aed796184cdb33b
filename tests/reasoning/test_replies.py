"""Answers of endpoints as they come, in both shapes, and the log-probability of an echoed continuation."""

import pytest

from vishwamai.generation.sampling import SamplingParams
from vishwamai.http_client import RequestError
from vishwamai.reasoning import replies

SAMPLING = SamplingParams(stop=("\n",))


def choice(text="", reason="stop", **more):
    return {"text": text, "finish_reason": reason, **more}


def echo(tokens: list[str], logprobs: list, offsets: list[int] | None = None, text: str | None = None) -> dict:
    """An echoed choice; the offsets are those of a server that counts every token's own text."""
    counted = [len("".join(tokens[:i])) for i in range(len(tokens))]
    found = {"tokens": tokens, "token_logprobs": logprobs, "text_offset": counted if offsets is None else offsets}
    return {"text": "".join(tokens) if text is None else text, "logprobs": found}


def test_choices_are_put_in_order_and_what_is_too_much_is_left():
    texts = ["c", "a", "b"]
    choices = [choice(text, index=index) for text, index in zip(texts, (2, 0, 1), strict=True)]
    found = replies.completions({"choices": choices}, 2, SAMPLING)
    assert [c.text for c in found] == ["a", "b"]


def test_the_reason_is_length_or_stop():
    reasons = ["length", "stop", None, "content_filter"]
    answer = {"choices": [choice(reason=reason) for reason in reasons]}
    assert [c.finish_reason for c in replies.completions(answer, 4, SAMPLING)] == ["length", "stop", "stop", "stop"]


def test_a_stop_text_that_was_left_is_cut():
    [made] = replies.completions({"choices": [choice("one\ntwo\n", "length")]}, 1, SAMPLING)
    assert (made.text, made.finish_reason) == ("one", "stop")


def test_tokens_are_the_servers_or_words():
    two = [choice("one two three"), choice("")]
    assert [c.tokens for c in replies.completions({"choices": two}, 2, SAMPLING)] == [3, 1]
    told = {"usage": {"completion_tokens": 7}}
    assert [c.tokens for c in replies.completions({"choices": two[:1], **told}, 1, SAMPLING)] == [7]
    assert [c.tokens for c in replies.completions({"choices": two, **told}, 2, SAMPLING)] == [3, 4]
    assert [c.tokens for c in replies.completions({"choices": two, "usage": None}, 2, SAMPLING)] == [3, 1]


def test_an_empty_message_is_an_empty_text():
    [made] = replies.completions({"choices": [{"message": {"content": None}, "finish_reason": "stop"}]}, 1, SAMPLING)
    assert made.text == ""


@pytest.mark.parametrize("answer", [{}, [], 3, None, {"choices": []}, {"choices": [{}]}, {"choices": ["a"]}])
def test_an_answer_without_completions_is_unreadable(answer):
    with pytest.raises((KeyError, TypeError, ValueError, AttributeError)):
        replies.completions(answer, 1, SAMPLING)


def test_a_list_of_tokens_that_does_not_fit_its_logprobs_is_unreadable():
    found = {"tokens": ["a", "b"], "token_logprobs": [-1.0]}
    with pytest.raises(ValueError):
        replies.steps(choice("ab", logprobs=found))


@pytest.mark.parametrize("text", ["yes", " yes and", "no"])
def test_a_continuations_tokens_are_summed_and_no_others(text):
    tokens, logprobs = ["Is", " it", "?", *([text] if " " not in text[1:] else [" yes", " and"]), " more"], [None, -1.0]
    logprobs += [-(2.0**-i) for i in range(len(tokens) - 2)]
    wanted = sum(logprobs[3:-1])
    assert replies.logprob_after("Is it?", "Is it?" + text, echo(tokens, logprobs)) == wanted


def test_a_token_before_all_text_shifts_nothing():
    """Its offsets have the prompt's last token begin where the continuation would: 3 + len("Is it?") > len("Is it")."""
    found = echo(["<s>", "Is", " it", "?", " yes", "!"], [None, -0.5, -1.0, -2.0, -4.0, -8.0])
    assert replies.logprob_after("Is it?", "Is it? yes", found) == -4.0


def test_a_token_that_spans_the_end_of_the_prompt_counts():
    found = echo(["Answer", ":", " yes", "!"], [None, -1.0, -2.0, -4.0])
    assert replies.logprob_after("Answer: ", "Answer: yes", found) == -2.0


def test_characters_of_several_tokens_are_found_by_the_offsets():
    found = echo(["a", "�", "�", "b", "!"], [None, -1.0, -2.0, -4.0, -8.0], [0, 1, 1, 2, 3], "aéb!")
    assert replies.logprob_after("a", "aéb", found) == -7.0
    assert replies.logprob_after("aé", "aéb", found) == -4.0
    shifted = echo(["<s>", "a", "�", "�", "b"], [None] * 5, [0, 3, 4, 4, 6], "aéb")  # nothing ends with the text
    assert replies.logprob_after("a", "aéb", shifted) is None


def test_what_was_not_echoed_has_no_score():
    assert replies.logprob_after("a", "ab", {"text": "ab", "logprobs": None}) is None
    assert replies.logprob_after("a", "ab", choice("cd", logprobs={"content": []})) is None
    assert replies.logprob_after("a", "ab", echo(["cd"], [-1.0])) is None  # as long as the text, and another


def test_the_first_token_of_all_has_no_score():
    with pytest.raises(RequestError, match="first token: score after a prompt that is not empty"):
        replies.logprob_after("", "ab", echo(["a", "b"], [None, -1.0]))
