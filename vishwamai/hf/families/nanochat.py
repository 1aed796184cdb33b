"""NanoChat: norms without weights, also after the embedding and on queries and keys; positions turn the other way."""

from functools import partial

from vishwamai.hf.attributes import COMMON, flag, number, only, size
from vishwamai.hf.family import Family, layers
from vishwamai.hf.names import AT, ATTENTION

FAMILIES = (
    Family(
        model_type="nanochat",
        architecture="NanoChatForCausalLM",
        attributes=COMMON
        | {
            "vocab_size": size(50304, 2**24),
            "hidden_size": size(768),
            "intermediate_size": size(8192, 2**22),
            "num_hidden_layers": size(12, 1024),
            "num_attention_heads": size(6),
            "hidden_act": only("relu2"),
            "final_logit_softcapping": number(15.0, null=True),
            "attention_bias": flag(False),
        },
        layer=ATTENTION | {"ffn.up": AT + "mlp.fc1.weight", "ffn.down": AT + "mlp.fc2.weight"},
        switches={
            "norm_scale": False,
            "embed_norm": True,
            "qk_norm": True,
            "qk_norm_late": True,
            "gated": False,
        },
        layers=partial(layers, reversed=True),
    ),
)
