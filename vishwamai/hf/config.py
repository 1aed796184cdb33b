"""Reads config.json of a Hugging Face folder, in the dialects of transformers 4 and 5.

It knows no weights and no tensor names.
"""

import dataclasses
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from vishwamai.config import from_dict, load_json
from vishwamai.errors import ConfigError
from vishwamai.hf import adapter_config, attributes
from vishwamai.hf.families import FAMILIES, family_of
from vishwamai.hf.families.own import OWN
from vishwamai.hf.family import Family
from vishwamai.hf.generation_config import GenerationConfig, read_generation_config
from vishwamai.hf.problem import CheckpointProblem, shorten
from vishwamai.hf.quantized import Storage, parse_quantization
from vishwamai.hf.rope import merge_dialects
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
    """What a folder says of its model: the family, the configuration, and how to generate.

    `storage` is how quantised weights are stored, and `dtype` that of the others; None where config.json has none.
    """

    model_type: str
    model: ModelConfig
    generation: GenerationConfig
    storage: Storage | None = None
    dtype: str | None = None


def read_pretrained(folder: Path) -> Pretrained:
    """Returns a folder's configuration. Raises `ConfigError` that names the file and the attribute."""
    path, data = Path(folder) / "config.json", load_config_json(folder)
    return parse_pretrained(data, path, lambda: read_generation_config(path.parent, data))


def parse_pretrained(data: Mapping[str, Any], path: Path, generation: Callable[[], GenerationConfig]) -> Pretrained:
    """Returns what the object of a config.json says, with its settings for generating. `path` is for messages."""
    return Pretrained(
        model_type=data.get("model_type", ""),
        model=_model(data, path),
        generation=generation(),
        storage=parse_quantization(_quantization(data, f"{path}: "), str(path)),
        dtype=_dtype(data),
    )


def load_config_json(folder: Path) -> dict[str, Any]:
    """Returns the object of a folder's config.json. Raises `ConfigError`, for an adapter's folder too."""
    path = Path(folder) / "config.json"
    if not path.exists() and (adapter := path.with_name(adapter_config.FILE)).exists():
        base = adapter_config.base_model_name(path.parent) or "the model that it was trained on"
        raise ConfigError(
            f"{adapter}: this is an adapter and no model: load {base}, and give this folder to load_adapter (or to "
            "--adapter)"
        )
    return load_json(path)


def _dtype(data: Mapping[str, Any]) -> str | None:
    """The dtype of a config.json, by its newer name or its older one, or of its text model."""
    text = data.get("text_config")
    parts = [data, text] if isinstance(text, dict) else [data]
    found = (part.get(name) for part in parts for name in ("dtype", "torch_dtype"))
    return next((dtype.removeprefix("torch.") for dtype in found if isinstance(dtype, str) and dtype != "auto"), None)


def config_problems(folder: Path) -> Iterator[CheckpointProblem]:
    """Yields all that is not supported in a folder's configuration; nothing where `read_pretrained` reads it.

    Raises `ConfigError` where config.json is missing or no JSON.
    """
    path = Path(folder) / "config.json"
    data = load_json(path)
    yield from data_problems(data, path, lambda: read_generation_config(path.parent, data))


def data_problems(
    data: Mapping[str, Any], path: Path, generation: Callable[[], GenerationConfig]
) -> Iterator[CheckpointProblem]:
    """Yields all that is not supported in the object of a config.json; nothing where `parse_pretrained` reads it."""
    found = [*_attribute_problems(data), *_storage_problems(data)]
    yield from found
    rest = drop_unsupported(data, found)
    for read in (lambda: rest is not None and _model(rest, path)), generation:
        try:
            read()
        except ConfigError as error:
            yield CheckpointProblem(path.name, "", str(error).removeprefix(f"{path}: "))


def drop_unsupported(data: Mapping[str, Any], found: Sequence[CheckpointProblem]) -> dict[str, Any] | None:
    """Returns the object of a config.json without the attributes that have problems; None where sizes have."""
    bad, family = {problem.name for problem in found}, FAMILIES.get(str(data.get("model_type")))
    sizes = {key for key, attribute in family.attributes.items() if not attribute.choices} if family else set()
    left = {key: value for key, value in data.items() if key not in bad and key not in STORED}
    return None if bad - data.keys() or bad & sizes else left


def _attribute_problems(data: Mapping[str, Any]) -> Iterator[CheckpointProblem]:
    family = FAMILIES.get(str(data.get("model_type")))
    if family is None or family.model_type == OWN:
        return
    plain = {key: value for key, value in data.items() if key not in STORED}
    yield from attributes.attribute_problems(
        plain, family.attributes, family.model_type, architecture=family.architecture
    )
    if family.text is not None and isinstance(data.get("text_config"), dict):
        for problem in _attribute_problems({**data["text_config"], "model_type": family.text}):
            yield dataclasses.replace(problem, name=f"text_config.{problem.name}")


def storage(data: Mapping[str, Any]) -> Storage | None:
    """How weights are stored by the object of a config.json; None too where that is not supported."""
    return None if list(_storage_problems(data)) else parse_quantization(_quantization(data), "")


def _quantization(data: Mapping[str, Any], where: str = "") -> Any:
    """The `quantization_config` in the object of a config.json, or its older name."""
    new, old = (data.get(key) for key in STORED)
    if new is not None and old is not None and new != old:
        raise ConfigError(
            f"{where}{STORED[0]} and {STORED[1]} do not agree; keep the one that the weights are stored by"
        )
    return old if new is None else new


def _storage_problems(data: Mapping[str, Any]) -> Iterator[CheckpointProblem]:
    try:
        parse_quantization(_quantization(data), "")
    except ConfigError as error:
        key = next(key for key in STORED if data.get(key) is not None)
        yield CheckpointProblem(key, shorten(data[key]), str(error).rpartition(f"{QUANTIZATION}: ")[2])


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
    """Returns the model that the object of a config.json describes. Raises `ConfigError`."""
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
    a = merge_dialects(a, by_type=family.ropes_by_type)
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
    """The context with a dynamic scaling; the file has the length from which it scales."""
    found = [x.rope for x in layers if x.rope is not None and x.rope.scaling == "dynamic"]
    return min((int(r.factor * r.original_max_length) for r in found), default=None)


def _head_dim(width: int, heads: int) -> int:
    if width % heads:
        raise ConfigError(f"hidden_size {width} is not a multiple of num_attention_heads {heads}")
    return width // heads
