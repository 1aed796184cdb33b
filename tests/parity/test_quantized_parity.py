"""Quantised folders against transformers, which dequantises them with its own code: published forms, and our own."""

import functools
import importlib.util
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vishwamai.hf import config, saving, weights
from vishwamai.models import transformer

TOLERANCE = 1e-5
TOKENS = np.random.default_rng(0).integers(0, 61, (1, 16))
SIZES = {
    "vocab_size": 61, "hidden_size": 256, "intermediate_size": 384, "num_hidden_layers": 2, "num_attention_heads": 4,
    "num_key_value_heads": 2, "head_dim": 64, "max_position_embeddings": 64,
    "bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0,
}  # fmt: skip
LATENT = {
    "head_dim": None, "num_key_value_heads": 4, "q_lora_rank": 128, "kv_lora_rank": 128, "qk_nope_head_dim": 32,
    "qk_rope_head_dim": 32, "v_head_dim": 64, "n_routed_experts": 4, "n_group": 2, "topk_group": 1,
    "num_experts_per_tok": 2, "moe_intermediate_size": 128, "n_shared_experts": 1, "first_k_dense_replace": 1,
}  # fmt: skip
EXPERTS = {"num_experts_per_tok": 2, "moe_intermediate_size": 128}
MODELS = {
    "Qwen3Config": {},
    "Qwen3MoeConfig": EXPERTS | {"num_experts": 4},
    "DeepseekV3Config": LATENT,
    "GptOssConfig": {"num_local_experts": 4, "num_experts_per_tok": 2, "sliding_window": 8, "intermediate_size": 96},
    "Phi3Config": {"head_dim": None, "num_key_value_heads": 4},
}

pytestmark = [
    pytest.mark.parity,
    pytest.mark.filterwarnings("ignore"),  # what the peers warn of is theirs
]


def needs(package: str) -> None:
    if importlib.util.find_spec(package) is None:
        pytest.skip(f"{package} is not installed; use make parity")


def module_of(name: str):
    """One of the tests that need no torch, for its encoders of published forms."""
    return importlib.import_module(f"..hf.{name}", __package__)


@pytest.fixture(scope="module")
def encoders():
    """FP8 in blocks, MXFP4 and compressed-tensors."""
    return module_of("test_quantized")


@pytest.fixture(scope="module")
def forms():
    """The others."""
    return module_of("test_quantized_forms")


@pytest.fixture(scope="module")
def tiny(tmp_path_factory):
    """`tiny(configuration)` -> a folder that transformers wrote."""
    import torch
    import transformers

    @functools.cache
    def make(kind: str) -> Path:
        torch.manual_seed(0)
        fields = {k: v for k, v in (SIZES | MODELS[kind]).items() if v is not None}
        model = transformers.AutoModelForCausalLM.from_config(getattr(transformers, kind)(**fields)).float()
        folder = tmp_path_factory.mktemp(kind)
        model.save_pretrained(folder)
        return folder

    return make


def ours(folder: Path, quantization: str | None) -> np.ndarray:
    found = config.read_pretrained(folder)
    w = weights.load_weights(folder, found, quantization=quantization)
    forward = functools.partial(transformer.forward, cfg=found.model)
    return np.asarray(jax.jit(forward)(w, jnp.asarray(TOKENS, jnp.int32))[0])


def theirs(folder: Path, **options) -> np.ndarray:
    import torch
    import transformers

    load = functools.partial(transformers.AutoModelForCausalLM.from_pretrained, dtype=torch.float32)
    model = load(folder, attn_implementation="eager", **options).eval()
    model = model.float() if options else model  # MXFP4 comes in bfloat16, whatever was asked for
    with torch.no_grad():
        return model(torch.tensor(TOKENS)).logits.numpy()


def assert_both_are(folder: Path, reference: np.ndarray) -> None:
    for quantization in (None, "keep"):
        assert np.abs(ours(folder, quantization) - reference).max() <= TOLERANCE * np.abs(reference).max()


@pytest.mark.parametrize("kind", ["Qwen3Config", "Qwen3MoeConfig", "DeepseekV3Config"])
def test_fp8_in_blocks(kind, tiny, encoders, tmp_path):
    needs("accelerate")
    import transformers

    said = {"quant_method": "fp8", "fmt": "e4m3", "activation_scheme": "dynamic", "weight_block_size": [128, 128]}
    folder = encoders.restored(tiny(kind), encoders.fp8((128, 128), {}), said, tmp_path)
    whole = transformers.FineGrainedFP8Config(dequantize=True)
    assert_both_are(folder, theirs(folder, quantization_config=whole))


def test_mxfp4(tiny, encoders, tmp_path):
    import transformers

    said = {"quant_method": "mxfp4", "modules_to_not_convert": ["model.layers.*.self_attn", "lm_head"]}
    folder = encoders.restored(tiny("GptOssConfig"), encoders.mxfp4({}), said, tmp_path)
    assert_both_are(folder, theirs(folder, quantization_config=transformers.Mxfp4Config(dequantize=True)))


def test_scales_for_a_quantised_cache_change_nothing(tiny, encoders, forms, tmp_path):
    """With FP8 transformers overlooks them; so do we."""
    needs("accelerate")
    import transformers

    said = {"quant_method": "fp8", "fmt": "e4m3", "activation_scheme": "dynamic", "weight_block_size": [128, 128]}
    change = forms.with_cache_scales(encoders.fp8((128, 128), {}))
    folder = encoders.restored(tiny("Qwen3Config"), change, said, tmp_path)
    assert_both_are(folder, theirs(folder, quantization_config=transformers.FineGrainedFP8Config(dequantize=True)))


WRITTEN = [("Qwen3MoeConfig", scheme) for scheme in ("int8", "int4", "fp8", "int8:64")] + [("Phi3Config", "int4")]


@pytest.mark.parametrize(("kind", "scheme"), WRITTEN)
def test_transformers_reads_what_we_write(kind, scheme, tiny, tmp_path):
    needs("compressed_tensors")
    found = config.read_pretrained(tiny(kind))
    w = weights.load_weights(tiny(kind), found, quantization=scheme)
    saving.save_model(tmp_path, w, found.model, model_type=found.model_type, generation=found.generation)
    assert_both_are(tmp_path, theirs(tmp_path))
