"""What is asked for, as arrays of rounded shapes: every row keeps its own, and what fills the batch asks for nothing.

Expected numbers are written out by hand, and the rounding is compared with doubling. No model runs.
"""

import dataclasses

import jax
import numpy as np
import pytest

from vishwamai.errors import InputError
from vishwamai.generation.programs import bucket
from vishwamai.generation.requests import (
    check_params,
    check_rows,
    count_new_tokens,
    make_request,
    pad_rows,
    put_on_device,
    row_limits,
)
from vishwamai.generation.sampling import SamplingParams
from vishwamai.models.config import ModelConfig, uniform
from vishwamai.parallel.sharding import SINGLE, Sharding

CFG = ModelConfig(
    vocab_size=50, d_model=8, d_ff=8, n_heads=1, n_kv_heads=1, head_dim=8, stacks=uniform(1), max_length=200
)


def short(max_length: int) -> ModelConfig:
    return dataclasses.replace(CFG, max_length=max_length)


def job(lengths: list[int], params: list[SamplingParams] | None = None, cfg: ModelConfig = CFG):
    rows = [[i + 1] * n for i, n in enumerate(lengths)]
    return make_request(rows, params or [SamplingParams(max_tokens=5)] * len(rows), cfg, (2, 3), SINGLE, None)


# How many new tokens


@pytest.mark.parametrize(
    ("prompt", "given", "n"),
    [
        (5, {}, None),
        (5, {"max_length": 6}, 1),
        (5, {"max_length": np.int64(20)}, 15),
        (5, {"max_new_tokens": 1}, 1),
        (500, {"max_new_tokens": np.int32(3)}, 3),
    ],
)
def test_new_tokens(prompt, given, n):
    got = count_new_tokens(prompt, **given)
    assert got == n and type(got) in (int, type(None))


def test_the_number_of_new_tokens_wins_over_the_length_with_a_warning():
    with pytest.warns(UserWarning, match="max_new_tokens=7 wins over max_length=2"):
        assert count_new_tokens(5, max_length=2, max_new_tokens=7) == 7


@pytest.mark.parametrize("name", ["max_length", "max_new_tokens"])
@pytest.mark.parametrize("value", [0, -3, 2.0, True, "5"])
def test_lengths_are_whole_numbers(name, value):
    with pytest.raises(InputError, match=f"^{name} is {value!r}; it must be a whole number"):
        count_new_tokens(1, **{name: value})


@pytest.mark.parametrize("prompt", [6, 7])
def test_a_length_that_the_prompt_fills_is_refused(prompt):
    with pytest.raises(InputError, match=f"max_length is 6 .* has {prompt} tokens"):
        count_new_tokens(prompt, max_length=6)


@pytest.mark.parametrize(
    ("length", "most", "limit"), [(5, 1, 6), (5, 5, 10), (5, 6, 10), (5, 999, 10), (5, None, 10), (9, 3, 10)]
)
def test_the_context_bounds_what_a_row_may_have(length, most, limit):
    other = SamplingParams(max_tokens=2)
    assert row_limits([[1], [1] * length], [other, SamplingParams(max_tokens=most)], short(10)) == [3, limit]


def test_a_prompt_that_fills_the_context_is_refused():
    with pytest.raises(InputError, match="prompt 1 has 10 tokens; a context of 10 leaves no room"):
        row_limits([[1], [1] * 10], [SamplingParams()] * 2, short(10))


# Rows and parameters


def test_rows_of_any_kind_become_lists():
    rows = check_rows([[0, 49], (1,), np.array([2, 3], np.uint8)], CFG)
    assert rows == [[0, 49], [1], [2, 3]] and type(rows[2][0]) is int
    assert check_rows([[1] * 200], CFG) == [[1] * 200]


@pytest.mark.parametrize(
    ("rows", "says"),
    [
        ([], "there is no text"),
        ([[1], []], "text 1 is empty"),
        ([[1], [3, 50]], "text 1 holds 50; token ids are numbers from 0 to 49"),
        ([[-1]], "text 0 holds -1"),
        ([[1.0]], "text 0 holds 1.0"),
        ([[True]], "text 0 holds True"),
        ([["a"]], "text 0 holds 'a'"),
        ([[2**70]], "text 0 holds 11805"),
        ([[1], [1] * 201], "text 1 has 201 tokens; the model's context is 200"),
    ],
)
def test_wrong_rows_are_refused(rows, says):
    with pytest.raises(InputError, match=says):
        check_rows(rows, CFG, "text")


def test_one_for_all_rows_or_one_a_row():
    a, b = SamplingParams(seed=1), SamplingParams(seed=2)
    assert check_params(a, 3) == [a, a, a]
    assert check_params((a, b), 2) == [a, b]
    for wrong, n in (([a], 2), ([a, b, a], 2), ([], 1), ([a, {"seed": 1}], 2)):
        with pytest.raises(InputError, match=f"params has {len(wrong)} entries for {n} rows"):
            check_params(wrong, n)


