"""The face's arguments as rows' parameters: seeds, lengths, recommended sampling, end tokens and beams.

What is expected is written out by hand. The refusals that need a model's words are in `tests/test_api.py`.
"""

import dataclasses

import numpy as np
import pytest

from vishwamai.errors import InputError
from vishwamai.generation.beam import BeamParams
from vishwamai.generation.options import DEFAULT_NEW_TOKENS, parse_options
from vishwamai.generation.sampling import SamplingParams

ROWS = [[1, 2, 3], [4]]
FOLDER = {"temperature": 0.6, "top_k": 50, "top_p": 0.9, "repetition_penalty": 1.1}


def rows_of(given: dict, folder: dict = FOLDER, rows: list[list[int]] = ROWS) -> list[SamplingParams]:
    return parse_options(given, folder).row_params(rows)


def sampling_of(given: dict, folder: dict = FOLDER) -> tuple:
    (p,) = rows_of(given, folder, rows=[[1]])
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


GREEDY = (0.0, 0, 1.0, 0.0, 1.1)


def test_greedily_the_folder_s_penalty_counts_and_its_sampling_does_not():
    assert sampling_of({}) == sampling_of({"do_sample": False}) == GREEDY
    assert sampling_of({"repetition_penalty": 1.4}) == (0.0, 0, 1.0, 0.0, 1.4)
    assert sampling_of({"repetition_penalty": 1.0}) == (0.0, 0, 1.0, 0.0, 1.0)
    assert sampling_of({"num_beams": 2}) == (1.0, 0, 1.0, 0.0, 1.1)


@pytest.mark.parametrize(
    ("given", "want"),
    [
        ({"temperature": 1.5}, (1.5, 50, 0.9, 0.0, 1.1)),
        ({"temperature": 1}, (1, 50, 0.9, 0.0, 1.1)),
        ({"top_p": 0.5}, (0.6, 50, 0.5, 0.0, 1.1)),
        ({"top_k": 0}, (0.6, 0, 0.9, 0.0, 1.1)),
        ({"min_p": 0.2}, (0.6, 50, 0.9, 0.2, 1.1)),
        ({"num_beams": 2, "temperature": 2.0}, (2.0, 50, 0.9, 0.0, 1.1)),
        ({"temperature": 0}, GREEDY),
        ({"temperature": 0.0, "top_p": 1.0, "top_k": -1, "min_p": 0}, GREEDY),
        ({"do_sample": False, "temperature": 1.0, "top_p": 1, "top_k": 0}, GREEDY),
        ({"do_sample": None, "temperature": None, "top_p": None}, GREEDY),
    ],
)
def test_a_setting_of_drawing_draws_without_a_second_argument(given, want):
    assert sampling_of(given) == want


def test_the_folder_may_ask_to_draw():
    asks = FOLDER | {"do_sample": True}
    assert sampling_of({}, asks) == (0.6, 50, 0.9, 0.0, 1.1)
    assert sampling_of({"do_sample": False}, asks) == sampling_of({"temperature": 0}, asks) == GREEDY
    assert sampling_of({}, asks | {"temperature": 0.0}) == GREEDY  # as vLLM reads it
    assert sampling_of({}, FOLDER | {"do_sample": False}) == GREEDY


def test_what_else_a_folder_says_counts_where_the_call_does_not():
    folder = {
        "num_beams": 3,
        "num_return_sequences": 2,
        "length_penalty": 0.5,
        "early_stopping": True,
        "stop": ("END",),
    }
    asked = parse_options({}, folder)
    assert asked.beams == BeamParams(num_beams=3, num_return=2, length_penalty=0.5, early_stopping=True)
    assert asked.params.stop == ("END",) and parse_options({"stop": "x"}, folder).params.stop == ("x",)
    one = parse_options({"num_beams": 1, "num_return_sequences": 1}, folder)  # what is of beams then does nothing
    assert (one.beams, one.num_return_sequences) == (None, 1)


@pytest.mark.parametrize(
    ("given", "folder", "most"),
    [
        ({}, {"max_length": 9}, [6, 8]),
        ({}, {"max_new_tokens": 5}, [5, 5]),
        ({}, {"max_new_tokens": 5, "max_length": 9}, [5, 5]),
        ({"max_new_tokens": 7}, {"max_length": 9}, [7, 7]),
        ({"max_length": 6}, {"max_new_tokens": 9}, [3, 5]),
        ({"max_length": None}, {"max_new_tokens": 9}, [9, 9]),
    ],
)
def test_the_folder_s_length_counts_where_the_call_gives_none(given, folder, most, recwarn):
    assert [p.max_tokens for p in rows_of(given, folder)] == most
    assert not list(recwarn)


def test_what_is_left_out_is_as_recommended():
    assert sampling_of({"do_sample": True}) == (0.6, 50, 0.9, 0.0, 1.1)
    assert sampling_of({"do_sample": True, "num_beams": 2}) == (0.6, 50, 0.9, 0.0, 1.1)


@pytest.mark.parametrize(
    ("given", "want"),
    [
        ({"temperature": 1.5}, (1.5, 50, 0.9, 0.0, 1.1)),
        ({"top_k": 0, "min_p": 0.3}, (0.6, 0, 0.9, 0.3, 1.1)),
        ({"top_p": 1.0, "repetition_penalty": 1.0}, (0.6, 50, 1.0, 0.0, 1.0)),
    ],
)
def test_what_is_given_wins_even_where_it_switches_off(given, want):
    assert sampling_of({"do_sample": True, **given}) == want


