"""Hunyuan, dense and mixture of experts: queries and keys are normed after the rotation."""

from functools import partial

from vishwamai.errors import ConfigError
from vishwamai.hf.attributes import COMMON, HEADS, TOKEN, Attribute, flag, number, only, size
from vishwamai.hf.family import Attributes, Family, all_layers, layers, no_layers
from vishwamai.hf.names import AT, EXPERTS, PLAIN, shared_expert
from vishwamai.models.config import Layer, ModelConfig

ATTRIBUTES = COMMON | {
    "attention_bias": flag(False),
    "rms_norm_eps": number(1e-5),
    "sep_token_id": TOKEN,
    "attention_head_dim": size(None, HEADS),  # head_dim by another name
    "norm_type": only("rms"),
    **dict.fromkeys(("use_qk_norm", "use_rotary_pos_emb"), only(True)),
    **dict.fromkeys(("add_classification_head", "mlp_bias", "use_cla"), only(False)),
}
MIXTURE = ATTRIBUTES | {
    "num_experts": size(1, HEADS),
    "moe_topk": Attribute((int, list), 1, 1, HEADS),
    "moe_intermediate_size": Attribute((int, list, type(None)), None, 1, 2**22),  # intermediate_size once more
    "num_shared_expert": Attribute((int, list, type(None)), None, 1, HEADS),
    "moe_layer_num_skipped": only(0),
    **dict.fromkeys(("norm_topk_prob", "use_mixed_mlp_moe"), only(True)),
    **dict.fromkeys(("moe_drop_tokens", "moe_random_routing_dropped_token"), only(False)),
    **dict.fromkeys(("n_group", "topk_group"), only(None, False, 1)),
    **dict.fromkeys(("group_limited_greedy", "position_embedding_xdrope", "use_mla"), only(False)),
    "routed_scaling_factor": only(1.0, None, False),
    "xdrope_section": only(None),
    # of the latent attention that no model of this kind has
    **dict.fromkeys(("kv_lora_rank", "q_lora_rank", "qk_nope_head_dim", "qk_rope_head_dim", "v_head_dim"), size(None)),
}
NAMES = PLAIN | {
    "attn.q_norm.scale": AT + "self_attn.query_layernorm.weight",
    "attn.k_norm.scale": AT + "self_attn.key_layernorm.weight",
}
MIXTURE_NAMES = EXPERTS | shared_expert("shared_mlp") | {"ffn.router": AT + "mlp.gate.wg.weight"}
SWITCHES = {"qk_norm": True, "qk_norm_late": True}


def _layers(a: Attributes, experts=no_layers) -> tuple[Layer, ...]:
    """A `dynamic` scaling with an alpha is a larger theta, whatever else it says."""
    data = a["rope_parameters"] or {}
    if a["attention_head_dim"] not in (None, a["head_dim"] or a["hidden_size"] // a["num_attention_heads"]):
        raise ConfigError(f"'attention_head_dim' is {a['attention_head_dim']}, and head_dim is not")
    if data.get("rope_type", data.get("type")) != "dynamic" or data.get("alpha") is None:
        return layers(a, experts=experts)
    size, theta, alpha = _head_dim(a), data.get("rope_theta", a["rope_theta"] or 1e4), data["alpha"]
    if not all(type(value) in (int, float) and 0 < value < 1e12 for value in (theta, alpha)):
        raise ConfigError("rope_theta and the scaling's alpha must be numbers over 0")
    stretched = theta * alpha ** (size / (size - 2))
    return layers({**a, "rope_parameters": None, "rope_scaling": None, "rope_theta": stretched}, experts=experts)


def _head_dim(a: Attributes) -> int:
    size = a["head_dim"] or a["hidden_size"] // a["num_attention_heads"]
    if size < 4:
        raise ConfigError(f"a scaling by alpha needs heads of 4 or more, not {size}")
    return size


def _read_mixture(a: Attributes) -> dict:
    width = a["intermediate_size"]
    for key, value in (("moe_intermediate_size", width), ("num_shared_expert", 1)):
        if a[key] is not None and _of_all_layers(a, key) != value:
            raise ConfigError(f"{key!r} is known as {value} alone here, and is {_of_all_layers(a, key)}")
    return {"n_experts_per_token": _of_all_layers(a, "moe_topk"), "d_expert": width, "d_shared": width}


def _of_all_layers(a: Attributes, key: str) -> int:
    """A number that files repeat for each layer."""
    values = a[key] if isinstance(a[key], list) else [a[key]]
    if not values or not all(type(n) is int and n == values[0] for n in values):
        raise ConfigError(f"{key!r} must be one whole number for all layers")
    return values[0]


def _write_mixture(cfg: ModelConfig) -> dict:
    return {"moe_topk": cfg.n_experts_per_token, "intermediate_size": cfg.d_expert}


FAMILIES = (
    Family(
        model_type="hunyuan_v1_dense",
        architecture="HunYuanDenseV1ForCausalLM",
        attributes=ATTRIBUTES,
        layer=NAMES,
        switches=SWITCHES,
        layers=_layers,
    ),
    Family(
        model_type="hunyuan_v1_moe",
        architecture="HunYuanMoEV1ForCausalLM",
        attributes=MIXTURE,
        layer=NAMES,
        moe=MIXTURE_NAMES,
        fields={"num_experts": "n_experts"},
        switches=SWITCHES,
        layers=partial(_layers, experts=all_layers),
        read=_read_mixture,
        write=_write_mixture,
    ),
)
