"""GPT-2: learned positions, layer norms, and matrices stored `[in, out]`, queries, keys and values in one."""

from vishwamai.hf.attributes import DECODER_ONLY, HEADS, LENGTH, TOKEN, TOKENS, flag, number, only, size
from vishwamai.hf.family import Attributes, Family
from vishwamai.hf.gguf_names import LAYER as GGUF_LAYER
from vishwamai.hf.gguf_names import QKV, QKV_BIAS, GGUFTables
from vishwamai.hf.names import Stored, fused
from vishwamai.models.config import Layer, ModelConfig

AT = "transformer.h.{layer}."
LAYER = {
    **{f"{ours}.scale": AT + f"{theirs}.weight" for ours, theirs in (("attn_norm", "ln_1"), ("ffn_norm", "ln_2"))},
    **{f"{ours}.bias": AT + f"{theirs}.bias" for ours, theirs in (("attn_norm", "ln_1"), ("ffn_norm", "ln_2"))},
    **fused(AT + "attn.c_attn.weight", "attn.q", "attn.k", "attn.v", transposed=False),
    **fused(AT + "attn.c_attn.bias", "attn.q_bias", "attn.k_bias", "attn.v_bias"),
    "attn.o": Stored(AT + "attn.c_proj.weight", transposed=False),
    "attn.o_bias": AT + "attn.c_proj.bias",
    "ffn.up": Stored(AT + "mlp.c_fc.weight", transposed=False),
    "ffn.up_bias": AT + "mlp.c_fc.bias",
    "ffn.down": Stored(AT + "mlp.c_proj.weight", transposed=False),
    "ffn.down_bias": AT + "mlp.c_proj.bias",
}


def _read(a: Attributes) -> dict:
    return {"d_ff": a["n_inner"] or 4 * a["n_embd"]}


def _write(cfg: ModelConfig) -> dict:
    return {"n_layer": cfg.n_layers, "n_inner": cfg.d_ff}


FAMILIES = (
    Family(
        model_type="gpt2",
        architecture="GPT2LMHeadModel",
        attributes={
            "vocab_size": size(50257, 2**24),
            "n_positions": size(1024, LENGTH),
            "n_embd": size(768),
            "n_layer": size(12, 1024),
            "n_head": size(12, HEADS),
            "n_inner": size(None, 2**22),
            "n_special": only(0),
            "activation_function": only("gelu_new"),
            "layer_norm_epsilon": number(1e-5),
            "scale_attn_weights": only(True),
            "scale_attn_by_inverse_layer_idx": only(False),
            "reorder_and_upcast_attn": only(False),
            **DECODER_ONLY,
            "tie_word_embeddings": flag(True),
            "eos_token_id": TOKENS,
            "bos_token_id": TOKENS,
            "pad_token_id": TOKEN,
        },
        whole={
            "embed": "transformer.wte.weight",
            "positions": "transformer.wpe.weight",
            "final_norm.scale": "transformer.ln_f.weight",
            "final_norm.bias": "transformer.ln_f.bias",
            "lm_head": "lm_head.weight",
        },
        layer=LAYER,
        prefix="transformer.",
        ignored=r".*\.attn\.(masked_)?bias",
        fields={
            "n_embd": "d_model",
            "n_head": "n_heads",
            "n_positions": "max_length",
            "layer_norm_epsilon": "norm_eps",
        },
        switches={
            "norm": "layer",
            "norm_bias": True,
            "learned_positions": True,
            "gated": False,
            "activation": "gelu_tanh",
            "attn_bias": True,
            "o_bias": True,
            "mlp_bias": True,
        },
        layers=lambda a: (Layer(rope=None),) * a["n_layer"],
        read=_read,
        write=_write,
        gguf=GGUFTables(
            architecture="gpt2",
            layer=GGUF_LAYER | QKV | QKV_BIAS,
            keys={
                "n_embd": "embedding_length",
                "n_inner": "feed_forward_length",
                "n_layer": "block_count",
                "n_head": ("attention.head_count", "attention.head_count_kv"),
                "n_positions": "context_length",
                "layer_norm_epsilon": "attention.layer_norm_epsilon",
            },
        ),
    ),
)
