"""More quantised folders: FP8 as AutoFP8 stores it, scales of a cache, groups by activations, groups that fit none.

The encoders of other forms, and the models, are those of `test_quantized.py`.
"""

import dataclasses

import jax
import ml_dtypes
import numpy as np
import pytest

from vishwamai.errors import CheckpointError, ConfigError
from vishwamai.hf import compressed, config, convert, safetensors, saving, weights
from vishwamai.models import transformer
from vishwamai.parallel.mesh import make_mesh
from vishwamai.parallel.sharding import Sharding
from vishwamai.weights import quantize, spec
from vishwamai.weights.quantize import Scheme

from . import test_quantized as encoders

MODELS, saved, load, dense, assert_same = (
    getattr(encoders, name) for name in ("MODELS", "saved", "load", "dense", "assert_same")
)
restored, fp8, described = encoders.restored, encoders.fp8, encoders.described

CACHE_SCALES = ("self_attn.k_scale", "self_attn.v_scale", "self_attn.kv_scale", "self_attn.attn.q_scale")
CACHE_SCALES += ("self_attn.k_proj.output_scale", "self_attn.v_proj.v_scale", "self_attn.prob_scale")


def with_cache_scales(change):
    """The same tensors and, beside each query projection, all scales for a quantised cache that tools write."""

    def more(name: str, array: np.ndarray):
        found = change(name, array) or {name: array}
        layer, is_query, _ = name.partition("self_attn.q_proj.weight")
        return found | ({layer + one: np.full((1,), 0.3, np.float32) for one in CACHE_SCALES} if is_query else {})

    return more


def auto_fp8(name: str, array: np.ndarray):
    """As AutoFP8 stores a weight whose activations have a scale of their own: one scale each."""
    if "_proj.weight" not in name:
        return None
    module = name.removesuffix("weight")
    scale = np.float32(np.abs(array).max() / 448)
    used = {"weight_scale": scale, "input_scale": np.full((), 0.1, np.float32)}
    return {name: (array / scale).astype(ml_dtypes.float8_e4m3fn)} | {
        module + k: np.asarray(v) for k, v in used.items()
    }


@pytest.mark.parametrize("quantization", [None, "keep", "int8"])
@pytest.mark.parametrize("with_scales", [False, True])
def test_fp8_as_auto_fp8_stores_it(quantization, with_scales, saved, tmp_path):
    said = {"quant_method": "fp8", "activation_scheme": "static", "ignored_layers": ["lm_head"]}
    w, folder = saved("llama")
    change = with_cache_scales(auto_fp8) if with_scales else auto_fp8
    there = dense(load(restored(folder, change, said, tmp_path), quantization=quantization))
    o = np.asarray(w.stacks[0][0].attn.o[1], np.float64)  # [N, H, D]
    scale = np.float32(np.abs(o).max() / 448)
    want = (o.astype(np.float32) / scale).astype(ml_dtypes.float8_e4m3fn).astype(np.float64) * scale
    np.testing.assert_allclose(there.stacks[0][0].attn.o[1], want, atol=0.02 if quantization == "int8" else 1e-6)


def test_two_scales_of_one_weight_are_named(saved, tmp_path):
    def change(name: str, array: np.ndarray):
        found = auto_fp8(name, array)
        return found and found | {f"{name}_scale_inv": np.ones((), np.float32)}

    with pytest.raises(CheckpointError, match="_scale_inv' and .*_scale' are both there"):
        load(restored(saved("llama")[1], change, {"quant_method": "fp8"}, tmp_path))


@pytest.mark.parametrize("method", ["fp8", "mxfp4", "compressed-tensors", "the cache alone"])
def test_scales_for_a_quantised_cache_are_left_unread(method, saved, tmp_path):
    """The cache here is in the dtype that is asked for."""
    said = {"fp8": {"quant_method": "fp8", "weight_block_size": [16, 16]}, "mxfp4": {"quant_method": "mxfp4"}}
    said |= {"compressed-tensors": described(kv_cache_scheme={"num_bits": 8, "type": "float"})}
    alone = {"config_groups": {}, "kv_cache_scheme": {"num_bits": 8, "type": "float"}, "format": "dense"}
    said |= {"the cache alone": {"quant_method": "compressed-tensors"} | alone}
    w, folder = saved("llama")
    change = with_cache_scales(fp8((16, 16), {}) if method == "fp8" else lambda name, array: None)
    folder = restored(folder, change, said[method], tmp_path)
    if method != "fp8":
        assert_same(load(folder), w)
    assert len(safetensors.read_folder(folder)) > len(load_names(folder)) + 3 * len(CACHE_SCALES) - 1


def load_names(folder) -> set[str]:
    """What loading finds in a folder."""
    found = config.read_pretrained(folder)
    return set(weights.open_checkpoint(folder, found)[0].tensors)


def test_cache_scales_of_a_plain_checkpoint_are_no_weights(saved, tmp_path):
    folder = restored(saved("llama")[1], with_cache_scales(lambda name, array: None), None, tmp_path)
    with pytest.raises(CheckpointError, match="k_scale.* are in the weights, and the configuration has no place"):
        load(folder)


