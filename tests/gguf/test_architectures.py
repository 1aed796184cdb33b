"""Each architecture beside a writer of our tests': names by the package `gguf`, and values as llama.cpp's documented
conversion makes them. What it writes is read as the same model, and our own files have the same tensors and sizes."""

import re

import gguf
import jax
import numpy as np
import pytest

from vishwamai.gguf.convert import convert_to_gguf
from vishwamai.gguf.source import GGUFSource
from vishwamai.gguf_header import read_header
from vishwamai.hf import config, safetensors, weights
from vishwamai.hf.export import differing_fields

from .conftest import CASES, write_folder

Tensors = dict[str, np.ndarray]
ARCH = {
    "mistral": "LLAMA", "mixtral": "LLAMA", "llama3": "LLAMA", "ministral3": "MISTRAL3", "qwen2_moe": "QWEN2MOE",
    "qwen3_moe": "QWEN3MOE", "gemma3_text": "GEMMA3", "phi4_mini": "PHI3", "olmo3": "OLMO2", "gpt_oss": "GPT_OSS",
    "deepseek_v2": "DEEPSEEK2", "deepseek_v2_lite": "DEEPSEEK2", "deepseek_v3": "DEEPSEEK2",
}  # fmt: skip
TURNED = ("llama", "mistral", "mixtral", "ministral3", "granite", "smollm3")
OURS_ALONE = (
    "llama3",
    "mixtral_window",
    "phi3_longrope",
    "gemma2_27b",
    "gemma3_27b",
)  # are of others in what they store
NOT_MAPPED = {".e_score_correction_bias": ".e_score_correction"}  # how the package spells it


