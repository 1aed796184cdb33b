"""Low-rank pairs beside weights, against the dense sum `w + scale * a @ b` in float64 numpy."""

import dataclasses
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vishwamai.errors import ConfigError, InputError
from vishwamai.models import transformer
from vishwamai.models.attention import Implementations
from vishwamai.models.config import Latent, ModelConfig, uniform
from vishwamai.parallel.mesh import make_mesh
from vishwamai.parallel.sharding import SINGLE, Sharding, shardings
from vishwamai.weights import lora, quantize, spec
from vishwamai.weights.linear import einsum, grouped_einsum, layout, materialize
from vishwamai.weights.lora import LowRank, Pair
from vishwamai.weights.quantize import Scheme
from vishwamai.weights.spec import Param

from ..random_weights import with_offsets

SIZES = {"vocab_size": 24, "d_model": 16, "d_ff": 32, "n_heads": 4, "n_kv_heads": 2, "head_dim": 8, "max_length": 32}
DENSE = ModelConfig(**SIZES, stacks=uniform(2))
MOE = ModelConfig(
    **SIZES,
    stacks=uniform(2, moe=True),
    n_experts=4,
    n_experts_per_token=2,
    d_expert=12,
    d_shared=8,
    shared_gate=True,
)
LATENT = ModelConfig(
    **SIZES | {"n_kv_heads": 4}, stacks=uniform(2), latent=Latent(q_rank=6, kv_rank=10, d_turned=4, d_value=8)
)
TOKENS = np.random.default_rng(5).integers(0, 24, (4, 7)).astype(np.int32)
forward = jax.jit(transformer.forward, static_argnames=("cfg", "sharding", "implementations"))
DRAW = np.random.default_rng(0).standard_normal


def drawn(*shape: int, factor: float = 1.0):
    return jnp.asarray(DRAW(shape) * factor, jnp.float32)


def weights_of(cfg: ModelConfig):
    return spec.map_params(lambda p: drawn(*p.shape, factor=p.fan_in**-0.5), transformer.specs(cfg))


def adapter_of(cfg: ModelConfig, rank: int = 3, **given):
    """Pairs that matter: nothing in them is zero, and no two layers or experts have one scale."""
    declared = lora.specs(transformer.specs(cfg), rank=rank, alpha=6.0, **given)
    return spec.map_params(lambda p: drawn(*p.shape, factor=0.3), declared)


def dense(w, pairs) -> np.ndarray:
    """The weight with what its pairs add, index by index of the stacked axes, in float64."""
    out = np.array(w, np.float64)
    for pair in pairs:
        a, b, scale = (np.asarray(x, np.float64) for x in (pair.a, pair.b, pair.scale))
        for index in np.ndindex(scale.shape):
            out[index] += scale[index] * np.tensordot(a[index], b[index], 1)
    return out


def merged(w, *adapters):
    """The model's weights with every adapter added in float64, rounded once."""
    named = spec.named(jax.tree.map(lambda x: Param(x.shape, (None,) * x.ndim), w))
    leaves = [
        jnp.asarray(dense(leaf, [a[path] for a in adapters if path in a]), leaf.dtype)
        for (path, _), leaf in zip(named, jax.tree.leaves(w), strict=True)
    ]
    return jax.tree.unflatten(jax.tree.structure(w), leaves)


def logits(cfg: ModelConfig, w, sharding=SINGLE) -> np.ndarray:
    return np.asarray(
        forward(w, TOKENS, cfg=cfg, sharding=sharding, implementations=Implementations(experts="reference"))[0]
    )


# One weight