def by_activations(bits: int, group: int, whole: dict):
    """As compressed-tensors packs integers whose groups were made of inputs ordered by their activations."""

    def change(name: str, array: np.ndarray):
        if "_proj.weight" not in name:
            return None
        outputs, inputs = array.shape
        index = np.random.default_rng(inputs).permutation(np.arange(inputs) // group).astype(np.int32)
        scale = np.empty((outputs, inputs // group), np.float32)
        for g in range(scale.shape[1]):
            scale[:, g] = np.abs(array[:, index == g]).max(1) / (2 ** (bits - 1) - 1)
        values = np.rint(array / scale[:, index]).astype(np.int8)
        whole[name] = values.astype(np.float64) * scale[:, index]
        packed = compressed.pack_words(values, bits)
        return {
            f"{name}_packed": packed,
            f"{name}_scale": scale,
            f"{name}_g_idx": index,
            f"{name}_shape": np.asarray(array.shape, np.int64),
        }

    return change


def n_quantized(weights) -> int:
    leaves = jax.tree.leaves(weights, is_leaf=quantize.is_quantized)
    return sum(map(quantize.is_quantized, leaves))


@pytest.mark.parametrize(("name", "bits"), [("llama", 4), ("phi3", 8), ("qwen3_moe", 4)])
@pytest.mark.parametrize("quantization", [None, "keep"])
def test_groups_of_inputs_that_activations_ordered(name, bits, quantization, saved, tmp_path):
    whole: dict = {}
    said = described(num_bits=bits, group_size=16, actorder="group")
    folder = restored(saved(name)[1], by_activations(bits, 16, whole), said, tmp_path)
    there = load(folder, quantization=quantization)
    assert n_quantized(there) == 0  # a group of scattered inputs is kept by nobody
    q = "model.layers.1.self_attn." + ("qkv_proj" if name == "phi3" else "q_proj")
    want = whole[f"{q}.weight"][:32] if name == "phi3" else whole[f"{q}.weight"]
    np.testing.assert_allclose(there.stacks[0][0].attn.q[1].reshape(32, -1), want.T, rtol=1e-6, atol=1e-7)
    sharded = load(folder, sharding=Sharding(make_mesh(fsdp=2, tensor=2, expert=2)))
    assert_same(sharded, load(folder))


@pytest.mark.parametrize("spoil", [lambda a: a + 9, lambda a: a - 9, lambda a: a[:-1], lambda a: a.astype(np.int64)])
def test_an_index_of_groups_that_does_not_fit_is_refused(spoil, saved, tmp_path):
    def change(name: str, array: np.ndarray):
        found = by_activations(4, 16, {})(name, array)
        return found and {k: spoil(v) if k.endswith("g_idx") else v for k, v in found.items()}

    said = described(num_bits=4, group_size=16, actorder="group")
    with pytest.raises(CheckpointError, match="_g_idx'"):
        load(restored(saved("llama")[1], change, said, tmp_path))


GROUPS = {"int4:33": "33", "int8:100": "100", "fp8:20": "20"}  # with inputs of 32, 48 and 64


@pytest.mark.parametrize("scheme", GROUPS)
@pytest.mark.parametrize("way", ["read", "converted", "quantised"])
def test_a_group_that_fits_no_weight_is_refused_by_its_size(scheme, way, saved, tmp_path):
    cfg = dataclasses.replace(MODELS["llama"], d_ff=64)
    w = spec.init(transformer.specs(cfg), jax.random.key(0))
    saving.save_model(tmp_path / "whole", w, cfg, model_type="llama")
    ways = {
        "read": lambda: load(tmp_path / "whole", quantization=scheme),
        "converted": lambda: convert.convert_checkpoint(tmp_path / "whole", tmp_path / "out", quantization=scheme),
        "quantised": lambda: quantize.quantize(w, transformer.specs(cfg), Scheme.named(scheme)),
    }
    with pytest.raises(
        ConfigError, match=f"groups of {GROUPS[scheme]} inputs do not fit .* nothing would be quantised"
    ):
        ways[way]()
    assert not (tmp_path / "out").exists()


def test_a_group_that_fits_some_weights_says_which_are_left(saved, tmp_path):
    cfg = dataclasses.replace(MODELS["llama"], d_ff=44)
    w = spec.init(transformer.specs(cfg), jax.random.key(0))
    saving.save_model(tmp_path / "whole", w, cfg, model_type="llama")
    with pytest.warns(
        UserWarning, match=r"int4: groups of 32 inputs do not fit weights that have 44 .*those 1 of 7 stay"
    ):
        there = load(tmp_path / "whole", quantization="int4")
    assert n_quantized(there) == 6
    with pytest.warns(UserWarning, match="those 1 of 7 stay"):
        convert.convert_checkpoint(tmp_path / "whole", tmp_path / "out", quantization="int4")
    np.testing.assert_array_equal(load(tmp_path / "out").stacks[0][0].ffn.down, w.stacks[0][0].ffn.down)
