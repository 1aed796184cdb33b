"""Rotations by the length of a text (longrope, dynamic): every row by its own, whatever is read beside or before it."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vishwamai.models import cache as kv
from vishwamai.models import transformer
from vishwamai.models.attention import attend_uncached
from vishwamai.models.config import Layer, ModelConfig, Rope, group_layers
from vishwamai.parallel.mesh import make_mesh
from vishwamai.parallel.sharding import Sharding, shardings

from ..random_weights import random_weights

SIZES = {"vocab_size": 61, "d_model": 32, "d_ff": 48, "n_heads": 4, "n_kv_heads": 2, "head_dim": 8, "max_length": 32}
BORDER = 8
LONG = Rope(
    theta=50.0, scaling="longrope", short_factors=(1.0, 1.5, 2.0, 1.2), long_factors=(2.0, 4.0, 6.0, 3.0),
    magnitude=1.2, original_max_length=BORDER,
)  # fmt: skip
DYNAMIC = Rope(theta=50.0, scaling="dynamic", factor=4.0, original_max_length=BORDER)
CFG = ModelConfig(**SIZES, stacks=group_layers((Layer(rope=LONG, window=5), Layer(rope=LONG)) * 2))
DYN = ModelConfig(**SIZES, stacks=group_layers((Layer(rope=DYNAMIC),) * 2))
TOKENS = np.random.default_rng(0).integers(0, 61, (3, 20))
forward = jax.jit(transformer.forward, static_argnames=("cfg", "attention"))
cached = jax.jit(transformer.forward_cached, static_argnames=("cfg", "attend", "sharding"))


@functools.cache
def weights(cfg: ModelConfig):
    return random_weights(transformer.specs(cfg))


@functools.cache
def whole(cfg: ModelConfig, length: int) -> np.ndarray:
    """Logits of all rows where every position turns as in texts of this length, by a rotation that knows no other."""

    def fixed(rope: Rope) -> Rope:
        if rope.scaling == "longrope":
            factors = rope.long_factors if length > BORDER else rope.short_factors
            return dataclasses.replace(rope, short_factors=factors, long_factors=factors)
        d, ratio = SIZES["head_dim"], max(length, BORDER) / BORDER
        return Rope(theta=50.0 * (4.0 * ratio - 3.0) ** (d / (d - 2)))

    layers = [dataclasses.replace(layer, rope=fixed(layer.rope)) for s in cfg.stacks for layer in s.pattern * s.repeats]
    plain = dataclasses.replace(cfg, stacks=group_layers(tuple(layers)))
    return np.asarray(forward(weights(cfg), jnp.asarray(TOKENS), cfg=plain)[0])


def alone(cfg: ModelConfig, row: int, length: int) -> np.ndarray:
    """Logits of the first tokens of a row as a text of their own."""
    if cfg.rope_switch is not None:
        return whole(cfg, BORDER if length <= BORDER else BORDER + 1)[row, :length]
    return whole(cfg, length)[row, :length]


def assert_close(mine, reference) -> None:
    np.testing.assert_allclose(mine, reference, atol=3e-5)


def test_the_two_lists_make_a_difference():
    assert np.abs(alone(CFG, 0, 8)[:8] - alone(CFG, 0, 9)[:8]).max() > 0.1


@pytest.mark.parametrize("length", [8, 9])
@pytest.mark.parametrize("cfg", [CFG, DYN], ids=["longrope", "dynamic"])
def test_a_text_that_is_read_at_once_turns_by_its_length(cfg, length):
    got = forward(weights(cfg), jnp.asarray(TOKENS[:1, :length]), cfg=cfg)[0][0]
    assert_close(got, alone(cfg, 0, length))


@pytest.mark.parametrize("cfg", [CFG, DYN], ids=["longrope", "dynamic"])
def test_rows_of_one_batch_are_as_each_alone(cfg):
    lengths = (20, 8, 9)
    found = forward(weights(cfg), jnp.asarray(TOKENS), cfg=cfg, lengths_B=jnp.array(lengths))[0]
    for row, length in enumerate(lengths):
        assert_close(found[row, :length], alone(cfg, row, length))


@pytest.mark.parametrize("cfg", [CFG, DYN], ids=["longrope", "dynamic"])
def test_packed_texts_are_as_each_alone(cfg):
    packed = jnp.asarray(np.concatenate([TOKENS[0, :5], TOKENS[1, :11], TOKENS[2, :8], TOKENS[0, :2]])[None])
    segments = jnp.asarray([[1] * 5 + [2] * 11 + [3] * 8 + [0] * 2])
    positions = jnp.concatenate([jnp.arange(n) for n in (5, 11, 8, 2)])[None]
    found = forward(weights(cfg), packed, cfg=cfg, segments_BT=segments, positions_BT=positions)[0][0]
    for row, begin, length in ((0, 0, 5), (1, 5, 11), (2, 16, 8)):
        assert_close(found[begin : begin + length], alone(cfg, row, length))


def prefilled(lengths, size=24, sharding=None):
    options = {} if sharding is None else {"sharding": sharding}
    w = weights(CFG) if sharding is None else jax.device_put(weights(CFG), shardings(transformer.specs(CFG), sharding))
    _, cache = cached(
        w,
        jnp.asarray(TOKENS[:, :12]),
        cfg=CFG,
        cache=kv.init_cache(CFG, 3, size, **options),
        n_new_B=jnp.asarray(lengths, jnp.int32),
        attend=attend_uncached,
        **options,
    )
    return w, cache, options


@pytest.mark.parametrize("mesh", [None, {"fsdp": 2, "tensor": 2, "data": 2}])
def test_each_row_is_read_anew_where_it_crosses(mesh):
    """Rows cross one after another, and one was over the border from the first."""
    w, cache, options = prefilled((6, 8, 11), sharding=mesh and Sharding(make_mesh(**mesh)))
    for _ in range(5):
        at = np.asarray(cache.length)
        step = jnp.asarray(TOKENS[np.arange(3), at][:, None])
        logits, cache = cached(w, step, cfg=CFG, cache=cache, **options)
        for row in range(3):
            assert_close(logits[row, 0], alone(CFG, row, at[row] + 1)[-1])


def test_several_tokens_cross_at_once_and_some_rows_get_none():
    w, cache, _ = prefilled((6, 8, 3))
    more = jnp.asarray(np.stack([TOKENS[0, 6:12], TOKENS[1, 8:14], TOKENS[2, 3:9]]))
    logits, cache = cached(w, more, cfg=CFG, cache=cache, n_new_B=jnp.array([6, 0, 4]))
    assert_close(logits[0], alone(CFG, 0, 12)[6:])
    assert_close(logits[2, :4], alone(CFG, 2, 7)[3:])
    logits, _ = cached(w, jnp.asarray(TOKENS[[0, 1, 2], [12, 8, 7]][:, None]), cfg=CFG, cache=cache)
    for row, length in enumerate((13, 9, 8)):
        assert_close(logits[row, 0], alone(CFG, row, length)[-1])


def test_rows_that_are_cut_behind_the_border_are_read_anew_too():
    w, cache, _ = prefilled((12, 12, 12))
    full = ModelConfig(**SIZES, stacks=group_layers((Layer(rope=LONG),) * 4))  # a ring has lost what a cut would need
    assert full.rope_switch == BORDER and cache.rope_switch is not None
    _, cache = cached(
        weights(full), jnp.asarray(TOKENS[:, :12]), cfg=full, cache=kv.init_cache(full, 3, 24), attend=attend_uncached
    )
    cut = kv.crop(cache, jnp.full((3,), 5, jnp.int32))
    logits, _ = cached(weights(full), jnp.asarray(TOKENS[:, 5:8]), cfg=full, cache=cut)
    assert_close(logits[0], alone(full, 0, 8)[5:])


def test_a_cache_that_is_made_larger_crosses():
    w, small = weights(CFG), kv.init_cache(CFG, 3, BORDER)
    _, small = cached(w, jnp.asarray(TOKENS[:, :7]), cfg=CFG, cache=small, attend=attend_uncached)
    logits, _ = cached(w, jnp.asarray(TOKENS[:, 7:10]), cfg=CFG, cache=kv.enlarge(small, CFG, 16))
    assert_close(logits[1], alone(CFG, 1, 10)[7:])


def test_selected_rows_cross_by_what_they_are():
    w, cache, _ = prefilled((8, 6, 11))
    cache = kv.select_rows(cache, jnp.array([1, 1, 0]))
    logits, _ = cached(w, jnp.asarray([TOKENS[1, 6:9], TOKENS[1, 6:9], TOKENS[0, 8:11]]), cfg=CFG, cache=cache)
    assert_close(logits[0], alone(CFG, 1, 9)[6:])
    assert_close(logits[2], alone(CFG, 0, 11)[8:])


def test_a_row_crosses_where_it_has_room_to():
    assert not kv.can_cross_rope_switch(kv.init_cache(CFG, 1, BORDER), CFG)
    assert kv.can_cross_rope_switch(kv.init_cache(CFG, 1, BORDER + 1), CFG)
    rings = dataclasses.replace(CFG, stacks=group_layers((Layer(rope=LONG, window=5),) * 2))
    assert kv.can_cross_rope_switch(kv.init_cache(rings, 1, BORDER), rings)
    assert not kv.can_cross_rope_switch(kv.init_cache(DYN, 1, 24), DYN)
    same = dataclasses.replace(LONG, long_factors=LONG.short_factors)
    assert ModelConfig(**SIZES, stacks=group_layers((Layer(rope=same),))).rope_switch is None


def test_what_a_dynamic_scaling_has_read_stays_as_it_was():
    """As in transformers: a new token turns by the length so far, and keys in the cache are not turned again."""
    w = weights(DYN)
    _, cache = cached(w, jnp.asarray(TOKENS[:1, :9]), cfg=DYN, cache=kv.init_cache(DYN, 1, 24), attend=attend_uncached)
    before = np.asarray(cache.stacks[0][0].k[..., :9, :])
    _, cache = cached(w, jnp.asarray(TOKENS[:1, 9:10]), cfg=DYN, cache=cache)
    np.testing.assert_array_equal(cache.stacks[0][0].k[..., :9, :], before)
    _, whole = cached(w, jnp.asarray(TOKENS[:1, :10]), cfg=DYN, cache=kv.init_cache(DYN, 1, 24), attend=attend_uncached)
    assert np.abs(np.asarray(whole.stacks[0][0].k[..., :9, :]) - before).max() > 0.01
    np.testing.assert_allclose(cache.stacks[0][0].k[0, :, :, 9], whole.stacks[0][0].k[0, :, :, 9], atol=1e-5)