@pytest.mark.parametrize(
    ("eqn", "down", "up"),
    [
        ("BTD,DNH->BTNH", "BTD,Dr->BTr", "BTr,rNH->BTNH"),
        ("BTNH,NHD->BTD", "BTNH,NHr->BTr", "BTr,rD->BTD"),
        ("BTD,DF->BTF", "BTD,Dr->BTr", "BTr,rF->BTF"),
        ("BTR,RNH->BTNH", "BTR,Rr->BTr", "BTr,rNH->BTNH"),
        ("EBD,EDF->EBF", "EBD,EDr->EBr", "EBr,ErF->EBF"),
    ],
)
def test_an_equation_becomes_two_thin_ones(eqn, down, up):
    assert lora.split_equation(eqn) == (down, up)
    sizes = {"B": 2, "T": 3, "D": 5, "N": 2, "H": 4, "F": 6, "R": 7, "E": 2}
    x, w = (drawn(*(sizes[letter] for letter in part)) for part in eqn.split("->")[0].split(","))
    pairs = []
    for rank in (2, 3):
        a, b = (drawn(*(rank if n == "r" else sizes[n] for n in e.split("->")[0].split(",")[1])) for e in (down, up))
        scale = drawn(*w.shape[: a.ndim + b.ndim - 2 - w.ndim])
        pairs.append(Pair(a=a, b=b, scale=scale))
    got = jax.jit(partial(einsum, eqn))(x, LowRank(w=w, pairs=tuple(pairs)))
    want = np.einsum(eqn, np.asarray(x, np.float64), dense(w, pairs))
    np.testing.assert_allclose(got, want, atol=1e-4)
    np.testing.assert_allclose(materialize(LowRank(w=w, pairs=tuple(pairs))), dense(w, pairs), atol=1e-5)


@pytest.mark.by_turns
@pytest.mark.parametrize("implementation", [None, "reference"])
def test_rows_sorted_by_expert(implementation):
    w, sizes = drawn(3, 5, 6), np.array([2, 0, 3])
    pair, x = Pair(a=drawn(3, 5, 2), b=drawn(3, 2, 6), scale=drawn(3)), drawn(6, 5)
    got = grouped_einsum(x, LowRank(w=w, pairs=(pair,)), jnp.asarray(sizes), implementation=implementation)
    whole, of = dense(w, [pair]), np.repeat(np.arange(3), sizes)
    want = [np.asarray(row, np.float64) @ whole[e] for row, e in zip(x, of, strict=False)]
    np.testing.assert_allclose(got, [*want, np.zeros(6)], atol=1e-5)


def test_the_result_has_the_dtype_that_a_plain_weight_gives():
    w = LowRank(w=drawn(4, 6), pairs=(Pair(a=drawn(4, 2), b=drawn(2, 6), scale=jnp.ones(())),))
    x = drawn(1, 2, 4).astype("bfloat16")
    assert einsum("BTD,DF->BTF", x, w).dtype == jnp.bfloat16
    assert einsum("BTD,DV->BTV", x, w, preferred_element_type=jnp.float32).dtype == jnp.float32
    assert materialize(dataclasses.replace(w, w=w.w.astype("bfloat16"))).dtype == jnp.bfloat16


@pytest.mark.by_turns
@pytest.mark.filterwarnings("ignore:int4. groups of 8 inputs do not fit")
@pytest.mark.parametrize("scheme, offsets", [("int8", False), ("int4:8", False), ("int4:8", True)])
def test_the_base_may_be_quantised(scheme, offsets):
    w, pairs = weights_of(MOE), adapter_of(MOE)
    base = quantize.quantize(w, transformer.specs(MOE), Scheme.named(scheme))
    base = with_offsets(base) if offsets else base
    tree = lora.attach(base, [pairs])
    assert tree.stacks[0][0].attn.q.w.values is base.stacks[0][0].attn.q.values
    whole = jax.tree.map(materialize, base, is_leaf=quantize.is_quantized)
    want = logits(MOE, merged(whole, pairs))
    np.testing.assert_allclose(logits(MOE, tree), want, atol=2e-5 * np.abs(want).max())
    np.testing.assert_allclose(logits(MOE, lora.merge(tree)), want, atol=2e-5 * np.abs(want).max())


