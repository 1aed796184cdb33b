"""Reads config.json of a Hugging Face folder: the only reader of it.

Both dialects are read, that of transformers until 4 and that of 5. It knows no weights and no tensor names.
"""

import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from vishwamai.config import from_dict, load_json
from vishwamai.errors import ConfigError
from vishwamai.hf import adapter_config, attributes, generation_config, quantized, rope
from vishwamai.hf.families import FAMILIES, family_of
from vishwamai.hf.families.own import OWN
from vishwamai.hf.family import Family
from vishwamai.hf.generation_config import GenerationConfig
from vishwamai.hf.problem import Problem, short
from vishwamai.hf.quantized import Storage
from vishwamai.models.config import Layer, ModelConfig, group_layers

QUANTIZATION = "quantization_config"  # of the folder's weights, whatever model they are of
STORED = (QUANTIZATION, "compression_config")  # its older name
HIDDEN_ACT = {
    "silu": "silu",
    "swish": "silu",
    "gelu_pytorch_tanh": "gelu_tanh",
    "gelu_new": "gelu_tanh",
    "gelu": "gelu",
    "relu2": "relu2",
    "xielu": "xielu",
}
FLOATS = tuple(f.name for f in dataclasses.fields(ModelConfig) if "float" in str(f.type))


@dataclasses.dataclass(frozen=True, kw_only=True)
class Pretrained:
    """What a folder holds, without its weights: the family that names them, the model, and how it generates.

    `storage` says how those of its weights are stored that are quantised, and `dtype` what it says of the others, None
    where it does not.
    """

    model_type: str
    model: ModelConfig
    generation: GenerationConfig
    storage: Storage | None = None
    dtype: str | None = None


def read(folder: Path) -> Pretrained:
    """Reads a folder's configuration. Raises `ConfigError` that names the file and the attribute."""
    path, data = Path(folder) / "config.json", load(folder)
    return Pretrained(
        model_type=data.get("model_type", ""),
        model=_model(data, path),
        generation=generation_config.read(path.parent, data),
        storage=quantized.read(_quantization(data, f"{path}: "), str(path)),
        dtype=_dtype(data),
    )


def load(folder: Path) -> dict[str, Any]:
    """What a folder's config.json says, as it stands there. Raises `ConfigError`, for an adapter's folder too."""
    path = Path(folder) / "config.json"
    if not path.exists() and (adapter := path.with_name(adapter_config.FILE)).exists():
        base = adapter_config.base_of(path.parent) or "the model that it was trained on"
        raise ConfigError(
            f"{adapter}: this is an adapter and no model: load {base}, and give this folder to load_adapter (or to "
            "--adapter)"
        )
    return load_json(path)


def _dtype(data: Mapping[str, Any]) -> str | None:
    """The dtype that a config.json states, under its newer name or its older one, of a model of text or of its text."""
    text = data.get("text_config")
    parts = [data, *([text] if isinstance(text, dict) else [])]
    stated = [part[name] for part in parts for name in ("dtype", "torch_dtype") if isinstance(part.get(name), str)]
    names = [name.removeprefix("torch.") for name in stated if name != "auto"]
    return names[0] if names else None


def problems(folder: Path) -> Iterator[Problem]:
    """All that is not supported in a folder's configuration, and nothing where `read` reads it.

    Raises `ConfigError` where config.json is missing or no JSON.
    """
    path = Path(folder) / "config.json"
    data = load_json(path)
    found = [*_attribute_problems(data), *_storage_problems(data)]
    yield from found
    rest = supported(data, found)
    parts = (lambda: rest is not None and _model(rest, path)), (lambda: generation_config.read(path.parent, data))
    for part in parts:
        try:
            part()
        except ConfigError as error:
            yield Problem(path.name, "", str(error).removeprefix(f"{path}: "))


def supported(data: Mapping[str, Any], found: Sequence[Problem]) -> dict[str, Any] | None:
    """The object of a config.json as `model_config` takes it, without the attributes that were found wanting.

    None where sizes are among these.
    """
    bad, family = {problem.name for problem in found}, FAMILIES.get(str(data.get("model_type")))
    sizes = {key for key, attribute in family.attributes.items() if not attribute.choices} if family else set()
    left = {key: value for key, value in data.items() if key not in bad and key not in STORED}
    return None if bad - data.keys() or bad & sizes else left


