"""OLMo 1 to 3, and OLMoE."""

from functools import partial

from vishwamai.hf.attributes import COMMON, HEADS, LENGTH, LIST, flag, number, size
from vishwamai.hf.family import EXPERT_WIDTH, TYPES, Attributes, Family, all_layers, layers
from vishwamai.hf.gguf_names import NO_BIAS, GGUFTables, Values
from vishwamai.hf.names import AT, ATTENTION, DENSE, EXPERTS

ATTRIBUTES = COMMON | {"attention_bias": flag(False), "vocab_size": size(50304, 2**24)}
SECOND = ATTRIBUTES | {"rms_norm_eps": number(1e-5)}
MIXTURE = SECOND | {
    "clip_qkv": number(None),
    "intermediate_size": size(2048),
    "max_position_embeddings": size(4096, LENGTH),
    "norm_topk_prob": flag(False),
    "num_experts": size(64, HEADS),
    "num_experts_per_tok": size(8, HEADS),
}
AFTER = {  # norms after attention and feed-forward, none before
    **{path: name for path, name in ATTENTION.items() if path not in ("attn_norm.scale", "ffn_norm.scale")},
    **DENSE,
    "attn_post_norm.scale": AT + "post_attention_layernorm.weight",
    "ffn_post_norm.scale": AT + "post_feedforward_layernorm.weight",
}
SWITCHES = {"pre_norms": False, "post_norms": True, "qk_norm": True, "qk_norm_whole": True}


def _three_of_four(a: Attributes) -> list[bool]:
    return [(i + 1) % 4 != 0 for i in range(a["num_hidden_layers"])]


def _read_gguf_third(m: Values) -> dict:
    return {"rope_parameters": {TYPES[1]: {"rope_type": "default", "rope_theta": m.get("rope.freq_base", 1e4)}}}


FAMILIES = (
    Family(
        model_type="olmo",
        architecture="OlmoForCausalLM",
        attributes={k: v for k, v in ATTRIBUTES.items() if k != "rms_norm_eps"} | {"clip_qkv": number(None)},
        fields={"clip_qkv": "attn_clip"},
        switches={"norm": "layer", "norm_scale": False, "norm_eps": 1e-5},
    ),
    Family(
        model_type="olmo2",
        architecture="Olmo2ForCausalLM",
        attributes=SECOND,
        layer=AFTER,
        switches=SWITCHES,
        gguf=GGUFTables(architecture="olmo2", fixed=NO_BIAS),
    ),
    Family(
        model_type="olmo3",
        architecture="Olmo3ForCausalLM",
        attributes=SECOND | {"sliding_window": size(4096, LENGTH), "layer_types": LIST},
        layer=AFTER,
        switches=SWITCHES,
        layers=partial(layers, slides=_three_of_four, theta=5e5, local_theta=lambda _: 5e5),
        gguf=GGUFTables(
            architecture="olmo2", fixed=NO_BIAS, period=4, read=_read_gguf_third, told_by="attention.sliding_window"
        ),
        ropes_by_type=True,
    ),
    Family(
        model_type="olmoe",
        architecture="OlmoeForCausalLM",
        attributes=MIXTURE,
        moe=EXPERTS,
        fields=EXPERT_WIDTH | {"clip_qkv": "attn_clip", "num_experts": "n_experts"},
        switches={"qk_norm": True, "qk_norm_whole": True},
        layers=partial(layers, experts=all_layers),
    ),
)
