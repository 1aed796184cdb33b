"""The face's arguments as rows' parameters: seeds, lengths, recommended sampling, end tokens and beams.

What is expected is written out by hand. The refusals that need a model's words are in `tests/test_api.py`.
"""

import numpy as np
import pytest

from vishwamai.errors import InputError
from vishwamai.generation.beam import BeamParams
from vishwamai.generation.options import DEFAULT_NEW_TOKENS, Options, beams, options, params
from vishwamai.generation.sampling import SamplingParams

ROWS = [[1, 2, 3], [4]]
FOLDER = {"temperature": 0.6, "top_k": 50, "top_p": 0.9, "min_p": None, "repetition_penalty": 1.1, "eos_ids": (2,)}


def rows_of(given: dict, recommended: dict = FOLDER, rows: list[list[int]] = ROWS) -> list[SamplingParams]:
    return params(rows, options(given), recommended)


def sampling_of(given: dict) -> tuple:
    (p,) = rows_of(given, rows=[[1]])
    return p.temperature, p.top_k, p.top_p, p.min_p, p.repetition_penalty


# Rows: seeds and lengths


@pytest.mark.parametrize(
    ("given", "seeds"),
    [
        ({}, [0, 0]),
        ({"seed": 7}, [7, 7]),
        ({"seed": [7, 3]}, [7, 3]),
        ({"seed": 7, "num_return_sequences": 3}, [7, 8, 9, 7, 8, 9]),
        ({"seed": (5, 4, 3, 2), "num_return_sequences": 2}, [5, 4, 3, 2]),
        ({"seed": None, "num_return_sequences": 2}, [None] * 4),
        ({"seed": [None, 3]}, [None, 3]),
        ({"seed": np.int64(7), "num_return_sequences": 2}, [7, 8, 7, 8]),
        ({"seed": np.array([7, 3])}, [7, 3]),
        ({"seed": [7, 3], "num_beams": 2, "num_return_sequences": 2}, [7, 3]),
    ],
)
def test_seeds(given, seeds):
    assert [p.seed for p in rows_of({"do_sample": True, **given})] == seeds


@pytest.mark.parametrize(("seed", "n"), [([1], 1), ([1, 2, 3], 1), ([1, 2], 2), ([], 1)])
def test_as_many_seeds_as_rows_are_returned(seed, n):
    with pytest.raises(InputError, match=f"seed has {len(seed)} entries for {2 * n} rows"):
        rows_of({"do_sample": True, "seed": seed, "num_return_sequences": n})


def test_with_beams_there_are_as_many_seeds_as_prompts():
    with pytest.raises(InputError, match="seed has 4 entries for 2 prompts; give one seed, or one a prompt"):
        rows_of({"num_beams": 2, "num_return_sequences": 2, "seed": [1, 2, 3, 4]})


@pytest.mark.parametrize(
    ("given", "most"),
    [
        ({}, [DEFAULT_NEW_TOKENS] * 2),
        ({"max_length": 9}, [6, 8]),
        ({"max_new_tokens": 9}, [9, 9]),
        ({"max_length": 9, "num_return_sequences": 2, "do_sample": True}, [6, 6, 8, 8]),
    ],
)
def test_max_length_counts_each_row_s_own_prompt(given, most):
    assert [p.max_tokens for p in rows_of(given)] == most


def test_the_longest_row_decides_whether_max_length_leaves_room():
    with pytest.raises(InputError, match="max_length is 3 .* has 3 tokens"):
        rows_of({"max_length": 3})


# How tokens are chosen


def test_without_do_sample_nothing_is_recommended():
    assert sampling_of({}) == (0.0, 0, 1.0, 0.0, 1.0)
    assert sampling_of({"repetition_penalty": 1.4}) == (0.0, 0, 1.0, 0.0, 1.4)
    assert sampling_of({"temperature": 0}) == (0.0, 0, 1.0, 0.0, 1.0)
    assert sampling_of({"num_beams": 2}) == (1.0, 0, 1.0, 0.0, 1.0)


def test_what_is_left_out_is_as_recommended():
    assert sampling_of({"do_sample": True}) == (0.6, 50, 0.9, 0.0, 1.1)
    assert sampling_of({"do_sample": True, "num_beams": 2}) == (0.6, 50, 0.9, 0.0, 1.1)


