"""Tiny random models of every family, as transformers makes them: the oracle of all parity tests.

Every stored weight is perturbed, biases and norms included, so that a switch that does nothing at its starting value
shows. Windows, softcaps and rope scaling are small enough to bite within the few positions that tests use.
"""

import importlib.util
import zlib
from pathlib import Path

import pytest

BASE = {
    "vocab_size": 61,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 16,
    "max_position_embeddings": 256,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "pad_token_id": 0,
}
LLAMA3_ROPE = {"rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0}
YARN = {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 16, "beta_fast": 4.0, "beta_slow": 1.0}
PARTIAL = {"rope_type": "default", "rope_theta": 500.0, "partial_rotary_factor": 0.5}
ALPHA = {"rope_type": "dynamic", "rope_theta": 500.0, "alpha": 50.0, "factor": 1.0}
LONGROPE = {
    "rope_type": "longrope",
    "rope_theta": 500.0,
    "short_factor": [1.0, 1.5, 2.0],
    "long_factor": [2.0, 3.0, 5.0],
}
DEEPSEEK = {
    "head_dim": None,
    "num_key_value_heads": 4,
    "kv_lora_rank": 12,
    "qk_nope_head_dim": 10,
    "qk_rope_head_dim": 6,
    "v_head_dim": 8,
    "n_routed_experts": 8,
    "num_experts_per_tok": 3,
    "moe_intermediate_size": 24,
    "n_shared_experts": 2,
    "first_k_dense_replace": 1,
    "n_group": 4,
    "topk_group": 2,
    "routed_scaling_factor": 1.7,
}
GEMMA = {"query_pre_attn_scalar": 24, "final_logit_softcapping": 1.5, "sliding_window": 5}
MOE = {"num_experts_per_tok": 2, "attention_bias": True, "mlp_only_layers": [1], "num_hidden_layers": 4}

# name of a case: (transformers' configuration class, what it sets)
CASES = {
    "llama": ("LlamaConfig", {"rope_theta": 500.0, "rms_norm_eps": 1e-3}),
    "llama3": (
        "LlamaConfig",
        {
            "rope_parameters": LLAMA3_ROPE | {"original_max_position_embeddings": 16, "rope_theta": 500.0},
            "attention_bias": True,
            "mlp_bias": True,
            "tie_word_embeddings": True,
        },
    ),
    "llama_dynamic": (
        "LlamaConfig",
        {"max_position_embeddings": 16}
        | {"rope_parameters": {"rope_type": "dynamic", "factor": 4.0, "rope_theta": 500.0}},
    ),
    "mistral": ("MistralConfig", {"sliding_window": 5, "head_dim": None}),
    "qwen2": (
        "Qwen2Config",
        {"use_sliding_window": True, "sliding_window": 5, "max_window_layers": 2, "head_dim": 8},
    ),
    "qwen3": ("Qwen3Config", {"tie_word_embeddings": True}),
    "qwen3_window": (
        "Qwen3Config",
        {"use_sliding_window": True, "sliding_window": 5, "max_window_layers": 1, "attention_bias": True},
    ),
    "qwen3_moe": ("Qwen3MoeConfig", MOE | {"num_experts": 6, "moe_intermediate_size": 24, "norm_topk_prob": True}),
    "qwen3_moe_window": (
        "Qwen3MoeConfig",
        {"num_experts": 4, "num_experts_per_tok": 3, "moe_intermediate_size": 24, "decoder_sparse_step": 2}
        | {"use_sliding_window": True, "sliding_window": 5},
    ),
    "qwen2_moe": (
        "Qwen2MoeConfig",
        {"num_experts": 6, "num_experts_per_tok": 2, "moe_intermediate_size": 24, "mlp_only_layers": [1]}
        | {"shared_expert_intermediate_size": 20, "norm_topk_prob": True, "num_hidden_layers": 4},
    ),
    "qwen2_moe_window": (
        "Qwen2MoeConfig",
        {"num_experts": 5, "num_experts_per_tok": 3, "moe_intermediate_size": 24, "decoder_sparse_step": 2}
        | {"shared_expert_intermediate_size": 40, "qkv_bias": False, "num_hidden_layers": 5}
        | {"use_sliding_window": True, "sliding_window": 5, "max_window_layers": 3},
    ),
    "mixtral": ("MixtralConfig", {"num_local_experts": 4}),
    "mixtral_window": ("MixtralConfig", {"num_local_experts": 4, "sliding_window": 5, "rope_theta": 300.0}),
    "gemma": ("GemmaConfig", {"attention_bias": True}),
    "gemma2": ("Gemma2Config", GEMMA | {"attn_logit_softcapping": 0.7}),
    "gemma3_text": (
        "Gemma3TextConfig",
        GEMMA
        | {"num_hidden_layers": 7, "sliding_window_pattern": 3, "rope_theta": 1000.0, "rope_local_base_freq": 50.0}
        | {"rope_scaling": {"rope_type": "linear", "factor": 4.0}},
    ),
    "olmo": ("OlmoConfig", {"clip_qkv": 0.6, "head_dim": None}),
    "olmo2": ("Olmo2Config", {"attention_bias": True, "head_dim": None}),
    "olmo3": (
        "Olmo3Config",
        {
            "num_hidden_layers": 5,
            "sliding_window": 5,
            "head_dim": None,
            "rope_parameters": {
                "full_attention": YARN | {"rope_theta": 300.0},
                "sliding_attention": {"rope_type": "default", "rope_theta": 300.0},
            },
        },
    ),
    "olmoe": (
        "OlmoeConfig",
        {"num_experts": 6, "num_experts_per_tok": 2, "clip_qkv": 0.6, "attention_bias": True, "head_dim": None},
    ),
    "olmoe_plain": (
        "OlmoeConfig",
        {"num_experts": 5, "num_experts_per_tok": 3, "norm_topk_prob": True, "head_dim": None},
    ),
    "granite": (
        "GraniteConfig",
        {"embedding_multiplier": 3.0, "residual_multiplier": 0.4, "attention_multiplier": 0.3, "logits_scaling": 2.5}
        | {"attention_bias": True, "mlp_bias": True, "head_dim": None},
    ),
    "granitemoe": (
        "GraniteMoeConfig",
        {"embedding_multiplier": 3.0, "residual_multiplier": 0.4, "attention_multiplier": 0.3, "logits_scaling": 2.5}
        | {"num_local_experts": 5, "num_experts_per_tok": 3, "head_dim": None},
    ),
    "gpt_oss": (
        "GptOssConfig",
        {"num_local_experts": 5, "num_experts_per_tok": 2, "sliding_window": 5, "swiglu_limit": 0.5}
        | {"rope_parameters": YARN | {"rope_theta": 300.0, "truncate": False}},
    ),
    "ministral3": (
        "Ministral3Config",
        {"rope_parameters": YARN | {"rope_theta": 300.0, "llama_4_scaling_beta": 0.4, "mscale": 1.0}}
        | {"sliding_window": None},
    ),
    "deepseek_v2": (
        "DeepseekV2Config",
        DEEPSEEK | {"topk_method": "group_limited_greedy", "q_lora_rank": 20, "attention_bias": True},
    ),
    "deepseek_v2_lite": ("DeepseekV2Config", DEEPSEEK | {"q_lora_rank": None, "v_head_dim": 16, "n_group": None}),
    "deepseek_v3": (
        "DeepseekV3Config",
        DEEPSEEK
        | {"rope_parameters": YARN | {"rope_theta": 300.0, "mscale": 1.0, "mscale_all_dim": 0.8}, "q_lora_rank": 20},
    ),
    "deepseek_v3_halves": (
        "DeepseekV3Config",
        DEEPSEEK | {"rope_interleave": False, "norm_topk_prob": False, "v_head_dim": 24},
    ),
    "smollm3": ("SmolLM3Config", {"num_hidden_layers": 5, "no_rope_layer_interval": 2, "head_dim": None}),
    "smollm3_window": (
        "SmolLM3Config",
        {"num_hidden_layers": 4, "use_sliding_window": True, "sliding_window": 5, "head_dim": None, "mlp_bias": True},
    ),
    "arcee": ("ArceeConfig", {"mlp_bias": True}),
    "seed_oss": ("SeedOssConfig", {"attention_bias": False, "attention_out_bias": True, "mlp_bias": True}),
    "ernie4_5": ("Ernie4_5Config", {"use_bias": True}),
    "ernie4_5_moe": (
        "Ernie4_5_MoeConfig",
        {"moe_num_experts": 6, "moe_k": 2, "moe_intermediate_size": 12},
    ),
    "ernie4_5_moe_some": (
        "Ernie4_5_MoeConfig",
        {"moe_num_experts": 5, "moe_k": 3, "moe_intermediate_size": 24, "moe_num_shared_experts": 0}
        | {"num_hidden_layers": 7, "moe_layer_start_index": 2, "moe_layer_end_index": 5, "moe_layer_interval": 2}
        | {"tie_word_embeddings": False, "head_dim": None},
    ),
    "hunyuan_v1_dense": ("HunYuanDenseV1Config", {"attention_bias": True}),
    "hunyuan_v1_dense_alpha": ("HunYuanDenseV1Config", {"rope_parameters": ALPHA}),
    "hunyuan_v1_moe": (
        "HunYuanMoEV1Config",
        {"num_experts": 6, "moe_topk": 2, "attention_bias": True, "rope_parameters": ALPHA},
    ),
    "hunyuan_v1_moe_lists": ("HunYuanMoEV1Config", {"num_experts": 5, "moe_topk": [3, 3, 3]}),
    "exaone4": ("Exaone4Config", {"num_hidden_layers": 5, "sliding_window": 5, "head_dim": None}),
    "exaone4_full": ("Exaone4Config", {"sliding_window": None, "layer_types": ["full_attention"] * 3}),
    "cohere2": (
        "Cohere2Config",
        {"num_hidden_layers": 5, "sliding_window": 5, "logit_scale": 0.3, "attention_bias": True, "head_dim": None},
    ),
    "starcoder2": ("Starcoder2Config", {"sliding_window": 5, "head_dim": None}),
    "starcoder2_plain": ("Starcoder2Config", {"use_bias": False, "head_dim": None, "tie_word_embeddings": False}),
    "phi": ("PhiConfig", {"rope_parameters": PARTIAL, "qk_layernorm": True, "head_dim": None}),
    "phi_plain": ("PhiConfig", {"head_dim": None}),
    "phi3": ("Phi3Config", {"sliding_window": 5, "head_dim": None}),
    "phi4_mini": (
        "Phi3Config",
        {"head_dim": None, "tie_word_embeddings": True, "original_max_position_embeddings": 16}
        | {"rope_parameters": LONGROPE | {"partial_rotary_factor": 0.75}},
    ),
    "phi3_longrope": (  # texts that are short for a model of long ones
        "Phi3Config",
        {"head_dim": None, "original_max_position_embeddings": 64}
        | {"rope_parameters": LONGROPE | {"partial_rotary_factor": 0.75}},
    ),
    "phi3_longrope_window": (
        "Phi3Config",
        {"head_dim": None, "original_max_position_embeddings": 20, "sliding_window": 5}
        | {"rope_parameters": LONGROPE | {"partial_rotary_factor": 0.75}},
    ),
    "glm": ("GlmConfig", {"rope_parameters": PARTIAL}),
    "glm4": ("Glm4Config", {"rope_parameters": PARTIAL}),
    "glm4_moe": (
        "Glm4MoeConfig",
        {"n_routed_experts": 8, "n_group": 4, "topk_group": 2, "num_experts_per_tok": 3, "routed_scaling_factor": 1.7}
        | {"n_shared_experts": 2, "moe_intermediate_size": 12, "use_qk_norm": True, "attention_bias": True},
    ),
    "glm4_moe_plain": (
        "Glm4MoeConfig",
        {"n_routed_experts": 6, "num_experts_per_tok": 2, "moe_intermediate_size": 24, "norm_topk_prob": False}
        | {"first_k_dense_replace": 0, "rope_parameters": PARTIAL | {"partial_rotary_factor": 1.0}},
    ),
    "minimax_m2": ("MiniMaxM2Config", {"num_local_experts": 6, "num_experts_per_tok": 2, "rotary_dim": 8}),
    "minimax_m2_full": ("MiniMaxM2Config", {"num_local_experts": 5, "num_experts_per_tok": 3}),
    "gpt2": (
        "GPT2Config",
        {"head_dim": None, "num_key_value_heads": None, "intermediate_size": None, "n_inner": 40}
        | {"layer_norm_epsilon": 1e-3},
    ),
    "apertus": ("ApertusConfig", {"attention_bias": True, "head_dim": None}),
    "nanochat": ("NanoChatConfig", {"final_logit_softcapping": 1.5, "attention_bias": True, "head_dim": None}),
}


def config_of(kind: str, fields: dict):
    """transformers' configuration of a case; None leaves one of the common fields away."""
    import transformers

    return getattr(transformers, kind)(**{k: v for k, v in (BASE | fields).items() if k not in BASE or v is not None})


def make(case: str):
    """The tiny transformers model of a case: float32, eager attention, every stored weight perturbed."""
    import torch
    import transformers

    torch.manual_seed(zlib.crc32(case.encode()))
    config = config_of(*CASES[case])
    model = transformers.AutoModelForCausalLM.from_config(config, attn_implementation="eager").eval()
    with torch.no_grad():
        for tensor in {t.data_ptr(): t for t in model.state_dict().values()}.values():
            tensor.add_((0.1 if tensor.ndim > 1 else 0.3) * torch.randn_like(tensor))
    return model


@pytest.fixture(scope="session")
def tiny_models(tmp_path_factory):
    """`tiny_models(case)` -> (transformers model, folder it is saved in), each made once."""
    made = {}

    def tiny(case: str) -> tuple[object, Path]:
        if case not in made:
            model, folder = make(case), tmp_path_factory.mktemp(case)
            model.save_pretrained(folder)
            made[case] = model, folder
        return made[case]

    return tiny


@pytest.fixture
def measured(request):
    """`measured(case, name, value)` tells `families_page.py`, where it listens."""
    return lambda *row: request.node.user_properties.append(row)


@pytest.fixture(scope="session")
def cases():
    """All of `CASES`."""
    return CASES


def pytest_generate_tests(metafunc):
    """Every test that takes a case, and does not say which, runs for all of them."""
    said = [mark.args[0] for mark in metafunc.definition.iter_markers("parametrize")]
    if "case" in metafunc.fixturenames and not any("case" in names for names in said):
        metafunc.parametrize("case", CASES)


def pytest_collection_modifyitems(items):
    """Skips what needs transformers where it is not installed."""
    if importlib.util.find_spec("torch") and importlib.util.find_spec("transformers"):
        return
    for item in items:
        if item.get_closest_marker("parity"):
            item.add_marker(pytest.mark.skip(reason="transformers and torch are not installed; use make parity"))
