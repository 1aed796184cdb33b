"""Granite: scales on the embeddings, on what a layer adds, on the scores and on the logits."""

from vishwamai.hf.attributes import COMMON, flag, number
from vishwamai.hf.families.llama import biases, write_biases
from vishwamai.hf.family import Attributes, Family
from vishwamai.hf.names import PLAIN, WHOLE
from vishwamai.models.config import ModelConfig


def _read(a: Attributes) -> dict:
    return biases(a) | {"logit_scale": 1 / a["logits_scaling"]}


def _write(cfg: ModelConfig) -> dict:
    return write_biases(cfg) | {"logits_scaling": 1 / (cfg.logit_scale or 1.0)}


FAMILIES = (
    Family(
        model_type="granite",
        architecture="GraniteForCausalLM",
        attributes=COMMON
        | {"attention_bias": flag(False), "mlp_bias": flag(False)}
        | {f"{part}_multiplier": number(1.0) for part in ("embedding", "residual", "attention")}
        | {"logits_scaling": number(1.0)},
        whole=WHOLE,
        layer=PLAIN,
        fields={
            "embedding_multiplier": "embed_scale",
            "residual_multiplier": "residual_scale",
            "attention_multiplier": "attn_scale",
        },
        read=_read,
        write=_write,
    ),
)
