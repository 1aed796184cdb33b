"""GLM 4: half of each head turned, neighbours as pairs, and a fused gate; the newer one norms after too.

The mixtures (GLM 4.5 and on) turn the halves of that half as pairs, and route as DeepSeek-V3 does.
"""

from functools import partial

from vishwamai.hf.attributes import COMMON, HEADS, LENGTH, flag, number, size
from vishwamai.hf.family import NEXT_TOKENS, Family, after_dense, layers
from vishwamai.hf.names import AT, ATTENTION, EXPERTS, fused, shared_expert
from vishwamai.models.config import ModelConfig

ATTRIBUTES = COMMON | {
    "vocab_size": size(151_552, 2**24),
    "num_key_value_heads": size(2, HEADS, null=True),
    "head_dim": size(128),
    "max_position_embeddings": size(131_072, LENGTH),
    "rms_norm_eps": number(1.5625e-07),
    "partial_rotary_factor": number(0.5),
    "attention_bias": flag(True),
}
GLM = {
    **ATTENTION,
    **fused(AT + "mlp.gate_up_proj.weight", "ffn.gate", "ffn.up"),
    "ffn.down": AT + "mlp.down_proj.weight",
}
GLM4 = GLM | {
    "attn_post_norm.scale": AT + "post_self_attn_layernorm.weight",
    "ffn_post_norm.scale": AT + "post_mlp_layernorm.weight",
}

MIXTURE = COMMON | {
    "num_key_value_heads": size(8, HEADS),
    "max_position_embeddings": size(131_072, LENGTH),
    "rms_norm_eps": number(1e-5),
    "partial_rotary_factor": number(0.5),
    "attention_bias": flag(False),
    "use_qk_norm": flag(False),
    "moe_intermediate_size": size(1408),
    "num_experts_per_tok": size(8, HEADS),
    "n_routed_experts": size(128, HEADS),
    "n_shared_experts": size(1, HEADS),
    "n_group": size(1, HEADS),
    "topk_group": size(1, HEADS),
    "routed_scaling_factor": number(1.0),
    "norm_topk_prob": flag(True),
    "first_k_dense_replace": size(1, 1024, least=0),
    "num_nextn_predict_layers": size(1, 1024, least=0),  # further layers, which are not read
}
MIXTURE_FIELDS = {
    "attention_bias": "attn_bias",
    "use_qk_norm": "qk_norm",
    "n_routed_experts": "n_experts",
    "n_group": "n_expert_groups",
    "topk_group": "n_groups_per_token",
    "routed_scaling_factor": "route_scale",
}
MIXTURE_NAMES = EXPERTS | shared_expert("shared_experts")
CHOICE_BIAS = {"ffn.choice_bias": AT + "mlp.gate.e_score_correction_bias"}


def _write_mixture(cfg: ModelConfig) -> dict:
    return {
        "first_k_dense_replace": next((i for i, layer in enumerate(cfg.layers) if layer.moe), cfg.n_layers),
        "num_nextn_predict_layers": 0,
    }


FAMILIES = (
    Family(
        model_type="glm",
        architecture="GlmForCausalLM",
        attributes=ATTRIBUTES,
        layer=GLM,
        fields={"attention_bias": "attn_bias"},
        layers=partial(layers, interleaved=True),
    ),
    Family(
        model_type="glm4",
        architecture="Glm4ForCausalLM",
        attributes=ATTRIBUTES,
        layer=GLM4,
        fields={"attention_bias": "attn_bias"},
        switches={"post_norms": True},
        layers=partial(layers, interleaved=True),
    ),
    Family(
        model_type="glm4_moe",
        architecture="Glm4MoeForCausalLM",
        attributes=MIXTURE,
        moe=MIXTURE_NAMES | CHOICE_BIAS,
        ignored=NEXT_TOKENS,
        fields=MIXTURE_FIELDS,
        multiples={"n_shared_experts": ("d_shared", "d_expert")},
        switches={"router": "sigmoid", "choice_bias": True},
        layers=partial(layers, experts=after_dense),
        write=_write_mixture,
    ),
)
