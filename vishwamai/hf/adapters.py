"""Reads and writes adapters as PEFT stores them: adapter_config.json and adapter_model.safetensors.

A Linear has a `lora_A` `[R, in]` and a `lora_B` `[out, R]`, the embedding a `lora_embedding_A` and `_B`, and the
embedding and the output matrix may have full weights. A Linear that holds several of our weights gives each its part of
`lora_B` beside the same `lora_A`; on the way back such weights share one `lora_A`, or stand in it one after another,
`lora_B` then in blocks. Weights of one stack have one rank here: smaller ones are padded with zeros.
"""

import itertools
import re
from collections.abc import Collection
from pathlib import Path
from typing import NamedTuple

import jax
import numpy as np
from jax.sharding import NamedSharding, PartitionSpec

from vishwamai import files, hub
from vishwamai.errors import CheckpointError, HubError
from vishwamai.hf import adapter_config, export, safetensors
from vishwamai.hf.adapter_config import TENSORS, LoraConfig
from vishwamai.hf.families import FAMILIES
from vishwamai.hf.family import Family
from vishwamai.hf.folder import Folder
from vishwamai.hf.pieces import TensorPiece, tensor_pieces
from vishwamai.hf.safetensors import LazyTensor
from vishwamai.hf.weights import READABLE
from vishwamai.models import transformer
from vishwamai.models.config import ModelConfig
from vishwamai.parallel.sharding import SINGLE, Sharding
from vishwamai.weights import lora, spec
from vishwamai.weights.lora import Adapter, FullWeight, Pair
from vishwamai.weights.spec import Param

PREFIX = "base_model.model."
TABLE, HEAD = "embed", "lm_head"  # our paths of what is outside the layers
_SUFFIXES = {  # the end of a tensor's name: (what it holds, of a module of which kind)
    "lora_A.weight": ("A", "a Linear"),
    "lora_B.weight": ("B", "a Linear"),
    "lora_embedding_A": ("A", "an embedding"),
    "lora_embedding_B": ("B", "an embedding"),
    "base_layer.weight": ("full", None),
    "weight": ("full", None),
}
_TENSOR = re.compile(re.escape(PREFIX) + rf"(.+?)\.({'|'.join(map(re.escape, _SUFFIXES))})")
ModuleTensors = dict[str, tuple[str, str | None]]  # A, B, full: (the tensor's name, the kind of module)


class ModuleWeight(NamedTuple):
    """A weight of ours in a module of the checkpoint."""

    param: Param
    piece: TensorPiece

    @property
    def outputs(self) -> slice:
        """Which of the module's outputs are the weight's."""
        return self.piece.part[0 if self.piece.transposed else -1]

    @property
    def sizes(self) -> tuple[int, int]:
        """(inputs, outputs) of the module."""
        return self.piece.shape[::-1] if self.piece.transposed else self.piece.shape


class ModulePair(NamedTuple):
    """What a module adds, as PEFT has it: `scale * B @ A`."""

    a: np.ndarray  # [R, in]
    b: np.ndarray  # [out, R]
    scale: float


class ModuleChange(NamedTuple):
    """What an adapter has for a module: what is added, and what replaces the weight `[out, in]` (or the table)."""

    pair: ModulePair | None
    full: np.ndarray | None


def needs_untying(folder: Path, cfg: ModelConfig, model_type: str | None = None) -> bool:
    """Whether an adapter changes the embedding or the output matrix of a model that ties them, and not both as one.

    Such a model has to be untied first: `transformer.untie_embeddings`.
    """
    config, source = adapter_config.read_adapter_config(Path(folder)), _open(Path(folder))
    outer = _outer_modules(FAMILIES[model_type or export.choose_family(cfg)])
    found = (_TENSOR.fullmatch(name) for name in source.tensors)
    return cfg.tie_embeddings and not config.tied and any(m and _our_module(m[1], outer) in outer for m in found)


