"""Llama 1 to 3."""

from vishwamai.hf.attributes import COMMON, flag, only
from vishwamai.hf.family import Family
from vishwamai.hf.names import PLAIN, WHOLE
from vishwamai.models.config import ModelConfig


def biases(a) -> dict[str, bool]:
    """One attribute for the biases of all four projections."""
    return {"attn_bias": a["attention_bias"], "o_bias": a["attention_bias"]}


def write_biases(cfg: ModelConfig) -> dict[str, bool]:
    """Back again."""
    return {"attention_bias": cfg.attn_bias}


FAMILIES = (
    Family(
        model_type="llama",
        architecture="LlamaForCausalLM",
        attributes=COMMON
        | {"attention_bias": flag(False), "mlp_bias": flag(False)}
        | {"rope_interleaved": only(False)},  # as SmolLM 2 says
        whole=WHOLE,
        layer=PLAIN,
        read=biases,
        write=write_biases,
    ),
)