def test_more_rows_of_one_prompt_are_asked_for_by_giving_it_as_often():
    with pytest.raises(InputError, match="params ask for n > 1 rows of a prompt; give the prompt as often"):
        check_params([SamplingParams(), SamplingParams(n=3)], 2)


# Shapes


def test_sizes_are_the_next_power_of_two():
    for least, most in [(1, None), (16, None), (16, 100), (4, 4)]:
        for n in range(0, 70):
            size = 1
            while size < max(n, least):
                size *= 2
            assert bucket(n, least, most) == min(size, most or size)


def test_padding_at_the_right_and_below():
    got = pad_rows([[1, 2], [3]], 3, 4, pad_id=9)
    assert got.dtype == np.int32 and got.tolist() == [[1, 2, 9, 9], [3, 9, 9, 9], [9, 9, 9, 9]]


def test_a_job_holds_its_rows_and_fillers_that_have_ended():
    got = job([3, 20, 7])
    assert got.tokens.shape == (4, 32) and got.size == 64 and got.n_top == 0
    want = pad_rows([[1] * 3, [2] * 20, [3] * 7], 4, 32)
    np.testing.assert_array_equal(got.tokens, want)
    np.testing.assert_array_equal(got.lengths, [3, 20, 7, 1])
    np.testing.assert_array_equal(got.params.limit, [8, 25, 12, 0])
    assert [(row.index, row.prompt_length, row.tokens) for row in got.rows] == [(0, 3, []), (1, 20, []), (2, 7, [])]
    assert all(isinstance(x, jax.Array) and x.shape[0] == 4 for x in jax.tree.leaves((got.tokens, got.params)))


def test_each_row_keeps_its_parameters():
    asked = [SamplingParams(temperature=t, top_k=k, seed=s) for t, k, s in [(0.5, 3, 4), (0.0, 0, 5), (2.0, 9, 6)]]
    got = job([1, 2, 3], asked)
    np.testing.assert_array_equal(got.params.temperature, [0.5, 0, 2, 0])
    np.testing.assert_array_equal(got.params.top_k, [3, 0, 9, 0])
    np.testing.assert_array_equal(got.params.seed[:3], [[0, 4], [0, 5], [0, 6]])
    assert [row.params for row in got.rows] == asked


def test_end_tokens_are_the_model_s_and_the_row_s_own():
    asked = [
        SamplingParams(),
        SamplingParams(stop_token_ids=(7,)),
        SamplingParams(stop_token_ids=(8, 9), ignore_eos=True),
        SamplingParams(ignore_eos=True),
        SamplingParams(stop_token_ids=(4, 5, 6)),
    ]
    ends = np.asarray(job([1] * 5, asked).params.end_ids)
    assert ends.shape == (8, 8)  # five are more than the least, four
    assert [row[row >= 0].tolist() for row in ends] == [[2, 3], [2, 3, 7], [8, 9], [], [2, 3, 4, 5, 6], [], [], []]
    assert job([1] * 5, asked[:4] + asked[:1]).params.end_ids.shape == (8, 4)


@pytest.mark.parametrize(
    ("lengths", "most", "context", "width", "T", "size"),
    [
        ([1], 1, 200, 1, 16, 64),
        ([16, 1], 48, 200, 2, 16, 64),
        ([17], 47, 200, 1, 32, 64),
        ([17], 48, 200, 1, 32, 128),
        ([129], 1, 200, 1, 200, 200),
        ([65, 1, 1, 1, 1], None, 100, 8, 100, 100),
        ([3], None, 10, 1, 10, 10),
    ],
)
def test_shapes_are_rounded_up_and_bounded_by_the_context(lengths, most, context, width, T, size):
    got = job(lengths, [SamplingParams(max_tokens=most)] * len(lengths), short(context))
    assert (*got.tokens.shape, got.size) == (width, T, size)


@pytest.mark.parametrize(("asked", "top"), [(None, 0), (0, 0), (1, 5), (5, 5), (6, 20), (20, 20)])
def test_as_many_likeliest_tokens_as_the_row_that_asks_for_most(asked, top):
    params = [SamplingParams(), SamplingParams(logprobs=asked)]
    assert job([1, 1], params).n_top == top
    small = dataclasses.replace(CFG, vocab_size=4)
    assert job([1, 1], params, small).n_top == min(top, 4)


def test_rows_are_split_over_a_mesh():
    mesh = jax.make_mesh((4,), ("data",), devices=jax.devices()[:4])
    tree = (np.arange(24, dtype=np.int32).reshape(8, 3), np.arange(8, dtype=np.float32))
    for host, device in zip(tree, put_on_device(tree, Sharding(mesh)), strict=True):
        assert device.sharding.shard_shape(device.shape) == (2, *host.shape[1:])
        np.testing.assert_array_equal(device, host)
        assert device.dtype == host.dtype
