"""Describes a model by its config.json and the headers of its weights; no weight is read.

All that is not supported is listed, and the rest is counted. It prints nothing.
"""

import dataclasses
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import jax.numpy as jnp

from vishwamai.config import to_dict
from vishwamai.errors import CheckpointError, ConfigError, VishwamAIError
from vishwamai.hf import config, weights
from vishwamai.hf.config import Pretrained
from vishwamai.hf.generation_config import GenerationConfig
from vishwamai.hf.pieces import tensor_pieces
from vishwamai.hf.problem import CheckpointProblem
from vishwamai.hf.quantized import Storage
from vishwamai.hf.safetensors import Tensor
from vishwamai.hf.source import CheckpointSource, as_source
from vishwamai.models import cost, transformer
from vishwamai.models.config import Layer, ModelConfig, Rope
from vishwamai.precision import AUTO, choose_dtype
from vishwamai.weights import quantize, spec
from vishwamai.weights.quantize import Scheme

WEIGHT_FORMATS = {"float32": 4, "bfloat16": 2}  # bytes of a weight, and of a number in the cache


@dataclasses.dataclass(frozen=True)
class StoredTensors:
    """The tensors of one dtype in a folder's files."""

    dtype: str
    tensors: int
    numbers: int
    size: int  # bytes


@dataclasses.dataclass(frozen=True, kw_only=True)
class Inspection:
    """The description. Without a model (no family, or a configuration that makes none) its tables are empty.

    `switches` are the fields that are not at their default; `parameters` count by part; `memory` has, for each use, the
    bytes by format; `stored` is None without weights. `partial` says that attributes which are not supported were left
    out to count the rest. `notes` are the dtype that it is loaded in, and the settings of generation_config.json that
    are not followed.
    """

    model_type: str
    switches: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    layers: Sequence[str] = ()
    parameters: Mapping[str, int] = dataclasses.field(default_factory=dict)
    memory: Mapping[str, Mapping[str, int]] = dataclasses.field(default_factory=dict)
    stored: Sequence[StoredTensors] | None = None
    partial: bool = False
    problems: Sequence[CheckpointProblem] = ()
    notes: Sequence[str] = ()


def inspect_checkpoint(folder: Path | CheckpointSource, *, batch: int = 1, length: int | None = None) -> Inspection:
    """Describes a folder, or another source. The cache is counted for `batch` rows of `length` positions (None: the
    model's context).

    Raises `ConfigError` where there is no config.json that is JSON.
    """
    source = as_source(folder)
    data, problems = source.config_json, list(source.config_problems())
    model_type, cfg = str(data.get("model_type")), _model(data, problems)
    found, unread = _headers(source)
    if cfg is not None and found:
        unread = _tensor_problems(source, cfg, model_type, config.storage(data))
    told = Inspection(model_type=model_type) if cfg is None else inspect_model(cfg, batch=batch, length=length)
    return dataclasses.replace(
        told,
        model_type=model_type,
        stored=None if found is None else by_dtype(found),
        partial=cfg is not None and bool(problems),
        problems=(*problems, *unread),
        notes=() if problems else _notes(source.pretrained, found),
    )


def _notes(pretrained: Pretrained, tensors: Mapping[str, Tensor] | None) -> list[str]:
    notes = []
    if tensors or pretrained.dtype:
        stored = weights.checkpoint_dtype(pretrained, tensors or {})
        (dtype, why), (elsewhere, _) = (choose_dtype(AUTO, stored, platform) for platform in ("cpu", "tpu"))
        notes.append(
            f"it is loaded in {elsewhere}" + (f", and in {dtype} on a CPU: {why}" if dtype != elsewhere else "")
        )
    if asked := pretrained.generation.not_followed():
        notes.append(f"in generating it asks for {asked}, which is not followed")
    return notes


def inspect_model(cfg: ModelConfig, *, batch: int = 1, length: int | None = None) -> Inspection:
    """Describes a model by its configuration alone."""
    length = length or cfg.max_length
    return Inspection(
        model_type="a configuration",
        switches=switches(cfg),
        layers=describe_layers(cfg),
        parameters=parameter_table(cfg),
        memory={
            "weights": weight_bytes(cfg),
            f"cache, {batch} x {length:,}": {
                f: cost.cache_bytes(cfg, batch, length, n) for f, n in WEIGHT_FORMATS.items()
            },
            "weights, gradients and AdamW's moments": {"float32": 16 * cost.count_parameters(cfg).total},
        },
    )


def switches(cfg: ModelConfig) -> dict[str, Any]:
    """Every field that is not at its default, and the rotary positions of each kind of layer, as JSON values."""
    changed = {name: value for name, value in _changed(cfg).items() if name != "stacks"}
    return changed | {name: {"theta": rope.theta} | _changed(rope) for rope, name in _ropes(cfg).items()}


