"""Training steps with each optimiser: the state's layout over a mesh, checkpoints to the bit, frozen weights, EMA."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vishwamai.checkpoint import Checkpoints
from vishwamai.data.packing import Batch
from vishwamai.models.config import Layer, ModelConfig, group_layers
from vishwamai.parallel.mesh import make_mesh
from vishwamai.parallel.sharding import SINGLE, Sharding
from vishwamai.training.optim import OPTIMIZERS, Group, Optimizer
from vishwamai.training.step import StepConfig, abstract_state, compiled_step, evaluated_weights, init_state

CFG = ModelConfig(
    vocab_size=32, d_model=16, d_ff=16, n_heads=2, n_kv_heads=2, head_dim=8,
    stacks=group_layers((Layer(moe=True),) * 2),
    n_experts=2, n_experts_per_token=1, d_expert=8, tie_embeddings=True,
)  # fmt: skip
STEP = StepConfig(loss_chunks=1)
FROZEN = (Group(params=("*.attn.k", "final_norm.*"), frozen=True),)


def settings(name: str) -> Optimizer:
    """An optimiser with all that it can keep: frozen weights, an average, factored matrices."""
    own = {"adafactor": {"min_dim_size_to_factor": 8}}.get(name, {})
    average = {} if name == "schedule_free_adamw" else {"ema_decay": 0.5}
    return Optimizer(optimizer=name, learning_rate=0.02, warmup_steps=2, groups=FROZEN, **own, **average)


def batch(sharding: Sharding = SINGLE) -> Batch:
    tokens = np.random.default_rng(0).integers(0, 32, (8, 8)).astype(np.int32)
    ones, places = np.ones(tokens.shape, np.int32), np.tile(np.arange(8, dtype=np.int32), (8, 1))
    lines = map(jnp.asarray, (tokens, np.roll(tokens, -1, 1), ones.astype(np.float32), ones, places))
    return Batch(*(jax.device_put(x, sharding.named("batch", None)) for x in lines))


def advance(state, o: Optimizer, n: int, sharding: Sharding = SINGLE):
    """(state after n steps, the losses)."""
    step, lines, losses = compiled_step(CFG, o, STEP, 10, sharding), batch(sharding), []
    for _ in range(n):
        state, numbers = step(state, lines)
        losses.append(float(numbers["loss"]))
    return state, losses


def layouts(state) -> list:
    return [(x.shape, x.dtype, x.sharding) for x in jax.tree.leaves(state)]


def same(a, b) -> None:
    assert jax.tree.structure(a) == jax.tree.structure(b)
    jax.tree.map(np.testing.assert_array_equal, a, b)


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_a_run_that_is_saved_goes_on_to_the_bit_and_frozen_weights_stay(name, tmp_path):
    o = settings(name)
    start = init_state(CFG, o, 10, jax.random.key(0))
    before = jax.tree.map(np.array, start.weights)
    abstract = abstract_state(CFG, o, 10, SINGLE)
    assert [(x.shape, x.dtype) for x in jax.tree.leaves(abstract)] == [x[:2] for x in layouts(start)]
    two, _ = advance(start, o, 2)
    saved = Checkpoints(tmp_path)
    saved.save(2, two, {})
    saved.close()
    four, losses = advance(two, o, 2)
    assert losses[-1] < np.log(32) and int(four.skipped) == 0
    again, _ = advance(Checkpoints(tmp_path).restore(init_state(CFG, o, 10, jax.random.key(1)))[1], o, 2)
    same(again, four)
    for weights in (four.weights, evaluated_weights(four, CFG, o)):
        np.testing.assert_array_equal(weights.final_norm.scale, before.final_norm.scale)
        np.testing.assert_array_equal(weights.stacks[0][0].attn.k, before.stacks[0][0].attn.k)
        assert np.abs(weights.stacks[0][0].attn.q - before.stacks[0][0].attn.q).max() > 1e-3
    kept = sum(x.size for x in jax.tree.leaves(four.opt_state))
    n = sum(x.size for x in jax.tree.leaves(before)) - before.stacks[0][0].attn.k.size - before.final_norm.scale.size
    most = {"adamw": 2, "lion": 1, "muon": 1.5, "schedule_free_adamw": 2, "adafactor": 0.5}[name]
    assert kept < most * n + 100


@pytest.mark.parametrize("name", ["adafactor", "muon", "schedule_free_adamw"])
def test_a_mesh_gives_the_same_losses_and_keeps_every_array_in_its_place(name):
    o, sharding = settings(name), Sharding(make_mesh(fsdp=4, expert=2))
    start = init_state(CFG, o, 10, jax.random.key(0), sharding)
    before = layouts(start)
    wanted = [(x.shape, x.dtype, x.sharding) for x in jax.tree.leaves(abstract_state(CFG, o, 10, sharding))]
    assert before == wanted
    for path, x in jax.tree.leaves_with_path(start.opt_state):
        if x.shape == start.weights.embed.shape and "embed" in jax.tree_util.keystr(path):
            assert x.sharding == start.weights.embed.sharding
    after, losses = advance(start, o, 3, sharding)
    for (shape, _, where), x in zip(before, jax.tree.leaves(after), strict=True):
        assert where.is_equivalent_to(x.sharding, len(shape))
    np.testing.assert_allclose(losses, advance(init_state(CFG, o, 10, jax.random.key(0)), o, 3)[1], rtol=1e-4)


def test_the_average_has_its_closed_form_and_a_bad_batch_leaves_it():
    o = dataclasses.replace(settings("adamw"), ema_decay=0.3, groups=())
    state = init_state(CFG, o, 10, jax.random.key(0))
    wanted, step = jax.tree.map(lambda w: np.array(w, np.float64), state.weights), compiled_step(CFG, o, STEP, 10)
    for i in range(5):
        lines = batch()
        if i == 3:
            before = jax.tree.map(np.array, state.ema)
            state, _ = step(state, lines._replace(weights=lines.weights * jnp.nan))
            same(state.ema, before)
            continue
        state, _ = step(state, lines)
        decay = min(0.3, (1 + i) / (10 + i))
        wanted = jax.tree.map(lambda e, w, d=decay: d * e + (1 - d) * np.asarray(w, np.float64), wanted, state.weights)
    assert int(state.skipped) == 1
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6), state.ema, wanted)
    same(evaluated_weights(state, CFG, o), state.ema)


def test_the_gradient_of_frozen_weights_is_not_part_of_the_norm():
    one = Optimizer(groups=(Group(params=("*.attn.*", "*.ffn.*", "*norm*"), frozen=True),))
    rest = Optimizer(groups=(Group(params=("embed",), frozen=True),))
    norms = []
    for o in (one, rest, Optimizer()):
        _, numbers = compiled_step(CFG, o, STEP, 10)(init_state(CFG, o, 10, jax.random.key(0)), batch())
        norms.append(float(numbers["grad_norm"]))
    assert np.hypot(norms[0], norms[1]) == pytest.approx(norms[2], rel=1e-5)
