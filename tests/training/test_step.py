"""The training step: the same gradient however a batch is cut or laid out, and nothing learnt from broken numbers."""

import dataclasses
import functools
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vishwamai.data.packing import Batch
from vishwamai.errors import ConfigError
from vishwamai.models import transformer
from vishwamai.models.config import Layer, ModelConfig, group_layers
from vishwamai.parallel.mesh import make_mesh
from vishwamai.parallel.sharding import Sharding, shardings
from vishwamai.training.optim import Optimizer
from vishwamai.training.step import StepConfig, abstract_state, compiled_step, compute_gradients, init_state, make_state
from vishwamai.weights import spec

from ..random_weights import random_weights

pytestmark = pytest.mark.by_turns

SIZES = dict(vocab_size=64, d_model=32, d_ff=32, n_heads=4, n_kv_heads=2, head_dim=8, qk_norm=True)
DENSE = ModelConfig(**SIZES, stacks=group_layers((Layer(),) * 3))
MOE = ModelConfig(
    **SIZES, stacks=group_layers((Layer(window=6, moe=True),) * 2), n_experts=4, n_experts_per_token=2, d_expert=16,
    tie_embeddings=True,
)  # fmt: skip
# So deep that a whole stacked weight is larger than anything that may be gathered.
DEEP_MOE = dataclasses.replace(MOE, stacks=group_layers((Layer(),) + (Layer(window=6, moe=True),) * 5))
STEP = StepConfig(loss_chunks=2, z_loss=1e-3, balance_loss=0.02, router_z_loss=1e-3)
ADAM = Optimizer(warmup_steps=2)


def batch(rows: int, length: int = 16) -> Batch:
    """Rows of random ragged lengths, some of their targets without weight."""
    rng = np.random.default_rng(0)
    tokens = rng.integers(0, 64, (rows, length)).astype(np.int32)
    inside = np.arange(length)[None] < rng.integers(1, length + 1, (rows, 1))
    weights = (inside * (rng.uniform(size=inside.shape) > 0.3)).astype(np.float32)
    positions = np.tile(np.arange(length, dtype=np.int32), (rows, 1))
    return Batch(*map(jnp.asarray, (tokens, np.roll(tokens, -1, 1), weights, inside.astype(np.int32), positions)))


def close(a, b, rel):
    """Every leaf within `rel` of the largest value of its own kind."""
    for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True):
        np.testing.assert_allclose(x, y, atol=rel * float(np.abs(y).max() + 1e-9), rtol=0)


@functools.cache
def weights(cfg):
    return random_weights(transformer.specs(cfg))


@functools.cache
def single(cfg):
    return jax.jit(functools.partial(compute_gradients, cfg=cfg, s=STEP))(weights(cfg), batch(32))


@pytest.mark.parametrize("parts", [4, 32])
def test_accumulation_gives_the_gradient_of_the_whole_batch(parts):
    cut = dataclasses.replace(STEP, accumulate=parts)
    sums, grads = jax.jit(functools.partial(compute_gradients, cfg=MOE, s=cut))(weights(MOE), batch(32))
    close(grads, single(MOE)[1], 1e-6 * 4)  # float32 sums in another order; the mean difference is held below
    close(sums.loss, single(MOE)[0].loss, 1e-6)
    flat = [np.concatenate([np.ravel(g) for g in jax.tree.leaves(t)]) for t in (grads, single(MOE)[1])]
    assert np.linalg.norm(flat[0] - flat[1]) / np.linalg.norm(flat[1]) < 1e-6


@pytest.mark.parametrize(
    "sizes", [{"data": 8}, {"fsdp": 8}, {"fsdp": 4, "tensor": 2}, {"expert": 4, "data": 2}], ids=str
)
@pytest.mark.parametrize("cfg", [DENSE, DEEP_MOE], ids=["dense", "moe"])
def test_meshes_give_the_single_device_loss_and_gradients(cfg, sizes):
    sharding = Sharding(make_mesh(**sizes))
    placed = jax.device_put(weights(cfg), shardings(transformer.specs(cfg), sharding))
    lines = Batch(*(jax.device_put(a, sharding.named("batch", None)) for a in batch(32)))
    program = (
        jax.jit(functools.partial(compute_gradients, cfg=cfg, s=STEP, sharding=sharding)).lower(placed, lines).compile()
    )
    sums, grads = program(placed, lines)
    close(sums.loss, single(cfg)[0].loss, 1e-5)
    close(grads, single(cfg)[1], 1e-5)
    may = max(largest_layer(cfg), activations(cfg, sizes))
    assert may < max(spec.n_parameters([p]) for _, p in spec.named(transformer.specs(cfg)))  # if all is gathered
    assert largest_gather(program.as_text()) <= may


