"""The optimisers' first steps against float64 NumPy written from the papers; groups, frozen weights, widths."""

import dataclasses
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vishwamai.errors import ConfigError
from vishwamai.models import transformer
from vishwamai.models.config import Latent, Layer, ModelConfig, group_layers
from vishwamai.training import rules
from vishwamai.training.adapter import Adapter, trained_specs
from vishwamai.training.optim import OPTIMIZERS, Group, Optimizer
from vishwamai.weights import spec
from vishwamai.weights.spec import Param

L, E, D, N, H, F, V = 2, 3, 6, 2, 4, 10, 12
SPECS = {
    "embed": Param((V, D), ("vocab", "embed"), contract=("embed",)),
    "q": Param((L, D, N, H), ("layers", "embed", "heads", "head_dim"), contract=("embed",)),
    "o": Param((L, N, H, D), ("layers", "heads", "head_dim", "embed"), contract=("heads", "head_dim")),
    "up": Param((L, E, D, F), ("layers", "experts", "embed", "mlp"), contract=("embed",)),
    "norm": Param((L, D), ("layers", "embed")),
    "lm_head": Param((D, V), ("embed", "vocab"), contract=("embed",)),
}
MATRICES = {"q": (L, D, N * H), "o": (L, N * H, D), "up": (L * E, D, F)}  # stacked, inputs, outputs
STEPS = 5
RATES = [0.02 * min((i + 1) / 2, 1) for i in range(STEPS)]  # two steps of warm-up
COMMON = dict(learning_rate=0.02, warmup_steps=2, schedule="constant", weight_decay=0.1)
WIDE = Optimizer(base_width=24)


def drawn(seed: int, scale: float = 1.0) -> dict:
    rng = np.random.default_rng(seed)
    return {name: rng.standard_normal(p.shape) * scale for name, p in SPECS.items()}


START, GRADS = drawn(0, 0.3), [drawn(i + 1) for i in range(STEPS)]


def run(o: Optimizer, specs=SPECS, start=START, grads=GRADS):
    """[(weights, state)] after each step, in float32."""
    rule, frozen = rules.optimizer(o, specs, STEPS), rules.frozen_mask(o, specs)
    weights = rules.drop_frozen(jax.tree.map(lambda w: jnp.asarray(w, jnp.float32), start), frozen)
    state, update, found = rule.init(weights), jax.jit(rule.update), []
    for i, grad in enumerate(grads):
        grad = rules.drop_frozen(jax.tree.map(lambda g: jnp.asarray(g, jnp.float32), grad), frozen)
        updates, state = update(grad, state, weights, step=jnp.asarray(i, jnp.int32))
        weights = jax.tree.map(jnp.add, weights, updates)
        found.append((weights, state))
    return found


def reference(direction):
    """Weights after each step; `direction(name, step, memory, weight, gradient)` is the update without its rate."""
    weights, memory, found = {k: w.copy() for k, w in START.items()}, {name: {} for name in SPECS}, []
    for i, grads in enumerate(GRADS):
        for name, w in weights.items():
            decay = 0.0 if name == "norm" else 0.1
            weights[name] = w - RATES[i] * (direction(name, i + 1, memory[name], w, grads[name]) + decay * w)
        found.append(dict(weights))
    return found


def check(found, wanted, rtol=2e-5):
    for (weights, _), want in zip(found, wanted, strict=True):
        assert set(weights) == set(want)
        for name in want:
            np.testing.assert_allclose(weights[name], want[name], rtol=rtol, atol=rtol * 0.1, err_msg=name)


def adam(name, t, memory, w, g, b1=0.9, b2=0.95):
    memory["m"] = b1 * memory.get("m", 0) + (1 - b1) * g
    memory["v"] = b2 * memory.get("v", 0) + (1 - b2) * g**2
    return memory["m"] / (1 - b1**t) / (np.sqrt(memory["v"] / (1 - b2**t)) + 1e-8)