def _ropes(cfg: ModelConfig) -> dict[Rope, str]:
    """What each kind of rotary positions is called: `rope`, or `rope 1` and so on where there are several."""
    kinds = list(dict.fromkeys(layer.rope for layer in cfg.layers if layer.rope is not None))
    return {rope: "rope" if len(kinds) == 1 else f"rope {i}" for i, rope in enumerate(kinds, 1)}


def _changed(obj: Any) -> dict[str, Any]:
    """The fields of a dataclass that are not at their default, as JSON values."""
    values = {field.name: (getattr(obj, field.name), field.default) for field in dataclasses.fields(obj)}
    return {name: to_dict(value) for name, (value, default) in values.items() if value != default}


def describe_layers(cfg: ModelConfig) -> list[str]:
    """Returns the stacks in words: how often each pattern repeats, and its layers."""
    ropes = _ropes(cfg)

    def in_words(layer: Layer) -> str:
        positions = "without positions" if layer.rope is None else ropes[layer.rope] if len(ropes) > 1 else ""
        words = [f"window {layer.window}" if layer.window else "full", "experts" if layer.moe else "", positions]
        return " ".join(filter(None, words))

    return [f"{stack.repeats} x ({', '.join(map(in_words, stack.pattern))})" for stack in cfg.stacks]


def parameter_table(cfg: ModelConfig) -> dict[str, int]:
    """Returns the numbers of parameters by part, in total, and active for a token."""
    parts: dict[str, int] = {}
    for path, param in spec.named(transformer.specs(cfg)):
        part = path.split(".")[3] if path.startswith("stacks.") else path
        parts[part] = parts.get(part, 0) + math.prod(param.shape)
    counted = cost.count_parameters(cfg)
    return parts | {"total": counted.total, "active for a token": counted.active}


def weight_bytes(cfg: ModelConfig) -> dict[str, int]:
    """Returns the bytes of the weights by format; quantised weights are beside others in bfloat16."""
    plain = {name: size * cost.count_parameters(cfg).total for name, size in WEIGHT_FORMATS.items()}
    specs = spec.with_dtype(transformer.specs(cfg), "bfloat16")
    small = {name: spec.leaves(quantize.quantizable_specs(specs, Scheme.named(name))) for name in quantize.NAMED}
    return plain | {name: sum(math.prod(p.shape) * _bits(p) for p in params) // 8 for name, params in small.items()}


def _bits(param: spec.Param) -> int:
    return 4 if jnp.dtype(param.dtype) == jnp.int4 else 8 * jnp.dtype(param.dtype).itemsize


def by_dtype(tensors: Mapping[str, Tensor]) -> list[StoredTensors]:
    """The tensors by dtype, the most bytes first."""
    kinds: dict[str, list[Tensor]] = {}
    for tensor in tensors.values():
        kinds.setdefault(tensor.stored_as, []).append(tensor)
    rows = [
        StoredTensors(name, len(of), sum(math.prod(t.shape) for t in of), sum(t.end - t.start for t in of))
        for name, of in kinds.items()
    ]
    return sorted(rows, key=lambda row: -row.size)


def _model(data: Mapping[str, Any], problems: Sequence[CheckpointProblem]) -> ModelConfig | None:
    """The model, without the attributes that are not supported; None where the rest makes none."""
    rest = config.drop_unsupported(data, problems)
    try:
        return None if rest is None else config.model_config(rest, "config.json")
    except ConfigError:  # which is among the problems
        return None


def _headers(source: CheckpointSource) -> tuple[Mapping[str, Tensor] | None, list[CheckpointProblem]]:
    """The tensors of a source as they are stored. None where it has no weights, or they were not fetched whole."""
    if not source.has_weights():
        return None, []
    try:
        return source.stored(), []
    except CheckpointError as error:
        return {}, [_weights_problem(source, error)]


def _tensor_problems(
    source: CheckpointSource, cfg: ModelConfig, model_type: str, storage: Storage | None
) -> list[CheckpointProblem]:
    family = source.family(model_type)
    found = Pretrained(model_type=model_type, model=cfg, generation=GenerationConfig(), storage=storage)
    try:
        wanted = tensor_pieces(family, transformer.specs(cfg), cfg)
        return list(weights.tensor_problems(source.open(found), family, wanted, cfg))
    except (ConfigError, CheckpointError) as error:
        # Without an attribute that was left out, the family has no name for a weight; scales do not fit their weights.
        return [_weights_problem(source, error)]


def _weights_problem(source: CheckpointSource, error: VishwamAIError) -> CheckpointProblem:
    return CheckpointProblem("weights", "", str(error).removeprefix(f"{source.path}: "), str(source.path))
