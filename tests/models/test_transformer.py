"""The forward pass: cached against uncached, packed against alone, and what the weights are."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vishwamai.errors import BackendError
from vishwamai.models import cache as kv
from vishwamai.models import transformer
from vishwamai.models.attention import Implementations
from vishwamai.models.config import Layer, ModelConfig, Rope, group_layers
from vishwamai.weights import spec

from ..random_weights import random_weights

NEAR, FAR = Layer(window=5, rope=Rope(theta=100.0)), Layer(moe=True)
CFG = ModelConfig(
    vocab_size=61, d_model=32, d_ff=48, n_heads=4, n_kv_heads=2, head_dim=16,
    stacks=group_layers((NEAR, FAR) * 2 + (NEAR,)), qk_norm=True,
    n_experts=4, n_experts_per_token=2, d_expert=24, post_norms=True, norm_offset=1.0, attn_softcap=5.0,
    final_softcap=3.0, embed_scale=5.0, attn_bias=True, mlp_bias=True, o_bias=True,
)  # fmt: skip
TOKENS = np.random.default_rng(1).integers(0, 61, (3, 20), np.int32)
cached = jax.jit(transformer.forward_cached, static_argnames=("cfg", "attend"))


@functools.cache
def weights():
    return random_weights(transformer.specs(CFG))


@functools.cache
def uncached():
    return np.asarray(jax.jit(transformer.forward, static_argnames="cfg")(weights(), TOKENS, cfg=CFG)[0])


def test_two_stacks_hold_five_layers():
    assert [(len(s.pattern), s.repeats) for s in CFG.stacks] == [(2, 2), (1, 1)]
    assert weights().stacks[0][1].ffn.gate.shape == (2, 4, 32, 24)
    assert uncached().shape == (3, 20, 61) and uncached().dtype == np.float32


def prefilled(lengths):
    """(logits, cache) of rows of these lengths; one program serves all tests."""
    cache, lengths = kv.init_cache(CFG, 3, 24), jnp.asarray(lengths, jnp.int32)
    return cached(weights(), TOKENS[:, :12], cfg=CFG, cache=cache, n_new_B=lengths, attend=transformer.attend_uncached)


def test_prefill_then_decode_equals_no_cache_for_rows_of_any_length():
    lengths = np.array([9, 4, 12])
    logits, cache = prefilled(lengths)
    logits = np.asarray(logits)
    for b in range(3):
        np.testing.assert_allclose(logits[b, : lengths[b]], uncached()[b, : lengths[b]], atol=2e-5)
    for _ in range(7):
        at = np.asarray(cache.length)
        logits, cache = cached(weights(), TOKENS[np.arange(3), at][:, None], cfg=CFG, cache=cache)
        np.testing.assert_allclose(logits[:, 0], uncached()[np.arange(3), at], atol=2e-5)
    np.testing.assert_array_equal(cache.length, lengths + 7)


def test_several_new_positions_continue_a_cache_whose_ring_is_full():
    _, cache = prefilled([8, 7, 6])
    more = np.stack([TOKENS[b, 8 - b : 17 - b] for b in range(3)])
    logits = np.asarray(cached(weights(), more, cfg=CFG, cache=cache)[0])
    for b in range(3):
        np.testing.assert_allclose(logits[b], uncached()[b, 8 - b : 17 - b], atol=2e-5)


def test_a_window_keeps_only_its_own_slots():
    cache = kv.init_cache(CFG, 3, 24)
    assert [p.n_slots for p in cache.stacks[0]] == [5, 24]


def test_selected_rows_go_on_as_if_they_had_been_alone():
    rows, (_, cache) = np.array([2, 2, 0]), prefilled([8, 7, 6])
    at = np.array([6, 6, 8])
    logits, _ = cached(weights(), TOKENS[rows, at][:, None], cfg=CFG, cache=kv.select_rows(cache, jnp.asarray(rows)))
    np.testing.assert_allclose(logits[:, 0], uncached()[rows, at], atol=2e-5)
    np.testing.assert_array_equal(logits[0], logits[1])


def test_packed_sequences_do_not_see_one_another():
    packed = np.concatenate([TOKENS[0, :7], TOKENS[1, :9], np.zeros(4, np.int32)])[None]
    segments = np.array([[1] * 7 + [2] * 9 + [0] * 4], np.int32)
    positions = np.array([[*range(7), *range(9), *[0] * 4]], np.int32)
    forward = jax.jit(transformer.forward, static_argnames="cfg")
    logits, sums = forward(weights(), packed, cfg=CFG, segments_BT=segments, positions_BT=positions)
    np.testing.assert_allclose(logits[0, :7], uncached()[0, :7], atol=2e-5)
    np.testing.assert_allclose(logits[0, 7:16], uncached()[1, :9], atol=2e-5)
    assert float(sums.tokens) == 16 * 2  # two layers are mixtures; padding counts for nothing
    assert float(sums.load.sum()) == 16 * 2 * 2


@functools.cache
def gradients(remat):
    def loss(w):
        return jnp.mean(jnp.square(transformer.forward(w, TOKENS, CFG, remat=remat)[0]))

    return jax.jit(jax.grad(loss))(weights())


@pytest.mark.by_turns
@pytest.mark.parametrize("remat", ["full", "dots", "attention"])
def test_remat_changes_no_gradient(remat):
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-5), gradients("none"), gradients(remat))


def test_activations_have_the_asked_dtype():
    def both(w):
        x, _ = transformer.hidden_states(w, TOKENS, CFG, dtype="bfloat16")
        return x, transformer.compute_logits(w, x, CFG)

    x, logits = jax.eval_shape(both, weights())
    assert (x.dtype, logits.dtype) == (jnp.bfloat16, jnp.float32)


@pytest.mark.parametrize("stacks", [CFG.stacks, group_layers((NEAR,))], ids=["experts", "dense"])
def test_an_unknown_implementation_of_experts_is_refused_where_there_are_none_too(stacks):
    cfg = dataclasses.replace(CFG, stacks=stacks)
    with pytest.raises(BackendError, match="no implementation 'foo'"):
        jax.eval_shape(
            lambda key: transformer.forward(
                spec.init(transformer.specs(cfg), key), TOKENS, cfg, implementations=Implementations(experts="foo")
            ),
            jax.random.key(0),
        )