def test_adamw():
    check(run(Optimizer(**COMMON)), reference(adam))


def test_lion_is_the_sign_of_an_interpolation():
    def lion(name, t, memory, w, g):
        m = memory.get("m", 0)
        memory["m"] = 0.99 * m + 0.01 * g
        return np.sign(0.9 * m + 0.1 * g)

    check(run(Optimizer(optimizer="lion", **COMMON)), reference(lion))


def test_adafactor_factors_each_layers_matrix_by_itself():
    def rms(x):
        return math.sqrt(np.mean(x**2))

    def one(t, memory, w, g, factored):
        """Algorithms 4 and 5 of the paper for one matrix or vector."""
        decay = 1 - t**-0.8
        square = g**2 + 1e-30
        if factored:
            memory["r"] = decay * memory.get("r", 0) + (1 - decay) * square.sum(1)
            memory["c"] = decay * memory.get("c", 0) + (1 - decay) * square.sum(0)
            second = np.outer(memory["r"], memory["c"]) / memory["r"].sum()
        else:
            second = memory["v"] = decay * memory.get("v", 0) + (1 - decay) * square
        update = g / np.sqrt(second)
        return update / max(1, rms(update)) * max(1e-3, rms(w))

    def adafactor(name, t, memory, w, g):
        shape = MATRICES.get(name, w.shape if name == "norm" else (1, *w.shape))
        factored = name != "norm"
        parts = zip(w.reshape(shape), g.reshape(shape), strict=True)
        new = [one(t, memory.setdefault(i, {}), a, b, factored) for i, (a, b) in enumerate(parts)]
        return np.stack(new).reshape(w.shape)

    o = Optimizer(optimizer="adafactor", min_dim_size_to_factor=6, **COMMON)
    found = run(o)
    check(found, reference(adafactor))
    state = found[-1][1][0]
    assert state["q"][0].v_row.shape == (L, D) and state["q"][0].v_col.shape == (L, N * H)
    assert state["up"][0].v_col.shape == (L, E, F) and state["norm"][0].v.shape == (L, D)
    whole = run(dataclasses.replace(o, min_dim_size_to_factor=7))[-1][1][0]
    assert whole["q"][0].v.shape == SPECS["q"].shape


def newton_schulz(x):
    """Five steps of Jordan's quintic iteration."""
    x = x / np.linalg.norm(x)
    for _ in range(5):
        a = x @ x.T
        x = 3.4445 * x + (-4.7750 * a + 2.0315 * a @ a) @ x
    return x


def test_muon_makes_each_matrix_of_the_layers_orthogonal_and_leaves_the_rest_to_adamw():
    def muon(name, t, memory, w, g):
        if name not in MATRICES:
            return adam(name, t, memory, w, g)
        memory["m"] = 0.95 * memory.get("m", 0) + 0.05 * g
        ahead = (0.95 * memory["m"] + 0.05 * g).reshape(MATRICES[name])  # Nesterov
        _, rows, columns = MATRICES[name]
        return 0.2 * math.sqrt(max(rows, columns)) * np.stack([newton_schulz(x) for x in ahead]).reshape(w.shape)

    found = run(Optimizer(optimizer="muon", **COMMON))
    check(found, reference(muon), rtol=2e-4)  # the iteration magnifies float32's rounding
    moved = (np.asarray(found[0][0]["q"]) - START["q"] * (1 - RATES[0] * 0.1)) / RATES[0]
    singular = np.linalg.svd(moved.reshape(MATRICES["q"]), compute_uv=False) / 0.2 / math.sqrt(N * H)
    assert singular.min() > 0.5 and singular.max() < 1.3


