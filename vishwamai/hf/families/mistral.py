"""Mistral and Mixtral."""

from functools import partial

from vishwamai.hf.attributes import COMMON, EXPERTS, HEADS, LENGTH, number, size
from vishwamai.hf.family import Family, all_layers, layers
from vishwamai.hf.names import AT, PLAIN, WHOLE
from vishwamai.models.config import ModelConfig

ATTRIBUTES = COMMON | {
    "max_position_embeddings": size(2**17, LENGTH),
    "num_key_value_heads": size(8, HEADS, null=True),
    "sliding_window": size(4096, LENGTH, null=True),
}
MIXTRAL_EXPERTS = {
    "ffn.router": AT + "block_sparse_moe.gate.weight",
    "ffn.gate": AT + "block_sparse_moe.experts.{expert}.w1.weight",
    "ffn.up": AT + "block_sparse_moe.experts.{expert}.w3.weight",
    "ffn.down": AT + "block_sparse_moe.experts.{expert}.w2.weight",
}


def _read_mixtral(a) -> dict:
    return {"n_experts": a["num_experts"] or a["num_local_experts"] or 8, "d_expert": a["intermediate_size"]}


def _write_mixtral(cfg: ModelConfig) -> dict:
    return {"intermediate_size": cfg.d_expert, "num_local_experts": cfg.n_experts}


FAMILIES = (
    Family(model_type="mistral", architecture="MistralForCausalLM", attributes=ATTRIBUTES, whole=WHOLE, layer=PLAIN),
    Family(
        model_type="mixtral",
        architecture="MixtralForCausalLM",
        attributes=ATTRIBUTES
        | EXPERTS
        | {"num_experts": size(None, HEADS), "rms_norm_eps": number(1e-5), "sliding_window": size(None, LENGTH)},
        whole=WHOLE,
        layer=PLAIN,
        moe=MIXTRAL_EXPERTS,
        layers=partial(layers, experts=all_layers, theta=1e6),
        read=_read_mixtral,
        write=_write_mixtral,
    ),
)
