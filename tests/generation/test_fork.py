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
from vishwamai.generation.fork import PoolSizes, fingerprint
from vishwamai.generation.forking import Forks
from vishwamai.generation.generator import Generator
from vishwamai.generation.programs import Programs
from vishwamai.generation.sampling import SamplingParams
from vishwamai.models import transformer
from vishwamai.models.config import Layer, ModelConfig, Stack
from vishwamai.weights import quantize, spec

pytestmark = pytest.mark.by_turns

CFG = ModelConfig(  # a ring smaller than the texts, a mixture of experts, and positions of both kinds
    vocab_size=61, d_model=16, d_ff=24, n_heads=4, n_kv_heads=2, head_dim=8, max_length=64, learned_positions=True,
    n_experts=4, n_experts_per_token=2, d_expert=16,
    stacks=(Stack(pattern=(Layer(window=8, moe=True), Layer()), repeats=1),),
)  # fmt: skip
SIZES = PoolSizes(rows=13, context=64, jobs=40, tile=8, read=64)
ENDS = [3, 5]
PROGRAMS = Programs()
PLAIN = Generator(cfg=CFG, programs=PROGRAMS)


@functools.cache
def weights():
    """Made in NumPy, which compiles nothing."""
    shapes, rng = jax.eval_shape(lambda: spec.init(transformer.specs(CFG), jax.random.key(0))), np.random.default_rng(7)

    def draw(path, x):
        return jnp.asarray(rng.normal("scale" in jax.tree_util.keystr(path), 0.3, x.shape), jnp.float32)

    return jax.tree.map_with_path(draw, shapes)


def forks() -> Forks:
    """Forks with nothing read yet, which share all programs."""
    return Forks(CFG, SIZES, programs=PROGRAMS)


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
    drawn = forks().draw(weights(), prompts, params, ENDS)
    own = [dataclasses.replace(p, ignore_eos=True, stop_token_ids=tuple(ENDS)) for p in params]
    want = PLAIN.generate(weights(), [flat(p) for p in prompts], own)
    assert [row.tokens for row in drawn] == want.tokens
    assert ["stop" if row.stopped else "length" for row in drawn] == want.finish_reasons
    for row, logprobs, tops in zip(drawn, want.logprobs, want.top_logprobs, strict=True):
        np.testing.assert_allclose(row.logprobs, logprobs, atol=1e-4)
        for top, wanted in zip(row.top, tops, strict=True):
            assert list(top) == list(wanted)
            np.testing.assert_allclose(list(top.values()), list(wanted.values()), atol=1e-4)
    return drawn


# Continuations


def test_sampled_rows_are_those_of_the_plain_generator():
    drawn = check_against_the_plain_generator(*rows_of(6))
    assert {row.stopped for row in drawn} == {True, False} and len({tuple(row.tokens) for row in drawn}) > 25


def test_greedy_rows_penalties_and_filters_are_those_of_the_plain_generator():
    ways = [{"temperature": 0.0}, {"temperature": 0.0, "repetition_penalty": 1.7}, {"top_k": 4}, {"top_p": 0.6}]
    prompts, params = rows_of(6)
    params = [dataclasses.replace(p, **ways[i % 4], max_tokens=20 - i) for i, p in enumerate(params[:20])]
    drawn = check_against_the_plain_generator(prompts[:20], params)
    assert all(row.stopped or len(row.tokens) == 20 - i for i, row in enumerate(drawn))


def test_a_full_context_ends_a_row():
    prompts = [(run(1, 14), run(10, 16), run(11, 16)), (*[run(12, 16)] * 4,)]
    for most in (30, None):
        params = [SamplingParams(temperature=0.0, max_tokens=most, logprobs=3)] * 2
        long, full = forks().draw(weights(), prompts, params, [])
        assert (len(long.tokens), long.stopped, full.tokens, full.stopped) == (64 - 46, False, [], False)


# The same numbers, bit for bit


def test_numbers_do_not_depend_on_other_rows():
    prompts, params = rows_of(9)  # 45 rows: more than a call has jobs
    want = forks().draw(weights(), prompts, params, ENDS)
    alone, some = forks(), forks()
    for i in range(0, 45, 4):
        assert alone.draw(weights(), prompts[i : i + 1], params[i : i + 1], ENDS) == want[i : i + 1]
    backwards = [some.draw(weights(), prompts[i::-7], params[i::-7], ENDS) for i in range(44, 37, -1)]
    assert backwards == [want[i::-7] for i in range(44, 37, -1)]
    assert forks().draw(weights(), prompts[::-1], params[::-1], ENDS)[::-1] == want


def test_numbers_do_not_depend_on_what_was_given_up():
    small, (prompts, params) = forks(), rows_of(1)
    want = small.draw(weights(), prompts, params, ENDS)
    scores = small.score(weights(), prompts, [run(6, 4)] * 5)
    for i in (2, 0, 4, 1, 3):
        small.read(weights(), [(run(50 + 7 * i + j, 1 + j),) for j in range(6)])
        assert small.draw(weights(), prompts[i : i + 1], params[i : i + 1], ENDS) == want[i : i + 1]
        assert small.score(weights(), prompts[i : i + 1], [run(6, 4)]) == scores[i : i + 1]
    assert small.counts.prefill_tokens > 2 * READ + 5 * 21 + 10 * 4


def test_each_prefix_is_read_once():
    once, (prompts, params) = forks(), rows_of(3)
    for _ in range(2):
        once.draw(weights(), prompts, params, ENDS)
        assert once.counts.prefill_tokens == READ
        prompts, params = prompts[::-1], params[::-1]


# Scores


