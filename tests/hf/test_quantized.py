"""Quantised weights in folders: those of published formats, encoded here by the formats' own words, and our own."""

import dataclasses
import json
from functools import partial

import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import pytest

from vishwamai import VishwamAI
from vishwamai.errors import CheckpointError, ConfigError
from vishwamai.hf import compressed, config, convert, quantized, safetensors, saving, weights
from vishwamai.hf.safetensors import LazyTensor
from vishwamai.models import transformer
from vishwamai.models.config import ModelConfig, uniform
from vishwamai.parallel.mesh import make_mesh
from vishwamai.parallel.sharding import Sharding
from vishwamai.weights import quantize, spec
from vishwamai.weights.linear import materialize
from vishwamai.weights.quantize import Scheme

from ..random_weights import with_offsets

pytestmark = pytest.mark.by_turns

SIZES = {"vocab_size": 24, "d_model": 32, "d_ff": 48, "n_heads": 4, "n_kv_heads": 2, "head_dim": 16, "max_length": 64}
MOE = {"n_experts": 4, "n_experts_per_token": 2, "d_expert": 32}
MODELS = {
    "llama": ModelConfig(**SIZES, stacks=uniform(3)),
    "qwen3_moe": ModelConfig(**SIZES, **MOE, stacks=uniform(2, moe=True), qk_norm=True),
    "phi3": ModelConfig(**SIZES | {"n_kv_heads": 4, "head_dim": 8}, stacks=uniform(2)),  # fused projections
    "gpt_oss": ModelConfig(
        **SIZES, **MOE, stacks=uniform(2, moe=True, window=5), attn_sinks=True, router="chosen",
        router_bias=True, expert_bias=True, glu_limit=7.0, attn_bias=True, o_bias=True,
    ),
}  # fmt: skip


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    """`saved(family)` -> (weights, folder), each made once."""
    made = {}

    def save(name: str):
        if name not in made:
            folder = tmp_path_factory.mktemp(name)
            draw = np.random.default_rng(0).standard_normal
            w = spec.map_params(lambda p: jnp.asarray(draw(p.shape, np.float32)), transformer.specs(MODELS[name]))
            saving.save_model(folder, w, MODELS[name], model_type=name)
            made[name] = w, folder
        return made[name]

    return save


def load(folder, **options):
    return weights.load_weights(folder, config.read_pretrained(folder), **options)


def dense(w):
    return jax.tree.map(materialize, w, is_leaf=quantize.is_quantized)


def assert_same(a, b):
    assert jax.tree.structure(a) == jax.tree.structure(b)
    jax.tree.map(lambda x, y: np.testing.assert_array_equal(np.asarray(x, np.float32), np.asarray(y, np.float32)), a, b)


# Our own: quantised as it is read, written, read again.


@pytest.mark.parametrize("name", ["llama", "qwen3_moe"])
@pytest.mark.parametrize("scheme", ["int8", "int4"])
def test_quantising_while_reading_is_quantising_what_was_read(name, scheme, saved):
    w, folder = saved(name)
    wanted = quantize.quantize(w, transformer.specs(MODELS[name]), Scheme.named(scheme))
    assert_same(load(folder, quantization=scheme), wanted)
    sharding = Sharding(make_mesh(fsdp=2, expert=2, tensor=2))
    there = load(folder, quantization=scheme, sharding=sharding)
    assert_same(there, wanted)
    values = there.stacks[0][0].attn.q.values
    assert values.addressable_shards[0].data.size == values.size // 4


