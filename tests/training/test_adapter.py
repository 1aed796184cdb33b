"""Training an adapter: gradients by the chain rule, a base that nothing changes, and the folder that a run leaves."""

import dataclasses
import json
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vishwamai import VishwamAI, VishwamAITokenizer, config
from vishwamai.cli import main
from vishwamai.data.packing import Batch
from vishwamai.errors import ConfigError
from vishwamai.models import transformer
from vishwamai.models.config import ModelConfig, uniform
from vishwamai.parallel.mesh import make_mesh
from vishwamai.parallel.sharding import Sharding, shardings
from vishwamai.training.adapter import Adapter, trained_specs
from vishwamai.training.config import RunConfig
from vishwamai.training.optim import Optimizer
from vishwamai.training.step import StepConfig, compiled_step, compute_gradients, init_state
from vishwamai.training.trainer import load_newest, train
from vishwamai.weights import lora, spec

pytestmark = pytest.mark.by_turns

CFG = ModelConfig(
    vocab_size=64, d_model=16, d_ff=24, n_heads=4, n_kv_heads=2, head_dim=8, stacks=uniform(2), max_length=96
)
ADAPTER = Adapter(base="base", rank=2, alpha=3.0, targets=("attn.q", "attn.o", "ffn.down"))
STEP = StepConfig(loss_chunks=2, adapter=ADAPTER)


def drawn(specs, seed: int):
    rng = np.random.default_rng(seed)

    def one(p: spec.Param):
        return jnp.asarray(
            rng.standard_normal(p.shape) / p.fan_in**0.5 if p.contract else np.full(p.shape, p.value), p.dtype
        )

    return spec.map_params(one, specs)


BASE, PAIRS = drawn(transformer.specs(CFG), 0), drawn(trained_specs(CFG, ADAPTER), 1)


def batch(rows: int = 8, length: int = 12) -> Batch:
    tokens = np.random.default_rng(0).integers(0, 64, (rows, length)).astype(np.int32)
    ones, places = np.ones(tokens.shape, np.int32), np.tile(np.arange(length, dtype=np.int32), (rows, 1))
    return Batch(*map(jnp.asarray, (tokens, np.roll(tokens, -1, 1), ones.astype(np.float32), ones, places)))


def test_gradients_are_those_of_the_merged_weights_by_the_chain_rule():
    mine = jax.jit(partial(compute_gradients, cfg=CFG, s=STEP))(PAIRS, batch(), base=BASE)
    merged = lora.merge(lora.attach(BASE, [PAIRS]))
    sums, grads = jax.jit(partial(compute_gradients, cfg=CFG, s=dataclasses.replace(STEP, adapter=None)))(
        merged, batch()
    )
    of = dict(zip([path for path, _ in spec.named(transformer.specs(CFG))], jax.tree.leaves(grads), strict=True))
    np.testing.assert_allclose(mine[0].loss, sums.loss, rtol=1e-5)
    for path, got in mine[1].items():
        pair, whole = PAIRS[path], np.asarray(of[path], np.float64)
        for layer in range(2):
            a, b, scale = (np.asarray(x[layer], np.float64) for x in (pair.a, pair.b, pair.scale))
            inputs, outputs = a.ndim - 1, b.ndim - 1
            want_a = scale * np.tensordot(whole[layer], b, [range(inputs, inputs + outputs), range(1, outputs + 1)])
            want_b = scale * np.tensordot(a, whole[layer], [range(inputs), range(inputs)])
            np.testing.assert_allclose(got.a[layer], want_a, atol=1e-5, err_msg=path)
            np.testing.assert_allclose(got.b[layer], want_b, atol=1e-5, err_msg=path)
        np.testing.assert_array_equal(got.scale, 0)


