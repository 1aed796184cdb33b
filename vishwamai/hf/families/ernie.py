"""Ernie 4.5, dense and mixture of experts: neighbours as pairs, and a bias for the choice of experts."""

from functools import partial

from vishwamai.hf.attributes import COMMON, HEADS, LENGTH, LIST, flag, number, only, size
from vishwamai.hf.family import Attributes, Family, layers
from vishwamai.hf.names import AT, EXPERTS, Stored, shared_expert
from vishwamai.models.config import ModelConfig

MIXTURE = COMMON | {
    "use_bias": only(False),
    "num_key_value_heads": size(4, HEADS, null=True),
    "max_position_embeddings": size(131_072, LENGTH),
    "rms_norm_eps": number(1e-5),
    "tie_word_embeddings": flag(True),
    "moe_intermediate_size": size(1536),
    "moe_k": size(6, HEADS),
    "moe_num_experts": size(64, HEADS),
    "moe_num_shared_experts": size(2, HEADS, least=0),
    "moe_layer_start_index": size(1, 1024, least=0),
    "moe_layer_end_index": size(-1, 1024, least=-1),
    "moe_layer_interval": size(1, 1024),
    "moe_norm_min": only(1e-12),
    "moe_gate": only("topk"),
    "moe_use_aux_free": only(True),
    "moe_capacity": LIST,  # of training: no token is left out
    "use_rmsnorm": only(True),
    "num_nextn_predict_layers": size(0, 1024, least=0),  # further layers, which are not read
}
CHOICE_BIAS = Stored(AT + "mlp.moe_statics.e_score_correction_bias", row=True)


def _between(a: Attributes) -> list[bool]:
    n, last, step = a["num_hidden_layers"], a["moe_layer_end_index"], a["moe_layer_interval"]
    inside = range(a["moe_layer_start_index"], n if last == -1 else last + 1)
    return [i in inside and (i + 1) % step == 0 for i in range(n)]


def _write_mixture(cfg: ModelConfig) -> dict:
    moe = [i for i, layer in enumerate(cfg.layers) if layer.moe] or [0]
    return {
        "moe_layer_start_index": moe[0],
        "moe_layer_end_index": moe[-1],
        "moe_layer_interval": moe[1] - moe[0] if len(moe) > 1 else 1,
    }


FAMILIES = (
    Family(
        model_type="ernie4_5",
        architecture="Ernie4_5ForCausalLM",
        attributes=COMMON
        | {
            "use_bias": flag(False),
            "head_dim": size(128),
            "num_attention_heads": size(16, HEADS),
            "num_key_value_heads": size(2, HEADS, null=True),
            "max_position_embeddings": size(131_072, LENGTH),
            "rms_norm_eps": number(1e-5),
            "tie_word_embeddings": flag(True),
        },
        fields={"use_bias": ("attn_bias", "o_bias", "mlp_bias")},
        layers=partial(layers, theta=5e5, interleaved=True),
    ),
    Family(
        model_type="ernie4_5_moe",
        architecture="Ernie4_5_MoeForCausalLM",
        attributes=MIXTURE,
        moe=EXPERTS | shared_expert("shared_experts") | {"ffn.choice_bias": CHOICE_BIAS},
        ignored=r".*\.rotary_emb\.inv_freq|model\.mtp.*",
        fields={"moe_k": "n_experts_per_token", "moe_num_experts": "n_experts"},
        multiples={"moe_num_shared_experts": ("d_shared", "d_expert")},
        switches={"choice_bias": True},
        layers=partial(layers, experts=_between, theta=5e5, interleaved=True),
        write=_write_mixture,
    ),
)
