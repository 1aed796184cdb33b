"""The sampler: filters, penalty, draws and keys, and the parameters people set.

The reference is NumPy in float64 below, which says one row's distribution token by token; draws are counted against it.
"""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vishwamai.errors import InputError
from vishwamai.generation import sampling
from vishwamai.generation.sampling import BatchParams, SamplingParams, batch_params

V = 37
RNG = np.random.default_rng(5)
SETTINGS = [
    {},
    {"temperature": 0.4},
    {"top_k": 5},
    {"top_k": 1},
    {"top_k": 900},
    {"top_k": -1, "top_p": 0.7},
    {"top_p": 0.01},
    {"min_p": 0.15},
    {"min_p": 1.0},
    {"repetition_penalty": 1.8},
    {"repetition_penalty": 0.5, "top_k": 9},
    {"top_k": 6, "top_p": 0.8},
    {"temperature": 3.0, "top_k": 20, "top_p": 0.85, "min_p": 0.12, "repetition_penalty": 1.3},
    {"temperature": 0.8, "min_p": 0.02, "top_p": 0.97},
]
PARAMS = [SamplingParams(**s, seed=i) for i, s in enumerate(SETTINGS)]
LOGITS = RNG.normal(0, 3, (len(PARAMS), V)).astype(np.float32)
SEEN = RNG.random(LOGITS.shape) < 0.3
apply_repetition_penalty, choose = jax.jit(sampling.apply_repetition_penalty), jax.jit(sampling.sample_tokens)
warp = jax.jit(sampling.warp_logits, static_argnames="min_tokens_to_keep")


def arrays(params: list[SamplingParams]) -> BatchParams:
    """The parameters as arrays, with room for any number of tokens."""
    return batch_params(params, [1000] * len(params))


def penalised(logits: np.ndarray, seen: np.ndarray, penalty: float) -> np.ndarray:
    """Where seen, positive logits divided by the penalty and negative ones multiplied."""
    logits = logits.astype(np.float64)
    return np.array([x if not s else x * penalty if x < 0 else x / penalty for x, s in zip(logits, seen, strict=True)])


def softmax(x: np.ndarray) -> np.ndarray:
    e = np.exp(x - x.max())
    return e / e.sum()


def distribution(logits: np.ndarray, seen: np.ndarray, p: SamplingParams, keep: int = 1) -> np.ndarray:
    """The probability of each token of a row: penalty, temperature, top-k, top-p, min-p, in this order."""
    scores = penalised(logits, seen, p.repetition_penalty) / p.temperature
    order = np.argsort(-scores).tolist()
    kept = order[: max(p.top_k, keep)] if p.top_k > 0 else order
    for low in (top_p_cut(scores, kept, p.top_p), min_p_cut(scores, kept, p.min_p)):
        kept = kept[: max(low, keep)]
    out = np.zeros(len(logits))
    out[kept] = softmax(scores[kept])
    return out


def top_p_cut(scores: np.ndarray, kept: list[int], top_p: float) -> int:
    """How many of the likeliest it takes to reach `top_p`."""
    mass, p = 0.0, softmax(scores[kept])
    for n, more in enumerate(p, 1):
        mass += more
        if mass >= top_p < 1:
            return n
    return len(kept)


def min_p_cut(scores: np.ndarray, kept: list[int], min_p: float) -> int:
    p = softmax(scores[kept])
    return int(sum(p >= min_p * p[0]))


def column(x) -> jnp.ndarray:
    return jnp.asarray(x, jnp.int32)


def no_tokens(logits: jnp.ndarray) -> jnp.ndarray:
    return jnp.zeros(logits.shape, bool)


# Penalty and filters


@pytest.mark.parametrize("keep", [1, 4, 99])
def test_every_row_is_filtered_as_it_asks(keep):
    c = arrays(PARAMS)
    scores = warp(
        apply_repetition_penalty(jnp.asarray(LOGITS), jnp.asarray(SEEN), c.repetition_penalty),
        c,
        min_tokens_to_keep=keep,
    )
    for got, logits, seen, p in zip(scores, LOGITS, SEEN, PARAMS, strict=True):
        np.testing.assert_allclose(softmax(np.asarray(got, np.float64)), distribution(logits, seen, p, keep), atol=1e-6)


@pytest.mark.parametrize("settings", [{}, {"min_p": 0.15}], ids=["none", "min_p"])
def test_rows_that_need_no_sort(settings):
    p = SamplingParams(**settings)
    got = warp(jnp.asarray(LOGITS), arrays([p] * len(LOGITS)))
    want = [distribution(logits, np.zeros(V, bool), p) for logits in LOGITS]
    np.testing.assert_allclose([softmax(row) for row in np.asarray(got, np.float64)], want, atol=1e-6)


