"""MiniMax M2: every layer a mixture, routed by sigmoids with a bias for the choice; a part of each head turned."""

from vishwamai.hf.attributes import COMMON, HEADS, LENGTH, number, only, size
from vishwamai.hf.families.mistral import MIXTRAL_EXPERTS
from vishwamai.hf.family import Attributes, Family, all_layers, layers
from vishwamai.hf.names import AT, PLAIN, WHOLE
from vishwamai.models.config import Layer, ModelConfig

ATTRIBUTES = COMMON | {
    "intermediate_size": size(1536),
    "num_key_value_heads": size(8, HEADS),
    "head_dim": size(128),
    "max_position_embeddings": size(196_608, LENGTH),
    "num_local_experts": size(256, HEADS),
    "num_experts_per_tok": size(8, HEADS),
    "partial_rotary_factor": number(None),
    "rotary_dim": size(None),  # how published files say it
    "qk_norm_type": only("per_layer"),
    "scoring_func": only("sigmoid"),
    "shared_intermediate_size": only(0),
    "sliding_window": only(None),
    "use_qk_norm": only(True),
    "use_routing_bias": only(True),
}
NAMES = MIXTRAL_EXPERTS | {"ffn.choice_bias": AT + "block_sparse_moe.e_score_correction_bias"}


def _layers(a: Attributes) -> tuple[Layer, ...]:
    turned = (a["rotary_dim"] or a["head_dim"]) / a["head_dim"]
    return layers({**a, "partial_rotary_factor": a["partial_rotary_factor"] or turned}, experts=all_layers, theta=5e6)


def _read(a: Attributes) -> dict:
    return {"d_expert": a["intermediate_size"]}


def _write(cfg: ModelConfig) -> dict:
    return {"intermediate_size": cfg.d_expert}


FAMILIES = (
    Family(
        model_type="minimax_m2",
        architecture="MiniMaxM2ForCausalLM",
        attributes=ATTRIBUTES,
        whole=WHOLE,
        layer=PLAIN,
        moe=NAMES,
        fields={"num_local_experts": "n_experts"},
        switches={"router": "sigmoid", "choice_bias": True, "qk_norm": True, "qk_norm_whole": True},
        layers=_layers,
        read=_read,
        write=_write,
    ),
)