@pytest.mark.parametrize("name", ["llama", "qwen3_moe", "phi3"])
@pytest.mark.parametrize("scheme", ["int8", "int4", "fp8", "int8:8"])
def test_a_quantised_model_is_written_and_comes_back(name, scheme, saved, tmp_path):
    w = load(saved(name)[1], quantization=scheme)
    saving.save_model(tmp_path, w, MODELS[name], model_type=name)
    assert config.read_pretrained(tmp_path).model == MODELS[name]
    assert_same(dense(load(tmp_path, quantization="keep")), dense(w))
    assert_same(load(tmp_path), dense(w))
    stored = sum(t.end - t.start for t in safetensors.read_folder(tmp_path).values())
    assert stored < 0.62 * sum(t.end - t.start for t in safetensors.read_folder(saved(name)[1]).values())


def test_a_quantised_model_of_stacked_experts_is_written_as_our_own(saved, tmp_path):
    w = load(saved("gpt_oss")[1], quantization="int8")
    with pytest.warns(UserWarning, match="only VishwamAI will load"):
        saving.save_model(tmp_path, w, MODELS["gpt_oss"], model_type="gpt_oss")
    assert config.read_pretrained(tmp_path).model_type == "vishwamai"
    assert_same(load(tmp_path, quantization="keep"), w)


@pytest.mark.parametrize("scheme, offsets", [("fp8:16", False), ("int4", True)])
def test_what_cannot_be_written_in_few_bits_is_written_whole(scheme, offsets, saved, tmp_path):
    w = load(saved("llama")[1], quantization=scheme)
    w = with_offsets(w) if offsets else w
    saving.save_model(tmp_path, w, MODELS["llama"])
    assert config.read_pretrained(tmp_path).storage is None
    assert_same(load(tmp_path), dense(w))


def test_packing_is_what_compressed_tensors_describes():
    values = np.asarray([[-8, 7, 0, 1, -1, 2, -2, 3, 4]], np.int8)
    low_first = sum((int(v) + 8) << 4 * i for i, v in enumerate(values[0, :8]))
    assert compressed.pack_words(values, 4).view(np.uint32).tolist() == [[low_first, 12]]
    assert compressed.pack_words(np.asarray([[-128, 127, 0, 1]], np.int8), 8).view(np.uint32).tolist() == [[0x8180FF00]]


@pytest.mark.parametrize(("name", "scheme"), [("llama", "int8"), ("phi3", "int8:8"), ("qwen3_moe", "fp8")])
def test_converting_quantises_as_reading_does(name, scheme, saved, tmp_path):
    weights_read = load(saved(name)[1], quantization=scheme)
    saving.save_model(tmp_path / "saved", weights_read, MODELS[name], model_type=name)
    convert.convert_checkpoint(saved(name)[1], tmp_path / "converted", quantization=scheme)
    files = [(tmp_path / folder / "model.safetensors").read_bytes() for folder in ("saved", "converted")]
    assert files[0] == files[1]
    said = [json.loads((tmp_path / folder / "config.json").read_text()) for folder in ("saved", "converted")]
    assert said[0] == said[1]
    convert.convert_checkpoint(tmp_path / "converted", tmp_path / "plain", dtype="float32")
    assert_same(load(tmp_path / "plain"), dense(weights_read))


# Published formats.


def restored(folder, change: dict, quantization_config: dict, tmp_path):
    """The folder with some tensors stored otherwise: `change(name, array)` -> {name: array}, or None to leave it."""
    found, outgoing = safetensors.read_folder(folder), []
    for name, tensor in found.items():
        array = np.array(tensor.view(safetensors.open_map(tensor.path)))
        for new, stored in (change(name, array) or {name: array}).items():
            outgoing.append(LazyTensor(new, stored.shape, stored.dtype, partial(np.asarray, stored)))
    safetensors.write_folder(tmp_path, outgoing, max_file_bytes=2**30)
    data = json.loads((folder / "config.json").read_text()) | {"quantization_config": quantization_config}
    (tmp_path / "config.json").write_text(json.dumps(data))
    return tmp_path


