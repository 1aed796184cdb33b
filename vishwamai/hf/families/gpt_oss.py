"""GPT-OSS: attention with sinks, and experts with biases behind a clamped gate, all of a layer's in one tensor."""

from functools import partial

from vishwamai.hf.attributes import COMMON, EXPERT_ATTRIBUTES, HEADS, LENGTH, LIST, flag, number, only, size
from vishwamai.hf.family import EXPERT_WIDTH, Family, all_layers, every_other, layers
from vishwamai.hf.gguf_names import AT as BLOCK
from vishwamai.hf.gguf_names import EXPERT_WIDTH as GGUF_WIDTH
from vishwamai.hf.gguf_names import LAYER as GGUF_LAYER
from vishwamai.hf.gguf_names import GGUFTables, Values
from vishwamai.hf.names import AT, ATTENTION, Stored, fused

IN = AT + "mlp."
NAMES = {
    "ffn.router": IN + "router.weight",
    "ffn.router_bias": IN + "router.bias",
    **fused(IN + "experts.gate_up_proj", "ffn.gate", "ffn.up", interleaved=True, transposed=False),
    **fused(IN + "experts.gate_up_proj_bias", "ffn.gate_bias", "ffn.up_bias", interleaved=True),
    "ffn.down": Stored(IN + "experts.down_proj", transposed=False),
    "ffn.down_bias": IN + "experts.down_proj_bias",
}
YARN = {"rope_type": "yarn", "factor": 32.0, "beta_fast": 32.0, "beta_slow": 1.0, "truncate": False}


def _read_gguf(m: Values) -> dict:
    return {"rope_parameters": {"truncate": False}} if m.get("rope.scaling.type") == "yarn" else {}


FAMILIES = (
    Family(
        model_type="gpt_oss",
        architecture="GptOssForCausalLM",
        attributes=COMMON
        | EXPERT_ATTRIBUTES
        | {
            "vocab_size": size(201_088, 2**24),
            "hidden_size": size(2880),
            "intermediate_size": size(2880, 2**22),
            "num_hidden_layers": size(36, 1024),
            "num_attention_heads": size(64, HEADS),
            "num_key_value_heads": size(8, HEADS),
            "head_dim": size(64, HEADS),
            "max_position_embeddings": size(131_072, LENGTH),
            "rms_norm_eps": number(1e-5),
            "num_local_experts": size(128, HEADS),
            "num_experts_per_tok": size(4, HEADS),
            "attention_bias": flag(True),
            "sliding_window": size(128, LENGTH),
            "layer_types": LIST,
            "swiglu_alpha": only(1.702),
            "swiglu_limit": number(7.0),
        },
        layer=ATTENTION | {"attn.sinks": AT + "self_attn.sinks"},
        moe=NAMES,
        fields=EXPERT_WIDTH | {"num_local_experts": "n_experts", "swiglu_limit": "glu_limit"},
        gguf=GGUFTables(
            architecture="gpt-oss",
            layer=GGUF_LAYER | {"ffn_norm.scale": BLOCK + "post_attention_norm.weight"},
            keys=GGUF_WIDTH,
            fixed={"attention_bias": True},
            period=2,
            read=_read_gguf,
        ),
        switches={"attn_sinks": True, "router": "chosen", "router_bias": True, "expert_bias": True},
        layers=partial(
            layers,
            slides=every_other,
            experts=all_layers,
            theta=150_000.0,
            scaling=YARN | {"original_max_position_embeddings": 4096},
        ),
    ),
)
