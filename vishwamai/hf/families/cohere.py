"""Cohere 2 (Command): one norm before attention and feed-forward at once; full layers have no positions."""

from functools import partial

from vishwamai.hf.attributes import COMMON, LENGTH, LIST, flag, number, only, size
from vishwamai.hf.family import Family, all_but_every, layers

FAMILIES = (
    Family(
        model_type="cohere2",
        architecture="Cohere2ForCausalLM",
        attributes={k: v for k, v in COMMON.items() if k != "rms_norm_eps"}
        | {
            "layer_norm_eps": number(1e-5),
            "logit_scale": number(0.0625),
            "max_position_embeddings": size(8192, LENGTH),
            "attention_bias": flag(False),
            "tie_word_embeddings": flag(True),
            "sliding_window": size(4096, LENGTH),
            "sliding_window_pattern": size(4),
            "layer_types": LIST,
            # what published files say of every model of this kind
            "layer_switch": only(4),
            "order_of_interleaved_layers": only("local_attn_first"),
            "position_embedding_type": only("rope_gptj"),
            "rotary_pct": only(1.0),
            "use_qk_norm": only(False),
            **{f"use_{what}": only(True) for what in ("gated_activation", "parallel_block")},
            **{f"use_{what}": flag(True) for what in ("embedding_sharing", "parallel_embedding")},
        },
        fields={"layer_norm_eps": "norm_eps", "logit_scale": "logit_scale"},
        switches={"norm": "layer", "parallel": True},
        layers=partial(layers, slides=all_but_every, turns=lambda a, slides: slides, interleaved=True),
        write=lambda cfg: {"sliding_window_pattern": 4},
    ),
)