def fp8(block: tuple[int, int], changed: dict):
    def change(name: str, array: np.ndarray):
        if "_proj.weight" not in name:
            return None
        codes = np.empty(array.shape, ml_dtypes.float8_e4m3fn)
        scale = np.empty([-(-n // b) for n, b in zip(array.shape, block, strict=True)], np.float32)
        whole = np.empty(array.shape, np.float64)
        for i, j in np.ndindex(*scale.shape):
            at = slice(i * block[0], (i + 1) * block[0]), slice(j * block[1], (j + 1) * block[1])
            scale[i, j] = np.abs(array[at]).max() / 448
            codes[at] = (array[at] / scale[i, j]).astype(codes.dtype)
            whole[at] = codes[at].astype(np.float64) * scale[i, j]
        changed[name] = whole
        return {name: codes, f"{name}_scale_inv": scale}

    return change


@pytest.mark.parametrize("block", [(16, 16), (20, 8), (128, 128)], ids=str)
def test_fp8_in_blocks(block, saved, tmp_path):
    whole: dict = {}
    said = {"quant_method": "fp8", "fmt": "e4m3", "activation_scheme": "dynamic", "weight_block_size": list(block)}
    folder = restored(saved("qwen3_moe")[1], fp8(block, whole), said, tmp_path)
    w, kept = load(folder), load(folder, quantization="keep")
    q = whole["model.layers.1.self_attn.q_proj.weight"].T.reshape(32, 4, 16)
    o = whole["model.layers.1.self_attn.o_proj.weight"].T.reshape(4, 16, 32)
    down = whole["model.layers.0.mlp.experts.3.down_proj.weight"].T
    for found in (
        w,
        dense(kept),
        dense(load(folder, quantization="keep", sharding=Sharding(make_mesh(fsdp=4, tensor=2)))),
    ):
        block_w = found.stacks[0][0]
        for ours, theirs in ((block_w.attn.q[1], q), (block_w.attn.o[1], o), (block_w.ffn.down[0, 3], down)):
            np.testing.assert_allclose(ours, theirs, rtol=1e-6, atol=1e-9)
    assert kept.stacks[0][0].attn.q.values.dtype == jnp.float8_e4m3fn
    assert load(folder, dtype="bfloat16").stacks[0][0].attn.q.dtype == jnp.bfloat16


def test_fp8_with_one_scale(saved, tmp_path):
    def change(name: str, array: np.ndarray):
        if "_proj.weight" not in name:
            return None
        used = {"activation_scale": np.ones((), np.float32), "weight_scale_inv": np.full((), 0.5, np.float32)}
        module = name.removesuffix("weight")
        return {name: array.astype(ml_dtypes.float8_e4m3fn)} | {module + k: v for k, v in used.items()}

    said = {"quant_method": "fp8", "activation_scheme": "static", "weight_block_size": None}
    w, folder = saved("llama")
    there = load(restored(folder, change, said, tmp_path))
    q = np.asarray(w.stacks[0][0].attn.q).astype(ml_dtypes.float8_e4m3fn).astype(np.float32) * 0.5
    np.testing.assert_array_equal(there.stacks[0][0].attn.q, q)


GRID = np.asarray([0, 0.5, 1, 1.5, 2, 3, 4, 6])  # of a 4-bit float with 2 bits of exponent and 1 of mantissa


def mxfp4(changed: dict):
    def change(name: str, array: np.ndarray):
        if not name.endswith(("gate_up_proj", "down_proj")):
            return None
        rows = np.swapaxes(array, 1, 2).reshape(array.shape[0], array.shape[2], -1, 32)  # [E, out, groups, 32]
        exponent = np.floor(np.log2(np.abs(rows).max(-1) / 6)).astype(int) + 1
        small = rows / 2.0 ** exponent[..., None]
        code = np.abs(np.abs(small)[..., None] - GRID).argmin(-1)
        number = np.where(small < 0, -GRID[code], GRID[code]) * 2.0 ** exponent[..., None]
        changed[name] = np.swapaxes(number.reshape(*number.shape[:2], -1), 1, 2)
        code = (code + 8 * (small < 0)).astype(np.uint8)
        blocks = code[..., ::2] | code[..., 1::2] << 4
        return {f"{name}_blocks": blocks, f"{name}_scales": (exponent + 127).astype(np.uint8)}

    return change


def test_mxfp4(saved, tmp_path):
    whole: dict = {}
    said = {"quant_method": "mxfp4", "modules_to_not_convert": ["lm_head"]}
    folder = restored(saved("gpt_oss")[1], mxfp4(whole), said, tmp_path)
    kept = load(folder, quantization="keep")
    assert kept.stacks[0][0].ffn.gate.values.dtype == jnp.float4_e2m1fn
    gate_up, down = (whole[f"model.layers.1.mlp.experts.{name}"] for name in ("gate_up_proj", "down_proj"))
    sharding = Sharding(make_mesh(fsdp=2, expert=2, tensor=2))
    for found in (load(folder), dense(kept), dense(load(folder, quantization="keep", sharding=sharding))):
        experts = found.stacks[0][0].ffn
        np.testing.assert_array_equal(experts.gate[1], gate_up[..., ::2])
        np.testing.assert_array_equal(experts.up[1], gate_up[..., 1::2])
        np.testing.assert_array_equal(experts.down[1], down)


def described(**changes) -> dict:
    said = compressed.quantization_config(Scheme.named("int4"), [])
    weights_said = said["config_groups"]["group_0"]["weights"] | {k: v for k, v in changes.items() if k not in said}
    return said | {k: v for k, v in changes.items() if k in said} | {"config_groups": {"g": {"weights": weights_said}}}


@pytest.mark.parametrize(
    "said, message",
    [
        (
            {"quant_method": "gptq"},
            "weights quantised by 'gptq' are not read, those by fp8, mxfp4, compressed-tensors are",
        ),
        ({}, "weights quantised by None"),
        ([], r"must be an object, not '\[\]'"),
        ({"quant_method": "fp8", "fmt": "e5m2"}, "fmt is e5m2"),
        ({"quant_method": "fp8", "weight_block_size": [0, 128]}, "weight_block_size is"),
        (described(format="marlin-24"), "format is marlin-24"),
        (described(num_bits=2), "num_bits is 2"),
        (described(symmetric=False), "symmetric is False"),
        (described(actorder="both"), "actorder is both"),
        (described(strategy="group", group_size=None), "strategy 'group', group_size None"),
        (described() | {"config_groups": {}}, "config_groups must say"),
        (described() | {"config_groups": []}, "config_groups must say"),
        (described() | {"config_groups": {"a": 1}}, "config_groups must say"),
        (described() | {"sparsity_config": {"format": "sparse-24-bitmask"}}, "sparsity_config is"),
        (described(format="pack-quantized", type="float"), "type is float"),
    ],
)
def test_what_is_not_read_is_refused_by_name(said, message):
    with pytest.raises(ConfigError, match=f"config.json: quantization_config.*{message}"):
        quantized.parse_quantization(said, "config.json")


def test_scales_that_do_not_fit_are_refused(saved, tmp_path):
    def change(name: str, array: np.ndarray):
        if "q_proj" in name:
            return {name: array.astype(ml_dtypes.float8_e4m3fn), f"{name}_scale_inv": np.ones((3, 3), np.float32)}

    said = {"quant_method": "fp8", "weight_block_size": [16, 16]}
    with pytest.raises(CheckpointError, match=r"q_proj.weight': \[3, 3\] scales do not fit \[64, 32\] in blocks of"):
        load(restored(saved("llama")[1], change, said, tmp_path))


SPOILT = {  # what is wrong: (which tensor's name ends so, what becomes of it, what is said)
    "rank": ("q_proj.weight_scale", lambda a: a[..., None], "must be matrices"),
    "kind": ("q_proj.weight_scale", lambda a: a.astype(np.int32), "is int32, and holds scales, which are floats"),
    "nan": ("q_proj.weight_scale", lambda a: a * np.nan, "has a scale that is not finite"),
    "words": ("q_proj.weight_packed", lambda a: a.astype(np.int64), "is int64 of shape .* it must be int32"),
    "shape": ("q_proj.weight_shape", lambda a: a - [0, 9], "must be int32, that of .* packed, as"),
}


@pytest.mark.parametrize("fault", SPOILT)
@pytest.mark.parametrize("quantization", [None, "keep"])
def test_packed_weights_that_contradict_themselves_are_refused(fault, quantization, saved, tmp_path):
    end, spoil, message = SPOILT[fault]
    saving.save_model(tmp_path / "whole", load(saved("llama")[1], quantization="int4"), MODELS["llama"])
    said = json.loads((tmp_path / "whole" / "config.json").read_text())["quantization_config"]
    (tmp_path / "spoilt").mkdir()

    def change(name: str, array: np.ndarray):
        return {name: spoil(array)} if name.endswith(end) else None

    folder = restored(tmp_path / "whole", change, said, tmp_path / "spoilt")
    with pytest.raises(CheckpointError, match=message):
        load(folder, quantization=quantization)


@pytest.mark.parametrize("part, spoil", [("_scales", lambda a: a[..., :1]), ("_blocks", lambda a: a[..., :8])])
def test_mxfp4_blocks_and_scales_that_do_not_fit_are_refused(part, spoil, saved, tmp_path):
    encode = mxfp4({})

    def change(name: str, array: np.ndarray):
        found = encode(name, array)
        return found and {k: spoil(v) if k.endswith(part) and v.shape[-1] > 1 else v for k, v in found.items()}

    cfg = dataclasses.replace(MODELS["gpt_oss"], d_model=64, d_expert=64)
    draw = np.random.default_rng(0).standard_normal
    w = spec.map_params(lambda p: jnp.asarray(draw(p.shape, np.float32)), transformer.specs(cfg))
    saving.save_model(tmp_path / "whole", w, cfg, model_type="gpt_oss")
    (tmp_path / "spoilt").mkdir()
    folder = restored(tmp_path / "whole", change, {"quant_method": "mxfp4"}, tmp_path / "spoilt")
    with pytest.raises(CheckpointError, match=f"{part}' is uint8 of shape .* it must be uint8"):
        load(folder)


def test_inputs_that_fill_no_whole_words(tmp_path):
    cfg = dataclasses.replace(MODELS["llama"], d_ff=46)
    draw = np.random.default_rng(0).standard_normal
    w = spec.map_params(lambda p: jnp.asarray(draw(p.shape, np.float32)), transformer.specs(cfg))
    small = quantize.quantize(w, transformer.specs(cfg), Scheme.named("int8"))
    saving.save_model(tmp_path, small, cfg)
    assert_same(load(tmp_path, quantization="keep"), small)


def test_codes_without_scales_are_no_weights(saved, tmp_path):
    def change(name: str, array: np.ndarray):
        return {name: array.astype(ml_dtypes.float8_e4m3fn)} if "q_proj" in name else None

    with pytest.raises(CheckpointError, match="float8_e4m3fn, which is not read as weights"):
        load(restored(saved("llama")[1], change, {"quant_method": "fp8"}, tmp_path))


@pytest.mark.parametrize("quantization", ["int8", "int4", "fp8"])
def test_quantised_weights_score_over_a_mesh_as_on_one_device(quantization):
    text, scores = "Make 24 from 1 2 3 4.", []
    for mesh in (None, {"fsdp": 2, "expert": 2, "tensor": 2}):
        model = VishwamAI.from_pretrained("vishwamai/base", quantization=quantization, mesh=mesh)
        scores.append(model.score(text)[0].sum)
        assert model.score(text)[0].sum == scores[-1]
    assert abs(scores[0] - scores[1]) < 1e-3