def test_scores_are_those_of_whole_texts():
    prompts = [prompt for prompt in PROMPTS for _ in range(3)]
    new = [run(20 + i, (1, 4, 11)[i % 3]) for i in range(len(prompts))]
    found = forks().score(weights(), prompts, new)
    whole = PLAIN.score(weights(), [flat((*p, c)) for p, c in zip(prompts, new, strict=True)], batch=16)
    np.testing.assert_allclose(found, [x[-len(c) :].sum() for x, c in zip(whole, new, strict=True)], atol=1e-4)
    assert forks().score(weights(), prompts[::-1], new[::-1]) == found[::-1]
    assert [forks().score(weights(), [p], [c])[0] for p, c in zip(prompts, new, strict=True)] == found


def test_a_score_leaves_the_pool_as_it_was():
    same, (prompts, params) = forks(), rows_of(1)
    want = same.draw(weights(), prompts, params, ENDS)
    same.score(weights(), prompts, [run(30, 4)] * 5)
    assert same.counts.prefill_tokens == READ + 5 * 4
    assert same.draw(weights(), prompts, params, ENDS) == want and same.counts.prefill_tokens == READ + 5 * 4


@pytest.mark.parametrize("n", [0, 257])
def test_a_continuation_of_another_length_is_refused(n):
    with pytest.raises(InputError, match=f"a continuation has {n} tokens; it must be from 1 to 256"):
        forks().score(weights(), PROMPTS[:1], [(7,) * n])


def test_residuals_are_those_of_whole_prompts():
    some = forks()
    found = some.last(some.read(weights(), PROMPTS))
    assert found.dtype == np.float32
    padded = jnp.asarray([flat(p) + [0] * (24 - len(flat(p))) for p in PROMPTS])  # which no earlier position sees
    x, _ = jax.jit(functools.partial(transformer.hidden_states, cfg=CFG))(weights(), padded)
    np.testing.assert_allclose(found, [x[i, len(flat(p)) - 1] for i, p in enumerate(PROMPTS)], atol=1e-4)


# What is refused, and what goes wrong


def test_prompts_that_do_not_fit_are_refused():
    some = forks()
    for prompt, words in (((), "empty"), (((),), "empty"), ((run(1, 60), run(2, 5)), "65 tokens.*holds 64")):
        with pytest.raises(InputError, match=words):
            some.read(weights(), [prompt])
    some.check((run(1, 60), run(2, 4)))
    with pytest.raises(InputError, match="13 rows reads at most 6 prompts"):
        some.read(weights(), [((i,),) for i in range(7)])
    with pytest.raises(InputError, match="context of 65 is longer"):
        Forks(CFG, dataclasses.replace(SIZES, context=65))


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
    want = forks().draw(weights(), prompts, params, ENDS)
    some, calls = forks(), [lambda f: f.read(weights(), prompts), lambda f: f.score(weights(), prompts, [(7,)] * 5)]
    for call in calls:
        some.programs = BreaksOff()
        with pytest.raises(KeyboardInterrupt):
            call(some)
        some.programs = PROGRAMS
        assert some.draw(weights(), prompts, params, ENDS) == want


# Fingerprints

PRINT = jax.jit(fingerprint)


def prints(tree) -> tuple[int, ...]:
    return tuple(PRINT(tree).tolist())


def test_a_fingerprint_is_that_of_equal_weights_alone():
    w = weights()
    assert prints(jax.tree.map(jnp.array, w)) == prints(w) and PRINT(w).dtype == jnp.uint32
    others, (leaves, tree) = [w], jax.tree.flatten(w)
    for i, leaf in enumerate(leaves):
        for place in (0, leaf.size - 1):
            new = np.array(leaf)
            new.reshape(-1)[place] = np.nextafter(new.reshape(-1)[place], np.float32(9))
            others.append(tree.unflatten([*leaves[:i], new, *leaves[i + 1 :]]))
        for j in range(i):
            if leaf.shape == leaves[j].shape:
                swapped = list(leaves)
                swapped[i], swapped[j] = leaves[j], leaf
                others.append(tree.unflatten(swapped))
    assert len(others) > 60 and len({prints(other) for other in others}) == len(others)


@pytest.mark.parametrize("dtype", ["bfloat16", "float32", "int8", "int4", "float8_e4m3fn", "float4_e2m1fn"])
def test_a_fingerprint_tells_layers_that_changed_places(dtype):
    """Layers lie powers of two apart, and the low bits of numbers that were once bfloat16 are zeros."""
    x = np.random.default_rng(1).normal(0, 3, (4, 64, 1024)).astype(jnp.bfloat16).astype(dtype)
    found = {
        prints([jnp.asarray(x[list(order)])]) for order in ((0, 1, 2, 3), (1, 0, 2, 3), (0, 1, 3, 2), (2, 3, 0, 1))
    }
    assert [len(set(column)) for column in zip(*found, strict=True)] == [4, 4]


def test_fingerprints_are_spread():
    x, one = np.arange(1 << 12, dtype=np.float32).reshape(64, 64), np.eye(64, dtype=np.float32)
    found = np.asarray([prints([x + one[i]]) for i in range(64)])
    assert [len(set(column)) for column in found.T.tolist()] == [64, 64]
    assert 0.45 < np.unpackbits(found.astype(np.uint32).view(np.uint8)).mean() < 0.55


@pytest.mark.parametrize("scheme", ["int8", "int4"])
def test_quantised_weights_have_fingerprints(scheme):
    how = quantize.Scheme.named(scheme)
    w = np.random.default_rng(2).normal(0, 1, (2, 64, 8)).astype(np.float32)
    one, again, other = (quantize.round_to_scheme(jnp.asarray(x), (2, 2, 8), how) for x in (w, w.copy(), w[::-1]))
    assert prints(one) == prints(again) != prints(other)
    assert prints(dataclasses.replace(one, scale=one.scale * 2)) != prints(one)
