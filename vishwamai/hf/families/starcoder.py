"""StarCoder 2: layer norms with biases, and a plain feed-forward."""

from functools import partial

from vishwamai.hf.attributes import COMMON, HEADS, LENGTH, flag, number, only, size
from vishwamai.hf.family import Family, layers
from vishwamai.hf.gguf_names import WINDOW, GGUFTables
from vishwamai.hf.names import AT, ATTENTION, WHOLE

NORMS = {
    "attn_norm.bias": AT + "input_layernorm.bias",
    "ffn_norm.bias": AT + "post_attention_layernorm.bias",
}
FEED_FORWARD = {
    "ffn.up": AT + "mlp.c_fc.weight",
    "ffn.down": AT + "mlp.c_proj.weight",
    "ffn.up_bias": AT + "mlp.c_fc.bias",
    "ffn.down_bias": AT + "mlp.c_proj.bias",
}

FAMILIES = (
    Family(
        model_type="starcoder2",
        architecture="Starcoder2ForCausalLM",
        attributes={k: v for k, v in COMMON.items() if k != "rms_norm_eps"}
        | {
            "vocab_size": size(49152, 2**24),
            "num_key_value_heads": size(2, HEADS, null=True),
            "max_position_embeddings": size(4096, LENGTH),
            "hidden_act": only("gelu_pytorch_tanh"),
            "norm_epsilon": number(1e-5),
            "layer_norm_epsilon": number(None),  # the same once more
            "sliding_window": size(None, LENGTH),
            "use_bias": flag(True),
            "tie_word_embeddings": flag(True),
            "mlp_type": only("default"),
            "norm_type": only("layer_norm"),
        },
        whole=WHOLE | {"final_norm.bias": "model.norm.bias"},
        layer=ATTENTION | NORMS | FEED_FORWARD,
        fields={"norm_epsilon": "norm_eps", "use_bias": ("attn_bias", "o_bias", "mlp_bias")},
        switches={"norm": "layer", "norm_bias": True, "gated": False},
        layers=partial(layers, theta=1e4),
        gguf=GGUFTables(
            architecture="starcoder2",
            keys={"norm_epsilon": "attention.layer_norm_epsilon"},
            fixed={"use_bias": True},
            overlooked=WINDOW,
        ),
    ),
)
