"""Granite, dense and mixture of experts: scales on the embeddings, on what a layer adds, on scores and logits."""

from functools import partial

from vishwamai.hf.attributes import COMMON, EXPERT_ATTRIBUTES, HEADS, flag, number, size
from vishwamai.hf.family import EXPERT_WIDTH, Attributes, Family, all_layers, layers
from vishwamai.hf.gguf_names import PAIRS, GGUFTables
from vishwamai.hf.names import AT, ATTENTION, fused
from vishwamai.models.config import ModelConfig

SCALES = {
    "embedding_multiplier": "embed_scale",
    "residual_multiplier": "residual_scale",
    "attention_multiplier": "attn_scale",
}
SCALE_KEYS = {
    "embedding_multiplier": "embedding_scale",
    "residual_multiplier": "residual_scale",
    "attention_multiplier": "attention.scale",
    "logits_scaling": "logit_scale",
}
ATTRIBUTES = (
    COMMON | {"attention_bias": flag(False), "logits_scaling": number(1.0)} | dict.fromkeys(SCALES, number(1.0))
)
MOE = {
    "ffn.router": AT + "block_sparse_moe.router.layer.weight",
    **fused(AT + "block_sparse_moe.input_linear.weight", "ffn.gate", "ffn.up"),
    "ffn.down": AT + "block_sparse_moe.output_linear.weight",
}


def _read(a: Attributes) -> dict:
    return {"logit_scale": 1 / a["logits_scaling"]}


def _write(cfg: ModelConfig) -> dict:
    return {"logits_scaling": 1 / (cfg.logit_scale or 1.0)}


FAMILIES = (
    Family(
        model_type="granite",
        architecture="GraniteForCausalLM",
        attributes=ATTRIBUTES | {"mlp_bias": flag(False)},
        fields=SCALES,
        read=_read,
        write=_write,
        gguf=GGUFTables(architecture="granite", permuted=PAIRS, keys=SCALE_KEYS),
    ),
    Family(
        model_type="granitemoe",
        architecture="GraniteMoeForCausalLM",
        attributes=ATTRIBUTES | EXPERT_ATTRIBUTES | {"num_local_experts": size(8, HEADS)},
        layer=ATTENTION,
        moe=MOE,
        fields=SCALES | EXPERT_WIDTH | {"num_local_experts": "n_experts"},
        switches={"router": "chosen"},
        layers=partial(layers, experts=all_layers),
        read=_read,
        write=_write,
    ),
)