def test_schedule_free_keeps_the_average_by_the_papers_three_sequences():
    z = {name: w.copy() for name, w in START.items()}
    x, second, total = {k: w.copy() for k, w in z.items()}, {k: 0.0 for k in z}, 0.0
    o = Optimizer(**{**COMMON, "schedule": None}, optimizer="schedule_free_adamw")
    for i, (y, state) in enumerate(run(o)):
        rate = RATES[i]
        total += rate**2
        for name in z:
            before = 0.1 * z[name] + 0.9 * x[name]
            second[name] = 0.95 * second[name] + 0.05 * GRADS[i][name] ** 2
            update = GRADS[i][name] / (np.sqrt(second[name] / (1 - 0.95 ** (i + 1))) + 1e-8)
            z[name] = z[name] - rate * (update + (0.0 if name == "norm" else 0.1) * before)
            x[name] += rate**2 / total * (z[name] - x[name])
            np.testing.assert_allclose(y[name], 0.1 * z[name] + 0.9 * x[name], rtol=1e-4, atol=1e-6)
        averaged = rules.averaged_weights(o, state, y)
        jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-6), averaged, x)


def test_the_average_weighs_a_step_by_the_rate_of_its_batch_though_batches_before_it_were_skipped():
    o = Optimizer(**{**COMMON, "warmup_steps": 4, "weight_decay": 0.0}, optimizer="schedule_free_adamw")
    rule, weights = rules.optimizer(o, {"w": SPECS["norm"]}, 9), {"w": jnp.ones((L, D))}
    state = rule.init(weights)
    for step in (0, 3):
        updates, state = rule.update({"w": jnp.ones((L, D))}, state, weights, step=jnp.asarray(step, jnp.int32))
        weights = jax.tree.map(jnp.add, weights, updates)
    slow, fast = 0.005, 0.02
    wanted = 1 - slow - fast * fast**2 / (slow**2 + fast**2)
    np.testing.assert_allclose(rules.averaged_weights(o, state, weights)["w"], wanted, rtol=1e-5)


# Which weights

DENSE = dict(vocab_size=64, d_model=32, d_ff=48, n_heads=4, n_kv_heads=2, head_dim=8)
EXPERTS = dict(n_experts=4, n_experts_per_token=2, d_expert=16, d_shared=16, shared_gate=True)
BIASES = dict(
    attn_bias=True, o_bias=True, mlp_bias=True, head_bias=True, qk_norm=True, router_bias=True, attn_sinks=True
)
FULL = ModelConfig(
    **DENSE, **EXPERTS, **BIASES, learned_positions=True, stacks=group_layers((Layer(),) * 2 + (Layer(moe=True),) * 2)
)
LATENT = ModelConfig(
    **{**DENSE, "n_kv_heads": 4},
    latent=Latent(q_rank=16, kv_rank=16, d_turned=4, d_value=8),
    stacks=group_layers((Layer(),)),
)


def taken(specs) -> set[str]:
    """The last part of the paths that Muon takes."""
    return {name.split(".", 3)[-1] for name, p in spec.named(specs) if rules.muon_dimensions(p) is not None}


def test_muon_takes_the_matrices_inside_the_layers():
    attention, ffn = {f"attn.{n}" for n in "qkvo"}, {f"ffn.{n}" for n in ("gate", "up", "down")}
    shared = {f"ffn.shared.{n}" for n in ("gate", "up", "down")}
    assert taken(transformer.specs(FULL)) == attention | ffn | shared | {"ffn.router"}
    ranks = {"attn.q_down", "attn.q_up", "attn.kv_down", "attn.kv_up", "attn.o"}
    assert taken(transformer.specs(LATENT)) == ranks | ffn
    pairs = taken(trained_specs(FULL, Adapter(base="x", targets=("attn.q",))))
    assert pairs == {"attn.q.a", "attn.q.b"}


