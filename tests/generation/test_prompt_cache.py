"""Conversations that keep their cache against whole forward passes, and how many tokens they read.

A conversation here is rows of ids: each prompt is the last one, its reply and a few new tokens. The reference knows no
cache: each token is the likeliest after a forward pass over everything before it.
"""

import dataclasses
import functools
import weakref
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vishwamai.errors import InputError
from vishwamai.generation import decode
from vishwamai.generation.generator import Generator
from vishwamai.generation.programs import Programs
from vishwamai.generation.prompt_cache import CachedRow, PromptCache
from vishwamai.generation.sampling import SamplingParams
from vishwamai.models import transformer
from vishwamai.models.cache import can_crop, crop, enlarge, init_cache, slot_positions
from vishwamai.models.config import Latent, Layer, ModelConfig, Stack, uniform
from vishwamai.parallel.mesh import make_mesh
from vishwamai.parallel.sharding import SINGLE, Sharding
from vishwamai.weights import spec

pytestmark = pytest.mark.by_turns

SIZES = {"vocab_size": 61, "d_model": 16, "d_ff": 24, "n_heads": 4, "n_kv_heads": 2, "head_dim": 8, "max_length": 100}
EXPERTS = {"n_experts": 4, "n_experts_per_token": 2, "d_expert": 16}
MIXED = (Stack(pattern=(Layer(window=8), Layer(rope=None)), repeats=1),)
FAMILIES = {
    "experts": ModelConfig(**SIZES, **EXPERTS, stacks=uniform(2, moe=True), qk_norm=True, learned_positions=True),
    "windows": ModelConfig(**SIZES, stacks=MIXED, attn_sinks=True, attn_temperature=0.5, attn_temperature_length=8),
    "latent": ModelConfig(
        **SIZES | {"n_kv_heads": 4}, latent=Latent(q_rank=8, kv_rank=6, d_turned=4, d_value=6), stacks=uniform(2)
    ),
}
SHORT = [8, 6, 9, 5, 6]  # tokens that each turn adds
LONG = [10, 7, 14, 6, 9]  # so that the cache outgrows its first 64 positions in the last turn
ASKED = SamplingParams(temperature=0, max_tokens=6)


@functools.cache
def weights(cfg: ModelConfig):
    """Made in NumPy, which compiles nothing."""
    shapes, rng = jax.eval_shape(lambda: spec.init(transformer.specs(cfg), jax.random.key(0))), np.random.default_rng(3)

    def draw(path, x):
        return jnp.asarray(rng.normal("scale" in jax.tree_util.keystr(path), 0.4, x.shape), jnp.float32)

    return jax.tree.map_with_path(draw, shapes)


@functools.cache
def generator(cfg: ModelConfig) -> Generator:
    return Generator(cfg=cfg)


@functools.cache
def forward(cfg: ModelConfig):
    return jax.jit(partial(transformer.forward, cfg=cfg))


def greedy(cfg: ModelConfig, prompt: list[int], n: int = ASKED.max_tokens) -> list[int]:
    """The `n` likeliest tokens, each after a pass over all before it, padded so that one program serves all."""
    row = list(prompt)
    for _ in range(n):
        padded = jnp.asarray([row + [0] * (cfg.max_length - len(row))])
        row.append(int(forward(cfg)(weights(cfg), padded)[0][0, len(row) - 1].argmax()))
    return row[len(prompt) :]


def some(n: int, seed: int) -> list[int]:
    return np.random.default_rng(seed).integers(0, SIZES["vocab_size"], n).tolist()


@pytest.fixture
def read(monkeypatch):
    """How many tokens each prefill reads, as the arrays say that it is given."""
    counts, run = [], Programs.run

    def spy(self, f, *args, **options):
        if f is decode.prefill:
            _, _, lengths, _, _ = args
            counts.append(int(lengths[0]))
        elif f is decode.prefill_cached:
            _, _, kept, _, lengths, _ = args
            counts.append(int(lengths[0] - kept[0]))
        return run(self, f, *args, **options)

    monkeypatch.setattr(Programs, "run", spy)
    return counts


@pytest.mark.parametrize(("family", "lengths"), [("experts", LONG), ("windows", SHORT), ("latent", SHORT)])
def test_five_turns_say_what_they_say_without_a_cache_and_read_only_what_is_new(family, lengths, read):
    cfg, cache, prompt, new = FAMILIES[family], PromptCache(), [], []
    for turn, n in enumerate(lengths):
        prompt = prompt + new + some(n, turn)
        made = generator(cfg).generate(weights(cfg), [prompt], ASKED, cache=cache)
        new = made.tokens[0]
        assert new == greedy(cfg, prompt), turn
        assert made.stats.prompt_tokens == len(prompt)
        assert made.stats.cached_tokens == cache.cached_tokens == len(prompt) - read[-1]
    assert read == [lengths[0], *(n + 1 for n in lengths[1:])]  # the last token of a reply was chosen and not read


