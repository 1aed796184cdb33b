"""Seed-OSS: Llama whose biases of attention are told apart."""

from vishwamai.hf.attributes import COMMON, HEADS, LENGTH, flag, size
from vishwamai.hf.family import Family

FAMILIES = (
    Family(
        model_type="seed_oss",
        architecture="SeedOssForCausalLM",
        attributes=COMMON
        | {
            "attention_bias": flag(True),
            "attention_out_bias": flag(False),
            "mlp_bias": flag(False),
            "head_dim": size(128),
            "num_key_value_heads": size(8, HEADS, null=True),
            "max_position_embeddings": size(524_288, LENGTH),
        },
        fields={"attention_bias": "attn_bias", "attention_out_bias": "o_bias"},
    ),
)
