"""Phi 1 to 2, whose attention and feed-forward read one norm, and Phi 3 to 4, whose projections are fused."""

from functools import partial

from vishwamai.hf.attributes import COMMON, LENGTH, flag, number, only, size
from vishwamai.hf.family import Attributes, Family, layers
from vishwamai.hf.gguf_names import GATE_UP, QKV, WINDOW, GGUFTables
from vishwamai.hf.gguf_names import LAYER as GGUF_LAYER
from vishwamai.hf.names import AT, ATTENTION, WHOLE, fused
from vishwamai.models.config import ModelConfig

PHI = {
    **{path: name for path, name in ATTENTION.items() if path != "ffn_norm.scale"},
    "attn_norm.bias": AT + "input_layernorm.bias",
    "attn.o": AT + "self_attn.dense.weight",
    "attn.o_bias": AT + "self_attn.dense.bias",
    **{f"attn.{x}_norm.scale": AT + f"self_attn.{x}_layernorm.weight" for x in "qk"},
    **{f"attn.{x}_norm.bias": AT + f"self_attn.{x}_layernorm.bias" for x in "qk"},
    "ffn.up": AT + "mlp.fc1.weight",
    "ffn.down": AT + "mlp.fc2.weight",
    "ffn.up_bias": AT + "mlp.fc1.bias",
    "ffn.down_bias": AT + "mlp.fc2.bias",
}
PHI_WHOLE = WHOLE | {
    "final_norm.scale": "model.final_layernorm.weight",
    "final_norm.bias": "model.final_layernorm.bias",
    "head_bias": "lm_head.bias",
}
PHI3 = {
    **ATTENTION,
    **fused(AT + "self_attn.qkv_proj.weight", "attn.q", "attn.k", "attn.v"),
    **fused(AT + "mlp.gate_up_proj.weight", "ffn.gate", "ffn.up"),
    "ffn.down": AT + "mlp.down_proj.weight",
}


def _write_phi3(cfg: ModelConfig) -> dict:
    rope = cfg.layers[0].rope
    return {"original_max_position_embeddings": rope.original_max_length if rope else cfg.max_length}


def _original_length(a: Attributes) -> dict:
    return {"original_max_position_embeddings": a["original_max_position_embeddings"]}


FAMILIES = (
    Family(
        model_type="phi",
        architecture="PhiForCausalLM",
        attributes={k: v for k, v in COMMON.items() if k not in ("rms_norm_eps", "head_dim")}
        | {
            "vocab_size": size(51200, 2**24),
            "hidden_act": only("gelu_new"),
            "layer_norm_eps": number(1e-5),
            "partial_rotary_factor": number(0.5),
            "qk_layernorm": flag(False),
        },
        whole=PHI_WHOLE,
        layer=PHI,
        fields={"layer_norm_eps": "norm_eps", "qk_layernorm": "qk_norm"},
        switches={
            "norm": "layer",
            "norm_bias": True,
            "parallel": True,
            "gated": False,
            "head_bias": True,
            "attn_bias": True,
            "o_bias": True,
            "mlp_bias": True,
        },
        write=lambda cfg: {"hidden_act": "gelu_new"},
    ),
    Family(
        model_type="phi3",
        architecture="Phi3ForCausalLM",
        attributes=COMMON
        | {
            "vocab_size": size(32064, 2**24),
            "max_position_embeddings": size(4096, LENGTH),
            "original_max_position_embeddings": size(4096, LENGTH),
            "rms_norm_eps": number(1e-5),
            "partial_rotary_factor": number(1.0),
            "sliding_window": size(None, LENGTH),
            **dict.fromkeys(("attention_bias", "mlp_bias", "lm_head_bias"), only(False)),
        },
        layer=PHI3,
        layers=partial(layers, length=_original_length),
        write=_write_phi3,
        gguf=GGUFTables(
            architecture="phi3",
            layer=GGUF_LAYER | QKV | GATE_UP,
            keys={"original_max_position_embeddings": "rope.scaling.original_context_length"},
            overlooked=WINDOW,
        ),
    ),
)
