"""DeepSeek V2 and V3, and Kimi K2: latent attention, grouped routing and shared experts."""

import dataclasses
import math

from vishwamai.errors import ConfigError
from vishwamai.hf import rope
from vishwamai.hf.attributes import COMMON, HEADS, LENGTH, Attribute, flag, number, only, size
from vishwamai.hf.family import NEXT_TOKENS, ROTARY, Attributes, Family, after_dense, layers
from vishwamai.hf.gguf_names import LATENT, GGUFTables, Values
from vishwamai.hf.gguf_names import NEXT_TOKENS as GGUF_NEXT_TOKENS
from vishwamai.hf.names import AT, DENSE, EXPERTS
from vishwamai.models.config import Latent, ModelConfig

IN = AT + "self_attn."
NAMES = DENSE | {
    "attn_norm.scale": AT + "input_layernorm.weight",
    "ffn_norm.scale": AT + "post_attention_layernorm.weight",
    "attn.q": IN + "q_proj.weight",
    "attn.q_down": IN + "q_a_proj.weight",
    "attn.q_down_bias": IN + "q_a_proj.bias",
    "attn.q_norm": IN + "q_a_layernorm.weight",
    "attn.q_up": IN + "q_b_proj.weight",
    "attn.kv_down": IN + "kv_a_proj_with_mqa.weight",
    "attn.kv_down_bias": IN + "kv_a_proj_with_mqa.bias",
    "attn.kv_norm": IN + "kv_a_layernorm.weight",
    "attn.kv_up": IN + "kv_b_proj.weight",
    "attn.o": IN + "o_proj.weight",
    "attn.o_bias": IN + "o_proj.bias",
}
MOE = EXPERTS | {
    "ffn.choice_bias": AT + "mlp.gate.e_score_correction_bias",
    **{f"ffn.shared.{name}": AT + f"mlp.shared_experts.{name}_proj.weight" for name in ("gate", "up", "down")},
}
FIELDS = {"n_routed_experts": "n_experts", "routed_scaling_factor": "route_scale"}
SHARED = {"n_shared_experts": ("d_shared", "d_expert")}
ATTRIBUTES = COMMON | {
    "attention_bias": flag(False),
    "q_lora_rank": size(1536, null=True),
    "kv_lora_rank": size(512),
    "qk_nope_head_dim": size(128, HEADS),
    "qk_rope_head_dim": size(64, HEADS),
    "v_head_dim": size(128, HEADS),
    "n_shared_experts": size(2, HEADS),
    "n_routed_experts": size(64, HEADS),
    "num_experts_per_tok": size(most=HEADS),
    "moe_intermediate_size": size(1407, 2**22),
    "routed_scaling_factor": number(1.0),
    "first_k_dense_replace": Attribute((int,), 0, 0, 1024),
    "n_group": size(None, HEADS),
    "topk_group": size(None, HEADS),
    "moe_layer_freq": only(1),
    "ep_size": only(1),
}
THIRD = ATTRIBUTES | {
    "n_shared_experts": size(1, HEADS),
    "n_routed_experts": size(256, HEADS),
    "num_experts_per_tok": size(8, HEADS),
    "moe_intermediate_size": size(2048, 2**22),
    "routed_scaling_factor": number(2.5),
    "first_k_dense_replace": Attribute((int,), 3, 0, 1024),
    "max_position_embeddings": size(4096, LENGTH),
    "n_group": size(8, HEADS),
    "topk_group": size(4, HEADS),
    "norm_topk_prob": flag(True),
    "rope_interleave": flag(True),
    "scoring_func": only("sigmoid"),
    "topk_method": only("noaux_tc"),
}


def _layers(a: Attributes):
    return layers(a, experts=after_dense, interleaved=a.get("rope_interleave", True))


def _read(a: Attributes) -> dict:
    still, turned = a["qk_nope_head_dim"], a["qk_rope_head_dim"]
    return {
        "head_dim": still + turned,
        "n_kv_heads": a["num_attention_heads"],
        "latent": Latent(q_rank=a["q_lora_rank"], kv_rank=a["kv_lora_rank"], d_turned=turned, d_value=a["v_head_dim"]),
        "attn_scale": (still + turned) ** -0.5 * _query_magnitude(a) ** 2,
    }


def _query_magnitude(a: Attributes) -> float:
    """What yarn multiplies queries and keys by, beyond sine and cosine."""
    data = a["rope_parameters"] or {}
    kind = data.get("rope_type", data.get("type", "default"))
    if kind == "default" or not data.get("mscale_all_dim") or data["factor"] <= 1:
        return 1.0
    return 0.1 * data["mscale_all_dim"] * math.log(data["factor"]) + 1.0


def _groups(a: Attributes) -> dict:
    return {"n_expert_groups": a["n_group"] or 1, "n_groups_per_token": a["topk_group"] or 1}


def _write(cfg: ModelConfig) -> dict:
    m, turn = cfg.latent or Latent(kv_rank=1, d_turned=2, d_value=1), cfg.layers[0].rope
    warmth = math.sqrt((cfg.attn_scale or cfg.head_dim**-0.5) * cfg.head_dim**0.5)
    data = rope.rope_to_json(turn)
    if turn.scaling == "yarn" and not math.isclose(warmth, 1.0):
        data["mscale_all_dim"] = (warmth - 1.0) / (0.1 * math.log(turn.factor))
    return {
        "rope_parameters": data,
        "head_dim": m.d_turned,
        "q_lora_rank": m.q_rank,
        "kv_lora_rank": m.kv_rank,
        "qk_nope_head_dim": cfg.head_dim - m.d_turned,
        "qk_rope_head_dim": m.d_turned,
        "v_head_dim": m.d_value,
        "first_k_dense_replace": sum(not layer.moe for layer in cfg.layers),
        "n_group": cfg.n_expert_groups,
        "topk_group": cfg.n_groups_per_token,
    }