def test_a_penalty_touches_seen_tokens_of_its_row_alone():
    penalty = RNG.uniform(0.5, 2.0, len(LOGITS)).astype(np.float32)
    got = apply_repetition_penalty(jnp.asarray(LOGITS), jnp.asarray(SEEN), jnp.asarray(penalty))
    want = [penalised(*row) for row in zip(LOGITS, SEEN, penalty, strict=True)]
    np.testing.assert_allclose(got, want, rtol=1e-6)
    np.testing.assert_array_equal(np.asarray(got)[~SEEN], LOGITS[~SEEN])


def test_a_penalty_of_one_changes_no_bit():
    got = apply_repetition_penalty(jnp.asarray(LOGITS), jnp.asarray(SEEN), jnp.ones(len(LOGITS)))
    np.testing.assert_array_equal(got, LOGITS)


def test_tokens_as_likely_as_the_last_one_kept_stay():
    logits = jnp.array([[2.0, 1.0, 1.0, 0.0]])
    got = warp(logits, arrays([SamplingParams(top_k=2)]))
    np.testing.assert_array_equal(got, [[2.0, 1.0, 1.0, -np.inf]])


def test_top_p_that_is_reached_exactly_keeps_nothing_more():
    halves = jnp.log(jnp.array([[0.5, 0.25, 0.125, 0.0625, 0.0625]]))
    assert np.isfinite(warp(halves, arrays([SamplingParams(top_p=0.75)]))).tolist() == [[True] * 2 + [False] * 3]


def test_a_filter_that_is_off_drops_nothing_however_unlikely():
    logits = jnp.array([[0.0, -200.0, -300.0]] * 2)
    got = warp(logits, arrays([SamplingParams(), SamplingParams(top_k=1)]))
    np.testing.assert_array_equal(got, [[0.0, -200.0, -300.0], [0.0, -np.inf, -np.inf]])


def test_a_token_that_is_ruled_out_stays_out():
    logits = jnp.array([[-np.inf, 1.0, -np.inf, 0.5]])
    got = warp(logits, arrays([SamplingParams(top_k=3, top_p=0.99)]))
    np.testing.assert_array_equal(got, logits)


# Choosing


def counted(tokens, n: int) -> np.ndarray:
    return np.bincount(np.asarray(tokens), minlength=n)


def chi_square(counts: np.ndarray, p: np.ndarray) -> float:
    assert counts[p == 0].sum() == 0
    want = counts.sum() * p[p > 0]
    return float(((counts[p > 0] - want) ** 2 / want).sum())


@pytest.mark.parametrize("vary", ["seed", "position"])
def test_draws_follow_the_distribution(vary):
    n, logits, seen = 4096, np.array([2.0, -1.0, 0.5, 0.0, 1.5, -3.0], np.float32), np.array([1, 0, 0, 1, 0, 1], bool)
    p = SamplingParams(temperature=1.4, top_k=5, top_p=0.95, repetition_penalty=1.3, seed=0)
    c = arrays([p] * n)
    seeds = np.stack([np.zeros(n), np.arange(n)], 1).astype(np.uint32)
    c = BatchParams(**{**vars(c), "seed": seeds if vary == "seed" else c.seed})
    position = np.arange(n) if vary == "position" else np.zeros(n)
    seen_too = jnp.broadcast_to(jnp.asarray(seen), (n, 6))
    got = choose(jnp.broadcast_to(jnp.asarray(logits), (n, 6)), c, seen_too, column(position))
    want = distribution(logits, seen, p)
    assert got.dtype == jnp.int32 and 2 < (want > 0).sum() < 6
    assert chi_square(counted(got, 6), want) < 18.5  # a right sampler exceeds it once in a thousand


def test_temperature_zero_is_the_likeliest_after_the_penalty_beside_drawn_rows():
    mixed = [SamplingParams(temperature=i % 2 * 5.0, repetition_penalty=2.5, seed=i) for i in range(len(LOGITS))]
    position = column(np.arange(len(LOGITS)))
    got = np.asarray(choose(jnp.asarray(LOGITS), arrays(mixed), jnp.asarray(SEEN), position))
    best = np.array([penalised(logits, seen, 2.5).argmax() for logits, seen in zip(LOGITS, SEEN, strict=True)])
    assert got[::2].tolist() == best[::2].tolist() != LOGITS.argmax(-1)[::2].tolist()
    assert (got[1::2] != best[1::2]).any()
    cold = arrays([SamplingParams(temperature=0, repetition_penalty=2.5)] * len(LOGITS))
    assert choose(jnp.asarray(LOGITS), cold, jnp.asarray(SEEN), position).tolist() == best.tolist()


