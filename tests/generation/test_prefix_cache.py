"""Prefixes read once and continued many at a time, against the plain generator over whole prompts, and bit for bit
against themselves among other rows, in other orders and after others had their places.
"""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vishwamai.errors import InputError
from vishwamai.generation import decode
from vishwamai.generation.beam import BeamParams
from vishwamai.generation.generator import Generator
from vishwamai.generation.prefix_cache import PrefixCache
from vishwamai.generation.prefix_pool import PoolSizes
from vishwamai.generation.programs import Programs
from vishwamai.generation.sampling import SamplingParams
from vishwamai.models import transformer
from vishwamai.models.config import Layer, ModelConfig, Stack
from vishwamai.weights import spec

pytestmark = pytest.mark.by_turns

CFG = ModelConfig(  # a ring smaller than the texts, a mixture of experts, and positions of both kinds
    vocab_size=61, d_model=16, d_ff=24, n_heads=4, n_kv_heads=2, head_dim=8, max_length=64, learned_positions=True,
    n_experts=4, n_experts_per_token=2, d_expert=16,
    stacks=(Stack(pattern=(Layer(window=8, moe=True), Layer()), repeats=1),),
)  # fmt: skip
SIZES = PoolSizes(slots=13, context=64, requests=40, batch=8, batch_tokens=64)
ENDS = (3, 5)
PROGRAMS = Programs()
PLAIN = Generator(cfg=CFG, eos_ids=ENDS, programs=PROGRAMS)


@functools.cache
def weights():
    """Made in NumPy, which compiles nothing."""
    shapes, rng = jax.eval_shape(lambda: spec.init(transformer.specs(CFG), jax.random.key(0))), np.random.default_rng(7)

    def draw(path, x):
        return jnp.asarray(rng.normal("scale" in jax.tree_util.keystr(path), 0.3, x.shape), jnp.float32)

    return jax.tree.map_with_path(draw, shapes)


def cache(sizes: PoolSizes = SIZES) -> PrefixCache:
    """A cache with nothing read yet, which shares all programs."""
    return PrefixCache(PLAIN, sizes)


def draw(some: PrefixCache, prompts, params) -> list[tuple]:
    """What the rows hold but for their places in the call."""
    rows = some.generate(weights(), prompts, params)
    return [(row.tokens, row.logprobs, row.top_logprobs, row.reason) for row in rows]


def run(seed: int, n: int) -> tuple[int, ...]:
    return tuple(np.random.default_rng(seed).integers(6, CFG.vocab_size, n).tolist())


SHARED = run(1, 14)
PROMPTS = [(SHARED,), (SHARED, run(2, 3)), (SHARED, run(2, 3), run(3, 5)), (SHARED, run(4, 1)), (run(5, 2), SHARED)]
READ = 14 + 3 + 5 + 1 + 2 + 14


def rows_of(n: int, **how) -> tuple[list, list[SamplingParams]]:
    """`n` rows of each prompt with seeds of their own, one row of each in turn."""
    common = {"temperature": 1.0, "max_tokens": 20, "logprobs": 3} | how
    return PROMPTS * n, [SamplingParams(**common, seed=1000 + i) for i in range(len(PROMPTS) * n)]


def flat(prompt) -> list[int]:
    return [token for part in prompt for token in part]


def check_against_the_plain_generator(prompts, params):
    drawn = draw(cache(), prompts, params)
    want = PLAIN.generate(weights(), [flat(p) for p in prompts], params)
    assert [(tokens, reason) for tokens, _, _, reason in drawn] == list(
        zip(want.tokens, want.finish_reasons, strict=True)
    )
    for (_, logprobs, tops, _), wanted, wanted_tops in zip(drawn, want.logprobs, want.top_logprobs, strict=True):
        np.testing.assert_allclose(logprobs, wanted, atol=1e-4)
        for top, wanted_top in zip(tops, wanted_tops, strict=True):
            assert list(top) == list(wanted_top)
            np.testing.assert_allclose(list(top.values()), list(wanted_top.values()), atol=1e-4)
    return drawn


