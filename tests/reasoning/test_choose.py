"""Which chain is submitted, against votes counted by hand."""

import math

import pytest

from vishwamai.errors import InputError
from vishwamai.reasoning.choose import Chain, best_attempts, is_decided, select_answer


def chain(i, answer, verified=None, *, tokens=1, logprob=0.0, mended=0) -> Chain:
    return Chain((i, *[0] * mended), f"chain {i}.{mended}", answer, verified, tokens, logprob)


def of(*answers) -> list[Chain]:
    return [chain(i, answer) for i, answer in enumerate(answers)]


def picked(chains, choose="vote", weights="count"):
    best, confidence = select_answer(chains, choose, weights)
    return best.answer, None if confidence is None else round(confidence, 4)


def test_equal_answers_are_one_however_they_are_written():
    assert picked(of("19", "18", "$18.00", "19", "18 dollars")) == ("18", 0.6)
    assert picked(of("1,000", "1000.0", "999")) == ("1,000", round(2 / 3, 4))
    assert picked(of("19", "18")) == ("19", 0.5)  # the first of equals


def test_a_chain_without_an_answer_has_no_vote_and_makes_it_less_sure():
    assert picked(of(None, "5", None)) == ("5", round(1 / 3, 4))
    assert picked(of(None, None)) == (None, 0.0)
    assert select_answer([], "vote", "count") == (None, None)


def test_one_chain_is_as_sure_as_its_judge():
    for verified, confidence in ((True, 1.0), (False, 0.0), (None, None)):
        for choose in ("vote", "best"):
            assert picked([chain(0, "5", verified)], choose) == ("5", confidence)


def test_weights_by_the_mean_log_probability_change_a_vote():
    few = [chain(0, "19", logprob=-0.1), chain(1, "18", logprob=-3.0), chain(2, "18", logprob=-3.0)]
    own, others = math.exp(-0.1), 2 * math.exp(-3.0)
    assert picked(few)[0] == "18"
    assert picked(few, weights="logprob") == ("19", round(own / (own + others), 4))
    # A long chain is no less likely than a short one for its length: -4 over 8 tokens beats -1 over one.
    long = [chain(0, "18", logprob=-4.0, tokens=8), chain(1, "19", logprob=-1.0)]
    share = math.exp(-0.5) / (math.exp(-0.5) + math.exp(-1))
    assert picked(long, weights="logprob") == ("18", round(share, 4))
    assert picked([chain(0, "18", tokens=0), chain(1, "19", logprob=-1.0)], weights="logprob")[0] == "18"


@pytest.mark.parametrize(
    "logs, confidence",
    [
        ([math.log(0.6), math.log(0.2), math.log(0.2)], 0.6),
        ([-2000.0 + math.log(3), -2000.0], 0.75),
        ([-math.inf, 0.0], 1.0),
        ([-math.inf] * 4, 0.25),
    ],
)
def test_log_probabilities_become_shares(logs, confidence):
    chains = [chain(i, str(i), logprob=log) for i, log in enumerate(logs)]
    assert picked(chains, weights="logprob") == (str(logs.index(max(logs))), confidence)


@pytest.mark.parametrize("log", [math.nan, math.inf])
def test_what_is_no_log_probability_is_refused(log):
    with pytest.raises(InputError, match="must be numbers"):
        select_answer([chain(0, "1"), chain(1, "2", logprob=log)], "vote", "logprob")


def test_weights_by_the_verifier():
    two = [chain(0, "18", False), chain(1, "18.0", False), chain(2, "19", True)]
    assert picked(two) == ("18", round(2 / 3, 4))
    assert picked(two, weights="verifier") == ("19", 1.0)
    unknown = [chain(0, "18"), chain(1, "18"), chain(2, "18"), chain(3, "19", True)]
    assert picked(unknown, weights="verifier") == ("18", 0.6)  # 3 * 0.5 against 1
    assert picked([chain(0, "18", False), chain(1, "19", False)], weights="verifier") == ("18", 0.0)


def test_the_best_is_right_or_else_the_vote_of_those_that_are_not_refuted():
    some = [
        chain(0, "18", False),
        chain(1, "18", False),
        chain(2, "20"),
        chain(3, "21"),
        chain(4, "21"),
        chain(5, None),
    ]
    assert picked(some, "best") == ("21", round(2 / 6, 4))
    assert picked([*some, chain(6, "7", True), chain(7, "8", True)], "best") == ("7", 1.0)
    assert picked(some[:2], "best") == ("18", 0.0)
    assert picked(of("18", "19", "19"), "best") == ("19", round(2 / 3, 4))


def test_a_mended_chain_votes_once_by_its_best_attempt():
    first = [chain(0, "5", False), chain(1, "6", None), chain(2, "7", True), chain(3, "8", None)]
    later = [chain(0, "9", None, mended=1), chain(1, "6.5", None, mended=1), chain(2, None, mended=1)]
    last = [chain(0, "10", False, mended=2), chain(3, None, mended=1)]
    stand = best_attempts([*first, *later, *last])
    assert [c.answer for c in stand] == ["9", "6.5", "7", "8"]
    assert [c.path for c in stand] == [(0, 0), (1, 0), (2,), (3,)]
    assert [c.answer for c in best_attempts([chain(0, None), chain(0, None, mended=1)])] == [None]


@pytest.mark.parametrize(
    ("answers", "left", "done"),
    [("aab", 1, False), ("aab", 0, True), ("aaab", 2, False), ("aaab", 1, True), ("aaa", 2, True), ("", 1, False)],
)
def test_a_vote_is_decided_where_the_rest_cannot_change_it(answers, left, done):
    for choose in ("vote", "best"):
        assert is_decided(of(*answers), left, choose, "count") is done
    assert not is_decided(of(*answers), left, "vote", "logprob")


def test_the_best_is_found_when_one_is_right():
    wrong = [chain(i, "18", False) for i in range(9)]
    assert not is_decided(wrong, 1, "best", "count")
    assert is_decided([*wrong, chain(9, "7", True)], 5, "best", "count")
    assert is_decided(wrong, 1, "vote", "count")  # a vote asks no checker
    assert not is_decided(of(None, None), 1, "best", "count")
