"""The loop on the device against a loop in NumPy, over a model whose next token depends on the last one alone.

Its blocks are all zeros, so a token's logits are its normed embedding times the output matrix: a table in float64.
That the cache is read rightly is the matter of `tests/models/test_transformer.py` and `tests/test_api.py`.
"""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np

from vishwamai.generation import decode
from vishwamai.generation.decode import LENGTH, RUNNING, STOP
from vishwamai.generation.sampling import BatchParams, SamplingParams, batch_params
from vishwamai.models import transformer
from vishwamai.models.config import ModelConfig, uniform
from vishwamai.parallel.sharding import SINGLE
from vishwamai.weights import spec

V, T, SIZE, TOP = 23, 8, 24, 3
CFG = ModelConfig(
    vocab_size=V, d_model=8, d_ff=8, n_heads=1, n_kv_heads=1, head_dim=8, stacks=uniform(1), max_length=SIZE,
    tie_embeddings=False,
)  # fmt: skip
FIXED = {"cfg": CFG, "dtypes": ("float32", "float32"), "sharding": SINGLE}
prefill = jax.jit(functools.partial(decode.prefill, size=SIZE, n_top=TOP, **FIXED))
more = jax.jit(functools.partial(decode.decode, **FIXED))

PROMPTS = [[3, 1, 4, 1, 14], [9, 2], [6, 5, 3, 5, 8, 9, 7, 9], [3, 2, 3], [8, 4, 6], [2]]
ASKED = [
    SamplingParams(temperature=0),
    SamplingParams(temperature=0, repetition_penalty=1.9),
    SamplingParams(temperature=1.2, seed=11),
    SamplingParams(temperature=3.0, repetition_penalty=1.3, seed=2**35 + 1),
    SamplingParams(temperature=0, repetition_penalty=1.9),
    SamplingParams(temperature=0),
]
LIMITS = [8, 20, 19, 12, 24, 0]
FILLER = 5


@functools.cache
def weights():
    """Made in NumPy, which compiles nothing."""
    w = jax.eval_shape(lambda: spec.init(transformer.specs(CFG), jax.random.key(0)))
    rng = np.random.default_rng(0)

    def draw(x):
        return jnp.asarray(rng.normal(0, 1, x.shape), jnp.float32)

    stacks = jax.tree.map(lambda x: jnp.asarray(np.zeros(x.shape, x.dtype)), w.stacks)
    ends = {name: draw(getattr(w, name)) for name in ("embed", "lm_head")}
    return dataclasses.replace(w, stacks=stacks, final_norm=jax.tree.map(draw, w.final_norm), **ends)


@functools.cache
def table() -> np.ndarray:
    """`[V, V]`, the logits after each token."""
    w = weights()
    x = np.asarray(w.embed, np.float64)
    x = x / np.sqrt((x**2).mean(-1, keepdims=True) + CFG.norm_eps) * np.asarray(w.final_norm.scale)
    return x @ np.asarray(w.lm_head, np.float64)


@functools.cache
def noise(seed: int, position: int) -> np.ndarray:
    words = jnp.array([seed >> 32, seed & 0xFFFFFFFF], jnp.uint32)
    key = jax.random.fold_in(jax.random.wrap_key_data(words, impl="threefry2x32"), position)
    return np.asarray(jax.random.gumbel(key, (V,)), np.float64)


@dataclasses.dataclass
class Said:
    """A row as the reference makes it."""

    tokens: list[int]
    logprobs: list[float]
    likeliest: list[list[int]]
    reason: int


def walk(prompt: list[int], p: SamplingParams, limit: int, ends: tuple[int, ...], steps: int = 99) -> Said:
    """At most `steps` new tokens, one after another."""
    said = Said(list(prompt), [], [], RUNNING if len(prompt) < limit else LENGTH)
    while said.reason == RUNNING and len(said.logprobs) < steps:
        logits = table()[said.tokens[-1]]
        x = logits.copy()
        for t in set(said.tokens):
            x[t] = x[t] * p.repetition_penalty if x[t] < 0 else x[t] / p.repetition_penalty
        if p.temperature:
            x = x / p.temperature + noise(p.seed, len(said.tokens))
        token = int(x.argmax())
        said.logprobs.append(logits[token] - np.log(np.exp(logits).sum()))
        said.likeliest.append(np.argsort(-logits)[:TOP].tolist())
        said.tokens.append(token)
        said.reason = STOP if token in ends else LENGTH if len(said.tokens) >= limit else RUNNING
    return said


@functools.cache
def ends() -> list[tuple[int, ...]]:
    """Row 2 may end with its fourth new token, row 4 with its first, row 0 with its last that the limit allows."""
    free = [walk(*row, ()).tokens for row in zip(PROMPTS, ASKED, LIMITS, strict=True)]
    return [(free[0][-1],), (), (0, free[2][11]), (), (free[4][3], 1), ()]