@pytest.mark.parametrize(
    ("given", "want"),
    [
        ({"temperature": 1.5}, (1.5, 50, 0.9, 0.0, 1.1)),
        ({"temperature": 0}, (0, 50, 0.9, 0.0, 1.1)),
        ({"top_k": 0, "min_p": 0.3}, (0.6, 0, 0.9, 0.3, 1.1)),
        ({"top_p": 1.0, "repetition_penalty": 1.0}, (0.6, 50, 1.0, 0.0, 1.0)),
    ],
)
def test_what_is_given_wins_even_where_it_switches_off(given, want):
    assert sampling_of({"do_sample": True, **given}) == want


def test_nothing_recommended_is_off():
    (p,) = rows_of({"do_sample": True, "seed": 1}, recommended={}, rows=[[1]])
    assert p == SamplingParams(seed=1, max_tokens=DEFAULT_NEW_TOKENS)


@pytest.mark.parametrize(
    ("eos", "ignore", "ids"),
    [
        (None, False, ()),
        (0, True, (0,)),
        (np.int32(7), True, (7,)),
        ([7, 8], True, (7, 8)),
        (np.array([7, 8]), True, (7, 8)),
        ([], True, ()),
    ],
)
def test_end_tokens_asked_for_replace_the_model_s(eos, ignore, ids):
    for p in rows_of({"eos_token_id": eos, "stop": "END"}):
        assert (p.ignore_eos, p.stop_token_ids, p.stop) == (ignore, ids, ("END",))


def test_beams():
    asked = {"num_beams": 4, "num_return_sequences": 3, "length_penalty": 0.5, "early_stopping": "never"}
    want = {"num_beams": 4, "num_return": 3, "length_penalty": 0.5, "early_stopping": "never"}
    assert beams(options(asked)) == BeamParams(**want, sample=False)
    assert beams(options(asked | {"do_sample": True})) == BeamParams(**want, sample=True)


# What is refused


@pytest.mark.parametrize("name", ["num_beams", "num_return_sequences"])
@pytest.mark.parametrize("value", [0, -1, 2.0, True, "2", None])
def test_counts_are_whole_numbers(name, value):
    with pytest.raises(InputError, match=f"^{name} is {value!r}; it must be a whole number"):
        Options(**{name: value, "do_sample": True})


@pytest.mark.parametrize(
    ("name", "values"),
    [
        ("seed", [1.5, True, "1", np.float64(2), {1}, 2**64]),
        ("pad_token_id", [-5, 10**12, "x", 1.0, True]),
        ("eos_token_id", [-5, 10**12, "x", 1.0, [1, "x"], True]),
        ("do_sample", ["no", 1, None]),
        ("logprobs", [-1, 21, "3", 1.0, True]),
    ],
)
def test_values_of_the_wrong_kind_are_refused(name, values):
    for value in values:
        with pytest.raises(InputError, match=f"^{name} is .*must be"):
            params(ROWS, options({name: value}, reports=True), {})


@pytest.mark.parametrize("early", [True, False, "never"])
def test_early_stopping(early):
    assert beams(options({"num_beams": 2, "early_stopping": early})).early_stopping is early
    for wrong in (1, 0, "Never", None):
        with pytest.raises(InputError, match="early_stopping is .*must be True, False"):
            beams(options({"num_beams": 2, "early_stopping": wrong}))


def test_logprobs_are_asked_for_where_they_are_given_back():
    assert [p.logprobs for p in params(ROWS, options({"logprobs": 3}, reports=True), {})] == [3, 3]
    assert options({"logprobs": None}).logprobs is None
    with pytest.raises(InputError, match="logprobs would do nothing here"):
        options({"logprobs": 3})


@pytest.mark.parametrize(
    ("given", "says"),
    [
        ({"top_k": 0, "min_p": 0.1}, "^top_k and min_p would do nothing"),
        ({"temperature": 0, "top_p": 1.0}, "^temperature and top_p would do nothing"),
        ({"num_beams": 2, "temperature": 0.5}, "^temperature would do nothing"),
        ({"early_stopping": True}, "num_beams is 1"),
        ({"length_penalty": 0.9, "do_sample": True}, "num_beams is 1"),
        ({"num_return_sequences": 3, "num_beams": 2, "do_sample": True}, "num_return_sequences=3 of num_beams=2"),
        ({"num_beam": 2}, "'num_beam'; did you mean num_beams"),
    ],
)
def test_what_would_do_nothing_is_refused(given, says):
    with pytest.raises(InputError, match=says):
        options(given)


def test_as_many_rows_as_there_are_beams_or_draws():
    assert options({"num_beams": 2, "num_return_sequences": 2}).num_return_sequences == 2
    assert options({"do_sample": True, "num_return_sequences": 100}).num_return_sequences == 100