def load_adapter(
    folder: Path, cfg: ModelConfig, model_type: str | None = None, *, sharding: Sharding = SINGLE, dtype="float32"
) -> Adapter:
    """Returns the adapter in a folder, for a model of this configuration and family, laid out by `sharding`.

    Layers that it does not change have zeros. Raises `ConfigError` for a configuration that asks for what is not
    computed, and `CheckpointError` that names the file and the tensor where one does not fit the model.
    """
    config, source = adapter_config.read_adapter_config(Path(folder)), _open(Path(folder))
    family = FAMILIES[model_type or export.choose_family(cfg)]
    weights, tensors = _module_weights(family, cfg), _module_tensors(source)
    if config.tied and cfg.tie_embeddings:
        _drop_repeated_head(source, tensors, *_outer_modules(family))
    found: dict[str, list[tuple[ModuleWeight, ModuleChange]]] = {}
    for module, change in _read_changes(source, tensors, weights, config).items():
        for weight in weights[module]:
            found.setdefault(weight.piece.path, []).append((weight, change))
    if not found:
        raise CheckpointError(f"{source.path / TENSORS}: holds no tensors")
    return {path: _weight_change(parts, sharding, dtype) for path, parts in found.items()}


def _open(folder: Path) -> Folder:
    try:
        return Folder(folder, safetensors.read_header(hub.member(folder, TENSORS)))
    except HubError as error:
        pickled = (folder / TENSORS).with_suffix(".bin").exists()
        hint = "; adapter_model.bin is a pickle, which is never read: convert it to safetensors" if pickled else ""
        raise CheckpointError(f"{error}{hint}") from None


def _module_weights(family: Family, cfg: ModelConfig) -> dict[str, list[ModuleWeight]]:
    specs, found = transformer.specs(cfg), {}
    params = dict(spec.named(specs))
    for piece in itertools.chain(*tensor_pieces(family, specs, cfg)):
        found.setdefault(piece.name.removesuffix(".weight"), []).append(ModuleWeight(params[piece.path], piece))
    return found


def _outer_modules(family: Family) -> tuple[str, str]:
    """The modules of the embedding and of the output matrix."""
    return family.whole[TABLE].removesuffix(".weight"), family.whole[HEAD].removesuffix(".weight")


def _module_tensors(source: Folder) -> dict[str, ModuleTensors]:
    file, modules = source.path / TENSORS, {}
    for name in source.tensors:
        match = _TENSOR.fullmatch(name)
        if match is None:
            raise CheckpointError(f"{file}: {name!r} is neither lora_A nor lora_B of a Linear")
        part, kind = _SUFFIXES[match[2]]
        tensors = modules.setdefault(match[1], {})
        if tensors.setdefault(part, (name, kind)) != (name, kind):
            raise CheckpointError(f"{file}: {tensors[part][0]!r} and {name!r} are both there; keep one of them")
    return modules


def _drop_repeated_head(source: Folder, tensors: dict[str, ModuleTensors], table: str, head: str) -> None:
    """Leaves out what PEFT repeats of the embedding for an output matrix that is tied to it.

    Raises `CheckpointError` where the two do not agree.
    """
    modules = {_our_module(module, (table, head)): module for module in tensors}
    repeated, kept = tensors.pop(modules.get(head), {}), tensors.get(modules.get(table), {})
    for part, other in {"A": "B", "B": "A", "full": "full"}.items():
        if part not in repeated:
            continue
        values, first = source.view(repeated[part][0]), source.view(kept[other][0]) if other in kept else None
        if first is None or not np.array_equal(values, first if part == "full" else first.T):
            raise CheckpointError(
                f"{source.path / TENSORS}: {repeated[part][0]!r} differs from what there is of {table!r}, and "
                f"ensure_weight_tying in {adapter_config.FILE} says that they are one; keep one of them"
            )


def _read_changes(
    source: Folder, tensors: dict[str, ModuleTensors], weights: dict[str, list[ModuleWeight]], config: LoraConfig
) -> dict[str, ModuleChange]:
    """What the adapter has for each module, every name and shape checked."""
    file = source.path / TENSORS
    for name in config.full:
        if not any("full" in parts for module, parts in tensors.items() if f".{module}".endswith(f".{name}")):
            raise CheckpointError(
                f"{file}: has no weights of {name!r}, which modules_to_save has in {adapter_config.FILE}"
            )
    changes = {}
    for module, parts in tensors.items():
        ours, where = _our_module(module, weights), f"{file}: {module}"
        if ours not in weights:
            raise CheckpointError(f"{where}: this model has no such weight; is the adapter of another model?")
        full = _read_full_weight(source, weights[ours][0], parts, where) if "full" in parts else None
        has_pair = bool(parts.keys() - {"full"})
        pair = _read_pair(source, weights[ours], parts, config, module, where) if has_pair else None
        changes[ours] = ModuleChange(pair, full)
    return changes


