"""Reads and writes adapters as PEFT stores them: adapter_config.json, and in adapter_model.safetensors a `lora_A`
`[R, in]` and a `lora_B` `[out, R]` for each Linear.

A Linear that holds several of our weights gives each its part of `lora_B` beside the same `lora_A`; on the way back
such weights share one `lora_A`, or stand in it one after another, `lora_B` then in blocks. Weights of one stack have
one rank here: the smaller ones are filled up with zeros, which adds nothing. It knows no family by name.
"""

import re
from pathlib import Path
from typing import NamedTuple

import jax
import numpy as np
from jax.sharding import NamedSharding, PartitionSpec

from vishwamai import files, hub
from vishwamai.errors import CheckpointError, HubError
from vishwamai.hf import adapter_config, export, safetensors
from vishwamai.hf.adapter_config import TENSORS, Said
from vishwamai.hf.families import FAMILIES
from vishwamai.hf.family import Family
from vishwamai.hf.folder import Folder
from vishwamai.hf.pieces import Piece, pieces
from vishwamai.hf.safetensors import Outgoing
from vishwamai.hf.weights import READABLE
from vishwamai.models import transformer
from vishwamai.models.config import ModelConfig
from vishwamai.parallel.sharding import SINGLE, Sharding
from vishwamai.weights import lora, spec
from vishwamai.weights.lora import Adapter, Pair
from vishwamai.weights.spec import Param

PREFIX = "base_model.model."
_TENSOR = re.compile(re.escape(PREFIX) + r"(.+)\.lora_([AB])\.weight")


class Place(NamedTuple):
    """A weight of ours in a module of theirs."""

    path: str
    param: Param
    piece: Piece

    @property
    def outputs(self) -> slice:
        """Which of the module's outputs are the weight's."""
        return self.piece.part[0 if self.piece.transposed else -1]

    @property
    def sizes(self) -> tuple[int, int]:
        """(inputs, outputs) of the module."""
        return self.piece.shape[::-1] if self.piece.transposed else self.piece.shape


class Thin(NamedTuple):
    """What a module adds, as PEFT has it: `scale * B @ A`."""

    a: np.ndarray  # [R, in]
    b: np.ndarray  # [out, R]
    scale: float


def load(
    folder: Path, cfg: ModelConfig, model_type: str | None = None, *, sharding: Sharding = SINGLE, dtype="float32"
) -> Adapter:
    """The adapter in a folder, for a model of this configuration and family, laid out by `sharding`, in `dtype`.

    Layers that it does not change have zeros. Raises `ConfigError` for a configuration that asks for what is not
    computed, and `CheckpointError` that names the file and the tensor where one does not fit the model.
    """
    said, source = adapter_config.read(Path(folder)), _open(Path(folder))
    places = _places(FAMILIES[model_type or export.family_for(cfg)], cfg)
    found: dict[str, list[tuple[Place, Thin]]] = {}
    for module, stored in _modules(source, places, said).items():
        for place in places[module]:
            found.setdefault(place.path, []).append((place, stored))
    if not found:
        raise CheckpointError(f"{source.path / TENSORS}: holds no tensors")
    return {path: _pair(parts, sharding, dtype) for path, parts in found.items()}


def _open(folder: Path) -> Folder:
    try:
        return Folder(folder, safetensors.read_header(hub.member(folder, TENSORS)))
    except HubError as error:
        pickled = (folder / TENSORS).with_suffix(".bin").exists()
        hint = "; adapter_model.bin is a pickle, which is never read: convert it to safetensors" if pickled else ""
        raise CheckpointError(f"{error}{hint}") from None


def _places(family: Family, cfg: ModelConfig) -> dict[str, list[Place]]:
    """The weights of ours in each module of theirs."""
    specs, found = transformer.specs(cfg), {}
    for (path, param), parts in zip(spec.named(specs), pieces(family, specs, cfg), strict=True):
        for piece in parts:
            found.setdefault(piece.name.removesuffix(".weight"), []).append(Place(path, param, piece))
    return found


def _modules(source: Folder, places: dict[str, list[Place]], said: Said) -> dict[str, Thin]:
    """What each module adds, every name and shape checked."""
    names: dict[str, dict[str, str]] = {}
    for name in source.tensors:
        match = _TENSOR.fullmatch(name)
        if match is None:
            raise CheckpointError(f"{source.path / TENSORS}: {name!r} is neither lora_A nor lora_B of a Linear")
        names.setdefault(match[1], {})[match[2]] = name
    found = {}
    for module, both in names.items():
        ours = _ours(module, places)
        where = f"{source.path / TENSORS}: {module}"
        if ours not in places:
            raise CheckpointError(f"{where}: this model has no such weight; is the adapter of another model?")
        if both.keys() != {"A", "B"}:
            raise CheckpointError(f"{where}: has lora_{min(both)} alone; a pair needs lora_A and lora_B")
        _check_linear(places[ours], where)
        inputs, outputs = places[ours][0].sizes
        a, b, rank = source.view(both["A"]), source.view(both["B"]), said.rank_of(module)
        if a.shape != (rank, inputs) or b.shape != (outputs, rank):
            shapes = f"{list(a.shape)} and {list(b.shape)}, and must be {[rank, inputs]} and {[outputs, rank]}"
            raise CheckpointError(f"{where}: lora_A and lora_B are {shapes} by {adapter_config.FILE} and the model")
        found[ours] = Thin(_read(a, where), _read(b, where), said.scale_of(module))
    return found