# Continuations


def test_sampled_rows_are_those_of_the_plain_generator():
    drawn = check_against_the_plain_generator(*rows_of(6))
    assert {row[3] for row in drawn} == {"stop", "length"} and len({tuple(row[0]) for row in drawn}) > 25


def test_greedy_rows_penalties_and_filters_are_those_of_the_plain_generator():
    ways = [{"temperature": 0.0}, {"temperature": 0.0, "repetition_penalty": 1.7}, {"top_k": 4}, {"top_p": 0.6}]
    prompts, params = rows_of(6)
    params = [dataclasses.replace(p, **ways[i % 4], max_tokens=20 - i) for i, p in enumerate(params[:20])]
    drawn = check_against_the_plain_generator(prompts[:20], params)
    assert all(row[3] == "stop" or len(row[0]) == 20 - i for i, row in enumerate(drawn))


def test_a_full_context_ends_a_row():
    prompts = [(run(1, 14), run(10, 16), run(11, 16)), (*[run(12, 16)] * 4,)]
    for most in (30, None):
        params = [SamplingParams(temperature=0.0, max_tokens=most, ignore_eos=True)] * 2
        long, full = cache().generate(weights(), prompts, params)
        assert (len(long.tokens), long.reason, full.tokens, full.reason) == (64 - 46, "length", [], "length")


# The same numbers, bit for bit


def test_numbers_do_not_depend_on_other_rows():
    prompts, params = rows_of(9)  # 45 rows: more than a call has jobs
    want = draw(cache(), prompts, params)
    alone, some = cache(), cache()
    for i in range(0, 45, 4):
        assert draw(alone, prompts[i : i + 1], params[i : i + 1]) == want[i : i + 1]
    backwards = [draw(some, prompts[i::-7], params[i::-7]) for i in range(44, 37, -1)]
    assert backwards == [want[i::-7] for i in range(44, 37, -1)]
    assert draw(cache(), prompts[::-1], params[::-1])[::-1] == want


def test_numbers_do_not_depend_on_what_was_given_up():
    small, (prompts, params) = cache(), rows_of(1)
    want = draw(small, prompts, params)
    scores = small.score(weights(), prompts, [run(6, 4)] * 5)
    for i in (2, 0, 4, 1, 3):
        small.prefill(weights(), [(run(50 + 7 * i + j, 1 + j),) for j in range(6)])
        assert draw(small, prompts[i : i + 1], params[i : i + 1]) == want[i : i + 1]
        assert small.score(weights(), prompts[i : i + 1], [run(6, 4)]) == scores[i : i + 1]
    assert small.counts.prefill_tokens > 2 * READ + 5 * 21 + 10 * 4


def test_each_prefix_is_read_once():
    once, (prompts, params) = cache(), rows_of(3)
    for _ in range(2):
        draw(once, prompts, params)
        assert once.counts.prefill_tokens == READ
        prompts, params = prompts[::-1], params[::-1]


# Scores


def test_scores_are_those_of_whole_texts():
    prompts = [prompt for prompt in PROMPTS for _ in range(3)]
    new = [run(20 + i, (1, 4, 11)[i % 3]) for i in range(len(prompts))]
    found = cache().score(weights(), prompts, new)
    whole = PLAIN.score(weights(), [flat((*p, c)) for p, c in zip(prompts, new, strict=True)], batch=16)
    np.testing.assert_allclose(found, [x[-len(c) :].sum() for x, c in zip(whole, new, strict=True)], atol=1e-4)
    assert cache().score(weights(), prompts[::-1], new[::-1]) == found[::-1]
    assert [cache().score(weights(), [p], [c])[0] for p, c in zip(prompts, new, strict=True)] == found


def test_a_score_leaves_the_pool_as_it_was():
    same, (prompts, params) = cache(), rows_of(1)
    want = draw(same, prompts, params)
    same.score(weights(), prompts, [run(30, 4)] * 5)
    assert same.counts.prefill_tokens == READ + 5 * 4
    assert draw(same, prompts, params) == want and same.counts.prefill_tokens == READ + 5 * 4


