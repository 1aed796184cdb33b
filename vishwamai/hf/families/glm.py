"""GLM 4: half of each head turned, neighbours as pairs, and a fused gate; the newer one norms after too."""

from functools import partial

from vishwamai.hf.attributes import COMMON, HEADS, LENGTH, flag, number, size
from vishwamai.hf.family import Family, layers
from vishwamai.hf.names import AT, ATTENTION, WHOLE, fused

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

FAMILIES = (
    Family(
        model_type="glm",
        architecture="GlmForCausalLM",
        attributes=ATTRIBUTES,
        whole=WHOLE,
        layer=GLM,
        fields={"attention_bias": "attn_bias"},
        layers=partial(layers, interleaved=True),
    ),
    Family(
        model_type="glm4",
        architecture="Glm4ForCausalLM",
        attributes=ATTRIBUTES,
        whole=WHOLE,
        layer=GLM4,
        fields={"attention_bias": "attn_bias"},
        switches={"post_norms": True},
        layers=partial(layers, interleaved=True),
    ),
)