def _ours(module: str, places: dict[str, list[Place]]) -> str:
    """A module's name in the family's tables; of a text model in one of several kinds PEFT has the newer name."""
    inner = module.removeprefix("model.language_model.")
    return module if module in places or inner == module else f"language_model.model.{inner}"


def _check_linear(places: list[Place], where: str) -> None:
    """Raises `CheckpointError` unless the module is one matrix that multiplies."""
    if not all(place.param.is_matmul for place in places):
        raise CheckpointError(f"{where}: is no matrix that multiplies, so it can have no pair")
    if len(places[0].piece.shape) != 2:
        raise CheckpointError(
            f"{where}: holds all experts in one tensor, and a pair belongs to one Linear; leave the experts out"
        )


def _read(tensor: np.ndarray, where: str) -> np.ndarray:
    if tensor.dtype not in READABLE:
        raise CheckpointError(f"{where}: its tensors are {tensor.dtype}, which holds no weights")
    return tensor.astype(np.float32)


def _pair(parts: list[tuple[Place, Thin]], sharding: Sharding, dtype) -> Pair:
    """One weight's pair, of one rank over all layers and experts."""
    rank = max(len(stored.a) for _, stored in parts)
    declared = lora.pair_specs(parts[0][0].param, rank)
    pair = jax.tree.map(lambda p: np.zeros(p.shape, np.float32), declared, is_leaf=spec.is_param)
    for place, stored in parts:
        n, index = len(stored.a), place.piece.index
        pair.a[index].reshape(-1, rank)[:, :n] = stored.a.T
        pair.b[index].reshape(rank, -1)[:n] = stored.b[place.outputs].T
        pair.scale[index] = stored.scale

    def put(p: Param, values: np.ndarray) -> jax.Array:
        return jax.device_put(values, sharding.named(*p.axes, shape=p.shape))

    placed = spec.map_params(put, declared, pair)
    return Pair(a=placed.a.astype(dtype), b=placed.b.astype(dtype), scale=placed.scale)


def save(
    folder: Path, adapter: Adapter, cfg: ModelConfig, model_type: str | None = None, *, base: str | None = None
) -> None:
    """Writes a folder that PEFT and `load` read; `base` is the name of the model that the adapter belongs to.

    In a run of several processes each calls it and the first one writes. Raises `CheckpointError` where an adapter
    changes a weight that is no Linear of the family's.
    """
    places = _places(FAMILIES[export.family_for(cfg, model_type)], cfg)
    host = {path: jax.tree.map(_on_host, pair) for path, pair in adapter.items()}
    every = {module: _stored(inside, host, module) for module, inside in places.items()}
    found = {module: stored for module, stored in every.items() if stored is not None}
    if jax.process_index() != 0:
        return
    ranks = {module: (len(stored.a), stored.scale) for module, stored in found.items()}
    turned = all(places[module][0].piece.transposed for module in found)
    tensors = [tensor for module, stored in found.items() for tensor in _outgoing(module, stored)]
    try:
        with files.replacing(folder, last=adapter_config.FILE) as staging:
            safetensors.write_file(staging / TENSORS, tensors)
            adapter_config.write(staging, ranks, places, fan_in_fan_out=not turned, base=base)
    except OSError as error:
        raise CheckpointError(f"{folder}: cannot be written to ({error.strerror})") from None


def _on_host(x: jax.Array) -> np.ndarray:
    home = x.sharding
    whole = jax.device_put(x, NamedSharding(home.mesh, PartitionSpec())) if isinstance(home, NamedSharding) else x
    return np.asarray(whole, np.float32)


def _stored(places: list[Place], adapter: Adapter, module: str) -> Thin | None:
    """What a module adds; None where no pair is its."""
    parts = [(p, pair) for p in places if (pair := adapter.get(p.path)) is not None and pair.scale[p.piece.index] != 0]
    if not parts:
        return None
    _check_linear(places, module)
    thin = [_thin(place, pair) for place, pair in parts]
    scale, shared = thin[0].scale, all(np.array_equal(t.a, thin[0].a) for t in thin)
    a = thin[0].a if shared else np.concatenate([t.a for t in thin])
    b, at = np.zeros((places[0].sizes[1], len(a)), np.float32), 0
    for (place, _), t in zip(parts, thin, strict=True):
        b[place.outputs, at : at + len(t.a)] = t.b * (t.scale / scale)
        at += 0 if shared else len(t.a)
    return Thin(a, b, scale)


def _thin(place: Place, pair: Pair) -> Thin:
    index, rank = place.piece.index, pair.a.shape[-1]
    a, b, scale = pair.a[index].reshape(-1, rank).T, pair.b[index].reshape(rank, -1).T, float(pair.scale[index])
    return Thin(a, b if scale > 0 else -b, abs(scale))


def _outgoing(module: str, stored: Thin) -> list[Outgoing]:
    named = ((f"{PREFIX}{module}.lora_{letter}.weight", x) for letter, x in (("A", stored.a), ("B", stored.b)))
    return [Outgoing(name, x.shape, x.dtype, lambda x=x: x) for name, x in named]