def test_nothing_recommended_is_off():
    (p,) = rows_of({"do_sample": True, "seed": 1}, {}, rows=[[1]])
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
    assert parse_options(asked).beams == BeamParams(**want, sample=False)
    assert parse_options(asked | {"do_sample": True}).beams == BeamParams(**want, sample=True)


# What is refused


@pytest.mark.parametrize("name", ["num_beams", "num_return_sequences"])
@pytest.mark.parametrize("value", [0, -1, 2.0, True, "2"])
def test_counts_are_whole_numbers(name, value):
    with pytest.raises(InputError, match=f"^{name} is {value!r}; it must be a whole number"):
        parse_options({name: value, "do_sample": True})


@pytest.mark.parametrize(
    ("name", "values"),
    [
        ("seed", [1.5, True, "1", np.float64(2), {1}, 2**64]),
        ("pad_token_id", [-5, 10**12, "x", 1.0, True]),
        ("eos_token_id", [-5, 10**12, "x", 1.0, [1, "x"], True]),
        ("do_sample", ["no", 1]),
        ("logprobs", [-1, 21, "3", 1.0, True]),
    ],
)
def test_values_of_the_wrong_kind_are_refused(name, values):
    for value in values:
        with pytest.raises(InputError, match=f"^{name} is .*must be"):
            parse_options({name: value}, returns_logprobs=True).row_params(ROWS)


@pytest.mark.parametrize("early", [True, False, "never"])
def test_early_stopping(early):
    assert parse_options({"num_beams": 2, "early_stopping": early}).beams.early_stopping is early
    for wrong in (1, 0, "Never"):
        with pytest.raises(InputError, match="early_stopping is .*must be True, False"):
            parse_options({"num_beams": 2, "early_stopping": wrong})


def test_logprobs_are_asked_for_where_they_are_given_back():
    assert [p.logprobs for p in parse_options({"logprobs": 3}, returns_logprobs=True).row_params(ROWS)] == [3, 3]
    assert parse_options({"logprobs": None}).params.logprobs is None
    with pytest.raises(InputError, match="logprobs would do nothing here"):
        parse_options({"logprobs": 3})


@pytest.mark.parametrize(
    ("given", "says"),
    [
        ({"do_sample": False, "top_k": 5, "min_p": 0.1}, "do_sample=False .*, and top_k=5 and min_p=0.1 draws"),
        ({"do_sample": False, "temperature": 0.5}, "do_sample=False .*, and temperature=0.5 draws: leave one out"),
        ({"temperature": 0, "top_p": 0.5}, "temperature=0 .*, and top_p=0.5 draws: leave one out"),
        ({"do_sample": True, "temperature": 0}, "do_sample=True draws, and temperature=0 takes the likeliest"),
        ({"early_stopping": True}, "num_beams is 1"),
        ({"length_penalty": 0.9, "do_sample": True}, "num_beams is 1"),
        ({"num_return_sequences": 3, "num_beams": 2, "do_sample": True}, "num_return_sequences=3 of num_beams=2"),
        ({"num_beam": 2}, "'num_beam'; did you mean num_beams"),
        ({"max_tokens": 2}, "'max_tokens'; did you mean max_new_tokens"),
        ({"stop_strings": "x"}, "'stop_strings'; did you mean stop?"),
        ({"n": 2}, "'n'; did you mean num_return_sequences"),
        ({"presence_penalty": 0.2}, "there is no presence_penalty, which adds; repetition_penalty multiplies"),
        ({"stop_token_ids": [1]}, "'stop_token_ids'; did you mean eos_token_id"),
    ],
)
def test_what_would_do_nothing_is_refused(given, says):
    with pytest.raises(InputError, match=says):
        parse_options(given)


def test_a_folder_that_contradicts_the_call_is_named():
    with pytest.raises(
        InputError, match=r"temperature=0 \(of the model's generation_config.json\) takes the likeliest"
    ):
        parse_options({"do_sample": True}, {"temperature": 0.0})
    assert parse_options({"do_sample": True, "temperature": 0.3}, {"temperature": 0.0}).params.temperature == 0.3


def test_as_many_rows_as_there_are_beams_or_draws():
    assert parse_options({"num_beams": 2, "num_return_sequences": 2}).num_return_sequences == 2
    assert parse_options({"do_sample": True, "num_return_sequences": 100}).num_return_sequences == 100


# The same by vLLM's names


def test_sampling_params_say_all_of_a_request():
    own = SamplingParams(n=2, temperature=0.4, max_tokens=7, seed=5, stop="END", logprobs=2)
    asked = parse_options({"sampling_params": own, "pad_token_id": 3}, FOLDER, returns_logprobs=True)
    assert (asked.num_return_sequences, asked.beams, asked.pad_token_id) == (2, None, 3)
    one = dataclasses.replace(own, n=1)
    assert asked.row_params(ROWS) == [dataclasses.replace(one, seed=seed) for seed in (5, 6, 5, 6)]
    free = parse_options({"sampling_params": SamplingParams(max_tokens=None)}, FOLDER).row_params(ROWS)
    assert [(p.max_tokens, p.seed) for p in free] == [(None, None)] * 2


def test_sampling_params_beside_what_they_say_are_refused():
    with pytest.raises(InputError, match="sampling_params says all of a request, and top_k=4 and seed=1 too"):
        parse_options({"sampling_params": SamplingParams(), "top_k": 4, "seed": 1})
    with pytest.raises(InputError, match="sampling_params is {'n': 2}; it must be a SamplingParams"):
        parse_options({"sampling_params": {"n": 2}})
    with pytest.raises(InputError, match="logprobs would do nothing here"):
        parse_options({"sampling_params": SamplingParams(logprobs=1)})
