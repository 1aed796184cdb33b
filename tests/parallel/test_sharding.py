"""Meshes, rules, and arrays laid out by them."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import PartitionSpec as P

from vishwamai.errors import ConfigError
from vishwamai.parallel.mesh import make_mesh
from vishwamai.parallel.sharding import SINGLE, Sharding, abstract, init_sharded, shardings
from vishwamai.weights.spec import Param

SPECS = {
    "q": Param((32, 4, 8), ("embed", "heads", "head_dim"), contract=("embed",)),
    "odd": Param((3, 32), ("kv_heads", "embed"), contract=("embed",)),
}


def test_meshes_have_our_axes_in_our_order():
    mesh = make_mesh(tensor=2, fsdp=-1)
    assert dict(mesh.shape) == {"fsdp": 4, "tensor": 2} and mesh.axis_names == ("fsdp", "tensor")
    assert dict(make_mesh().shape) == {"fsdp": 8}
    assert all(t == jax.sharding.AxisType.Auto for t in mesh.axis_types)


@pytest.mark.parametrize(
    ("sizes", "words"),
    [
        ({"rows": 8}, "not known"),
        ({"fsdp": 3}, "does not use 8 devices"),
        ({"fsdp": -1, "data": -1}, "only one"),
        ({"fsdp": 0}, "1 or more"),
        ({"fsdp": -1, "data": 3}, "does not use 8 devices"),
    ],
)
def test_bad_meshes_are_refused(sizes, words):
    with pytest.raises(ConfigError, match=words):
        make_mesh(**sizes)


def test_rules_give_each_mesh_axis_to_the_first_that_asks_and_divides():
    sharding = Sharding(make_mesh(fsdp=4, tensor=2))
    assert sharding.spec("batch", "seq", "embed") == P("fsdp", None, None)
    assert sharding.spec("embed", "heads", "head_dim") == P("fsdp", "tensor", None)
    assert sharding.spec("kv_heads", "embed", shape=(3, 32)) == P(None, "fsdp")
    assert Sharding(make_mesh(data=2, expert=4)).spec("batch", "mlp") == P(("data", "expert"), None)
    assert sharding.axes("batch") == ("fsdp",) and SINGLE.axes("batch") == ()


def test_initial_values_do_not_depend_on_the_mesh():
    one = init_sharded(SPECS, jax.random.key(0), SINGLE)
    sharding = Sharding(make_mesh(fsdp=4, tensor=2))
    many = init_sharded(SPECS, jax.random.key(0), sharding)
    jax.tree.map(np.testing.assert_array_equal, one, many)
    assert many["q"].sharding.is_equivalent_to(shardings(SPECS, sharding)["q"], 3)
    assert many["q"].addressable_shards[0].data.shape == (8, 2, 8)


def test_abstract_weights_carry_dtype_and_sharding():
    sharding = Sharding(make_mesh(fsdp=8))
    tree = abstract(SPECS, sharding, "bfloat16")
    assert tree["q"].dtype == jnp.bfloat16 and tree["q"].sharding.spec == P("fsdp", None, None)
    assert abstract(SPECS)["q"].dtype == jnp.float32


def test_constrain_lays_out_inside_a_program():
    sharding = Sharding(make_mesh(fsdp=8))
    out = jax.jit(lambda x: sharding.constrain(x * 2, "batch", None))(jnp.ones((16, 3)))
    assert out.sharding.spec in (P("fsdp"), P("fsdp", None))
    x = jnp.ones(3)
    assert SINGLE.constrain(x, "batch") is x