def test_widths_scale_what_is_multiplied_by_its_inputs():
    specs = transformer.specs(FULL)
    scales = {name: move.scale for name, move in zip(
        [n for n, _ in spec.named(specs)], jax.tree.leaves(rules.moves(WIDE, specs)), strict=True)}  # fmt: skip
    assert scales["stacks.0.0.attn.q"] == scales["stacks.0.0.attn.o"] == scales["lm_head"] == 24 / 32
    assert scales["stacks.0.0.ffn.down"] == 24 / 48 and scales["stacks.1.0.ffn.down"] == 24 / 16
    assert scales["embed"] == scales["positions"] == scales["stacks.0.0.attn.q_bias"] == scales["final_norm.scale"] == 1
    for name in ("lion", "adafactor", "muon"):
        found = rules.moves(dataclasses.replace(WIDE, optimizer=name), specs)
        plain = rules.moves(Optimizer(optimizer=name), specs)
        ratio = found.stacks[0][0].ffn.down.scale / plain.stacks[0][0].ffn.down.scale
        assert ratio == pytest.approx(24 / 48 if name == "lion" else (24 / 48) ** 0.5)


def test_a_width_scales_the_update_and_not_the_decay():
    plain, wide = (run(Optimizer(**COMMON, base_width=width))[0][0] for width in (None, 3))
    still = {name: START[name] * (1 - RATES[0] * (0.0 if name == "norm" else 0.1)) for name in SPECS}
    for name, ratio in {"embed": 1, "norm": 1, "q": 3 / D, "o": 3 / (N * H), "lm_head": 3 / D}.items():
        np.testing.assert_allclose(wide[name] - still[name], ratio * (plain[name] - still[name]), rtol=1e-3, atol=1e-7)


def test_groups_multiply_the_rate_and_have_a_decay_of_their_own_and_the_first_holds():
    groups = (Group(params=("q", "norm"), learning_rate_multiplier=0.5, weight_decay=0.3), Group(params=("[qo]",)))
    found, plain = run(Optimizer(**COMMON, groups=groups))[0][0], run(Optimizer(**COMMON))[0][0]
    grown = plain["q"] - START["q"] + RATES[0] * 0.1 * START["q"]
    np.testing.assert_allclose(
        found["q"] - START["q"], 0.5 * (grown - RATES[0] * 0.3 * START["q"]), rtol=1e-4, atol=1e-7
    )
    np.testing.assert_allclose(
        found["norm"] - START["norm"], 0.5 * (plain["norm"] - START["norm"]), rtol=1e-4, atol=1e-7
    )
    for name in ("embed", "o", "up", "lm_head"):
        np.testing.assert_array_equal(found[name], plain[name])


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_frozen_weights_have_no_state_and_the_rest_moves_as_without_them(name):
    specs = {k: p if k != "o" else dataclasses.replace(p, trained=False) for k, p in SPECS.items()}
    o = Optimizer(optimizer=name, **{**COMMON, "schedule": None}, groups=(Group(params=("embed", "u*"), frozen=True),))
    found, plain = run(o, specs), run(dataclasses.replace(o, groups=()))
    assert set(jax.tree.leaves(rules.frozen_mask(o, specs))) == {True, False}
    names = {key.key for path, _ in jax.tree.leaves_with_path(found[-1][1]) for key in path if hasattr(key, "key")}
    assert names & set(SPECS) == {"q", "norm", "lm_head"}
    for kept in ("q", "norm", "lm_head"):
        np.testing.assert_array_equal(found[-1][0][kept], plain[-1][0][kept])
    assert [found[-1][0][kept] for kept in ("embed", "o", "up")] == [None] * 3


@pytest.mark.parametrize(
    ("groups", "words"),
    [
        (
            [Group(params=("*.attn.*", "*.attm.q"))],
            r"pattern '\*.attm.q' matches no weight; they are named like .*attn.q",
        ),
        ([Group(params=("*",)), Group(params=("embed",))], "the group embed would do nothing: groups before it"),
        ([Group(params=("*norm*",), weight_decay=0.1)], "weight_decay of the group .* norms and biases do not decay"),
        ([Group(params=("*",), frozen=True)], "freeze every weight"),
    ],
)
def test_groups_that_would_do_nothing_are_refused(groups, words):
    with pytest.raises(ConfigError, match=words):
        rules.check_groups(Optimizer(groups=tuple(groups)), transformer.specs(FULL))
