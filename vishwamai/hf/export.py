"""Writes config.json and generation_config.json for a model, in the dialect of transformers 5.

A family is chosen by trial: the first as which a model can be written and read back unchanged. A model that none
expresses is written in VishwamAI's own format, which transformers does not load. It knows no weights.
"""

import dataclasses
import json
import math
import warnings
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

from vishwamai.config import to_dict
from vishwamai.errors import ConfigError
from vishwamai.hf import rope
from vishwamai.hf.config import HIDDEN_ACT, model_config
from vishwamai.hf.families import FAMILIES
from vishwamai.hf.families.own import OWN
from vishwamai.hf.family import TYPES, Family
from vishwamai.hf.generation_config import GenerationConfig
from vishwamai.hf.safetensors import write_bytes
from vishwamai.models.config import Latent, Layer, ModelConfig, Rope

WRITTEN = tuple(name for name, family in FAMILIES.items() if family.written_as == name != OWN)


def choose_family(cfg: ModelConfig, preferred: str | None = None) -> str:
    """Returns the model type to write a model as: the preferred one, or the first family that expresses it.

    A `gemma3` of text and images is written as its text model, a `kimi_k2` as the `deepseek_v3` that it is. Where no
    family expresses the model it is `vishwamai`, with a warning that says what does not fit. Raises `ConfigError` where
    the preferred one does not.
    """
    if preferred is not None and preferred not in FAMILIES:
        raise ConfigError(f"model type {preferred!r} is not written; use {', '.join(WRITTEN)} or {OWN}")
    preferred = preferred and FAMILIES[preferred].written_as
    obstacles = []
    for model_type in WRITTEN if preferred is None else (preferred,):
        lacking = lossy_fields(cfg, model_type)
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


def lossy_fields(cfg: ModelConfig, model_type: str) -> list[str]:
    """Returns the fields in which a model would change if it were written as this family and read back."""
    try:
        back = model_config(to_config_json(cfg, model_type), model_type)
    except ConfigError as error:
        return [str(error).removeprefix(f"{model_type}: ")]
    return differing_fields(cfg, back)


def differing_fields(cfg: ModelConfig, other: ModelConfig) -> list[str]:
    """Returns the fields in which two models differ, of those that their output depends on."""
    ours, theirs = _meaning(cfg), _meaning(other)
    return [key for key, value in ours.items() if not _same(value, theirs.get(key))]


def to_config_json(cfg: ModelConfig, model_type: str) -> dict[str, Any]:
    """Returns the object of config.json for a model of a family, without the special tokens."""
    family = FAMILIES[model_type]
    kind = {"architectures": [family.architecture], "model_type": model_type}
    if model_type == OWN:
        return kind | {"model": to_dict(cfg.stacked)}
    shared = {theirs: getattr(cfg, ours[0]) for theirs, ours in family.shared.items()}
    shared |= {n: getattr(cfg, ours) // max(getattr(cfg, of), 1) for n, (ours, of) in family.multiples.items()}
    known = {k: v for k, v in _of_layers(cfg, family).items() if k in family.attributes}
    return kind | shared | known | dict(family.write(cfg))


def _of_layers(cfg: ModelConfig, family: Family) -> dict[str, Any]:
    """The attributes of layers that most families have."""
    window = next((layer.window for layer in cfg.layers if layer.window is not None), None)
    act = next(theirs for theirs, ours in HIDDEN_ACT.items() if ours == cfg.activation)
    return {
        "num_hidden_layers": cfg.n_layers,
        "max_position_embeddings": _stated_length(cfg),
        "hidden_act": act,
        "hidden_activation": act,
        "sliding_window": window,
        "use_sliding_window": window is not None,
        "layer_types": [TYPES[layer.window is not None] for layer in cfg.layers],
        "rope_parameters": _ropes(cfg, by_type=family.ropes_by_type),
        "partial_rotary_factor": next((x.rope.fraction for x in cfg.layers if x.rope is not None), 1.0),
    }


def _stated_length(cfg: ModelConfig) -> int:
    """The context in files: where a dynamic scaling begins, if there is one."""
    ropes = [layer.rope for layer in cfg.layers if layer.rope is not None]
    return next((r.original_max_length for r in ropes if r.scaling == "dynamic"), cfg.max_length)


def _ropes(cfg: ModelConfig, *, by_type: bool) -> dict[str, Any]:
    if not by_type:
        return rope.rope_to_json(next((x.rope for x in cfg.layers if x.rope is not None), Rope()))

    def of(slides: bool) -> Rope:
        return next((x.rope for x in cfg.layers if x.rope is not None and (x.window is not None) == slides), Rope())

    return {kind: rope.rope_to_json(of(slides)) for kind, slides in zip(TYPES, (False, True), strict=True)}


def write_configs(
    folder: Path,
    cfg: ModelConfig,
    model_type: str,
    generation: GenerationConfig,
    dtype: str,
    storage: Mapping[str, Any] = MappingProxyType({}),
) -> None:
    """Writes both files, config.json last: a folder without it does not look like a model's.

    `storage` has config.json's attributes of how the weights are stored.
    """
    data = to_config_json(cfg, model_type) | {"dtype": dtype} | dict(storage) | generation.token_ids()
    for name, content in (("generation_config.json", generation.to_json()), ("config.json", data)):
        write_bytes(folder / name, [json.dumps(content, indent=2).encode() + b"\n"])


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
    """Whether two values are the same but for the last decimals of numbers."""
    if type(a) is not type(b):
        return a == b
    if isinstance(a, float):
        return math.isclose(a, b, rel_tol=1e-6)
    if isinstance(a, tuple):
        return len(a) == len(b) and all(map(_same, a, b))
    if isinstance(a, Layer | Rope | Latent):
        return all(_same(getattr(a, field.name), getattr(b, field.name)) for field in dataclasses.fields(a))
    return a == b
