"""The spec tree and its readers."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vishwamai.weights import spec
from vishwamai.weights.linear import einsum, grouped_einsum
from vishwamai.weights.spec import Param


@spec.pytree
class Two:
    """A matmul weight, a norm, and nothing."""

    w: object
    norm: object
    nothing: object = None


SPECS = Two(w=Param((64, 4, 8), ("embed", "heads", "head_dim"), contract=("embed",)), norm=Param((64,), ("embed",)))


def test_init_has_the_fan_in_scale_and_constants():
    weights = spec.init(SPECS, jax.random.key(0))
    assert weights.w.shape == (64, 4, 8) and weights.nothing is None
    assert float(weights.w.std()) == pytest.approx(64**-0.5, rel=0.05)
    np.testing.assert_array_equal(weights.norm, np.ones(64))


def test_a_weight_depends_on_its_path_and_not_on_its_neighbours():
    alone = spec.init({"w": SPECS.w}, jax.random.key(0))
    beside = spec.init({"a": SPECS.norm, "w": SPECS.w}, jax.random.key(0))
    np.testing.assert_array_equal(alone["w"], beside["w"])
    assert not np.allclose(alone["w"], spec.init({"v": SPECS.w}, jax.random.key(0))["v"])


def test_stack_adds_a_layer_axis_and_keeps_the_fan_in():
    stacked = spec.stack(SPECS, 3)
    assert stacked.w.shape == (3, 64, 4, 8) and stacked.w.axes[0] == "layers"
    assert stacked.w.fan_in == 64 and stacked.w.is_matmul
    assert spec.n_parameters(stacked) == 3 * spec.n_parameters(SPECS) == 3 * (64 * 32 + 64)


def test_an_embedding_table_is_no_matmul():
    table = Param((100, 64), ("vocab", "embed"), contract=("embed",))
    assert not table.is_matmul and table.fan_in == 64


def test_names_masks_and_dtypes():
    assert [name for name, _ in spec.named(SPECS)] == ["w", "norm"]
    assert SPECS.w.decays and not SPECS.norm.decays
    assert {p.dtype for p in spec.leaves(spec.with_dtype(SPECS, "bfloat16"))} == {"bfloat16"}


def test_an_exact_weight_keeps_its_dtype():
    specs = spec.with_dtype(spec.stack({"w": SPECS.w, "exact": Param((4,), (None,), exact=True)}, 2), "bfloat16")
    assert (specs["w"].dtype, specs["exact"].dtype) == ("bfloat16", "float32")


def test_einsum_casts_the_weight_to_the_activation():
    x = jnp.ones((2, 3), jnp.bfloat16)
    out = einsum("BD,DF->BF", x, jnp.full((3, 4), 2.0))
    assert out.dtype == jnp.bfloat16 and float(out[0, 0]) == 6.0
    assert einsum("BD,DF->BF", x, jnp.ones((3, 4)), preferred_element_type=jnp.float32).dtype == jnp.float32


def test_grouped_einsum_takes_each_group_through_its_own_matrix():
    x = jnp.arange(10, dtype=jnp.float32).reshape(5, 2)
    w = jnp.stack([jnp.eye(2), 3 * jnp.eye(2)])
    out = grouped_einsum(x, w, jnp.array([2, 3], jnp.int32), implementation="ragged")
    np.testing.assert_allclose(out, x * jnp.array([1, 1, 3, 3, 3.0])[:, None])