def _attribute_problems(data: Mapping[str, Any]) -> Iterator[Problem]:
    family = FAMILIES.get(str(data.get("model_type")))
    if family is None or family.model_type == OWN:
        return
    plain = {key: value for key, value in data.items() if key not in STORED}
    yield from attributes.problems(plain, family.attributes, family.model_type, architecture=family.architecture)
    if family.text is not None and isinstance(data.get("text_config"), dict):
        for problem in _attribute_problems({**data["text_config"], "model_type": family.text}):
            yield dataclasses.replace(problem, name=f"text_config.{problem.name}")


def storage(data: Mapping[str, Any]) -> Storage | None:
    """How the object of a config.json says that weights are stored; None too where that is not supported."""
    return None if list(_storage_problems(data)) else quantized.read(_quantization(data), "")


def _quantization(data: Mapping[str, Any], where: str = "") -> Any:
    """What the object of a config.json says of how weights are stored, by the newer name or the older one."""
    new, old = (data.get(key) for key in STORED)
    if new is not None and old is not None and new != old:
        raise ConfigError(
            f"{where}{STORED[0]} and {STORED[1]} do not agree; keep the one that the weights are stored by"
        )
    return old if new is None else new


def _storage_problems(data: Mapping[str, Any]) -> Iterator[Problem]:
    try:
        quantized.read(_quantization(data), "")
    except ConfigError as error:
        key = next(key for key in STORED if data.get(key) is not None)
        yield Problem(key, short(data[key]), str(error).rpartition(f"{QUANTIZATION}: ")[2])


def _model(data: Mapping[str, Any], path: Path) -> ModelConfig:
    model_type = data.get("model_type")
    if not isinstance(model_type, str):
        raise ConfigError(f"{path}: 'model_type' must name the architecture, and is {model_type!r}")
    try:
        family_of(model_type)
        return model_config({key: value for key, value in data.items() if key not in STORED}, str(path))
    except ConfigError as error:
        text = str(error)
        raise ConfigError(text if text.startswith(str(path)) else f"{path}: {text}") from None


def model_config(data: Mapping[str, Any], where: str) -> ModelConfig:
    """The model that the object of a config.json describes."""
    if data["model_type"] == OWN:
        return from_dict(ModelConfig, data.get("model", {}), f"{where}: model")
    family = family_of(data["model_type"])
    a = attributes.check_attributes(data, family.attributes, family.model_type, where, architecture=family.architecture)
    if family.text is not None:
        tied = {"tie_word_embeddings": a["tie_word_embeddings"]}
        inside = {**tied, **a["text_config"], "model_type": family.text}
        if inside["tie_word_embeddings"] != a["tie_word_embeddings"]:
            raise ConfigError(
                f"{where}: 'tie_word_embeddings' is {a['tie_word_embeddings']}, and in text_config it is not"
            )
        return model_config(inside, f"{where}: text_config")
    try:
        return ModelConfig(**_fields(family, a))
    except ConfigError as error:
        raise ConfigError(f"{where}: {error}") from None


def _fields(family: Family, a: Mapping[str, Any]) -> dict[str, Any]:
    """The model's fields, from the attributes."""
    a = rope.settled(a, by_type=family.ropes_by_type)
    fields = {field: a[theirs] for theirs, ours in family.shared.items() for field in ours}
    fields |= {ours: a[theirs] * fields[of] for theirs, (ours, of) in family.multiples.items()}
    fields["n_kv_heads"] = fields.get("n_kv_heads") or fields["n_heads"]
    fields["head_dim"] = fields.get("head_dim") or _head_dim(fields["d_model"], fields["n_heads"])
    act = a.get("hidden_act") or a.get("hidden_activation")
    fields |= {"activation": HIDDEN_ACT[act]} if act is not None else {}
    layers = family.layers(a)
    fields["stacks"] = group_layers(layers)
    fields["max_length"] = _longest(layers) or fields["max_length"]
    fields |= {**family.switches, **family.read(a)}
    return {k: float(v) if k in FLOATS and v is not None else v for k, v in fields.items()}


def _longest(layers: Sequence[Layer]) -> int | None:
    """How long a text may be where a dynamic scaling says so: the file has the length that it begins at."""
    found = [x.rope for x in layers if x.rope is not None and x.rope.scaling == "dynamic"]
    return min((int(r.factor * r.original_max_length) for r in found), default=None)


def _head_dim(width: int, heads: int) -> int:
    if width % heads:
        raise ConfigError(f"hidden_size {width} is not a multiple of num_attention_heads {heads}")
    return width // heads
