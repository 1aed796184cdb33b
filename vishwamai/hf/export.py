"""Writes config.json and generation_config.json for a model, in the dialect of transformers 5.

A family is chosen by trial: a model is written as each family in turn and read back, and the first that gives the same
model is the one. So what is written is what was meant. A model that none expresses is written as VishwamAI's own, which
transformers does not load. It knows no weights.
"""

import json
import math
import warnings
from pathlib import Path
from typing import Any

from vishwamai.config import to_dict
from vishwamai.errors import ConfigError
from vishwamai.hf import rope
from vishwamai.hf.config import SWITCHES, Generation, model_config
from vishwamai.hf.names import FAMILIES, OWN
from vishwamai.hf.safetensors import write_whole
from vishwamai.models.config import ModelConfig, Rope


def family_for(cfg: ModelConfig, preferred: str | None = None) -> str:
    """The model type to write a model as: the preferred one, or the first family that expresses it.

    A `gemma3` of text and images is written as its text model. Where no family expresses the model it is `vishwamai`,
    with a warning that says what does not fit; a preferred one that does not is a `ConfigError`.
    """
    preferred = "gemma3_text" if preferred == "gemma3" else preferred
    if preferred is not None and preferred not in (*SWITCHES, OWN):
        raise ConfigError(f"model type {preferred!r} is not written; use {', '.join((*SWITCHES, OWN))}")
    obstacles = []
    for model_type in SWITCHES if preferred is None else (preferred,):
        lacking = differences(cfg, model_type)
        if not lacking:
            return model_type
        obstacles.append(f"{model_type} ({', '.join(lacking)})")
    what = f"what does not fit: {'; '.join(obstacles)}"
    if preferred is not None:
        raise ConfigError(f"the model cannot be written; {what}")
    warnings.warn(
        f"no family of transformers expresses this model, so only VishwamAI will load it; {what}", stacklevel=2
    )
    return OWN


def differences(cfg: ModelConfig, model_type: str) -> list[str]:
    """The fields in which a model would come back changed if it were written as this family."""
    try:
        back = model_config(describe(cfg, model_type), model_type)
    except ConfigError as error:
        return [str(error)]
    ours, theirs = _meaning(cfg), _meaning(back)
    return [key for key, value in ours.items() if not _same(value, theirs.get(key))]


def describe(cfg: ModelConfig, model_type: str) -> dict[str, Any]:
    """The object of config.json for a model of a family, without what concerns generation."""
    kind = {"architectures": [FAMILIES[model_type].architecture], "model_type": model_type}
    if model_type == OWN:
        return kind | {"model": to_dict(cfg)}
    data = kind | {
        "vocab_size": cfg.vocab_size,
        "hidden_size": cfg.d_model,
        "intermediate_size": cfg.d_expert if model_type == "mixtral" else cfg.d_ff,
        "num_hidden_layers": cfg.n_layers,
        "num_attention_heads": cfg.n_heads,
        "num_key_value_heads": cfg.n_kv_heads,
        "head_dim": cfg.head_dim,
        "max_position_embeddings": cfg.max_length,
        "rms_norm_eps": cfg.norm_eps,
        "tie_word_embeddings": cfg.tie_embeddings,
        "rope_parameters": rope.write(cfg.layers[0].rope),
    }
    return data | _EXTRAS[model_type](cfg)


def write(folder: Path, cfg: ModelConfig, model_type: str, generation: Generation, dtype: str) -> None:
    """Writes both files."""
    ids = _generation_ids(generation)
    data = describe(cfg, model_type) | {"dtype": dtype} | ids
    sampling = {k: getattr(generation, k) for k in ("do_sample", "temperature", "top_k", "top_p", "min_p")}
    sampling["repetition_penalty"] = generation.repetition_penalty
    said = {k: v for k, v in (ids | sampling).items() if v is not None}
    for name, content in (("config.json", data), ("generation_config.json", said)):
        write_whole(folder / name, [json.dumps(content, indent=2).encode() + b"\n"])


def _generation_ids(g: Generation) -> dict[str, Any]:
    eos: Any = list(g.eos_ids) if len(g.eos_ids) > 1 else next(iter(g.eos_ids), None)
    return {"eos_token_id": eos, "bos_token_id": g.bos_id, "pad_token_id": g.pad_id}


