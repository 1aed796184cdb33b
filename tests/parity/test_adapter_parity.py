"""Adapters against the package that made their format: its folders here, ours there, and the logits of both."""

import importlib.util
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vishwamai.hf import adapters, config, weights
from vishwamai.models import transformer
from vishwamai.weights import lora, spec

pytestmark = [
    pytest.mark.parity,
    pytest.mark.skipif(importlib.util.find_spec("peft") is None, reason="peft is not installed"),
    pytest.mark.filterwarnings("ignore"),  # theirs
]
TOKENS = np.random.default_rng(3).integers(0, 61, (2, 12))
ALIKE = 1e-5
QKV = ["q_proj", "k_proj", "v_proj"]
MADE_BY_PEFT = {  # what a LoraConfig is given
    "llama": {
        "target_modules": "all-linear",
        "rank_pattern": {"v_proj": 6},
        "alpha_pattern": {"layers.1.mlp.up_proj": 5},
    },
    "llama3": {"target_modules": [*QKV, "o_proj"], "use_rslora": True, "layers_to_transform": [0, 2]},
    "phi3": {"target_modules": ["qkv_proj", "o_proj", "gate_up_proj", "down_proj"]},
    "glm": {"target_modules": ["gate_up_proj", "q_proj"]},
    "gpt2": {"target_modules": ["c_attn", "c_proj", "c_fc"], "fan_in_fan_out": True},
    "qwen3_moe": {"target_modules": [*QKV, "o_proj"]},
    "gpt_oss": {"target_modules": [*QKV, "o_proj"]},
    "deepseek_v3": {"target_modules": ["q_a_proj", "q_b_proj", "kv_a_proj_with_mqa", "kv_b_proj", "o_proj"]},
    "gemma3_text": {"target_modules": ["q_proj", "down_proj"]},
    "olmo": {"target_modules": ["gate_proj", "lm_head"]},
}
MADE_HERE = ("llama", "phi3", "glm", "gpt2", "qwen3_moe", "mixtral", "deepseek_v3")


def theirs(model) -> np.ndarray:
    import torch

    with torch.no_grad():
        return model(torch.tensor(TOKENS), use_cache=False).logits.numpy()


def ours(w, cfg) -> np.ndarray:
    return np.asarray(jax.jit(lambda w: transformer.forward(w, jnp.asarray(TOKENS), cfg)[0])(w))


def assert_alike(mine: np.ndarray, reference: np.ndarray) -> None:
    assert np.abs(mine - reference).max() <= ALIKE * np.abs(reference).max()


@pytest.mark.parametrize("case", MADE_BY_PEFT)
def test_its_folders_give_its_logits(case, tiny_models, tmp_path):
    import peft
    import torch
    import transformers

    _, folder = tiny_models(case)
    model = transformers.AutoModelForCausalLM.from_pretrained(folder, attn_implementation="eager").eval()
    bare = theirs(model)
    adapted = peft.get_peft_model(model, peft.LoraConfig(r=4, lora_alpha=6, **MADE_BY_PEFT[case])).eval()
    torch.manual_seed(0)
    for name, parameter in adapted.named_parameters():
        if "lora_" in name:
            torch.nn.init.normal_(parameter, std=0.2)
    adapted.save_pretrained(tmp_path, save_embedding_layers=False)
    found = config.read(folder)
    w = weights.load(folder, found)
    pairs = adapters.load(tmp_path, found.model, found.model_type)
    reference = theirs(adapted)
    assert np.abs(reference - bare).max() > 0.01 * np.abs(bare).max()
    assert_alike(ours(lora.attach(w, [pairs]), found.model), reference)
    assert_alike(ours(lora.merge(lora.attach(w, [pairs])), found.model), reference)


@pytest.mark.parametrize("case", MADE_HERE)
def test_our_folders_give_our_logits_there(case, tiny_models, tmp_path):
    import peft
    import transformers

    _, folder = tiny_models(case)
    found = config.read(folder)
    declared = lora.specs(transformer.specs(found.model), rank=3, alpha=5.0)
    if found.model.n_experts:  # where experts have pairs, peft 0.21 drops those of Linears of the same names
        declared = {path: p for path, p in declared.items() if ".attn." in path or "experts" in p.a.axes}
    draw = np.random.default_rng(0).standard_normal
    pairs = spec.map_params(
        lambda p: jnp.asarray(0.2 * draw(p.shape, np.float32)) if p.contract else p.init(None), declared
    )
    adapters.save(tmp_path, pairs, found.model, found.model_type)
    base = transformers.AutoModelForCausalLM.from_pretrained(folder, attn_implementation="eager").eval()
    bare = theirs(base)
    reference = theirs(peft.PeftModel.from_pretrained(base, str(tmp_path)).eval())
    mine = ours(lora.attach(weights.load(folder, found), [pairs]), found.model)
    assert np.abs(reference - bare).max() > 0.01 * np.abs(bare).max()
    assert_alike(mine, reference)
    assert json.loads((tmp_path / "adapter_config.json").read_text())["peft_type"] == "LORA"
