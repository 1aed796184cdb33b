"""The model of the other tests: what it says, how it is cut, and what it notes of what it was asked."""

import pytest

from vishwamai.errors import BackendError
from vishwamai.generation.sampling import SamplingParams
from vishwamai.reasoning.model import Completion
from vishwamai.reasoning.scripted import Scripted

PLAIN = SamplingParams()


def test_it_says_its_lines_in_order():
    model = Scripted({"a": ["one", "two"], "ab": ["three"]})
    rows = model.generate(["a", ("a", "b")], [2, 1], PLAIN, [5, 6])
    assert [[c.text for c in row] for row in rows] == [["one", "two"], ["three"]]
    assert {c.finish_reason for row in rows for c in row} == {"stop"}


def test_a_function_is_asked_for_as_many_as_are_wanted():
    model = Scripted(lambda prompt, n: [f"{prompt}{i}" for i in range(n + 3)])
    assert [c.text for c in model.generate(["p"], [2], PLAIN, [0])[0]] == ["p0", "p1"]


@pytest.mark.parametrize(
    ("stop", "most", "text", "tokens", "reason"),
    [
        ((), None, "one two\nthree  four", 4, "stop"),
        ((), 4, "one two\nthree  four", 4, "stop"),
        ((), 3, "one two\nthree", 3, "length"),
        (("\n",), None, "one two", 2, "stop"),
        (("four", "\nthree"), 9, "one two", 2, "stop"),
        (("one",), None, "", 1, "stop"),  # the stop token was made
        (("\n",), 1, "one", 1, "length"),
    ],
)
def test_texts_are_cut_at_the_first_stop_text_and_by_words(stop, most, text, tokens, reason):
    model = Scripted({"p": ["one two\nthree  four"]})
    [[made]] = model.generate(["p"], [1], SamplingParams(stop=stop, max_tokens=most), [0])
    assert (made.text, made.tokens, made.finish_reason) == (text, tokens, reason)


def test_a_completion_is_given_as_it_is():
    made = Completion(text="one two", tokens=9, logprob=-2.0, finish_reason="length")
    assert Scripted({"p": [made]}).generate(["p"], [1], SamplingParams(max_tokens=1), [0]) == [[made]]


def test_it_notes_what_it_was_asked():
    model = Scripted({"a b": ["x", "y z"], "c": ["u"]}, {("c", " yes"): -0.5, ("c", " no"): -1.0})
    how = SamplingParams(temperature=0.5)
    model.generate(["a b", "c"], [2, 1], how, [7, 8])
    assert model.score([("c",)], [(" yes", " no")]) == [[-0.5, -1.0]]
    assert model.asked == [["a b", "c"], ["c"]]
    assert (model.n, model.seeds, model.sampling) == ([[2, 1], []], [[7, 8], []], [how, None])
    usage = model.usage
    assert (usage.calls, usage.device_calls, usage.completion_tokens) == (2, 2, 4)
    assert usage.prompt_tokens == 2 * 2 + 1 + 2  # of every row
    assert usage.prefill_tokens == 2 + 1 + 1  # of every prompt


def test_too_few_words_are_a_failure_of_the_model():
    model = Scripted({"p": ["one"]})
    with pytest.raises(BackendError, match="1 of 2 continuations of 'p'"):
        model.generate(["p"], [2], PLAIN, [0])
    with pytest.raises(BackendError, match="no score of 'x' after 'p'"):
        model.score(["p"], [["x"]])