def test_a_step_moves_the_pairs_alone_and_a_mesh_moves_them_alike():
    before = jax.tree.map(np.array, BASE)
    o = Optimizer(learning_rate=0.02, warmup_steps=1, weight_decay=0.1)
    state = init_state(CFG, o, 20, jax.random.key(0), adapter=ADAPTER)
    assert sum(x.size for x in jax.tree.leaves(state.opt_state)) < 2.1 * spec.n_parameters(trained_specs(CFG, ADAPTER))
    step, losses = compiled_step(CFG, o, STEP, 20), []
    for _ in range(20):
        state, numbers = step(state, batch(), base=BASE)
        losses.append(float(numbers["loss"]))
    assert losses[-1] < 0.8 * losses[0]
    jax.tree.map(np.testing.assert_array_equal, BASE, before)
    assert all(np.array_equal(pair.scale, [1.5, 1.5]) for pair in state.weights.values())
    sharding = Sharding(make_mesh(fsdp=2, tensor=4))
    base = jax.device_put(BASE, shardings(transformer.specs(CFG), sharding))
    spread = init_state(CFG, o, 20, jax.random.key(0), sharding, ADAPTER)
    lines = Batch(*(jax.device_put(x, sharding.named("batch", None)) for x in batch()))
    _, numbers = compiled_step(CFG, o, STEP, 20, sharding)(spread, lines, base=base)
    assert float(numbers["loss"]) == pytest.approx(losses[0], rel=1e-5)


# Whole runs


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("base")
    cfg = dataclasses.replace(CFG, vocab_size=263)
    VishwamAI.from_config(cfg, tokenizer=VishwamAITokenizer.bytes(), dtype="bfloat16").save_pretrained(folder)
    return folder


def run_of(folder, **training) -> dict:
    adapter = {"base": str(folder), "rank": 2, "targets": ["attn.q", "ffn"]}
    data = {"sources": [{"kind": "generated", "name": "game24"}]}
    given = {"steps": 3, "batch": 2, "length": 96, "lengths": [96], "data": data, "adapter": adapter} | training
    return {"training": given, "logging": {"log_every": 1, "eval_every": 3, "eval_batches": 1, "save_every": 2}}


def test_the_command_leaves_an_adapter_that_the_face_loads(folder, tmp_path, capsys):
    file = tmp_path / "run.json"
    file.write_text(json.dumps(run_of(folder)))
    assert main(["train", str(file), "-o", str(tmp_path / "run")]) == 0
    last = capsys.readouterr().out.splitlines()[-1]
    assert "step 3 of 3" in last and last.endswith(f"the adapter is in {tmp_path / 'run/adapter'}")
    assert not (tmp_path / "run/model").exists()
    model = VishwamAI.from_pretrained(folder)
    bare = model.score("Make 24")[0].sum
    model.load_adapter(tmp_path / "run/adapter")
    assert model.score("Make 24")[0].sum != bare
    assert {path.split(".", 3)[3] for path in model.adapters["default"]} == {"attn.q", "ffn.gate", "ffn.up", "ffn.down"}
    said = config.load_json(tmp_path / "run/adapter/adapter_config.json")
    assert (said["r"], said["lora_alpha"], said["base_model_name_or_path"]) == (2, 16, str(folder))
    assert main(["train", str(file), "-o", str(tmp_path / "run")]) == 0  # from the checkpoint
    again = VishwamAI.from_pretrained(folder)
    again.load_adapter(tmp_path / "run/adapter")
    jax.tree.map(np.testing.assert_array_equal, again.adapters, model.adapters)


def test_what_is_refused(folder, tmp_path):
    run = config.from_dict(RunConfig, run_of(folder))
    model = VishwamAI.from_pretrained(folder, scan_layers=True)
    with pytest.raises(ConfigError, match=r"training\.adapter needs its base: train\(run\.with_base_model"):
        train(run, tmp_path, show=False)
    with pytest.raises(ConfigError, match=r"training\.adapter needs its base"):
        train(run, tmp_path, base=model.weights, show=False)
    with pytest.raises(ConfigError, match="model is missing; describe it, or name"):
        config.from_dict(RunConfig, run_of(folder, adapter=None))
    with pytest.raises(ConfigError, match=r"model is not that of training\.adapter\.base"):
        dataclasses.replace(run, model=CFG).with_base_model(model.config)
    with pytest.raises(ConfigError, match="longer than model.max_length 96"):
        config.override(run, "training.length=128").with_base_model(model.config)
    with pytest.raises(ConfigError, match="rank is 0; it must be 1 or more"):
        config.override(run, "training.adapter.rank=0")
    (tmp_path / "run.json").write_text(json.dumps(config.to_dict(run)))
    with pytest.raises(ConfigError, match="is no model; `vishwamai merge .*/adapter TO` writes"):
        load_newest(tmp_path)
    assert run.with_base_model(model.config).training.data.tokenizer == str(folder)