def test_the_axes_of_a_pair():
    p = lora.pair_specs(Param((6, 3, 4, 5), ("layers", "heads", "head_dim", "embed"), ("heads", "head_dim")), 2, 1.5)
    assert (p.a.shape, p.a.axes) == ((6, 3, 4, 2), ("layers", "heads", "head_dim", "low_rank"))
    assert (p.b.shape, p.b.axes) == ((6, 2, 5), ("layers", "low_rank", "embed"))
    assert (p.scale.shape, p.scale.axes, p.scale.value, p.a.fan_in) == ((6,), ("layers",), 1.5, 12)
    w = LowRank(w=jnp.zeros((3, 5, 6)), pairs=(Pair(a=drawn(3, 5, 2), b=drawn(3, 2, 6), scale=drawn(3)),))
    named = layout(w, ("experts", "embed", "mlp"))
    assert named.w == ("experts", "embed", "mlp") and named.pairs[0].scale == ("experts",)
    assert named.pairs[0].a == ("experts", "embed", None) and named.pairs[0].b == ("experts", None, "mlp")


# Specs


def test_a_new_adapter_changes_nothing_and_leaves_routers_alone():
    declared = lora.specs(transformer.specs(MOE), rank=2, alpha=8.0)
    names = {path.removeprefix("stacks.0.0.") for path in declared}
    assert names == {*(f"attn.{x}" for x in "qkvo"), *(f"ffn.{x}" for x in ("gate", "up", "down"))} | {
        f"ffn.shared.{x}" for x in ("gate", "up", "down")
    }
    gate = spec.init({"ffn.gate": declared["stacks.0.0.ffn.gate"]}, jax.random.key(0))["ffn.gate"]
    assert gate.a.shape == (2, 4, 16, 2) and float(gate.a.std()) == pytest.approx(0.25, rel=0.2)
    np.testing.assert_array_equal(gate.b, np.zeros((2, 4, 2, 12)))
    np.testing.assert_array_equal(gate.scale, np.full((2, 4), 4.0))


def test_targets():
    specs = transformer.specs(MOE)
    few = lora.specs(specs, rank=1, alpha=1.0, targets=["attn.q", "ffn.shared", "ffn.router"])
    names = [path.removeprefix("stacks.0.0.") for path in few]
    assert names == ["attn.q", "ffn.router", "ffn.shared.gate", "ffn.shared.up", "ffn.shared.down"]
    with pytest.raises(ConfigError, match=r"'q_proj' is none of this model's weights; they are attn\.q, attn\.k"):
        lora.specs(specs, rank=1, alpha=1.0, targets=["q_proj"])
    with pytest.raises(ConfigError, match="rank is 0"):
        lora.specs(specs, rank=0, alpha=1.0)


# A model


@pytest.mark.by_turns
@pytest.mark.parametrize("cfg", [MOE, LATENT], ids=["moe", "latent"])
def test_a_model_with_adapters_is_the_model_with_their_sum(cfg):
    w, one, two = weights_of(cfg), adapter_of(cfg), adapter_of(cfg, rank=1, targets=["attn"])
    both = lora.attach(w, [one, two])
    want = logits(cfg, merged(w, one, two))
    assert np.abs(want - logits(cfg, w)).max() > 0.1
    np.testing.assert_allclose(logits(cfg, both), want, atol=2e-5)
    whole = lora.merge(both)
    assert jax.tree.structure(whole) == jax.tree.structure(w)
    jax.tree.map(partial(np.testing.assert_allclose, atol=1e-6), whole, merged(w, one, two))


def test_several_adapters_share_one_base():
    w, one, two = weights_of(DENSE), adapter_of(DENSE), adapter_of(DENSE)
    first, second = lora.attach(w, [one]), lora.attach(lora.attach(w, [one]), [two])
    assert all(a is b for a, b in zip(jax.tree.leaves(lora.detach(second)), jax.tree.leaves(w), strict=True))
    q = (first.stacks[0][0].attn.q, second.stacks[0][0].attn.q)
    assert q[0].w is q[1].w and len(q[1].pairs) == 1 and q[1].pairs[0] is two["stacks.0.0.attn.q"]
    assert jax.tree.structure(first) == jax.tree.structure(second)


