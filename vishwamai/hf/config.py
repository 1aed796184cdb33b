"""Reads config.json and generation_config.json of a Hugging Face folder: the only reader of theirs.

Both dialects are read, that of transformers until 4 and that of 5. It knows no weights and no tensor names.
"""

import dataclasses
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from vishwamai.config import from_dict, load_json
from vishwamai.errors import ConfigError
from vishwamai.hf import rope
from vishwamai.hf.attributes import checked
from vishwamai.hf.names import OWN, family_of
from vishwamai.models.config import Layer, ModelConfig, Rope, stacks_of

SWITCHES: dict[str, dict[str, Any]] = {  # what holds for every model of a family
    "llama": {},
    "mistral": {},
    "qwen2": {"attn_bias": True},
    "qwen3": {"qk_norm": True},
    "qwen3_moe": {"qk_norm": True},
    "mixtral": {},
    "gemma2": {"norm_offset": 1.0, "post_norms": True, "activation": "gelu_tanh"},
    "gemma3_text": {"qk_norm": True, "norm_offset": 1.0, "post_norms": True, "activation": "gelu_tanh"},
}
THETA = {"mixtral": 1e6, "gemma3_text": 1e6}  # by default; 1e4 for the others
LOCAL_THETA = 1e4


@dataclasses.dataclass(frozen=True, kw_only=True)
class Generation:
    """What a folder says of generating: where a text ends, and the sampling that its authors recommend."""

    eos_ids: tuple[int, ...] = ()
    bos_id: int | None = None
    pad_id: int | None = None
    do_sample: bool | None = None
    temperature: float | None = None
    top_k: int | None = None
    top_p: float | None = None
    min_p: float | None = None
    repetition_penalty: float | None = None


@dataclasses.dataclass(frozen=True, kw_only=True)
class Pretrained:
    """What a folder holds, without its weights: the family that names them, the model, and how it generates."""

    model_type: str
    model: ModelConfig
    generation: Generation


def read(folder: Path) -> Pretrained:
    """Reads a folder's configuration. Raises `ConfigError` that names the file and the attribute."""
    path = Path(folder) / "config.json"
    data = load_json(path)
    model_type = data.get("model_type")
    if not isinstance(model_type, str):
        raise ConfigError(f"{path}: 'model_type' must name the architecture, and is {model_type!r}")
    try:
        family_of(model_type)
        model = model_config(data, str(path))
    except ConfigError as error:
        text = str(error)
        raise ConfigError(text if text.startswith(str(path)) else f"{path}: {text}") from None
    return Pretrained(model_type=model_type, model=model, generation=_generation(data, path))


def model_config(data: Mapping[str, Any], where: str) -> ModelConfig:
    """The model that the object of a config.json describes."""
    model_type = data["model_type"]
    if model_type == OWN:
        return from_dict(ModelConfig, data.get("model", {}), f"{where}: model")
    a = checked(data, model_type, where)
    if model_type == "gemma3":
        tied = {} if "tie_word_embeddings" not in data else {"tie_word_embeddings": data["tie_word_embeddings"]}
        return model_config({**a["text_config"], **tied, "model_type": "gemma3_text"}, f"{where}: text_config")
    switches = {"attn_bias": a.get("attention_bias", False), "o_bias": a.get("attention_bias", False)}
    return ModelConfig(
        vocab_size=a["vocab_size"],
        d_model=a["hidden_size"],
        d_ff=a["intermediate_size"],
        n_heads=a["num_attention_heads"],
        n_kv_heads=a["num_key_value_heads"] or a["num_attention_heads"],
        head_dim=a["head_dim"] or _head_dim(a),
        stacks=stacks_of(_layers(a, model_type, where)),
        max_length=a["max_position_embeddings"],
        norm_eps=float(a["rms_norm_eps"]),
        tie_embeddings=a["tie_word_embeddings"],
        mlp_bias=a.get("mlp_bias", False),
        **_gemma(a),
        **_experts(a, model_type),
        **(switches | SWITCHES[model_type]),
    )


def _head_dim(a: Mapping[str, Any]) -> int:
    width, heads = a["hidden_size"], a["num_attention_heads"]
    if width % heads:
        raise ConfigError(f"hidden_size {width} is not a multiple of num_attention_heads {heads}")
    return width // heads


def _gemma(a: Mapping[str, Any]) -> dict[str, Any]:
    if "query_pre_attn_scalar" not in a:
        return {}
    caps = {"attn_softcap": a["attn_logit_softcapping"], "final_softcap": a["final_logit_softcapping"]}
    scales = {"embed_scale": math.sqrt(a["hidden_size"]), "attn_scale": a["query_pre_attn_scalar"] ** -0.5}
    return scales | {key: None if cap is None else float(cap) for key, cap in caps.items()}


def _experts(a: Mapping[str, Any], model_type: str) -> dict[str, Any]:
    if "num_experts_per_tok" not in a:
        return {}
    default = {"mixtral": 8, "qwen3_moe": 128}[model_type]
    return {
        "n_experts": a["num_experts"] or a["num_local_experts"] or default,
        "n_experts_per_token": a["num_experts_per_tok"],
        "d_expert": a.get("moe_intermediate_size", a["intermediate_size"]),
        "norm_topk": a.get("norm_topk_prob", True),
    }


