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
OUTSIDE = {  # of the embedding and the output matrix: (the case, what a LoraConfig is given)
    "pairs": ("llama", {"target_modules": ["q_proj", "embed_tokens", "lm_head"]}),
    "root": ("mistral", {"target_modules": ["embed_tokens"], "use_rslora": True, "rank_pattern": {"embed_tokens": 3}}),
    "scaled": ("granite", {"target_modules": ["embed_tokens", "down_proj"]}),
    "whole": ("olmo", {"target_modules": ["q_proj"], "modules_to_save": ["embed_tokens", "lm_head"]}),
    "whole head": ("phi3", {"target_modules": ["qkv_proj"], "modules_to_save": ["lm_head"]}),
    "tied, pairs": ("qwen3", {"target_modules": ["q_proj", "embed_tokens"]}),
    "tied, pair of the head": ("llama3", {"target_modules": ["lm_head"]}),
    "tied, scaled": ("gemma2", {"target_modules": ["embed_tokens"]}),
    "tied, another layout": ("gpt2", {"target_modules": ["wte", "c_attn"], "fan_in_fan_out": True}),
    "tied, whole": ("qwen3", {"target_modules": ["q_proj"], "modules_to_save": ["embed_tokens"]}),
    "tied, as one": ("qwen3", {"target_modules": ["embed_tokens", "lm_head"], "ensure_weight_tying": True}),
    "tied, whole as one": (
        "llama3",
        {"target_modules": ["q_proj"], "modules_to_save": ["embed_tokens"], "ensure_weight_tying": True},
    ),
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
    found = config.read_pretrained(folder)
    w = weights.load_weights(folder, found)
    pairs = adapters.load_adapter(tmp_path, found.model, found.model_type)
    reference = theirs(adapted)
    assert np.abs(reference - bare).max() > 0.01 * np.abs(bare).max()
    assert_alike(ours(lora.attach(w, [pairs]), found.model), reference)
    assert_alike(ours(lora.merge(lora.attach(w, [pairs])), found.model), reference)


@pytest.mark.parametrize("stored", [True, False], ids=["base stored", "pairs alone"])
@pytest.mark.parametrize("name", OUTSIDE)
def test_its_folders_of_the_embedding_and_the_output_matrix(name, stored, tiny_models, tmp_path):
    """By default PEFT stores the base's embedding beside its pairs."""
    import peft
    import torch
    import transformers

    case, given = OUTSIDE[name]
    _, folder = tiny_models(case)
    model = transformers.AutoModelForCausalLM.from_pretrained(folder, attn_implementation="eager").eval()
    bare = theirs(model)
    adapted = peft.get_peft_model(model, peft.LoraConfig(r=4, lora_alpha=6, **given)).eval()
    torch.manual_seed(0)
    for part, parameter in adapted.named_parameters():
        if "lora_" in part or "modules_to_save" in part:
            torch.nn.init.normal_(parameter, std=0.2)
    adapted.save_pretrained(tmp_path, save_embedding_layers="auto" if stored else False)
    reference = theirs(adapted)
    assert np.abs(reference - bare).max() > 0.01 * np.abs(bare).max()
    found = config.read_pretrained(folder)
    w, cfg = weights.load_weights(folder, found), found.model
    if adapters.needs_untying(tmp_path, cfg, found.model_type):
        w, cfg = transformer.untie_embeddings(w, cfg)
        assert name.startswith("tied") and "as one" not in name
    pairs = adapters.load_adapter(tmp_path, cfg, found.model_type)
    attached = lora.attach(w, [pairs])
    assert_alike(ours(attached, cfg), reference)
    assert_alike(ours(lora.merge(attached), cfg), reference)
    adapters.save_adapter(tmp_path / "again", pairs, cfg, found.model_type)
    base = transformers.AutoModelForCausalLM.from_pretrained(
        folder, attn_implementation="eager", tie_word_embeddings=cfg.tie_embeddings
    ).eval()
    if found.model.tie_embeddings != cfg.tie_embeddings:
        base.lm_head.weight.data = base.get_input_embeddings().weight.data.clone()
    assert_alike(theirs(peft.PeftModel.from_pretrained(base, str(tmp_path / "again")).eval()), reference)


@pytest.mark.parametrize("case", MADE_HERE)
def test_our_folders_give_our_logits_there(case, tiny_models, tmp_path):
    import peft
    import transformers

    _, folder = tiny_models(case)
    found = config.read_pretrained(folder)
    declared = lora.specs(transformer.specs(found.model), rank=3, alpha=5.0)
    if found.model.n_experts:  # where experts have pairs, peft 0.21 drops those of Linears of the same names
        declared = {path: p for path, p in declared.items() if ".attn." in path or "experts" in p.a.axes}
    draw = np.random.default_rng(0).standard_normal
    pairs = spec.map_params(
        lambda p: jnp.asarray(0.2 * draw(p.shape, np.float32)) if p.contract else p.init(None), declared
    )
    adapters.save_adapter(tmp_path, pairs, found.model, found.model_type)
    base = transformers.AutoModelForCausalLM.from_pretrained(folder, attn_implementation="eager").eval()
    bare = theirs(base)
    reference = theirs(peft.PeftModel.from_pretrained(base, str(tmp_path)).eval())
    mine = ours(lora.attach(weights.load_weights(folder, found), [pairs]), found.model)
    assert np.abs(reference - bare).max() > 0.01 * np.abs(bare).max()
    assert_alike(mine, reference)
    assert json.loads((tmp_path / "adapter_config.json").read_text())["peft_type"] == "LORA"