def converted(data: dict, tensors: Tensors, *, split: bool) -> Tensors:
    """What is stored of a Hugging Face checkpoint, by its names there with what was made of them."""
    kind, made = data["model_type"], dict(tensors)
    heads = data.get("num_attention_heads", 0)
    for name, v in tensors.items():
        if (match := re.search(r"self_attn\.([qk])_proj", name)) and kind in TURNED:
            n = heads if match[1] == "q" else data["num_key_value_heads"]
            made[name] = v.reshape(n, 2, v.shape[0] // n // 2, *v.shape[1:]).swapaxes(1, 2).reshape(v.shape)
        if kind.startswith("gemma") and name.endswith("norm.weight"):
            made[name] = v + 1
        if kind == "gpt2" and re.search(r"(c_attn|c_proj|c_fc)\.weight", name):
            made[name] = v.T
        if name.endswith("shared_expert_gate.weight"):
            made[name] = v[0]
        if name.endswith("kv_b_proj.weight") and split:
            del made[name]
            still = data["qk_nope_head_dim"]
            per_head = v.reshape(heads, still + data["v_head_dim"], -1)
            made[name.replace("kv_b", "k_b")] = per_head[:, :still].swapaxes(1, 2)
            made[name.replace("kv_b", "v_b")] = per_head[:, still:]
    return _gpt_oss(made) if kind == "gpt_oss" else _stacked(made)


def _stacked(tensors: Tensors) -> Tensors:
    """The experts of a layer in one tensor."""
    made, lists = {}, {}
    for name, v in tensors.items():
        if match := re.search(r"experts\.(\d+)\.", name):
            lists.setdefault(name.replace(match[0], "experts."), {})[int(match[1])] = v
        else:
            made[name] = v
    return made | {name: np.stack([of[i] for i in range(len(of))]) for name, of in lists.items()}


def _gpt_oss(tensors: Tensors) -> Tensors:
    made = {}
    for name, v in tensors.items():
        is_bias, v = (
            name.endswith("_bias"),
            v if name.endswith("_bias") else v.swapaxes(-1, -2) if ".experts." in name else v,
        )
        suffix, stem = (".bias", name.removesuffix("_bias")) if is_bias else (".weight", name)
        if "gate_up_proj" in name:
            gate, up = (v[:, ::2], v[:, 1::2])
            made[stem.replace("gate_up", "gate") + suffix], made[stem.replace("gate_up", "up") + suffix] = gate, up
        elif ".experts." in name or name.endswith("sinks"):
            made[stem + suffix] = v
        else:
            made[name] = v
    return made


def write_by_hand(path, case: str, data: dict, tensors: Tensors, *, split: bool) -> None:
    arch = gguf.MODEL_ARCH[ARCH.get(case, case.upper())]
    writer = gguf.GGUFWriter(path, gguf.MODEL_ARCH_NAMES[arch])
    blocks = data.get("num_hidden_layers", data.get("n_layer"))
    names = gguf.get_tensor_name_map(arch, blocks)
    add_metadata(writer, data, split=split)
    for name, v in converted(data, tensors, split=split).items():
        for spelt, theirs in NOT_MAPPED.items():
            name = name.replace(spelt, f"{theirs}.bias")
        found = names.get_name(name, try_suffixes=(".weight", ".bias"))
        assert found is not None, name
        writer.add_tensor(found, np.ascontiguousarray(v, np.float32))
    if case == "phi4_mini":
        for which in ("long", "short"):
            factors = np.array(data["rope_parameters"][f"{which}_factor"], np.float32)
            writer.add_tensor(f"rope_factors_{which}.weight", factors)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def add_metadata(writer: gguf.GGUFWriter, data: dict, *, split: bool) -> None:
    """The metadata by the writer's own functions."""
    kind, ropes = data["model_type"], data.get("rope_parameters") or {}
    ropes = ropes.get("full_attention", ropes)

    def first(*keys: str):
        return next(data[key] for key in keys if data.get(key) is not None)

    width, heads = first("hidden_size", "n_embd"), first("num_attention_heads", "n_head")
    writer.add_context_length(first("max_position_embeddings", "n_positions"))
    writer.add_embedding_length(width)
    writer.add_block_count(first("num_hidden_layers", "n_layer"))
    writer.add_feed_forward_length(data.get("intermediate_size") or data.get("n_inner") or 4 * width)
    writer.add_head_count(heads)
    writer.add_head_count_kv(1 if split else data.get("num_key_value_heads", heads))
    writer.add_tokenizer_model("none")
    if "rms_norm_eps" in data:
        writer.add_layer_norm_rms_eps(data["rms_norm_eps"])
    else:
        writer.add_layer_norm_eps(first("norm_epsilon", "layer_norm_epsilon"))
    if kind.startswith("deepseek"):
        _add_latent(writer, data, split=split)
    elif kind != "gpt2":
        head = data.get("head_dim") or width // heads
        writer.add_key_length(head)
        writer.add_value_length(head)
        writer.add_rope_dimension_count(int(head * ropes.get("partial_rotary_factor", 1)))
    if ropes:
        writer.add_rope_freq_base(ropes["rope_theta"])
    if ropes.get("rope_type") == "yarn":
        writer.add_rope_scaling_type(gguf.RopeScalingType.YARN)
        writer.add_rope_scaling_factor(ropes["factor"])
        writer.add_rope_scaling_orig_ctx_len(ropes["original_max_position_embeddings"])
        writer.add_rope_scaling_yarn_beta_fast(ropes.get("beta_fast", 32.0))
        writer.add_rope_scaling_yarn_beta_slow(ropes.get("beta_slow", 1.0))
        if "attention_factor" in ropes:
            writer.add_rope_scaling_yarn_attn_factor(ropes["attention_factor"])
    if ropes.get("rope_type") == "longrope":
        original = data["original_max_position_embeddings"]
        scale = data["max_position_embeddings"] / original
        writer.add_rope_scaling_orig_ctx_len(original)
        writer.add_rope_scaling_attn_factors(float(np.sqrt(1 + np.log(scale) / np.log(original))))
    if ropes.get("rope_type") == "linear":
        writer.add_rope_scaling_type(gguf.RopeScalingType.LINEAR)
        writer.add_rope_scaling_factor(ropes["factor"])
    _add_of_kind(writer, kind, data, ropes)


def _add_latent(writer: gguf.GGUFWriter, data: dict, *, split: bool) -> None:
    still, turned, latent = data["qk_nope_head_dim"], data["qk_rope_head_dim"], data["kv_lora_rank"]
    if data["q_lora_rank"] is not None:
        writer.add_q_lora_rank(data["q_lora_rank"])
    writer.add_kv_lora_rank(latent)
    writer.add_key_length(latent + turned if split else still + turned)
    writer.add_value_length(latent if split else data["v_head_dim"])
    if split:
        writer.add_key_length_mla(still + turned)
        writer.add_value_length_mla(data["v_head_dim"])
    writer.add_rope_dimension_count(turned)
    writer.add_leading_dense_block_count(data["first_k_dense_replace"])
    writer.add_expert_count(data["n_routed_experts"])
    writer.add_expert_used_count(data["num_experts_per_tok"])
    writer.add_expert_shared_count(data["n_shared_experts"])
    writer.add_expert_feed_forward_length(data["moe_intermediate_size"])
    writer.add_expert_weights_scale(data["routed_scaling_factor"])
    if data.get("n_group"):
        writer.add_expert_group_count(data["n_group"])
        writer.add_expert_group_used_count(data["topk_group"])
    is_third = data["model_type"] == "deepseek_v3"
    writer.add_expert_gating_func(gguf.ExpertGatingFuncType["SIGMOID" if is_third else "SOFTMAX"])
    if is_third:
        writer.add_expert_weights_norm(data["norm_topk_prob"])
        writer.add_rope_scaling_yarn_log_mul(0.1 * data["rope_parameters"]["mscale_all_dim"])


def _add_of_kind(writer: gguf.GGUFWriter, kind: str, data: dict, ropes: dict) -> None:
    if data.get("sliding_window") and kind not in ("qwen2", "qwen3", "qwen2_moe", "qwen3_moe"):
        writer.add_sliding_window(data["sliding_window"])
    if kind in ("mixtral", "qwen2_moe", "qwen3_moe", "gpt_oss"):
        writer.add_expert_count(data.get("num_experts") or data["num_local_experts"])
        writer.add_expert_used_count(data["num_experts_per_tok"])
    if kind in ("qwen2_moe", "qwen3_moe", "gpt_oss"):
        writer.add_expert_feed_forward_length(data.get("moe_intermediate_size") or data["intermediate_size"])
    if kind == "qwen2_moe":
        writer.add_expert_shared_feed_forward_length(data["shared_expert_intermediate_size"])
    if kind == "gemma2":
        writer.add_attn_logit_softcapping(data["attn_logit_softcapping"])
        writer.add_final_logit_softcapping(data["final_logit_softcapping"])
    if kind == "gemma3_text":
        if data.get("final_logit_softcapping"):
            writer.add_final_logit_softcapping(data["final_logit_softcapping"])
        slides = [layer == "sliding_attention" for layer in data["layer_types"]]
        writer.add_sliding_window_pattern(slides)
        writer.add_rope_freq_base_swa(data["rope_parameters"]["sliding_attention"]["rope_theta"])
    if kind == "granite":
        writer.add_embedding_scale(data["embedding_multiplier"])
        writer.add_residual_scale(data["residual_multiplier"])
        writer.add_attention_scale(data["attention_multiplier"])
        writer.add_logit_scale(data["logits_scaling"])
    if kind == "ministral3":
        writer.add_rope_scaling_yarn_log_mul(ropes["mscale_all_dim"])
        writer.add_attn_temperature_scale(ropes["llama_4_scaling_beta"])


@pytest.mark.parametrize("case", [case for case in CASES if case not in OURS_ALONE])
@pytest.mark.filterwarnings("ignore:llama.cpp overlooks")
def test_files_by_llama_cpp_s_rules(case, tmp_path):
    data = CASES[case]
    write_folder(tmp_path / "hf", data)
    found = safetensors.read_folder(tmp_path / "hf")
    tensors = {
        n: np.fromfile(t.path, t.dtype, int(np.prod(t.shape)), offset=t.start).reshape(t.shape)
        for n, t in found.items()
    }
    split = case == "deepseek_v3"
    write_by_hand(tmp_path / "a.gguf", case, data, tensors, split=split)
    theirs, mine = config.read_pretrained(tmp_path / "hf"), GGUFSource(tmp_path / "a.gguf")
    assert differing_fields(theirs.model, mine.pretrained.model) == []
    a, b = weights.load_weights(mine, mine.pretrained), weights.load_weights(tmp_path / "hf", theirs)
    jax.tree.map(lambda x, y: np.testing.assert_allclose(x, y, atol=2e-7), a, b)
    convert_to_gguf(tmp_path / "hf", tmp_path / "b.gguf", kind="f32")
    one, other = (read_header(tmp_path / name) for name in ("a.gguf", "b.gguf"))
    assert one.metadata["general.architecture"] == other.metadata["general.architecture"]
    if not split:
        assert values(one) == values(other)


def values(header) -> dict:
    return {
        n: (t.shape, np.fromfile(t.path, "u1", t.nbytes, offset=t.start).tobytes()) for n, t in header.tensors.items()
    }
