"""Qwen 2 and 3, dense and mixture of experts."""

from functools import partial

from vishwamai.hf.attributes import COMMON, EXPERT_ATTRIBUTES, HEADS, LENGTH, LIST, WINDOW, flag, only, size
from vishwamai.hf.family import Attributes, Family, layers
from vishwamai.hf.gguf_names import NO_BIAS, GGUFTables
from vishwamai.hf.names import AT, shared_expert
from vishwamai.hf.names import EXPERTS as EXPERT_NAMES
from vishwamai.models.config import ModelConfig

DENSE = (
    COMMON
    | WINDOW
    | {
        "layer_types": LIST,
        "max_window_layers": size(28, least=0),
        "max_position_embeddings": size(32768, LENGTH),
        "num_key_value_heads": size(32, HEADS, null=True),
    }
)
MOE = (
    COMMON
    | WINDOW
    | EXPERT_ATTRIBUTES
    | {
        "attention_bias": flag(False),
        "max_position_embeddings": size(32768, LENGTH),
        "num_experts": size(None, HEADS),
        "num_experts_per_tok": size(8, HEADS),
        "num_key_value_heads": size(4, HEADS),
        "moe_intermediate_size": size(768),
        "norm_topk_prob": flag(False),
        "decoder_sparse_step": size(1),
        "mlp_only_layers": LIST,
    }
)
CODER = {"qkv_bias": only(False), "shared_expert_intermediate_size": only(0), "use_qk_norm": only(True)}  # as it says
SHARED = {
    "intermediate_size": size(5632, 2**22),
    "num_experts": size(60, HEADS),
    "num_experts_per_tok": size(4, HEADS),
    "num_key_value_heads": size(16, HEADS, null=True),
    "moe_intermediate_size": size(1408),
    "shared_expert_intermediate_size": size(5632),
    "sliding_window": size(4096, LENGTH, least=0, null=True),  # 0 where there is none
    "max_window_layers": size(28, least=0),
    "layer_types": LIST,
    "qkv_bias": flag(True),
}
SHARED_NAMES = shared_expert("shared_expert") | {"ffn.shared_gate": AT + "mlp.shared_expert_gate.weight"}


def _late(a: Attributes) -> list[bool]:
    return [i >= a["max_window_layers"] for i in range(a["num_hidden_layers"])]


def _every_other(a: Attributes) -> list[bool]:
    return [i % 2 == 0 and i < a["max_window_layers"] for i in range(a["num_hidden_layers"])]


def _sparse(a: Attributes) -> list[bool]:
    dense, step = a["mlp_only_layers"] or [], a["decoder_sparse_step"]
    return [i not in dense and (i + 1) % step == 0 for i in range(a["num_hidden_layers"])]


def _write_window(cfg: ModelConfig) -> dict:
    first = next((i for i, layer in enumerate(cfg.layers) if layer.window is not None), cfg.n_layers)
    return {"max_window_layers": first}


def _read_moe(a: Attributes) -> dict:
    return {"n_experts": a["num_experts"] or a["num_local_experts"] or 128}


def _write_sparse(cfg: ModelConfig) -> dict:
    dense = [i for i, layer in enumerate(cfg.layers) if not layer.moe]
    return {"num_experts": cfg.n_experts, "decoder_sparse_step": 1, "mlp_only_layers": dense}


FAMILIES = (
    Family(
        model_type="qwen2",
        architecture="Qwen2ForCausalLM",
        attributes=DENSE | {"use_mrope": only(False)},
        switches={"attn_bias": True},
        layers=partial(layers, slides=_late),
        write=_write_window,
        gguf=GGUFTables(architecture="qwen2"),
    ),
    Family(
        model_type="qwen3",
        architecture="Qwen3ForCausalLM",
        attributes=DENSE | {"attention_bias": flag(False), "head_dim": size(128)},
        switches={"qk_norm": True},
        layers=partial(layers, slides=_late),
        write=_write_window,
        gguf=GGUFTables(architecture="qwen3", fixed=NO_BIAS),
    ),
    Family(
        model_type="qwen3_moe",
        architecture="Qwen3MoeForCausalLM",
        attributes=MOE | CODER,
        moe=EXPERT_NAMES,
        switches={"qk_norm": True},
        layers=partial(layers, experts=_sparse),
        read=_read_moe,
        write=_write_sparse,
        gguf=GGUFTables(architecture="qwen3moe", fixed=NO_BIAS | {"norm_topk_prob": True}),
    ),
    Family(
        model_type="qwen2_moe",
        architecture="Qwen2MoeForCausalLM",
        attributes={k: v for k, v in MOE.items() if k not in ("attention_bias", "num_local_experts")} | SHARED,
        moe=EXPERT_NAMES | SHARED_NAMES,
        fields={
            "num_experts": "n_experts",
            "shared_expert_intermediate_size": "d_shared",
            "qkv_bias": "attn_bias",
        },
        switches={"shared_gate": True},
        layers=partial(layers, slides=_every_other, experts=_sparse),
        write=_write_sparse,
        gguf=GGUFTables(
            architecture="qwen2moe",
            keys={"head_dim": (), "shared_expert_intermediate_size": "expert_shared_feed_forward_length"},
            fixed={"norm_topk_prob": False},
        ),
    ),
)