def _llama(cfg: ModelConfig) -> dict[str, Any]:
    return {"hidden_act": "silu", "attention_bias": cfg.attn_bias, "mlp_bias": cfg.mlp_bias}


def _mistral(cfg: ModelConfig) -> dict[str, Any]:
    return {"hidden_act": "silu", "sliding_window": _window(cfg)}


def _qwen2(cfg: ModelConfig) -> dict[str, Any]:
    return {key: value for key, value in _qwen3(cfg).items() if key != "attention_bias"}


def _windows(cfg: ModelConfig) -> dict[str, Any]:
    window = _window(cfg)
    return {"use_sliding_window": window is not None, "sliding_window": window}


def _qwen3(cfg: ModelConfig) -> dict[str, Any]:
    types = _layer_types(cfg)
    first = types.index("sliding_attention") if "sliding_attention" in types else cfg.n_layers
    more = {"layer_types": types, "max_window_layers": max(first, 1)}
    return {"hidden_act": "silu", "attention_bias": cfg.attn_bias, **_windows(cfg), **more}


def _qwen3_moe(cfg: ModelConfig) -> dict[str, Any]:
    return {
        "hidden_act": "silu",
        "attention_bias": cfg.attn_bias,
        **_windows(cfg),
        "num_experts": cfg.n_experts,
        "num_experts_per_tok": cfg.n_experts_per_token,
        "moe_intermediate_size": cfg.d_expert,
        "norm_topk_prob": cfg.norm_topk,
        "decoder_sparse_step": 1,
        "mlp_only_layers": [i for i, layer in enumerate(cfg.layers) if not layer.moe],
    }


def _mixtral(cfg: ModelConfig) -> dict[str, Any]:
    experts = {"num_local_experts": cfg.n_experts, "num_experts_per_tok": cfg.n_experts_per_token}
    return _mistral(cfg) | experts


def _gemma(cfg: ModelConfig) -> dict[str, Any]:
    scalar = cfg.head_dim if cfg.attn_scale is None else cfg.attn_scale**-2
    return {
        "attention_bias": cfg.attn_bias,
        "hidden_activation": "gelu_pytorch_tanh",
        "query_pre_attn_scalar": round(scalar) if math.isclose(scalar, round(scalar), rel_tol=1e-6) else scalar,
        "layer_types": _layer_types(cfg),
        "sliding_window": _window(cfg) or 4096,
        "final_logit_softcapping": cfg.final_softcap,
        "attn_logit_softcapping": cfg.attn_softcap,
    }


def _gemma3(cfg: ModelConfig) -> dict[str, Any]:
    def of(kind: bool) -> Rope:
        return next((x.rope for x in cfg.layers if (x.window is not None) == kind), Rope())

    kinds = {"full_attention": rope.write(of(False)), "sliding_attention": rope.write(of(True))}
    return _gemma(cfg) | {"rope_parameters": kinds}


_EXTRAS = {
    "llama": _llama,
    "mistral": _mistral,
    "qwen2": _qwen2,
    "qwen3": _qwen3,
    "qwen3_moe": _qwen3_moe,
    "mixtral": _mixtral,
    "gemma2": _gemma,
    "gemma3_text": _gemma3,
}


def _window(cfg: ModelConfig) -> int | None:
    return next((layer.window for layer in cfg.layers if layer.window is not None), None)


def _layer_types(cfg: ModelConfig) -> list[str]:
    return ["full_attention" if layer.window is None else "sliding_attention" for layer in cfg.layers]


def _meaning(cfg: ModelConfig) -> dict[str, Any]:
    """The fields that a model's output depends on."""
    out = {key: value for key, value in vars(cfg).items() if key != "stacks"}
    out["layers"] = cfg.layers
    out["attn_scale"] = cfg.attn_scale or cfg.head_dim**-0.5
    if all(layer.moe for layer in cfg.layers):
        del out["d_ff"]
    if not any(layer.moe for layer in cfg.layers):
        out = {k: v for k, v in out.items() if k not in ("n_experts", "n_experts_per_token", "d_expert", "norm_topk")}
    return out


def _same(a: Any, b: Any) -> bool:
    return math.isclose(a, b, rel_tol=1e-6) if type(a) is type(b) is float else a == b