def test_muon_gathers_no_more_than_a_layers_weight():
    o, sharding = Optimizer(optimizer="muon"), Sharding(make_mesh(fsdp=8))
    state = abstract_state(DEEP_MOE, o, 10, sharding)
    lines = Batch(*(jax.ShapeDtypeStruct(a.shape, a.dtype, sharding=sharding.named("batch", None)) for a in batch(32)))
    program = compiled_step(DEEP_MOE, o, STEP, 10, sharding).lower(state, lines).compile()
    assert 0 < largest_gather(program.as_text()) <= largest_layer(DEEP_MOE)


def largest_layer(cfg) -> int:
    """Numbers in the largest weight of one layer, or of the table: what may be gathered at once, and no more."""
    found = spec.named(transformer.specs(cfg))
    return max(spec.n_parameters([p]) // (p.shape[0] if p.axes[0] == "layers" else 1) for _, p in found)


def activations(cfg, sizes) -> int:
    """Numbers that the tokens of an expert group's batch have between layers; without experts nobody gathers them."""
    return 32 * 16 // sizes.get("data", 1) * cfg.d_model if cfg.n_experts and "expert" in sizes else 0


def largest_gather(hlo: str) -> int:
    shapes = re.findall(r"= \w+\[([\d,]*)\]\S* all-gather", hlo)
    return max((int(np.prod([int(d) for d in s.split(",") if d])) for s in shapes), default=0)


def test_even_routers_cost_their_weights_in_the_loss_however_many_they_are():
    mixed = dataclasses.replace(MOE, stacks=group_layers((Layer(), *[Layer(moe=True)] * 5)))
    even = jax.tree.map(lambda w: jnp.zeros_like(w) if w.shape[-1] == 4 else w, weights(mixed))  # [L, D, E]
    s = dataclasses.replace(STEP, z_loss=0.0, balance_loss=0.5, router_z_loss=0.25)
    lines = batch(8)
    sums = jax.jit(lambda w, lines: compute_gradients(w, lines, mixed, s)[0])(even, lines)
    more = float(sums.loss - sums.nll / lines.weights.sum())
    assert more == pytest.approx(0.5 + 0.25 * np.log(4) ** 2, rel=1e-4)  # of 4 experts, each with the logit 0


def test_the_gradient_is_clipped_before_the_moments():
    clipped = dataclasses.replace(ADAM, clip_norm=0.01)
    state = make_state(jax.tree.map(jnp.copy, weights(DENSE)), DENSE, clipped, 10)
    after, numbers = compiled_step(DENSE, clipped, STEP, 10)(state, batch(8))
    assert float(numbers["grad_norm"]) > 0.1
    moment = np.sqrt(sum(np.square(m, dtype=np.float64).sum() for m in jax.tree.leaves(after.opt_state[0].mu)))
    assert moment == pytest.approx(0.1 * 0.01, rel=1e-4)


def test_the_state_is_laid_out_like_the_weights():
    sharding = Sharding(make_mesh(fsdp=8))
    state = init_state(MOE, ADAM, 10, jax.random.key(0), sharding)
    moments = state.opt_state[0].mu
    assert moments.embed.sharding == state.weights.embed.sharding
    assert moments.embed.addressable_shards[0].data.size == moments.embed.size // 8


def test_training_lowers_the_loss_and_mixed_precision_keeps_float32_weights():
    for compute in ("float32", "bfloat16"):
        step = compiled_step(MOE, Optimizer(learning_rate=1e-2, warmup_steps=1), StepConfig(compute=compute), 30)
        state, losses = init_state(MOE, ADAM, 30, jax.random.key(0)), []
        for _ in range(8):
            state, numbers = step(state, batch(8))
            losses.append(float(numbers["loss"]))
        assert losses[-1] < losses[0] - 0.5 and int(state.step) == 8
        assert state.weights.embed.dtype == jnp.float32


def test_a_batch_that_is_not_finite_changes_nothing_but_the_counts():
    w = weights(DENSE)
    broken = dataclasses.replace(w, final_norm=dataclasses.replace(w.final_norm, scale=jnp.full(32, jnp.inf)))
    state = make_state(broken, DENSE, ADAM, 10)
    before = jax.tree.map(np.asarray, (state.weights, state.opt_state))
    after, numbers = compiled_step(DENSE, ADAM, STEP, 10)(state, batch(8))
    assert int(after.step) == 1 and int(after.skipped) == 1 == int(numbers["skipped"])
    jax.tree.map(np.testing.assert_array_equal, (after.weights, after.opt_state), before)


TINY = ModelConfig(
    vocab_size=64, d_model=8, d_ff=8, n_heads=1, n_kv_heads=1, head_dim=8, stacks=group_layers((Layer(),))
)
# Without moments Adam moves each weight by just the learning rate.
SIGNS = Optimizer(
    learning_rate=1e-2, warmup_steps=8, final_fraction=0.0, weight_decay=0.0, beta1=0.0, beta2=0.0, clip_norm=1e9,
    eps=1e-30,
)  # fmt: skip


@functools.cache
def signs_step():
    return compiled_step(TINY, SIGNS, StepConfig(loss_chunks=1), 20)


def tiny_state(change=lambda w: w):
    return make_state(jax.tree.map(change, random_weights(transformer.specs(TINY))), TINY, SIGNS, 20)


def after(state, bad: bool):
    """(the state after a good or a bad batch, how far a weight moved, the numbers)."""
    lines = batch(2)
    before = np.asarray(state.weights.lm_head)
    state, numbers = signs_step()(state, lines._replace(weights=lines.weights * (jnp.nan if bad else 1.0)))
    return state, float(np.median(np.abs(np.asarray(state.weights.lm_head) - before))), numbers


@pytest.mark.parametrize("bad_ones", [(), (0,), (1, 2, 5), (3,)], ids=str)
def test_the_learning_rate_that_is_logged_is_the_one_applied(bad_ones):
    state = tiny_state()
    for i in range(8):
        state, moved, numbers = after(state, i in bad_ones)
        assert moved == pytest.approx(0.0 if i in bad_ones else float(numbers["learning_rate"]), rel=1e-2)
        assert float(numbers["learning_rate"]) == pytest.approx(1e-2 * (i + 1) / 8)
    assert int(state.skipped) == len(bad_ones)


def test_the_schedule_reaches_its_end_whatever_was_skipped():
    state = dataclasses.replace(tiny_state(), step=jnp.asarray(19, jnp.int32), skipped=jnp.asarray(15, jnp.int32))
    state, moved, numbers = after(state, False)
    assert moved == pytest.approx(float(numbers["learning_rate"]), rel=1e-2) and moved < 1e-2 * 0.02


@pytest.mark.parametrize("where", ["weights", "moments"])
def test_an_update_that_would_spoil_a_weight_or_a_moment_is_not_taken(where):
    state = tiny_state()
    if where == "weights":  # at the edge of float32: the loss is finite, and the update leads over it
        big = state.weights.embed.at[63].set(
            jnp.finfo(jnp.float32).max
        )  # a token that no row holds is not computed with
        state = dataclasses.replace(state, weights=dataclasses.replace(state.weights, embed=big))
        huge = dataclasses.replace(SIGNS, weight_decay=1e3, learning_rate=1e4, schedule="constant", warmup_steps=0)
        step = compiled_step(TINY, huge, StepConfig(loss_chunks=1), 20)
    else:
        adam, *rest = state.opt_state
        nu = dataclasses.replace(adam.nu, embed=adam.nu.embed.at[63].set(jnp.inf))
        state = dataclasses.replace(state, opt_state=(adam._replace(nu=nu), *rest))
        step = compiled_step(TINY, dataclasses.replace(SIGNS, beta2=0.9), StepConfig(loss_chunks=1), 20)
    lines = batch(2)._replace(tokens=jnp.minimum(batch(2).tokens, 62))
    before = jax.tree.map(np.asarray, (state.weights, state.opt_state))
    state, numbers = step(state, lines)
    assert np.isfinite(numbers["loss"]) and np.isfinite(numbers["grad_norm"]) and int(state.skipped) == 1
    jax.tree.map(np.testing.assert_array_equal, (state.weights, state.opt_state), before)


def test_a_batch_without_targets_gives_no_gradient_from_the_loss():
    blank = batch(4)._replace(weights=jnp.zeros((4, 16)))
    plain = StepConfig(balance_loss=0.0)
    _, grads = jax.jit(functools.partial(compute_gradients, cfg=DENSE, s=plain))(weights(DENSE), blank)
    assert not any(np.any(g) for g in jax.tree.leaves(grads))


def test_step_settings_are_checked():
    for bad in ({"remat": "some"}, {"accumulate": 0}):
        with pytest.raises(ConfigError):
            StepConfig(**bad)
