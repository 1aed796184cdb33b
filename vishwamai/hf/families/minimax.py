"""MiniMax M2: every layer a mixture, routed by sigmoids with a bias for the choice; a part of each head turned."""

from vishwamai.errors import ConfigError
from vishwamai.hf.attributes import COMMON, HEADS, LENGTH, LIST, flag, number, only, size
from vishwamai.hf.families.mistral import MIXTRAL_EXPERTS
from vishwamai.hf.family import EXPERT_WIDTH, Attributes, Family, all_layers, layers
from vishwamai.hf.names import AT
from vishwamai.models.config import Layer

ATTRIBUTES = COMMON | {
    "intermediate_size": size(1536),
    "num_key_value_heads": size(8, HEADS),
    "head_dim": size(128),
    "max_position_embeddings": size(196_608, LENGTH),
    "num_local_experts": size(256, HEADS),
    "num_experts_per_tok": size(8, HEADS),
    "partial_rotary_factor": number(None),
    "rotary_dim": size(None),  # how published files say it
    "attn_type_list": LIST,
    "qk_norm_type": only("per_layer"),
    "scoring_func": only("sigmoid"),
    "shared_intermediate_size": only(0),
    "sliding_window": only(None),
    "use_qk_norm": only(True),
    "use_routing_bias": only(True),
    **dict.fromkeys((f"layernorm_{of}_beta" for of in ("full_attention", "linear_attention", "mlp")), only(1.0, 1)),
    # what no layer of this kind has, and further layers, which are not published
    "mlp_intermediate_size": size(None, 2**22),
    "shared_moe_mode": only("sigmoid"),
    "use_mtp": flag(False),
    "num_mtp_modules": size(0, 1024, least=0),
    "mtp_transformer_layers": size(0, 1024, least=0),
}
NAMES = MIXTRAL_EXPERTS | {"ffn.choice_bias": AT + "block_sparse_moe.e_score_correction_bias"}


def _layers(a: Attributes) -> tuple[Layer, ...]:
    if any(kind != 1 for kind in a["attn_type_list"] or ()):
        raise ConfigError("'attn_type_list' has a layer that is not of full attention, which is 1")
    turned = (a["rotary_dim"] or a["head_dim"]) / a["head_dim"]
    return layers({**a, "partial_rotary_factor": a["partial_rotary_factor"] or turned}, experts=all_layers, theta=5e6)


FAMILIES = (
    Family(
        model_type="minimax_m2",
        architecture="MiniMaxM2ForCausalLM",
        attributes=ATTRIBUTES,
        moe=NAMES,
        fields=EXPERT_WIDTH | {"num_local_experts": "n_experts"},
        switches={"router": "sigmoid", "choice_bias": True, "qk_norm": True, "qk_norm_whole": True},
        layers=_layers,
    ),
)