def _read_pair(
    source: Folder, weights: list[ModuleWeight], parts: ModuleTensors, config: LoraConfig, module: str, where: str
) -> ModulePair:
    if not {"A", "B"} <= parts.keys():
        raise CheckpointError(f"{where}: has lora_{min(parts)} alone; a pair needs lora_A and lora_B")
    _check_pairable(weights, where)
    kind = "an embedding" if weights[0].piece.path == TABLE else "a Linear"
    if {parts[letter][1] for letter in "AB"} != {kind}:
        raise CheckpointError(f"{where}: is {kind} here, and {parts['A'][0]!r} is of another kind of module")
    inputs, outputs = weights[0].sizes
    a, b, rank = source.view(parts["A"][0]), source.view(parts["B"][0]), config.rank_of(module)
    if a.shape != (rank, inputs) or b.shape != (outputs, rank):
        shapes = f"{list(a.shape)} and {list(b.shape)}, and must be {[rank, inputs]} and {[outputs, rank]}"
        raise CheckpointError(f"{where}: lora_A and lora_B are {shapes} by {adapter_config.FILE} and the model")
    return ModulePair(_as_float32(a, where), _as_float32(b, where), config.scale_of(module))


def _read_full_weight(source: Folder, weight: ModuleWeight, parts: ModuleTensors, where: str) -> np.ndarray:
    if weight.piece.path not in (TABLE, HEAD):
        raise CheckpointError(
            f"{where}: has a whole weight (modules_to_save), which is read of the embedding and the output matrix "
            "alone; merge the adapter with PEFT"
        )
    values = source.view(parts["full"][0])
    if values.shape != weight.piece.shape:
        shapes = f"{list(values.shape)}, and the model's {list(weight.piece.shape)}"
        raise CheckpointError(f"{where}: its weight is {shapes}; where tokens were added, merge the adapter with PEFT")
    return _as_float32(values, where)


def _our_module(module: str, known: Collection[str]) -> str:
    """A module's name in the family's tables; of a text model in one of several kinds PEFT has the newer name."""
    inner = module.removeprefix("model.language_model.")
    names = (module, f"language_model.model.{inner}" if inner != module else f"language_model.{module}")
    return next((name for name in names if name in known), module)


def _check_pairable(weights: list[ModuleWeight], where: str) -> None:
    """Raises `CheckpointError` unless the module is one matrix that multiplies, or the embedding."""
    if not all(weight.param.is_matmul or weight.piece.path == TABLE for weight in weights):
        raise CheckpointError(f"{where}: is no matrix that multiplies, so it can have no pair")
    if len(weights[0].piece.shape) != 2:
        raise CheckpointError(
            f"{where}: holds all experts in one tensor, and a pair belongs to one Linear; leave the experts out"
        )


def _as_float32(tensor: np.ndarray, where: str) -> np.ndarray:
    if tensor.dtype not in READABLE:
        raise CheckpointError(f"{where}: its tensors are {tensor.dtype}, which holds no weights")
    return tensor.astype(np.float32)


def _weight_change(
    parts: list[tuple[ModuleWeight, ModuleChange]], sharding: Sharding, dtype
) -> Pair | FullWeight | None:
    """What an adapter has for one weight of ours."""
    pairs = [(weight, change.pair) for weight, change in parts if change.pair is not None]
    pair = _weight_pair(pairs, sharding, dtype) if pairs else None
    (param, piece), change = parts[0]
    if change.full is None:
        return pair
    home = sharding.named(*param.axes, shape=param.shape)
    return FullWeight(w=jax.device_put(piece.to_weight(change.full, param.shape), home).astype(dtype), pair=pair)


def _weight_pair(parts: list[tuple[ModuleWeight, ModulePair]], sharding: Sharding, dtype) -> Pair:
    """One weight's pair, of one rank over all layers and experts."""
    rank = max(len(stored.a) for _, stored in parts)
    declared = lora.pair_specs(parts[0][0].param, rank)
    pair = jax.tree.map(lambda p: np.zeros(p.shape, np.float32), declared, is_leaf=spec.is_param)
    for weight, stored in parts:
        n, index = len(stored.a), weight.piece.index
        pair.a[index].reshape(-1, rank)[:, :n] = stored.a.T
        pair.b[index].reshape(rank, -1)[:n] = stored.b[weight.outputs].T
        pair.scale[index] = stored.scale

    def put(p: Param, values: np.ndarray) -> jax.Array:
        return jax.device_put(values, sharding.named(*p.axes, shape=p.shape))

    on_devices = spec.map_params(put, declared, pair)
    return Pair(a=on_devices.a.astype(dtype), b=on_devices.b.astype(dtype), scale=on_devices.scale)