@pytest.mark.parametrize("n", [0, 257])
def test_a_continuation_of_another_length_is_refused(n):
    with pytest.raises(InputError, match=f"a continuation has {n} tokens; it must be from 1 to 256"):
        cache().score(weights(), PROMPTS[:1], [(7,) * n])


def test_residuals_are_those_of_whole_prompts():
    some = cache()
    found = some.last_hidden_states(weights(), PROMPTS)
    assert found.dtype == np.float32
    padded = jnp.asarray([flat(p) + [0] * (24 - len(flat(p))) for p in PROMPTS])  # which no earlier position sees
    x, _ = jax.jit(functools.partial(transformer.hidden_states, cfg=CFG))(weights(), padded)
    np.testing.assert_allclose(found, [x[i, len(flat(p)) - 1] for i, p in enumerate(PROMPTS)], atol=1e-4)


# What is refused, and what goes wrong


def test_prompts_that_do_not_fit_are_refused():
    some = cache()
    for prompt, words in (
        ((), "empty"),
        (((),), "empty"),
        ((run(1, 257),), "a run has 257 tokens"),
        ((run(1, 60), run(2, 5)), "65 tokens.*holds 64"),
    ):
        with pytest.raises(InputError, match=words):
            some.prefill(weights(), [prompt])
    some.check((run(1, 60), run(2, 4)))
    with pytest.raises(InputError, match="13 slots takes at most 6 prompts"):
        some.prefill(weights(), [((i,),) for i in range(7)])
    with pytest.raises(InputError, match="context of 65 is longer"):
        cache(dataclasses.replace(SIZES, context=65))


class BreaksOff(Programs):
    """Programs of which the next that is given arrays is interrupted after it took those that are donated to it."""

    def run(self, f, *args, donate=(), **static):
        if not args:
            return PROGRAMS.run(f, **static)
        for i in donate:
            jax.tree.map(lambda x: x.delete(), args[i])
        raise KeyboardInterrupt


def test_a_call_that_breaks_off_leaves_nothing_wrong_behind():
    prompts, params = rows_of(1)
    want = draw(cache(), prompts, params)
    some, calls = cache(), [lambda f: f.prefill(weights(), prompts), lambda f: f.score(weights(), prompts, [(7,)] * 5)]
    for call in calls:
        some.programs = BreaksOff()
        with pytest.raises(KeyboardInterrupt):
            call(some)
        some.programs = PROGRAMS
        assert draw(some, prompts, params) == want


# The plain generator forks too


def test_equal_prompts_of_a_call_are_read_once(monkeypatch):
    prompts, shapes, run = [flat(PROMPTS[i]) for i in (1, 0, 1, 1, 2)], [], Programs.run

    def spy(self, f, *args, **static):
        if f is decode.prefill:
            shapes.append(args[1].shape)
        return run(self, f, *args, **static)

    params = [SamplingParams(max_tokens=12, seed=i) for i in range(5)]
    want = [PLAIN.generate(weights(), [p], own).tokens[0] for p, own in zip(prompts, params, strict=True)]
    monkeypatch.setattr(Programs, "run", spy)
    assert PLAIN.generate(weights(), prompts, params).tokens == want and len(set(map(tuple, want))) == 5
    assert shapes == [(4, 32)]  # three prompts, and one that fills the batch


def test_beams_of_equal_prompts_are_those_of_each():
    beams, prompts = BeamParams(num_beams=3, num_return=2), [flat(PROMPTS[1]), flat(PROMPTS[0]), flat(PROMPTS[1])]
    one, other = (PLAIN.search(weights(), [prompt], beams, SamplingParams(max_tokens=9)) for prompt in prompts[:2])
    found = PLAIN.search(weights(), prompts, beams, SamplingParams(max_tokens=9))
    assert found.tokens == one.tokens + other.tokens + one.tokens
