"""Weights to a folder and back, alone and over eight devices; and folders that do not fit their configuration."""

import dataclasses
import json
import struct
import weakref

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vishwamai.errors import CheckpointError, ConfigError
from vishwamai.hf import config, filling, safetensors, saving, weights
from vishwamai.hf.families import FAMILIES
from vishwamai.hf.pieces import tensor_pieces
from vishwamai.models import transformer
from vishwamai.models.config import Layer, ModelConfig, Rope, group_layers, uniform
from vishwamai.parallel.mesh import make_mesh
from vishwamai.parallel.sharding import DEFAULT_RULES, SINGLE, Sharding, shardings
from vishwamai.weights import spec

SIZES = {"vocab_size": 24, "d_model": 16, "d_ff": 32, "n_heads": 4, "n_kv_heads": 2, "head_dim": 8, "max_length": 64}
MOE = {"n_experts": 4, "n_experts_per_token": 2, "d_expert": 12}
SLIDING = Layer(window=3, rope=Rope(theta=100.0))
GEMMA = {"qk_norm": True, "norm_offset": 1.0, "post_norms": True, "activation": "gelu_tanh", "tie_embeddings": True}
MODELS = {
    "llama": ModelConfig(**SIZES, stacks=uniform(3), attn_bias=True, o_bias=True, mlp_bias=True),
    "qwen3_moe": ModelConfig(
        **SIZES, **MOE, stacks=group_layers((Layer(), Layer(moe=True), Layer(), Layer(moe=True))), qk_norm=True
    ),
    "mixtral": ModelConfig(**SIZES, **MOE, stacks=uniform(2, moe=True, window=5)),
    "gemma3_text": ModelConfig(
        **SIZES,
        **GEMMA,
        embed_scale=4.0,
        attn_scale=0.25,
        stacks=group_layers((SLIDING, SLIDING, Layer()) * 2 + (SLIDING,)),
    ),
    "ernie4_5_moe": ModelConfig(
        **SIZES,
        **MOE,
        stacks=group_layers((Layer(rope=Rope(interleaved=True)), *(Layer(rope=Rope(interleaved=True), moe=True),) * 2)),
        choice_bias=True,
        d_shared=24,
    ),
    "gpt2": ModelConfig(  # matrices stored the other way round, and its heads' queries, keys and values in one
        **SIZES | {"n_kv_heads": 4, "head_dim": 4},
        **FAMILIES["gpt2"].switches,
        tie_embeddings=True,
        stacks=uniform(2, rope=None),
    ),
    "glm4_moe": ModelConfig(
        **SIZES, **MOE, stacks=uniform(2, moe=True), router="sigmoid", choice_bias=True, d_shared=12
    ),
    "vishwamai": ModelConfig(  # what no family expresses, with every kind of weight that there is
        **SIZES,
        **MOE,
        stacks=group_layers((SLIDING, Layer(moe=True)) * 2),
        qk_norm=True,
        post_norms=True,
        attn_bias=True,
        o_bias=True,
        mlp_bias=True,
    ),
}
EIGHT = {
    "llama": {"fsdp": 2, "tensor": 4},
    "qwen3_moe": {"fsdp": 2, "expert": 2, "tensor": 2},
    "gemma3_text": {"fsdp": 8},
    "ernie4_5_moe": {"fsdp": 4, "expert": 2},
    "gpt2": {"fsdp": 2, "tensor": 4},
}


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    """`saved(model)` -> (weights, folder), each made once."""
    made = {}

    def save(name: str):
        if name not in made:
            specs, folder = transformer.specs(MODELS[name]), tmp_path_factory.mktemp(name)
            draw = np.random.default_rng(0).standard_normal
            w = spec.map_params(lambda p: jnp.asarray(draw(p.shape, np.float32)), specs)
            saving.save_model(folder, w, MODELS[name], model_type=name if name in ("vishwamai", "gpt2") else None)
            made[name] = w, folder
        return made[name]

    return save


def load(folder, **options):
    return weights.load_weights(folder, config.read_pretrained(folder), **options)