def save_adapter(
    folder: Path, adapter: Adapter, cfg: ModelConfig, model_type: str | None = None, *, base: str | None = None
) -> None:
    """Writes a folder that PEFT and `load_adapter` read; `base` is the name of the model that the adapter belongs to.

    In a run of several processes each calls it and the first one writes. Raises `CheckpointError` where an adapter
    changes a weight that is no Linear of the family's.
    """
    family = FAMILIES[export.choose_family(cfg, model_type)]
    weights, (table, head) = _module_weights(family, cfg), _outer_modules(family)
    host = {path: jax.tree.map(_on_host, change) for path, change in adapter.items()}
    by_path = {path: change.pair if isinstance(change, FullWeight) else change for path, change in host.items()}
    every = {module: _module_pair(inside, by_path, module) for module, inside in weights.items()}
    pairs = {module: pair for module, pair in every.items() if pair is not None}
    full = {
        module: np.ascontiguousarray(piece.to_tensor(host[piece.path].w))
        for module, ((_, piece), *_) in weights.items()
        if isinstance(host.get(piece.path), FullWeight)
    }
    if jax.process_index() != 0:
        return
    alone, tied = full.keys() - pairs.keys(), cfg.tie_embeddings and TABLE in adapter
    if tied and table in alone:
        full[head] = full[table]  # PEFT reads it of both
    tensors = {name: x for module, pair in pairs.items() for name, x in _named(module, pair, weights[module][0])}
    for module, values in full.items():
        tensors[f"{PREFIX}{module}.{'base_layer.' if module in pairs else ''}weight"] = values
    linear = [weights[module][0].piece for module in pairs if weights[module][0].piece.path != TABLE]
    config = {"full": alone, "tied": tied, "base": base, "fan_in_fan_out": not all(p.transposed for p in linear)}
    ranks = {module: (len(pair.a), pair.scale) for module, pair in pairs.items()}
    lazy = [LazyTensor(name, x.shape, x.dtype, lambda x=x: x) for name, x in sorted(tensors.items())]
    try:
        with files.replace_files(folder, last=adapter_config.FILE) as staging:
            safetensors.write_file(staging / TENSORS, lazy)
            adapter_config.write_adapter_config(staging, ranks, weights, **config)
    except OSError as error:
        raise CheckpointError(f"{folder}: cannot be written to ({error.strerror})") from None


def _on_host(x: jax.Array) -> np.ndarray:
    home = x.sharding
    whole = jax.device_put(x, NamedSharding(home.mesh, PartitionSpec())) if isinstance(home, NamedSharding) else x
    return np.asarray(whole, np.float32)


def _module_pair(weights: list[ModuleWeight], pairs: dict[str, Pair], module: str) -> ModulePair | None:
    """What a module adds; None where no pair is its."""
    found = [
        (weight, _pair_at(pair, weight.piece.index))
        for weight in weights
        if (pair := pairs.get(weight.piece.path)) is not None and pair.scale[weight.piece.index] != 0
    ]
    if not found:
        return None
    _check_pairable(weights, module)
    _, first = found[0]
    is_shared = all(np.array_equal(pair.a, first.a) for _, pair in found)
    a = first.a if is_shared else np.concatenate([pair.a for _, pair in found])
    b, at = np.zeros((weights[0].sizes[1], len(a)), np.float32), 0
    for weight, pair in found:
        b[weight.outputs, at : at + len(pair.a)] = pair.b * (pair.scale / first.scale)
        at += 0 if is_shared else len(pair.a)
    return ModulePair(a, b, first.scale)


def _pair_at(pair: Pair, index: tuple[int, ...]) -> ModulePair:
    rank, scale = pair.a.shape[-1], float(pair.scale[index])
    a, b = pair.a[index].reshape(-1, rank).T, pair.b[index].reshape(rank, -1).T
    return ModulePair(a, b if scale > 0 else -b, abs(scale))


def _named(module: str, pair: ModulePair, weight: ModuleWeight) -> list[tuple[str, np.ndarray]]:
    end = "lora_embedding_{}" if weight.piece.path == TABLE else "lora_{}.weight"
    return [(f"{PREFIX}{module}.{end.format(letter)}", x) for letter, x in (("A", pair.a), ("B", pair.b))]