def _layers(a: Mapping[str, Any], model_type: str, where: str) -> tuple[Layer, ...]:
    full, sliding = _ropes(a, model_type, where)
    window = a.get("sliding_window") if a.get("use_sliding_window", True) else None
    experts = _expert_layers(a, model_type)
    out = []
    for i, slides in enumerate(_slides(a, model_type, window, where)):
        out.append(Layer(window=window if slides else None, rope=sliding if slides else full, moe=i in experts))
    return tuple(out)


def _slides(a: Mapping[str, Any], model_type: str, window: int | None, where: str) -> list[bool]:
    """For each layer, whether it has a sliding window."""
    n, types = a["num_hidden_layers"], a.get("layer_types")
    if types is not None:
        if len(types) != n or not all(t in ("full_attention", "sliding_attention") for t in types):
            raise ConfigError(f"{where}: 'layer_types' must say full_attention or sliding_attention {n} times")
        if window is None and "sliding_attention" in types:
            raise ConfigError(f"{where}: 'layer_types' has sliding layers, and no sliding window is set")
        return [t == "sliding_attention" for t in types]
    match model_type:
        case "qwen2" | "qwen3":
            return [window is not None and i >= a["max_window_layers"] for i in range(n)]
        case "gemma2":
            return [i % 2 == 0 for i in range(n)]
        case "gemma3_text":
            return [(i + 1) % a["sliding_window_pattern"] != 0 for i in range(n)]
    return [window is not None] * n


def _expert_layers(a: Mapping[str, Any], model_type: str) -> set[int]:
    layers = range(a["num_hidden_layers"])
    if model_type == "qwen3_moe":
        dense = a["mlp_only_layers"] or []
        return {i for i in layers if i not in dense and (i + 1) % a["decoder_sparse_step"] == 0}
    return set(layers) if model_type == "mixtral" else set()


def _ropes(a: Mapping[str, Any], model_type: str, where: str) -> tuple[Rope, Rope]:
    """The positions of full and of sliding layers."""
    theta, longest = a["rope_theta"] or THETA.get(model_type, 1e4), a["max_position_embeddings"]
    given, place = a["rope_parameters"], f"{where}: rope_parameters"
    if model_type != "gemma3_text":
        legacy = {"rope_theta": theta} | (a["rope_scaling"] or {})
        both = rope.read(
            legacy if given is None else given, theta, longest, place if given else f"{where}: rope_scaling"
        )
        return both, both
    local = a["rope_local_base_freq"] or LOCAL_THETA
    if given is None:
        return rope.read(a["rope_scaling"], theta, longest, f"{where}: rope_scaling"), Rope(theta=float(local))
    unknown = given.keys() - {"full_attention", "sliding_attention"}
    if unknown or not all(isinstance(v, dict | None) for v in given.values()):
        raise ConfigError(f"{place}: must hold an object for full_attention and one for sliding_attention")
    full = rope.read(given.get("full_attention"), theta, longest, f"{place}: full_attention")
    return full, rope.read(given.get("sliding_attention"), local, longest, f"{place}: sliding_attention")


def _generation(data: Mapping[str, Any], path: Path) -> Generation:
    """The generation facts of a folder: those of generation_config.json, then those of config.json."""
    extra = path.with_name("generation_config.json")
    said = load_json(extra) if extra.exists() else {}
    where = f"{extra if said else path}"
    eos, bos, pad = (_first(said.get(key), data.get(key)) for key in ("eos_token_id", "bos_token_id", "pad_token_id"))
    ids = _ids(eos, f"{where}: eos_token_id")
    firsts = [_ids(value, f"{where}: {key}") for key, value in (("bos_token_id", bos), ("pad_token_id", pad))]
    return Generation(
        eos_ids=ids, bos_id=next(iter(firsts[0]), None), pad_id=next(iter(firsts[1]), None), **_sampling(said, where)
    )


def _first(*values: Any) -> Any:
    return next((v for v in values if v is not None), None)


def _ids(value: Any, where: str) -> tuple[int, ...]:
    """Token ids; a negative one is how some files say "none"."""
    values = value if isinstance(value, list) else [] if value is None else [value]
    if len(values) > 1024 or not all(type(v) is int and v < 2**31 for v in values):
        raise ConfigError(f"{where}: must be a token id or a list of them, not {str(value)[:60]!r}")
    return tuple(v for v in values if v >= 0)


def _sampling(said: Mapping[str, Any], where: str) -> dict[str, Any]:
    """The sampling that a folder recommends. What else a generation configuration holds binds nobody."""
    kinds = {"do_sample": (bool,), "top_k": (int,)}
    floats = dict.fromkeys(("temperature", "top_p", "min_p", "repetition_penalty"), (int, float))
    out = {}
    for key, allowed in (kinds | floats).items():
        value = said.get(key)
        if value is not None and type(value) not in allowed:
            raise ConfigError(f"{where}: {key!r} is {str(value)[:60]!r}, which is no value for it")
        out[key] = float(value) if value is not None and allowed == (int, float) else value
    return out
