"""Families that differ from Llama in a switch or two: Arcee and Seed-OSS."""

from vishwamai.hf.attributes import COMMON, HEADS, LENGTH, flag, number, only, size
from vishwamai.hf.families.llama import biases, write_biases
from vishwamai.hf.family import Family
from vishwamai.hf.names import PLAIN, WHOLE

FAMILIES = (
    Family(
        model_type="arcee",
        architecture="ArceeForCausalLM",
        attributes=COMMON
        | {
            "attention_bias": flag(False),
            "mlp_bias": flag(False),
            "hidden_act": only("relu2"),
            "max_position_embeddings": size(4096, LENGTH),
            "rms_norm_eps": number(1e-5),
        },
        whole=WHOLE,
        layer=PLAIN,
        switches={"gated": False},
        read=biases,
        write=write_biases,
    ),
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
        whole=WHOLE,
        layer=PLAIN,
        fields={"attention_bias": "attn_bias", "attention_out_bias": "o_bias"},
    ),
)
