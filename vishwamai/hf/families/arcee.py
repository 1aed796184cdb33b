"""Arcee: Llama with a plain feed-forward of squared rectifiers."""

from vishwamai.hf.attributes import COMMON, LENGTH, flag, number, only, size
from vishwamai.hf.family import Family

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
        switches={"gated": False},
    ),
)
