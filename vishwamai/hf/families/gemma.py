"""Gemma 1 to 3; of a Gemma 3 of text and images, the text model."""

import math
from functools import partial

from vishwamai.hf.attributes import COMMON, HEADS, LENGTH, LIST, TOKEN, TOKENS, Attribute, flag, number, only, size
from vishwamai.hf.family import TYPES, Attributes, Family, all_but_every, every_other, layers
from vishwamai.hf.gguf_names import NO_BIAS, GGUFTables, Values
from vishwamai.hf.names import PLAIN, SANDWICH, WHOLE, with_prefix
from vishwamai.models.config import ModelConfig

ATTRIBUTES = {
    **{k: v for k, v in COMMON.items() if k != "hidden_act"},
    "num_attention_heads": size(8, HEADS),
    "num_key_value_heads": size(4, HEADS),
    "head_dim": size(256, HEADS),
    "attention_bias": flag(False),
    "hidden_activation": only("gelu_pytorch_tanh"),
    "tie_word_embeddings": flag(True),
    "query_pre_attn_scalar": number(256),
    "layer_types": LIST,
    "sliding_window": size(4096, LENGTH),
    "use_bidirectional_attention": only(False, None),
}
SWITCHES = {"norm_offset": 1.0, "post_norms": True, "activation": "gelu_tanh"}
NAMES = PLAIN | SANDWICH


def _read(a: Attributes) -> dict:
    return {"embed_scale": math.sqrt(a["hidden_size"]), "attn_scale": a["query_pre_attn_scalar"] ** -0.5}


def _write(cfg: ModelConfig) -> dict:
    scalar = cfg.head_dim if cfg.attn_scale is None else cfg.attn_scale**-2
    whole = math.isclose(scalar, round(scalar), rel_tol=1e-6)
    window = next((layer.window for layer in cfg.layers if layer.window is not None), 4096)
    return {"query_pre_attn_scalar": round(scalar) if whole else scalar, "sliding_window": window}


def _read_gguf(m: Values, wide: int) -> dict:
    """The scale of queries, which llama.cpp knows by the number of layers: `wide` has the largest model of a family."""
    scalar = m["embedding_length"] // m["attention.head_count"]
    return {"query_pre_attn_scalar": scalar if m["block_count"] == wide else m.get("attention.key_length", scalar)}


def _read_gguf_third(m: Values) -> dict:
    turn = {"rope_type": "default", "rope_theta": m.get("rope.freq_base_swa", 1e4)}
    return _read_gguf(m, wide=62) | {"rope_parameters": {TYPES[1]: turn}}


def _write_gguf_third(a: Values) -> dict:
    return {"rope.freq_base_swa": a["rope_parameters"][TYPES[1]]["rope_theta"]}


FAMILIES = (
    Family(
        model_type="gemma",
        architecture="GemmaForCausalLM",
        attributes={
            **COMMON,
            "vocab_size": size(256_000, 2**24),
            "hidden_act": only("gelu_pytorch_tanh", "gelu"),  # the first releases say gelu, and mean this one
            "hidden_activation": only(None, "gelu_pytorch_tanh"),
            "head_dim": size(256, HEADS),
            "num_key_value_heads": size(16, HEADS),
            "max_position_embeddings": size(8192, LENGTH),
            "attention_bias": flag(False),
            "tie_word_embeddings": flag(True),
            "use_bidirectional_attention": only(None, False),
        },
        switches={"norm_offset": 1.0, "activation": "gelu_tanh"},
        read=lambda a: {"embed_scale": math.sqrt(a["hidden_size"])},
        gguf=GGUFTables(architecture="gemma", norm_offset=1.0, fixed=NO_BIAS),
    ),
    Family(
        model_type="gemma2",
        architecture="Gemma2ForCausalLM",
        attributes=ATTRIBUTES
        | {
            "vocab_size": size(256_000, 2**24),
            "hidden_act": only("gelu_pytorch_tanh"),
            "max_position_embeddings": size(8192, LENGTH),
            "final_logit_softcapping": number(30.0, null=True),
            "attn_logit_softcapping": number(50.0, null=True),
        },
        layer=NAMES,
        switches=SWITCHES,
        layers=partial(layers, slides=every_other),
        read=_read,
        write=_write,
        gguf=GGUFTables(
            architecture="gemma2", norm_offset=1.0, fixed=NO_BIAS, period=2, read=partial(_read_gguf, wide=46)
        ),
    ),
    Family(
        model_type="gemma3_text",
        architecture="Gemma3ForCausalLM",
        attributes=ATTRIBUTES
        | {
            "vocab_size": size(262_208, 2**24),
            "max_position_embeddings": size(2**17, LENGTH),
            "final_logit_softcapping": number(None),
            "attn_logit_softcapping": only(None),  # transformers ignores it for this family
            "sliding_window_pattern": size(6),
            "rope_local_base_freq": number(None),
        },
        layer=NAMES,
        switches=SWITCHES | {"qk_norm": True},
        layers=partial(layers, slides=all_but_every, theta=1e6, local_theta=lambda a: a["rope_local_base_freq"] or 1e4),
        read=_read,
        write=_write,
        gguf=GGUFTables(
            architecture="gemma3",
            fixed=NO_BIAS,
            norm_offset=1.0,
            period=6,
            read=_read_gguf_third,
            write=_write_gguf_third,
        ),
        ropes_by_type=True,
    ),
    Family(
        model_type="gemma3",
        architecture="Gemma3ForConditionalGeneration",
        attributes={
            "text_config": Attribute((dict,)),
            "eos_token_id": TOKENS,
            "bos_token_id": TOKENS,
            "pad_token_id": TOKEN,
            "tie_word_embeddings": flag(True),
        },
        whole=with_prefix("language_model.", WHOLE),
        layer=with_prefix("language_model.", NAMES),
        ignored=r"vision_tower\..*|multi_modal_projector\..*",
        text="gemma3_text",
    ),
)
