"""Mistral, Ministral 3 and Mixtral."""

from functools import partial

from vishwamai.hf import rope
from vishwamai.hf.attributes import COMMON, EXPERT_ATTRIBUTES, HEADS, LENGTH, number, size
from vishwamai.hf.family import EXPERT_WIDTH, Attributes, Family, all_layers, layers
from vishwamai.hf.gguf_names import PAIRS, WINDOW, GGUFTables
from vishwamai.hf.names import AT
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
    return {"n_experts": a["num_experts"] or a["num_local_experts"] or 8}


def _write_mixtral(cfg: ModelConfig) -> dict:
    return {"num_local_experts": cfg.n_experts}


BETA = "llama_4_scaling_beta"
YARN = {"rope_type": "yarn", "factor": 16.0, "beta_fast": 32.0, "beta_slow": 1.0, "attention_factor": 1.0}
YARN |= {"original_max_position_embeddings": 16384, "rope_theta": 1e6}


def _plain_ropes(a: Attributes) -> dict:
    """The attributes without what their rotation says of something else."""
    data = a["rope_parameters"]
    plain = data and {k: v for k, v in data.items() if k not in (BETA, "max_position_embeddings")}
    return {**a, "rope_parameters": plain}


def _read_ministral3(a: Attributes) -> dict:
    given = {BETA: 0.1, **YARN} if a["rope_parameters"] is None else a["rope_parameters"]
    length = given.get("original_max_position_embeddings", a["max_position_embeddings"])
    return {"attn_temperature": given.get(BETA, 0.0), "attn_temperature_length": length}


def _write_ministral3(cfg: ModelConfig) -> dict:
    turn = next(layer.rope for layer in cfg.layers if layer.rope is not None)
    return {"rope_parameters": rope.rope_to_json(turn) | {BETA: cfg.attn_temperature}}


def _read_ministral3_gguf(m: Attributes) -> dict:
    return {"rope_parameters": {BETA: m.get("attention.temperature_scale", 0.0)}}


def _write_ministral3_gguf(a: Attributes) -> dict:
    return {"attention.temperature_scale": a["rope_parameters"][BETA]}


FAMILIES = (
    Family(
        model_type="mistral",
        architecture="MistralForCausalLM",
        attributes=ATTRIBUTES,
        gguf=GGUFTables(architecture="llama", permuted=PAIRS, overlooked=WINDOW, told_by="attention.sliding_window"),
    ),
    Family(
        model_type="ministral3",
        architecture="Ministral3ForCausalLM",
        attributes=ATTRIBUTES
        | {
            "vocab_size": size(131_072, 2**24),
            "head_dim": size(128, HEADS, null=True),
            "max_position_embeddings": size(2**18, LENGTH),
            "rms_norm_eps": number(1e-5),
            "sliding_window": size(None, LENGTH),
        },
        layers=lambda a: layers(_plain_ropes(a), scaling=YARN),
        read=_read_ministral3,
        write=_write_ministral3,
        gguf=GGUFTables(
            architecture="mistral3",
            permuted=PAIRS,
            overlooked=WINDOW,
            other_keys=("attention.temperature_scale",),
            read=_read_ministral3_gguf,
            write=_write_ministral3_gguf,
        ),
    ),
    Family(
        model_type="mixtral",
        architecture="MixtralForCausalLM",
        attributes=ATTRIBUTES
        | EXPERT_ATTRIBUTES
        | {"num_experts": size(None, HEADS), "rms_norm_eps": number(1e-5), "sliding_window": size(None, LENGTH)},
        moe=MIXTRAL_EXPERTS,
        fields=EXPERT_WIDTH,
        layers=partial(layers, experts=all_layers, theta=1e6),
        read=_read_mixtral,
        write=_write_mixtral,
        gguf=GGUFTables(architecture="llama", permuted=PAIRS, overlooked=WINDOW, told_by="expert_count"),
    ),
)
