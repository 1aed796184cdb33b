"""Apertus: a plain feed-forward whose activation is learnt."""

from functools import partial

from vishwamai.hf.attributes import COMMON, LENGTH, flag, number, only, size
from vishwamai.hf.family import Family, layers
from vishwamai.hf.names import AT, ATTENTION

NAMES = ATTENTION | {
    "attn_norm.scale": AT + "attention_layernorm.weight",
    "ffn_norm.scale": AT + "feedforward_layernorm.weight",
    "ffn.up": AT + "mlp.up_proj.weight",
    "ffn.down": AT + "mlp.down_proj.weight",
    "ffn.xielu.above": AT + "mlp.act_fn.alpha_p",
    "ffn.xielu.below": AT + "mlp.act_fn.alpha_n",
    "ffn.xielu.slope": AT + "mlp.act_fn.beta",
    "ffn.xielu.edge": AT + "mlp.act_fn.eps",
}

FAMILIES = (
    Family(
        model_type="apertus",
        architecture="ApertusForCausalLM",
        attributes=COMMON
        | {
            "vocab_size": size(131_072, 2**24),
            "intermediate_size": size(14336, 2**22),
            "hidden_act": only("xielu"),
            "max_position_embeddings": size(65536, LENGTH),
            "rms_norm_eps": number(1e-5),
            "attention_bias": flag(False),
            "mlp_bias": only(False),
            "post_norm": only(False),
            "qk_norm": only(True),
        },
        layer=NAMES,
        switches={"gated": False, "qk_norm": True},
        layers=partial(
            layers,
            theta=12e6,
            scaling={"rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0}
            | {"original_max_position_embeddings": 8192, "rope_theta": 12e6},
        ),
    ),
)
