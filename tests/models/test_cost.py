"""The closed forms against the specs and against the operations in the traced program."""

import dataclasses

import jax
import jax.numpy as jnp
import pytest

from vishwamai.models import cache, cost, transformer
from vishwamai.models.attention import Implementations
from vishwamai.models.config import Layer, ModelConfig, group_layers
from vishwamai.weights import spec

DENSE = ModelConfig(
    vocab_size=64, d_model=32, d_ff=48, n_heads=4, n_kv_heads=2, head_dim=8, stacks=group_layers((Layer(),) * 3)
)
MIXED = dataclasses.replace(
    DENSE, stacks=group_layers((Layer(window=4), Layer(moe=True)) * 2 + (Layer(),)), n_experts=4, n_experts_per_token=2,
    d_expert=16, qk_norm=True, post_norms=True, tie_embeddings=True, attn_bias=True, o_bias=True, mlp_bias=True,
)  # fmt: skip


@pytest.mark.parametrize("cfg", [DENSE, MIXED], ids=["dense", "mixed"])
def test_parameters_equal_the_specs(cfg):
    assert cost.count_parameters(cfg).total == spec.n_parameters(transformer.specs(cfg))


def test_active_parameters_leave_out_idle_experts_and_the_lookup_table():
    idle = 2 * (cfg := MIXED).d_expert * cfg.d_model * 3 * 2
    assert cost.count_parameters(MIXED).active == cost.count_parameters(MIXED).total - idle
    assert cost.count_parameters(DENSE).active == cost.count_parameters(DENSE).total - 64 * 32


@pytest.mark.parametrize("tied", [False, True])
@pytest.mark.parametrize("cfg", [DENSE, MIXED], ids=["dense", "mixed"])
def test_learned_positions_are_looked_up_and_not_multiplied(cfg, tied):
    without, with_them = (
        cost.count_parameters(dataclasses.replace(cfg, learned_positions=on, tie_embeddings=tied, max_length=1000))
        for on in (False, True)
    )
    assert with_them.active == without.active and with_them.total == without.total + 1000 * 32
    assert with_them.embedding == 1000 * 32 + (0 if tied else 64 * 32)


def test_6nd_of_gpt2_small_is_the_literature_s():
    gpt2 = ModelConfig(
        vocab_size=50257, d_model=768, d_ff=3072, n_heads=12, n_kv_heads=12, head_dim=64, max_length=1024,
        stacks=group_layers((Layer(rope=None),) * 12), norm="layer", norm_bias=True, learned_positions=True,
        tie_embeddings=True, attn_bias=True, o_bias=True, mlp_bias=True, gated=False, activation="gelu_tanh",
    )  # fmt: skip
    assert cost.count_parameters(gpt2).total == 124_439_808  # as the Hub counts it
    assert cost.six_n_flops(gpt2, 10) == 60 * (124_439_808 - 1024 * 768)


def matmul_flops(jaxpr, times=1):
    """2 x products of every dot_general, scans multiplied out: what the program itself says."""
    total = 0
    for e in jaxpr.eqns:
        if e.primitive.name == "dot_general":
            (contracted, _), _ = e.params["dimension_numbers"]
            products = e.outvars[0].aval.size
            for axis in contracted:
                products *= e.invars[0].aval.shape[axis]
            total += 2 * times * products
        inner = times * (e.params["length"] if e.primitive.name == "scan" else 1)
        for p in e.params.values():
            for j in p if isinstance(p, (list, tuple)) else [p]:
                j = getattr(j, "jaxpr", j)
                total += matmul_flops(j, inner) if hasattr(j, "eqns") else 0
    return total


def test_forward_flops_equal_the_traced_program():
    tokens = jax.ShapeDtypeStruct((2, 16), jnp.int32)
    weights = spec.map_params(lambda p: jax.ShapeDtypeStruct(p.shape, jnp.float32), transformer.specs(DENSE))
    traced = jax.make_jaxpr(
        lambda w, t: transformer.forward(w, t, DENSE, implementations=Implementations(attention="reference"))
    )(weights, tokens)
    square = 4 * 2 * 16 * 16 * 4 * 8 * 3  # the reference computes masked scores too
    masked = square - 4 * 2 * (16 * 17 // 2) * 4 * 8 * 3
    assert matmul_flops(traced.jaxpr) == cost.forward_flops(DENSE, 2, 16) + masked


def test_window_bounds_attention_and_cache():
    narrow = dataclasses.replace(DENSE, stacks=group_layers((Layer(window=4),) * 3))
    pairs = sum(min(i + 1, 4) for i in range(16))
    saved = 4 * 4 * 8 * 3 * (16 * 17 // 2 - pairs)
    assert cost.forward_flops(DENSE, 1, 16) - cost.forward_flops(narrow, 1, 16) == saved
    assert cost.cache_bytes(narrow, 2, 16, 4) == 2 * 2 * 4 * 3 * 2 * 8 * 4


@pytest.mark.parametrize("cfg", [DENSE, MIXED], ids=["dense", "mixed"])
def test_cache_bytes_equal_the_cache(cfg):
    tree = jax.eval_shape(lambda: cache.init_cache(cfg, 3, 12, "bfloat16"))
    held = sum(x.size * 2 for s in tree.stacks for place in s for x in (place.k, place.v))
    assert cost.cache_bytes(cfg, 3, 12) == held