@pytest.mark.parametrize("shared", [0, 1, 9, 20, 24, 25, 26])
def test_a_prompt_that_changes_earlier_tokens_shares_a_shorter_beginning(shared, read):
    cfg, cache, first = FAMILIES["experts"], PromptCache(), some(20, 1)
    row = first + generator(cfg).generate(weights(cfg), [first], ASKED, cache=cache).tokens[0]
    other = [(t + 1) % 61 for t in row]
    prompt = row[:shared] + other[shared:]
    made = generator(cfg).generate(weights(cfg), [prompt], ASKED, cache=cache)
    assert made.tokens[0] == greedy(cfg, prompt)
    assert made.stats.cached_tokens == min(shared, len(row) - 1) and read[-1] == len(prompt) - made.stats.cached_tokens


def test_a_long_new_part_is_read_in_runs(read, monkeypatch):
    monkeypatch.setattr("vishwamai.generation.programs.PREFILL_CHUNKS", (4, 16))
    cfg, cache, first = FAMILIES["experts"], PromptCache(), some(3, 1)
    row = first + generator(cfg).generate(weights(cfg), [first], ASKED, cache=cache).tokens[0]
    prompt = row + some(33, 2)
    made = generator(cfg).generate(weights(cfg), [prompt], ASKED, cache=cache)
    assert made.tokens[0] == greedy(cfg, prompt) and read == [3, 34]


def test_the_last_tokens_of_the_context_are_read_in_a_run_that_goes_beyond_it(read):
    cfg, cache, first = FAMILIES["experts"], PromptCache(), some(80, 1)
    row = first + generator(cfg).generate(weights(cfg), [first], ASKED, cache=cache).tokens[0]
    prompt = row + some(10, 2)
    made = generator(cfg).generate(weights(cfg), [prompt], ASKED, cache=cache)
    assert made.tokens[0] == greedy(cfg, prompt, 4) and made.finish_reasons == ["length"]
    assert len(prompt) + 4 == cfg.max_length and read == [80, 11]


def test_a_window_that_has_forgotten_too_much_reads_everything(read):
    cfg, cache, first = FAMILIES["windows"], PromptCache(), some(20, 1)
    row = first + generator(cfg).generate(weights(cfg), [first], ASKED, cache=cache).tokens[0]
    for kept in (24, 20):  # of 25 in the cache; the ring of 8 has what a token at 24 sees, and not what one at 20 does
        prompt = row[:kept] + [(row[kept] + 1) % 61, 5]
        made = generator(cfg).generate(weights(cfg), [prompt], ASKED, cache=cache)
        assert made.tokens[0] == greedy(cfg, prompt)
        assert read[-1] == (2 if kept == 24 else len(prompt))
        row = prompt + made.tokens[0]


def test_a_stream_that_is_left_keeps_what_it_made(read):
    cfg, cache, first = FAMILIES["windows"], PromptCache(), some(20, 1)
    stream = generator(cfg).stream(weights(cfg), [first], ASKED, cache=cache)
    row = first + [next(stream).tokens[0] for _ in range(3)]
    stream.close()
    prompt = [*row, 7]
    assert generator(cfg).generate(weights(cfg), [prompt], ASKED, cache=cache).tokens[0] == greedy(cfg, prompt)
    assert read == [20, 2]


def test_two_streams_with_one_cache_do_not_take_each_other_s_arrays(read):
    cfg, cache, first = FAMILIES["windows"], PromptCache(), some(20, 1)
    one, two = (generator(cfg).stream(weights(cfg), [first], ASKED, cache=cache) for _ in range(2))
    begun = next(one).tokens
    assert [t for chunk in two for t in chunk.tokens] == greedy(cfg, first)
    assert begun + [t for chunk in one for t in chunk.tokens] == greedy(cfg, first)
    assert read == [20, 20]


def test_a_run_that_fails_leaves_nothing_behind(read, monkeypatch):
    cfg, cache, first = FAMILIES["windows"], PromptCache(), some(20, 1)
    stream = generator(cfg).stream(weights(cfg), [first], ASKED, cache=cache)
    next(stream)

    def fail(state):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr("vishwamai.generation.generator.fetch_state", fail)
        next(stream)
    assert generator(cfg).generate(weights(cfg), [first], ASKED, cache=cache).tokens[0] == greedy(cfg, first)
    assert read == [20, 20]


def test_seeds_and_penalties_count_the_whole_prompt():
    cfg, cache, first = FAMILIES["windows"], PromptCache(), some(20, 1)
    asked = SamplingParams(temperature=1.5, seed=4, repetition_penalty=1.6, max_tokens=6)
    prompt = first + generator(cfg).generate(weights(cfg), [first], asked, cache=cache).tokens[0] + [3]
    cached = generator(cfg).generate(weights(cfg), [prompt], asked, cache=cache)
    assert cached.tokens == generator(cfg).generate(weights(cfg), [prompt], asked).tokens
    assert cached.stats.cached_tokens == 25


