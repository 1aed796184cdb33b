"""Weights of few bits: how far rounding takes them, and that every contraction is that of the array they stand for."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vishwamai.errors import ConfigError
from vishwamai.models import transformer
from vishwamai.models.config import ModelConfig, uniform
from vishwamai.parallel.mesh import make_mesh
from vishwamai.parallel.sharding import SINGLE, Sharding, shardings
from vishwamai.weights import quantize, spec
from vishwamai.weights.linear import einsum, grouped_einsum, materialize
from vishwamai.weights.quantize import Quantized, Scheme
from vishwamai.weights.spec import Param

from ..random_weights import random_weights, with_offsets

NAMES = ("int8", "int4", "fp8", "int8:16", "fp8:8")
Q = Param((32, 4, 16), ("embed", "heads", "head_dim"), contract=("embed",))
OUT = Param((4, 16, 32), ("heads", "head_dim", "embed"), contract=("heads", "head_dim"))
EXPERTS = Param((3, 32, 48), ("experts", "embed", "mlp"), contract=("embed",))
EQUATIONS = [(Q, "BTD,DNH->BTNH"), (OUT, "BTNH,NHD->BTD"), (EXPERTS, None)]


def made(param: Param, name: str) -> tuple[np.ndarray, Quantized]:
    w, scheme = (
        jnp.asarray(np.random.default_rng(0).normal(0, param.fan_in**-0.5, param.shape), "float32"),
        Scheme.named(name),
    )
    return np.asarray(w, np.float64), quantize.round_to_scheme(w, quantize.specs(param, scheme).scale.shape, scheme)


def stands_for(w: Quantized) -> np.ndarray:
    """Values times scales plus offsets in float64, each scale and offset spread over what shares it."""

    def spread(of_groups) -> np.ndarray:
        found = np.asarray(of_groups, np.float64)
        for axis, n in enumerate(w.values.shape):
            found = np.repeat(found, n // found.shape[axis], axis)
        return found

    scaled = np.asarray(w.values.astype(jnp.float32), np.float64) * spread(w.scale)
    return scaled if w.offset is None else scaled + spread(w.offset)


@pytest.mark.parametrize("param", [Q, OUT, EXPERTS], ids=["q", "o", "experts"])
@pytest.mark.parametrize("name", NAMES)
def test_rounding_moves_a_weight_by_half_a_step_at_most(name, param):
    w, quantized = made(param, name)
    got = stands_for(quantized)
    scale = stands_for(Quantized(values=jnp.ones_like(quantized.values), scale=quantized.scale))
    step = np.maximum(np.abs(w) / 16, scale * 2**-9) if name.startswith("fp8") else scale / 2
    assert (np.abs(got - w) <= step * (1 + 1e-2)).all()
    assert np.abs(got).max() >= 0.99 * np.abs(w).max()  # nothing of the range is given away
    np.testing.assert_allclose(materialize(quantized), got, rtol=1e-6)


def test_what_shares_a_scale():
    shapes = {
        name: quantize.specs(OUT, Scheme.named(name)).scale.shape for name in ("int8", "int4", "int8:8", "int4:64")
    }
    assert shapes == {"int8": (1, 1, 32), "int4": (4, 1, 32), "int8:8": (4, 2, 32), "int4:64": (4, 1, 32)}
    assert quantize.specs(EXPERTS, Scheme.named("fp8")).scale.shape == (3, 1, 48)
    w, quantized = made(Q, "int8")
    np.testing.assert_allclose(quantized.scale[0], np.abs(w).max(0) / 127, rtol=1e-6)


def test_zeros_stay_zeros():
    scheme = Scheme.named("int4")
    quantized = quantize.round_to_scheme(jnp.zeros(Q.shape), quantize.specs(Q, scheme).scale.shape, scheme)
    assert not np.asarray(materialize(quantized)).any() and np.isfinite(np.asarray(quantized.scale, np.float32)).all()


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("offsets", [False, True], ids=["symmetric", "offsets"])
def test_a_contraction_is_that_of_the_array_it_stands_for(name, dtype, offsets):
    for param, equation in EQUATIONS[:2]:
        _, w = made(param, name)
        w = with_offsets(w) if offsets else w
        shape = (2, 3, 32) if param is Q else (2, 3, 4, 16)
        x = jax.random.normal(jax.random.key(1), shape).astype(dtype)
        wanted = np.einsum(equation, np.asarray(x, np.float64), stands_for(w))
        out = einsum(equation, x, w)
        assert out.dtype == dtype
        tolerance = 1e-5 if dtype == "float32" else 2e-2
        assert np.abs(np.asarray(out, np.float64) - wanted).max() <= tolerance * np.abs(wanted).max()
        assert einsum(equation, x, w, preferred_element_type=jnp.float32).dtype == jnp.float32


@pytest.mark.parametrize("name", ["int8", "int4"])
@pytest.mark.parametrize("offsets", [False, True], ids=["symmetric", "offsets"])
def test_experts_contract_their_own_rows(name, offsets):
    _, w = made(EXPERTS, name)
    w = with_offsets(w) if offsets else w
    x, sizes = jax.random.normal(jax.random.key(1), (9, 32)), [4, 0, 5]
    out = grouped_einsum(x, w, jnp.asarray(sizes, jnp.int32))
    rows = np.split(np.asarray(x, np.float64), np.cumsum(sizes)[:-1])
    wanted = np.concatenate([r @ e for r, e in zip(rows, stands_for(w), strict=True)])
    assert np.abs(out - wanted).max() <= 1e-5 * np.abs(wanted).max()


def test_blocks_of_a_gguf_are_kept_exactly():
    """Its Q4_0 is d * (q - 8) and its Q4_1 d * q + m with q from 0 to 15, both in groups of 32, d and m in float16."""
    rng = np.random.default_rng(2)
    q, (d, m) = rng.integers(0, 16, (64, 8)), rng.standard_normal((2, 2, 8)).astype("float16")
    assert {0, 15} < set(q.ravel())
    of_each = [np.repeat(a, 32, 0).astype("float32") for a in (d, m)]
    kept = Quantized(values=jnp.asarray(q - 8, "int4"), scale=jnp.asarray(d))
    np.testing.assert_array_equal(materialize(kept), of_each[0] * (q - 8))
    kept = dataclasses.replace(kept, offset=jnp.float32(m) + 8 * jnp.float32(d))
    np.testing.assert_array_equal(materialize(kept), of_each[0] * q + of_each[1])


@pytest.mark.parametrize("offset_dtype", [None, "float32"])
@pytest.mark.parametrize("group", [None, 16])
def test_a_declared_weight_says_its_scheme(group, offset_dtype):
    scheme = Scheme("int8", group, "float16", offset_dtype)
    declared = quantize.specs(OUT, scheme)
    assert quantize.scheme_of(declared, OUT) == scheme
    assert offset_dtype is None or (declared.offset.shape, declared.offset.dtype) == (declared.scale.shape, "float32")


@pytest.mark.parametrize("name", ["int3", "", "int8:", "int8:4", "int8:x", "mxfp4", "int4:-8", "keep", 8, True])
def test_an_unknown_name_is_refused(name):
    with pytest.raises(ConfigError, match="is not known; use int8, int4, fp8"):
        Scheme.named(name)


MODEL = ModelConfig(
    vocab_size=24, d_model=32, d_ff=64, n_heads=4, n_kv_heads=2, head_dim=16, stacks=uniform(2, moe=True),
    n_experts=4, n_experts_per_token=2, d_expert=32, d_shared=16, shared_gate=True, attn_bias=True,
)  # fmt: skip
SPECS = transformer.specs(MODEL)
WEIGHTS = random_weights(SPECS)
TOKENS = np.random.default_rng(1).integers(0, 24, (4, 8), np.int32)


def test_projections_of_layers_are_quantised_and_nothing_else():
    named = jax.tree.leaves_with_path(
        quantize.quantize(WEIGHTS, SPECS, Scheme.named("int8")), is_leaf=quantize.is_quantized
    )
    small = {spec.path_name(path).removeprefix("stacks.0.0.") for path, w in named if quantize.is_quantized(w)}
    attention = {f"attn.{name}" for name in ("q", "k", "v", "o")}
    experts = {f"ffn.{kind}{name}" for kind in ("", "shared.") for name in ("gate", "up", "down")}
    assert small == attention | experts


def test_a_weight_that_only_small_groups_divide_stays_as_it_is():
    odd = {"stacks": {"w": Param((12, 4), ("embed", "mlp"), contract=("embed",))}}
    assert quantize.quantizable_specs(odd, Scheme.named("int4")) == odd
    assert quantize.is_quantized(quantize.quantizable_specs(odd, Scheme.named("int8"))["stacks"]["w"])


@jax.jit(static_argnames="sharding")
def logits(w, sharding: Sharding = SINGLE):
    return transformer.forward(w, TOKENS, cfg=MODEL, sharding=sharding)[0]


@pytest.mark.by_turns
@pytest.mark.parametrize("name, offset_dtype", [("int8", None), ("int4", None), ("int4", "float32")])
@pytest.mark.parametrize("sizes", [{"fsdp": 2, "expert": 2, "tensor": 2}, {"tensor": 8}], ids=str)
def test_a_quantised_model_is_the_same_on_eight_devices(name, offset_dtype, sizes):
    scheme, sharding = Scheme.named(name), Sharding(make_mesh(**sizes))
    w = quantize.quantize(WEIGHTS, SPECS, scheme)
    if offset_dtype:
        w, scheme = with_offsets(w), dataclasses.replace(scheme, offset_dtype=offset_dtype)
    targets = quantize.quantizable_specs(SPECS, scheme)
    there = jax.tree.map(jax.device_put, w, shardings(targets, sharding))
    alone = np.asarray(logits(w))
    np.testing.assert_allclose(logits(there, sharding), alone, atol=1e-5 * np.abs(alone).max())
    dense = jax.tree.map(materialize, w, is_leaf=quantize.is_quantized)
    np.testing.assert_allclose(alone, logits(dense), atol=1e-5 * np.abs(alone).max())