def assert_same(a, b):
    jax.tree.map(lambda x, y: np.testing.assert_array_equal(np.asarray(x), np.asarray(y)), a, b)


@pytest.mark.parametrize("name", MODELS)
def test_a_saved_model_comes_back_bit_for_bit(name, saved):
    w, folder = saved(name)
    found = config.read_pretrained(folder)
    assert (found.model_type, found.model.layers) == (name, MODELS[name].layers)
    assert_same(load(folder), w)


@pytest.mark.by_turns
@pytest.mark.parametrize("name", EIGHT)
def test_a_model_loads_onto_eight_devices_and_is_saved_from_them(name, saved, tmp_path):
    w, folder = saved(name)
    sharding = Sharding(make_mesh(**EIGHT[name]))
    there = load(folder, sharding=sharding)
    wanted = shardings(transformer.specs(MODELS[name]), sharding)
    jax.tree.map(
        lambda x, s: pytest.fail(f"{x.sharding}") if not x.sharding.is_equivalent_to(s, x.ndim) else 0, there, wanted
    )
    assert_same(there, w)
    saving.save_model(tmp_path, there, MODELS[name], model_type=name)
    assert (tmp_path / "model.safetensors").read_bytes() == (folder / "model.safetensors").read_bytes()


@pytest.fixture
def on_device(monkeypatch):
    """A CPU that is loaded as a device with memory of its own is."""
    monkeypatch.setattr(filling.Loader, "_is_on_host", False)


HEADS_SPLIT = (*DEFAULT_RULES, ("heads", None), ("kv_heads", None), ("head_dim", "tensor"))


@pytest.mark.parametrize("sizes, rules", [({}, ()), (EIGHT["llama"], DEFAULT_RULES), (EIGHT["llama"], HEADS_SPLIT)])
def test_a_tensor_may_be_read_in_blocks_that_do_not_come_out_even(sizes, rules, saved, on_device, monkeypatch):
    monkeypatch.setattr(filling, "BLOCK_BYTES", 1000)
    w, folder = saved("llama")
    assert_same(load(folder, sharding=Sharding(make_mesh(**sizes), rules) if sizes else SINGLE), w)


@pytest.mark.parametrize("name", ["qwen3_moe", "gpt2"])
def test_what_the_host_puts_together_is_what_blocks_make(name, saved, tmp_path, on_device, monkeypatch):
    """Cast on the way, with numbers that float16 does not hold."""
    w, _ = saved(name)
    odd = np.array([1e6, -1e6, np.nan, 1e-7, 65519.0], np.float32)
    w = jax.tree.map(lambda x: jnp.asarray(np.resize(np.append(np.asarray(x)[..., :9], odd), x.shape)), w)
    saving.save_model(tmp_path, w, MODELS[name], model_type=None if name == "qwen3_moe" else name)
    whole = load(tmp_path, dtype="float16")
    monkeypatch.setattr(filling, "BLOCK_BYTES", 200)
    assert_same(load(tmp_path, dtype="float16"), whole)
    assert any(np.isinf(np.asarray(x)).any() for x in jax.tree.leaves(whole))


def test_a_small_model_is_loaded_without_compiling(saved):
    folder, events = saved("llama")[1], []

    def listen(event: str, *_, **__) -> None:
        events.append(event)

    jax.monitoring.register_event_duration_secs_listener(listen)
    try:
        load(folder)
        assert not any("compile" in event for event in events)
        jax.jit(lambda x: x + 1)(1)
        assert any("compile" in event for event in events)
    finally:
        jax.monitoring.unregister_event_duration_listener(listen)