def test_other_weights_and_other_settings_begin_anew():
    cfg = FAMILIES["windows"]
    mine, settings = weights(cfg), {"cfg": cfg, "dtypes": ("float32", "float32"), "sharding": SINGLE}
    row = CachedRow(init_cache(cfg, 1, 16), 16, np.arange(6))

    def taken(weights, settings, prompt=(0, 1, 2, 9)):
        cache = PromptCache()
        cache.put(mine, row=row, settings={"cfg": cfg, "dtypes": ("float32", "float32"), "sharding": SINGLE})
        got = cache.take(weights, settings, prompt)
        assert cache.take(weights, settings, prompt) is None  # it is the caller's
        return None if got is None else got.tokens.tolist()

    assert taken(mine, settings) == [0, 1, 2]
    assert taken(dataclasses.replace(mine), settings) is None
    assert taken(mine, settings | {"dtypes": ("float32", "bfloat16")}) is None
    assert taken(mine, settings, (0, 1)) == [0] and taken(mine, settings, (0,)) is None
    assert taken(mine, settings, (5, 1)) is None and taken(mine, settings, range(9)) == list(range(6))


def test_weights_that_nobody_else_has_are_given_back():
    cfg, cache = FAMILIES["windows"], PromptCache()
    other = dataclasses.replace(weights(cfg))
    cache.put(other, {}, CachedRow(init_cache(cfg, 1, 16), 16, np.arange(6)))
    alive = weakref.ref(other)
    del other
    assert alive() is None and cache.take(weights(cfg), {}, range(9)) is None


def test_a_cache_is_of_one_row():
    cfg = FAMILIES["windows"]
    with pytest.raises(InputError, match="a PromptCache is of one prompt, and there are 2"):
        generator(cfg).generate(weights(cfg), [[1], [2]], ASKED, cache=PromptCache())
    with pytest.raises(InputError, match="of one prompt"):
        generator(cfg).stream(weights(cfg), [[1], [2]], ASKED, cache=PromptCache())


def test_a_ring_can_be_cut_back_where_it_holds_what_the_next_token_sees():
    """Against positions written one by one."""
    window = 5
    for room in (4, 8):
        cache = init_cache(dataclasses.replace(FAMILIES["windows"], stacks=uniform(1, window=window)), 1, room)
        S = cache.stacks[0][0].n_slots
        for written in range(1, room + 1):
            ring = dict.fromkeys(range(S), -1) | {p % S: p for p in range(written)}
            assert slot_positions(cache.stacks[0][0], jnp.asarray([written])).tolist() == [list(ring.values())]
            for n in range(1, written + 1):
                sees = range(max(n - window + 1, 0), n)
                assert can_crop(cache, written, n) == (set(sees) <= set(ring.values())), (room, written, n)


def test_cropped_and_enlarged():
    cfg = FAMILIES["windows"]
    cache = jax.tree.map(lambda x: x + 1, init_cache(cfg, 2, 6, "bfloat16"))
    cache = dataclasses.replace(cache, length=jnp.asarray([6, 3]))
    short = crop(cache, jnp.asarray([4, 1]))
    assert short.length.tolist() == [4, 1]
    for place in short.stacks[0]:
        held = slot_positions(place, short.length)
        assert held.tolist() == [[0, 1, 2, 3, -1, -1], [0, -1, -1, -1, -1, -1]]
    large = enlarge(short, cfg, 20)
    assert large.length.tolist() == [4, 1]
    for place, size in zip(large.stacks[0], (8, 20), strict=True):  # the first layer has a window of 8
        assert place.k.shape == (1, 2, 2, size, 8) and place.k.dtype == jnp.bfloat16
        assert slot_positions(place, large.length)[0].tolist() == [0, 1, 2, 3] + [-1] * (size - 4)
        assert place.k[..., :6, :].tolist() == place.v[..., :6, :].tolist() == np.ones((1, 2, 2, 6, 8)).tolist()
        assert not place.k[..., 6:, :].any()


def test_over_a_mesh(read):
    cfg, cache, first = FAMILIES["windows"], PromptCache(), some(20, 1)
    spread = Generator(cfg=cfg, sharding=Sharding(make_mesh(jax.devices()[:2], tensor=2)))
    row = first + spread.generate(weights(cfg), [first], ASKED, cache=cache).tokens[0]
    for n in (4, 10):
        prompt = row + some(n, 2)
        row = prompt + spread.generate(weights(cfg), [prompt], ASKED, cache=cache).tokens[0]
        assert row[len(prompt) :] == greedy(cfg, prompt)
    assert read == [20, 5, 11]
    assert spread.programs.count == 3  # both turns run the same ones