def test_a_weighed_sum():
    w, known = weights_of(DENSE), {"one": adapter_of(DENSE), "two": adapter_of(DENSE)}
    got = lora.merge(lora.attach(w, lora.select(known, {"one": 0.25, "two": -1.0})))
    half = {path: dataclasses.replace(p, scale=p.scale * 0.25) for path, p in known["one"].items()}
    less = {path: dataclasses.replace(p, scale=-p.scale) for path, p in known["two"].items()}
    jax.tree.map(partial(np.testing.assert_allclose, atol=1e-6), got, merged(w, half, less))
    assert lora.select(known, None) == [] and len(lora.select(known, ["one", "two"])) == 2
    with pytest.raises(InputError, match="no adapter 'three'; loaded are one, two"):
        lora.select(known, ["one", "three"])


def test_an_adapter_of_another_model_is_refused():
    with pytest.raises(InputError, match=r"changes stacks\.0\.0\.ffn\.shared\.down, which these weights do not have"):
        lora.attach(weights_of(DENSE), [adapter_of(MOE, targets=["attn", "ffn.shared.down"])])
    with pytest.raises(InputError, match=r"changes stacks\.0\.0\.attn\.k_bias"):
        lora.attach(weights_of(DENSE), [{"stacks.0.0.attn.k_bias": Pair(a=drawn(1), b=drawn(1), scale=drawn())}])


def test_a_merged_base_keeps_its_dtype():
    w = jax.tree.map(lambda x: x.astype("bfloat16"), weights_of(DENSE))
    pairs = adapter_of(DENSE, targets=["attn.o"])
    whole = lora.merge(lora.attach(w, [pairs]))
    assert {x.dtype for x in jax.tree.leaves(whole)} == {jnp.dtype("bfloat16")}
    for got, want in zip(jax.tree.leaves(whole), jax.tree.leaves(merged(w, pairs)), strict=True):
        np.testing.assert_allclose(np.asarray(got, np.float32), np.asarray(want, np.float32), rtol=2**-7, atol=2**-14)


def test_gradients_reach_the_pairs_and_not_their_scale():
    w, pairs = weights_of(DENSE), adapter_of(DENSE)

    def loss(pairs):
        return jnp.square(transformer.forward(lora.attach(w, [pairs]), jnp.asarray(TOKENS), DENSE)[0]).mean()

    for path, pair in jax.jit(jax.grad(loss))(pairs).items():
        assert np.abs(pair.a).max() > 0 and np.abs(pair.b).max() > 0, path
        np.testing.assert_array_equal(pair.scale, 0)


@pytest.mark.by_turns
@pytest.mark.parametrize(
    ("cfg", "sizes"),
    [(DENSE, {"fsdp": 2, "tensor": 4}), (MOE, {"fsdp": 2, "expert": 2, "tensor": 2})],
    ids=["dense", "moe"],
)
def test_eight_devices_give_the_single_device(cfg, sizes):
    w, pairs = weights_of(cfg), adapter_of(cfg)
    want, sharding = logits(cfg, lora.attach(w, [pairs])), Sharding(make_mesh(**sizes))
    declared = lora.specs(transformer.specs(cfg), rank=3, alpha=6.0)
    placed = jax.device_put(w, shardings(transformer.specs(cfg), sharding))
    spread = lora.attach(placed, [jax.device_put(pairs, shardings(declared, sharding))])
    gate = spread.stacks[0][0].ffn.gate.pairs[0]
    assert gate.b.addressable_shards[0].data.size == gate.b.size // (sizes["tensor"] * sizes.get("expert", 1))
    np.testing.assert_allclose(logits(cfg, spread, sharding), want, atol=2e-5)
    whole = lora.merge(spread)
    for got, base in zip(jax.tree.leaves(whole), jax.tree.leaves(placed), strict=True):
        assert got.sharding == base.sharding
    np.testing.assert_allclose(logits(cfg, whole, sharding), want, atol=2e-5)


def test_a_merged_weight_lies_where_its_base_lay():
    sharding = Sharding(make_mesh(fsdp=2, tensor=4))
    w, split = (jax.device_put(drawn(4, 8), sharding.named(*axes)) for axes in ((None, None), (None, "mlp")))
    pair = Pair(a=drawn(4, 4), b=split, scale=jnp.ones(()))
    assert lora.merge(lora.attach({"w": w}, [{"w": pair}]))["w"].sharding == w.sharding
