"""Hunyuan, dense and mixture of experts: queries and keys are normed after the rotation."""

from functools import partial

from vishwamai.errors import ConfigError
from vishwamai.hf.attributes import COMMON, HEADS, TOKEN, Attribute, flag, number, size
from vishwamai.hf.families.llama import biases, write_biases
from vishwamai.hf.family import Attributes, Family, all_layers, layers, no_layers
from vishwamai.hf.names import AT, EXPERTS, PLAIN, WHOLE, shared_expert
from vishwamai.models.config import Layer, ModelConfig

ATTRIBUTES = COMMON | {"attention_bias": flag(False), "rms_norm_eps": number(1e-5)}
MIXTURE = ATTRIBUTES | {
    "num_experts": size(1, HEADS),
    "moe_topk": Attribute((int, list), 1, 1, HEADS),
    "sep_token_id": TOKEN,
}
NAMES = PLAIN | {
    "attn.q_norm.scale": AT + "self_attn.query_layernorm.weight",
    "attn.k_norm.scale": AT + "self_attn.key_layernorm.weight",
}
MIXTURE_NAMES = EXPERTS | shared_expert("shared_mlp") | {"ffn.router": AT + "mlp.gate.wg.weight"}
SWITCHES = {"qk_norm": True, "qk_norm_late": True}


def _layers(a: Attributes, experts=no_layers) -> tuple[Layer, ...]:
    """A `dynamic` scaling with an alpha is a larger theta, whatever else it says."""
    said = a["rope_parameters"] or a["rope_scaling"] or {}
    if said.get("rope_type", said.get("type")) != "dynamic" or said.get("alpha") is None:
        return layers(a, experts=experts)
    size, theta, alpha = _head_dim(a), said.get("rope_theta", a["rope_theta"] or 1e4), said["alpha"]
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
    chosen = a["moe_topk"] if isinstance(a["moe_topk"], list) else [a["moe_topk"]]
    if not chosen or not all(type(n) is int and n == chosen[0] for n in chosen):
        raise ConfigError("'moe_topk' must be one whole number for all layers")
    width = a["intermediate_size"]
    return biases(a) | {"n_experts_per_token": chosen[0], "d_expert": width, "d_shared": width}


def _write_mixture(cfg: ModelConfig) -> dict:
    return write_biases(cfg) | {"moe_topk": cfg.n_experts_per_token, "intermediate_size": cfg.d_expert}


FAMILIES = (
    Family(
        model_type="hunyuan_v1_dense",
        architecture="HunYuanDenseV1ForCausalLM",
        attributes=COMMON | {"attention_bias": flag(False), "rms_norm_eps": number(1e-5)},
        whole=WHOLE,
        layer=NAMES,
        switches=SWITCHES,
        layers=_layers,
        read=biases,
        write=write_biases,
    ),
    Family(
        model_type="hunyuan_v1_moe",
        architecture="HunYuanMoEV1ForCausalLM",
        attributes=MIXTURE,
        whole=WHOLE,
        layer=NAMES,
        moe=MIXTURE_NAMES,
        fields={"num_experts": "n_experts"},
        switches=SWITCHES,
        layers=partial(_layers, experts=all_layers),
        read=_read_mixture,
        write=_write_mixture,
    ),
)