def test_a_draw_does_not_depend_on_its_neighbours():
    flat, position = jnp.zeros((len(PARAMS), V)), column(np.arange(len(PARAMS)) * 3)
    together = choose(flat, arrays(PARAMS), no_tokens(flat), position)
    other_way = choose(flat, arrays(PARAMS[::-1]), no_tokens(flat), position[::-1])
    assert together.tolist() == other_way.tolist()[::-1] and len(set(together.tolist())) > 5


def test_a_key_hangs_on_all_of_the_seed_and_on_the_position():
    seeds = [0, 1, 2**32, 2**32 + 1, 2**63, -1]
    words = jnp.asarray(arrays([SamplingParams(seed=s) for s in seeds for _ in range(3)]).seed)
    noise = np.asarray(sampling.gumbel_noise(sampling.sampling_keys(words, column([0, 1, 70] * len(seeds))), 4))
    assert len({tuple(row) for row in noise.tolist()}) == noise.shape[0]
    again = np.asarray(sampling.gumbel_noise(sampling.sampling_keys(words[::-1], column([70, 1, 0] * len(seeds))), 4))
    np.testing.assert_array_equal(again[::-1], noise)


# Parameters


def test_arrays_are_one_number_a_row():
    asked = [
        SamplingParams(temperature=0.5, top_k=-1, top_p=0.9, min_p=0.1, repetition_penalty=1.5, seed=2**40 + 7),
        SamplingParams(temperature=0, top_k=4, top_p=0.5, min_p=0.2, repetition_penalty=2, seed=-1),
        SamplingParams(top_k=3, seed=0),
    ]
    c = arrays(asked)
    np.testing.assert_array_equal(c.temperature, np.float32([0.5, 0, 1]))
    np.testing.assert_array_equal(c.top_k, [0, 0, 3])  # the second row is greedy: its filters are off
    np.testing.assert_array_equal(c.top_p, np.float32([0.9, 1, 1]))
    np.testing.assert_array_equal(c.min_p, np.float32([0.1, 0, 0]))
    np.testing.assert_array_equal(c.repetition_penalty, np.float32([1.5, 2, 1]))
    np.testing.assert_array_equal(c.seed, [[2**8, 7], [2**32 - 1, 2**32 - 1], [0, 0]])
    assert {x.dtype.name for x in vars(c).values()} == {"float32", "int32", "uint32"}


def test_no_seed_is_another_seed_each_time():
    seeds = arrays([SamplingParams()] * 20).seed
    assert len({tuple(row) for row in seeds.tolist()}) == 20


def test_values_at_the_edges_are_taken():
    at_edges = SamplingParams(temperature=0, top_k=0, top_p=1, min_p=1, seed=2**64 - 1, logprobs=20, max_tokens=None)
    assert at_edges.temperature == 0 and at_edges.logprobs == 20
    assert SamplingParams(seed=-(2**63), top_k=np.int64(3), top_p=np.float32(0.5), logprobs=0).top_k == 3
    assert SamplingParams(stop="ab").stop == ("ab",) and SamplingParams(stop=["ab", "c"]).stop == ("ab", "c")
    ids = SamplingParams(stop_token_ids=[np.int32(4), 0]).stop_token_ids
    assert ids == (4, 0) and [type(i) for i in ids] == [int, int]


@pytest.mark.parametrize(
    ("name", "values"),
    [
        ("temperature", [-0.1, float("inf"), float("nan"), "1", True, None]),
        ("top_k", [-2, 1.5, True, 2**31, None]),
        ("top_p", [0, -0.5, 1.01, float("nan"), "0.9"]),
        ("min_p", [-0.01, 1.01, float("nan")]),
        ("repetition_penalty", [0, -1.0, float("inf")]),
        ("max_tokens", [0, -1, 2.0, True]),
        ("seed", [2**64, -(2**63) - 1, 0.5, "1"]),
        ("logprobs", [-1, 21, True]),
        ("stop", ["", [""], [1], {"a"}, None]),
        ("stop_token_ids", [5, "5", {5}]),
        ("a stop token id", [-1, 1.0, True, 2**31]),
    ],
)
def test_values_out_of_range_are_refused(name, values):
    for value in values:
        given = {"stop_token_ids": [value]} if name == "a stop token id" else {name: value}
        with pytest.raises(InputError, match=f"^{name} is .*must be"):
            SamplingParams(**given)