def _write_second(cfg: ModelConfig) -> dict:
    return _write(cfg) | {"topk_method": "greedy" if cfg.n_expert_groups == 1 else "group_limited_greedy"}


def _read_second(a: Attributes) -> dict:
    return _read(a) | (_groups(a) if a["topk_method"] == "group_limited_greedy" else {})


SOFTMAX, SIGMOID = 1, 2  # llama.cpp's numbers of how experts are weighted
GGUF = {
    "architecture": "deepseek2",
    "layer": LATENT,
    "ignored": GGUF_NEXT_TOKENS,
    "other_keys": (
        *(f"attention.{name}_length{of}" for name in ("key", "value") for of in ("", "_mla")),
        "rope.scaling.yarn_log_multiplier",
        "expert_gating_func",
    ),
    "required": ("attention.key_length", "attention.value_length", "rope.dimension_count"),
    "keys": {
        "head_dim": "rope.dimension_count",
        "q_lora_rank": "attention.q_lora_rank",
        "kv_lora_rank": "attention.kv_lora_rank",
        "qk_rope_head_dim": "rope.dimension_count",
        "first_k_dense_replace": "leading_dense_block_count",
        "n_routed_experts": "expert_count",
        "n_shared_experts": "expert_shared_count",
        "routed_scaling_factor": "expert_weights_scale",
        "norm_topk_prob": "expert_weights_norm",
        "n_group": "expert_group_count",
        "topk_group": "expert_group_used_count",
    },
}


def _read_gguf(m: Values) -> dict:
    """The sizes of heads, of all of which newer files say that they share keys and values; and what yarn adds."""
    queries, values = (m.get(f"attention.{x}_length_mla", m[f"attention.{x}_length"]) for x in ("key", "value"))
    found = {"qk_nope_head_dim": queries - m["rope.dimension_count"], "v_head_dim": values}
    found |= {"num_key_value_heads": m["attention.head_count"], "q_lora_rank": m.get("attention.q_lora_rank") or None}
    times = m.get("rope.scaling.yarn_log_multiplier", 0.0) / 0.1
    return found | ({"rope_parameters": {"mscale": times, "mscale_all_dim": times}} if times else {})


def _write_gguf(a: Values) -> dict:
    turn = a["rope_parameters"]
    sizes = {
        "attention.head_count_kv": a["num_attention_heads"],
        "attention.key_length": a["qk_nope_head_dim"] + a["qk_rope_head_dim"],
        "attention.value_length": a["v_head_dim"],
        "attention.q_lora_rank": a["q_lora_rank"] or 0,
    }
    if turn["rope_type"] != "yarn":
        return sizes
    if "mscale_all_dim" not in turn or not math.isclose(turn["attention_factor"], 1.0):
        raise ConfigError(
            "llama.cpp knows the yarn of deepseek2 only where mscale and mscale_all_dim are the same, and not 0"
        )
    return sizes | {"rope.scaling.yarn_log_multiplier": 0.1 * turn["mscale_all_dim"], "rope.scaling.attn_factor": None}


def _read_gguf_second(m: Values) -> dict:
    grouped = m.get("expert_group_count", 1) > 1
    return _read_gguf(m) | {"topk_method": "group_limited_greedy" if grouped else "greedy"}


V2 = Family(
    model_type="deepseek_v2",
    architecture="DeepseekV2ForCausalLM",
    attributes=ATTRIBUTES
    | {
        "topk_method": only("greedy", "group_limited_greedy"),
        "scoring_func": only("softmax"),
        "norm_topk_prob": only(False),
        "mlp_bias": only(False),
    },
    layer=NAMES,
    moe=MOE,
    fields=FIELDS,
    multiples=SHARED,
    switches={"norm_topk": False},
    layers=_layers,
    read=_read_second,
    write=_write_second,
    gguf=GGUFTables(
        **GGUF,
        overlooked=("expert_group_count",),
        read=_read_gguf_second,
        write=lambda a: {"expert_gating_func": SOFTMAX, **_write_gguf(a)},
    ),
)
V3 = Family(
    model_type="deepseek_v3",
    architecture="DeepseekV3ForCausalLM",
    attributes=THIRD,
    layer=NAMES,
    moe=MOE,
    ignored=NEXT_TOKENS,
    fields=FIELDS,
    multiples=SHARED,
    switches={"router": "sigmoid", "choice_bias": True},
    layers=_layers,
    read=lambda a: _read(a) | _groups(a),
    write=lambda cfg: _write(cfg) | {"rope_interleave": cfg.layers[0].rope.interleaved},
    gguf=GGUFTables(
        **GGUF,
        read=_read_gguf,
        write=lambda a: {"expert_gating_func": SIGMOID, **_write_gguf(a)},
        told_by="expert_gating_func",
        values=(SIGMOID,),
    ),
)
KIMI = dataclasses.replace(V3, model_type="kimi_k2", twin=V3.model_type, ignored=ROTARY)

FAMILIES = (V2, V3, KIMI)