@functools.cache
def begun():
    tokens = jnp.asarray([row + [7] * (T - len(row)) for row in PROMPTS], jnp.int32)  # 7 is no padding token
    return prefill(weights(), tokens, jnp.asarray([len(row) for row in PROMPTS], jnp.int32), None, asked())


@functools.cache
def asked() -> BatchParams:
    rows = [dataclasses.replace(p, stop_token_ids=ids) for p, ids in zip(ASKED, ends(), strict=True)]
    return jax.tree.map(jnp.asarray, batch_params(rows, LIMITS))


def after(*turns: int):
    state = begun()
    for steps in turns:
        state = more(weights(), state, asked(), jnp.int32(steps))
    return state


def assert_as_said(state, steps: int):
    """That the state is the reference's after so many new tokens."""
    for b, row in enumerate(zip(PROMPTS, ASKED, LIMITS, ends(), strict=True)):
        said, start = walk(*row, steps), len(PROMPTS[b])
        n = len(said.tokens)
        assert state.tokens[b].tolist() == said.tokens + [0] * (SIZE - n)
        assert (int(state.length[b]), int(state.reason[b])) == (n, said.reason)
        want = np.zeros(SIZE)
        want[start:n] = said.logprobs
        np.testing.assert_allclose(state.logprobs[b], want, atol=1e-5)
        assert state.top_ids[b, start:n].tolist() == said.likeliest
        assert np.flatnonzero(state.seen[b]).tolist() == sorted(set(said.tokens))


def assert_all_equal(a, b):
    jax.tree.map(np.testing.assert_array_equal, a, b)


def test_the_reference_meets_every_way_to_end():
    said = [walk(*row) for row in zip(PROMPTS, ASKED, LIMITS, ends(), strict=True)]
    assert [s.reason for s in said] == [STOP, LENGTH, STOP, LENGTH, STOP, LENGTH]
    assert len(said[0].tokens) == LIMITS[0] and len(said[4].logprobs) == 1 and said[FILLER].logprobs == []
    plain = walk(PROMPTS[1], ASKED[0], LIMITS[1], ())
    assert plain.tokens != said[1].tokens  # the penalty tells


def test_prefill_makes_the_first_token():
    assert_as_said(begun(), 1)


def test_the_loop_makes_so_many_more():
    assert_as_said(after(3), 4)


def test_the_loop_ends_when_every_row_has():
    state = after(1000)
    assert_as_said(state, 99)
    assert_all_equal(after(1000, 5), state)


def test_turns_do_not_matter():
    assert_all_equal(after(1, 2, 0, 4, 30), after(30))
    assert_all_equal(after(0), begun())


def test_the_likeliest_tokens_have_the_model_s_own_logprobs():
    state = after(30)
    logprobs = table() - np.log(np.exp(table()).sum(-1, keepdims=True))
    for b, prompt in enumerate(PROMPTS):
        places = np.arange(len(prompt), int(state.length[b]))
        want = -np.sort(-logprobs[np.asarray(state.tokens[b])[places - 1]])[:, :TOP]
        np.testing.assert_allclose(np.asarray(state.top_logprobs[b])[places], want, atol=1e-5)
        assert not np.delete(np.asarray(state.top_logprobs[b]), places, axis=0).any()


def test_the_cache_holds_all_but_the_last_token():
    """A row that has ended reads no more."""
    for state in (begun(), after(2), after(30)):
        want = [int(n) - (b != FILLER) for b, n in enumerate(state.length)]
        assert state.cache.length.tolist() == want


def test_seen_tokens_are_those_inside():
    rng = np.random.default_rng(2)
    tokens, inside = rng.integers(0, V, (5, 9)), rng.random((5, 9)) < 0.5
    got = decode.find_seen_tokens(jnp.asarray(tokens, jnp.int32), jnp.asarray(inside), V)
    want = [sorted(set(row[real].tolist())) for row, real in zip(tokens, inside, strict=True)]
    assert [np.flatnonzero(row).tolist() for row in got] == want


def test_shapes_and_dtypes_are_those_asked_for():
    """Traced only, nothing is compiled."""
    how = FIXED | {"dtypes": ("bfloat16", "float16"), "size": 16, "n_top": 0}
    tokens, lengths = jnp.zeros((6, T), jnp.int32), jnp.ones(6, jnp.int32)
    state = jax.eval_shape(functools.partial(decode.prefill, **how), weights(), tokens, lengths, None, asked())
    (place,) = state.cache.stacks[0]
    assert place.k.dtype == place.v.dtype == jnp.float16 and place.k.shape == (1, 6, 1, 16, 8)
    assert state.tokens.shape == (6, 16) and state.top_ids.shape == state.top_logprobs.shape == (6, 16, 0)
    assert state.logprobs.dtype == jnp.float32
    loop = functools.partial(decode.decode, **FIXED | {"dtypes": how["dtypes"]})
    again = jax.eval_shape(loop, weights(), state, asked(), jnp.int32(1))
    assert jax.tree.map(lambda x: (x.shape, x.dtype), again) == jax.tree.map(lambda x: (x.shape, x.dtype), state)