def test_blocks_have_one_shape_and_cover_every_part(monkeypatch):
    tensor = np.arange(2 * 10 * 3 * 5, dtype=np.float32).reshape(60, 5)  # two parts of ten times three rows
    monkeypatch.setattr(filling, "BLOCK_BYTES", tensor.nbytes * 4 // 10)
    found, blocks = np.zeros((2, 30, 5), np.float32), list(filling._blocks(tensor, 2, 10))
    for block, start in blocks:
        assert block.shape == (2, 12, 5)
        found[:, 3 * start : 3 * start + 12] = block
    assert [start for _, start in blocks] == [0, 4, 6]
    np.testing.assert_array_equal(found.reshape(60, 5), tensor)


@pytest.mark.parametrize("name", ["llama", "qwen3_moe", "gpt2"])
def test_no_device_is_given_more_of_a_tensor_than_its_share_and_none_moves(name, monkeypatch):
    monkeypatch.setattr(filling, "BLOCK_BYTES", 1)
    sharding = Sharding(make_mesh(fsdp=2, expert=2, tensor=2))
    cfg = MODELS[name]
    specs = transformer.specs(cfg)
    for param, parts in zip(spec.leaves(specs), tensor_pieces(FAMILIES[name], specs, cfg), strict=True):
        home = sharding.named(*param.axes, shape=param.shape)
        axes = filling._stored_axes(param, parts[0])
        place = filling._stored_sharding(param, axes, sharding)
        inner = [(i, a) for i, a in enumerate(param.axes) if a not in spec.STACKED]
        ways = np.prod([param.shape[i] // home.shard_shape(param.shape)[i] for i, _ in inner])
        own = home.shard_shape(param.shape)[axes[0]]
        tensor = np.zeros(parts[0].shape, np.float32)[parts[0].part]
        block, _ = next(filling._blocks(tensor, param.shape[axes[0]] // own, own))
        assert np.prod(place.shard_shape(block.shape)) * ways == np.prod(block.shape)
        assert (block.size < tensor.size) == (own > 1)
        arguments = (
            jax.ShapeDtypeStruct(param.shape, jnp.float32, sharding=home),
            jax.ShapeDtypeStruct(block.shape, jnp.float32, sharding=place),
            jax.ShapeDtypeStruct((len(parts[0].index),), jnp.int32),
            jax.ShapeDtypeStruct((), jnp.int32),
        )
        text = filling._fill.lower(*arguments, axes, parts[0].transposed, home, place).compile().as_text()
        assert not any(word in text for word in ("all-gather", "all-to-all", "collective-permute")), param


def test_weights_are_cast_once_on_the_way(saved):
    w, folder = saved("llama")
    half = load(folder, dtype="bfloat16")
    assert {x.dtype for x in jax.tree.leaves(half)} == {jnp.dtype("bfloat16")}
    assert_same(half, jax.tree.map(lambda x: x.astype(jnp.bfloat16), w))


def test_a_half_precision_folder_holds_that_dtype(saved, tmp_path):
    w, _ = saved("llama")
    saving.save_model(tmp_path, w, MODELS["llama"], dtype="bfloat16")
    assert {t.dtype for t in safetensors.read_folder(tmp_path).values()} == {np.dtype(jnp.bfloat16)}
    assert json.loads((tmp_path / "config.json").read_text())["dtype"] == "bfloat16"
    assert_same(load(tmp_path), jax.tree.map(lambda x: x.astype(jnp.bfloat16).astype(jnp.float32), w))


def test_a_checkpoint_that_names_no_dtype_has_that_of_most_of_its_numbers(saved, tmp_path):
    w, _ = saved("llama")
    mixed = dataclasses.replace(w, final_norm=jax.tree.map(lambda x: x.astype(jnp.float32), w.final_norm))
    saving.save_model(tmp_path, mixed, MODELS["llama"], dtype="bfloat16")
    found, tensors = config.read_pretrained(tmp_path), safetensors.read_folder(tmp_path)
    assert weights.checkpoint_dtype(found, tensors) == "bfloat16"
    unnamed = dataclasses.replace(found, dtype=None)
    assert weights.checkpoint_dtype(unnamed, tensors) == "bfloat16"
    norm = {name: dataclasses.replace(t, dtype=np.dtype(np.float32)) for name, t in tensors.items() if "norm" in name}
    assert weights.checkpoint_dtype(unnamed, tensors | norm) == "bfloat16"
    assert weights.checkpoint_dtype(unnamed, norm) == "float32" == weights.checkpoint_dtype(unnamed, {})


@pytest.mark.parametrize("name", ["ernie4_5_moe", "glm4_moe"])
def test_a_choice_bias_is_float32_in_a_model_and_a_folder_of_any_dtype(name, saved, tmp_path):
    w, folder = saved(name)
    half = load(folder, dtype="bfloat16")
    dtypes = {spec.path_name(path): x.dtype for path, x in jax.tree.leaves_with_path(half)}
    assert dtypes == {path: "float32" if path.endswith("choice_bias") else "bfloat16" for path in dtypes}
    assert_same(half, jax.tree.map(lambda x, y: x.astype(y.dtype), w, half))
    saving.save_model(tmp_path, half, MODELS[name])
    found = {n: t.dtype.name for n, t in safetensors.read_folder(tmp_path).items()}
    assert found == {n: "float32" if n.endswith("e_score_correction_bias") else "bfloat16" for n in found}
    assert "float32" in found.values()
    assert json.loads((tmp_path / "config.json").read_text())["dtype"] == "bfloat16"
    assert_same(load(tmp_path, dtype="bfloat16"), half)


def test_large_models_are_saved_in_several_files(saved, tmp_path):
    w, _ = saved("qwen3_moe")
    saving.save_model(tmp_path, w, MODELS["qwen3_moe"])
    saving.save_model(tmp_path, w, MODELS["qwen3_moe"], max_file_bytes=20_000)
    files = sorted(p.name for p in tmp_path.glob("*.safetensors"))
    assert len(files) > 2 and files[0] == f"model-00001-of-{len(files):05d}.safetensors"
    assert_same(load(tmp_path), w)


def test_loading_leaves_the_arrays_independent_of_the_file(saved, tmp_path):
    w, _ = saved("mixtral")
    saving.save_model(tmp_path, w, MODELS["mixtral"])
    there = load(tmp_path)
    path = tmp_path / "model.safetensors"
    path.write_bytes(b"\xff" * path.stat().st_size)
    assert_same(there, w)


# Folders that do not fit.


@pytest.fixture
def folder(saved, tmp_path):
    """A folder of a Llama that a test may spoil."""
    w, _ = saved("llama")
    saving.save_model(tmp_path, w, MODELS["llama"])
    return tmp_path


def rewrite(folder, change):
    """Writes the folder's tensors anew after `change(tensors: dict)`."""
    found = safetensors.read_folder(folder)
    tensors = {name: np.array(t.view(safetensors.open_map(t.path))) for name, t in found.items()}
    change(tensors)
    outgoing = [safetensors.LazyTensor(n, x.shape, x.dtype, lambda x=x: x) for n, x in tensors.items()]
    safetensors.write_folder(folder, outgoing, max_file_bytes=10**9)


NAME = "model.layers.1.self_attn.q_proj.weight"
SPOILS = {
    "wrong shape": (lambda t: t.update({NAME: t[NAME].T.copy()}), rf"{NAME}.*\[16, 32\].*\[32, 16\]"),
    "no such layer": (lambda t: t.pop(NAME), f"{NAME}' is missing"),
    "many missing": (lambda t: [t.pop(n) for n in list(t) if "layers.1." in n], r"and others \(16\) are missing"),
    "one too many": (lambda t: t.update({"model.layers.3.x": t[NAME]}), "'model.layers.3.x' is in the weights"),
    "integers": (lambda t: t.update({NAME: t[NAME].astype(np.int32)}), f"{NAME}' is int32"),
}


@pytest.mark.parametrize("spoil", SPOILS)
def test_tensors_that_do_not_fit_are_named(spoil, folder):
    change, message = SPOILS[spoil]
    rewrite(folder, change)
    with pytest.raises(CheckpointError, match=message) as raised:
        load(folder)
    assert str(folder) in str(raised.value)


def test_what_old_checkpoints_carry_besides_weights_is_left_unread(folder, saved):
    rewrite(folder, lambda t: t.update({"model.layers.0.self_attn.rotary_emb.inv_freq": np.ones(4, np.float32)}))
    assert_same(load(folder), saved("llama")[0])


def test_a_tied_output_matrix_may_be_stored_if_it_is_the_embedding(saved, tmp_path):
    w, _ = saved("gemma3_text")
    saving.save_model(tmp_path, w, MODELS["gemma3_text"])
    rewrite(tmp_path, lambda t: t.update({"lm_head.weight": t["model.embed_tokens.weight"]}))
    assert_same(load(tmp_path), w)
    rewrite(tmp_path, lambda t: t.update({"lm_head.weight": t["lm_head.weight"] + 1}))
    with pytest.raises(CheckpointError, match="'lm_head.weight' differs from the embedding"):
        load(tmp_path)


def test_a_truncated_file_is_refused_before_anything_is_loaded(folder):
    path = folder / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(CheckpointError, match="truncated"):
        load(folder)


def test_a_configuration_of_absurd_size_meets_the_file_before_memory(folder):
    data = json.loads((folder / "config.json").read_text()) | {"vocab_size": 2**24, "hidden_size": 2**20}
    (folder / "config.json").write_text(json.dumps(data))
    with pytest.raises(CheckpointError, match="by the configuration"):
        load(folder)


def test_a_family_that_does_not_express_the_model_is_refused_before_anything_is_written(saved, tmp_path):
    cfg = dataclasses.replace(MODELS["llama"], o_bias=False, final_softcap=3.0)
    with pytest.raises(ConfigError, match=r"llama \(final_softcap, o_bias\)"):
        saving.save_model(tmp_path / "x", saved("llama")[0], cfg, model_type="llama")
    assert not (tmp_path / "x").exists()


def test_weights_of_another_model_are_not_saved(saved, tmp_path):
    cfg = dataclasses.replace(MODELS["llama"], d_ff=48)
    with pytest.raises(CheckpointError, match="not of this configuration's shapes"):
        saving.save_model(tmp_path, saved("llama")[0], cfg)


def test_the_multimodal_gemma_loads_as_its_text_model(saved, tmp_path):
    w, folder = saved("gemma3_text")
    text = json.loads((folder / "config.json").read_text())
    data = {"model_type": "gemma3", "text_config": text, "vision_config": {"x": 1}, "eos_token_id": [1, 106]}
    header, tensors = read_raw(folder / "model.safetensors")
    entries = {f"language_model.{n}": e for n, e in header.items()} | {
        "vision_tower.x": {"dtype": "F32", "shape": [1], "data_offsets": [len(tensors), len(tensors) + 4]}
    }
    raw = json.dumps(entries).encode()
    (tmp_path / "model.safetensors").write_bytes(struct.pack("<Q", len(raw)) + raw + tensors + b"\0\0\0\0")
    (tmp_path / "config.json").write_text(json.dumps(data))
    found = config.read_pretrained(tmp_path)
    assert (found.model, found.generation.eos_ids) == (config.read_pretrained(folder).model, (1, 106))
    assert_same(load(tmp_path), w)


def read_raw(path):
    data = path.read_bytes()
    end = 8 + struct.unpack("<Q", data[:8])[0]
    header = json.loads(data[8:end])
    header.pop("__metadata__")
    return header, data[end:]


def test_a_single_device_needs_no_mesh(saved):
    leaf = load(saved("llama")[1], sharding=SINGLE).embed
    assert len(leaf.sharding.device_set) == 1


def test_the_host_holds_few_tensors_at_a_time(saved, on_device, monkeypatch):
    alive, most, put = set(), 0, filling._put

    def watched(values, place):
        nonlocal most
        stored = put(values, place)
        alive.add(id(stored))
        weakref.finalize(stored, alive.discard, id(stored))
        most = max(most, len(alive))
        return stored

    monkeypatch.setattr(filling, "_put", watched)
    monkeypatch.setattr(filling, "IN_FLIGHT", 0)
    monkeypatch.setattr(filling, "BLOCK_BYTES", 1000)
    load(saved("qwen3_moe")[1])
    assert 0 < most <= 2
