"""Reads and writes adapters as PEFT stores them: adapter_config.json, and in adapter_model.safetensors a `lora_A`
`[R, in]` and a `lora_B` `[out, R]` for each Linear, a `lora_embedding_A` and `_B` for the embedding, and the whole
weights of the embedding or of the output matrix where those were trained themselves.

A Linear that holds several of our weights gives each its part of `lora_B` beside the same `lora_A`; on the way back
such weights share one `lora_A`, or stand in it one after another, `lora_B` then in blocks. Weights of one stack have
one rank here: the smaller ones are filled up with zeros, which adds nothing. It knows no family by name.
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
from vishwamai.weights.lora import Adapter, FullWeight, Pair
from vishwamai.weights.spec import Param

PREFIX = "base_model.model."
TABLE, HEAD = "embed", "lm_head"  # our paths of what is no layer's
_PARTS = {  # the end of a tensor's name: (what it holds, of a module of which kind)
    "lora_A.weight": ("A", "a Linear"),
    "lora_B.weight": ("B", "a Linear"),
    "lora_embedding_A": ("A", "an embedding"),
    "lora_embedding_B": ("B", "an embedding"),
    "base_layer.weight": ("whole", None),
    "weight": ("whole", None),
}
Parts = dict[str, tuple[str, str | None]]  # what a module's tensors hold: (name, kind of module)
_TENSOR = re.compile(re.escape(PREFIX) + rf"(.+?)\.({'|'.join(map(re.escape, _PARTS))})")


class Place(NamedTuple):
    """A weight of ours in a module of theirs."""

    param: Param
    piece: Piece

    @property
    def path(self) -> str:
        """The weight's path."""
        return self.piece.path

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


class Brought(NamedTuple):
    """What an adapter has for a module: what it adds, and the weight `[out, in]` (or a table) in the base's place."""

    pair: Thin | None
    whole: np.ndarray | None


def needs_untying(folder: Path, cfg: ModelConfig, model_type: str | None = None) -> bool:
    """Whether an adapter changes the embedding or the output matrix of a model that ties them, and not both as one.

    Such a model has to be untied first: `transformer.untie_embeddings`.
    """
    said, source = adapter_config.read(Path(folder)), _open(Path(folder))
    ends = _ends(FAMILIES[model_type or export.family_for(cfg)])
    found = (_TENSOR.fullmatch(name) for name in source.tensors)
    return cfg.tie_embeddings and not said.tied and any(m and _ours(m[1], ends) in ends for m in found)


def load(
    folder: Path, cfg: ModelConfig, model_type: str | None = None, *, sharding: Sharding = SINGLE, dtype="float32"
) -> Adapter:
    """The adapter in a folder, for a model of this configuration and family, laid out by `sharding`, in `dtype`.

    Layers that it does not change have zeros. Raises `ConfigError` for a configuration that asks for what is not
    computed, and `CheckpointError` that names the file and the tensor where one does not fit the model.
    """
    said, source = adapter_config.read(Path(folder)), _open(Path(folder))
    family = FAMILIES[model_type or export.family_for(cfg)]
    places = _places(family, cfg)
    names = _names(source)
    if said.tied and cfg.tie_embeddings:
        _drop_repeated_head(source, names, *_ends(family))
    found: dict[str, list[tuple[Place, Brought]]] = {}
    for module, stored in _modules(source, names, places, said).items():
        for place in places[module]:
            found.setdefault(place.path, []).append((place, stored))
    if not found:
        raise CheckpointError(f"{source.path / TENSORS}: holds no tensors")
    return {path: _change(parts, sharding, dtype) for path, parts in found.items()}


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
    params = dict(spec.named(specs))
    for piece in itertools.chain(*pieces(family, specs, cfg)):
        found.setdefault(piece.name.removesuffix(".weight"), []).append(Place(params[piece.path], piece))
    return found


def _ends(family: Family) -> tuple[str, str]:
    """The modules of the embedding and of the output matrix."""
    return family.whole[TABLE].removesuffix(".weight"), family.whole[HEAD].removesuffix(".weight")


def _names(source: Folder) -> dict[str, Parts]:
    """Of each module, the tensors by what they hold."""
    file, names = source.path / TENSORS, {}
    for name in source.tensors:
        match = _TENSOR.fullmatch(name)
        if match is None:
            raise CheckpointError(f"{file}: {name!r} is neither lora_A nor lora_B of a Linear")
        part, kind = _PARTS[match[2]]
        inside = names.setdefault(match[1], {})
        if inside.setdefault(part, (name, kind)) != (name, kind):
            raise CheckpointError(f"{file}: {inside[part][0]!r} and {name!r} are both there; keep one of them")
    return names


def _drop_repeated_head(source: Folder, names: dict[str, Parts], table: str, head: str) -> None:
    """Leaves out what PEFT repeats of the embedding for an output matrix that is tied to it.

    Raises `CheckpointError` where the two do not agree.
    """
    modules = {_ours(module, (table, head)): module for module in names}
    repeated, kept = names.pop(modules.get(head), {}), names.get(modules.get(table), {})
    for part, other in {"A": "B", "B": "A", "whole": "whole"}.items():
        if part not in repeated:
            continue
        values, first = source.view(repeated[part][0]), source.view(kept[other][0]) if other in kept else None
        if first is None or not np.array_equal(values, first if part == "whole" else first.T):
            raise CheckpointError(
                f"{source.path / TENSORS}: {repeated[part][0]!r} differs from what there is of {table!r}, and "
                f"ensure_weight_tying in {adapter_config.FILE} says that they are one; keep one of them"
            )


def _modules(source: Folder, names: dict[str, Parts], places: dict[str, list[Place]], said: Said) -> dict[str, Brought]:
    """What there is for each module, every name and shape checked."""
    file = source.path / TENSORS
    for name in said.whole:
        if not any("whole" in parts for module, parts in names.items() if f".{module}".endswith(f".{name}")):
            raise CheckpointError(
                f"{file}: has no weights of {name!r}, which modules_to_save has in {adapter_config.FILE}"
            )
    found = {}
    for module, parts in names.items():
        ours, where = _ours(module, places), f"{file}: {module}"
        if ours not in places:
            raise CheckpointError(f"{where}: this model has no such weight; is the adapter of another model?")
        whole = _whole(source, places[ours], parts, where) if "whole" in parts else None
        pair = _thin_of(source, places[ours], parts, said, module, where) if parts.keys() - {"whole"} else None
        found[ours] = Brought(pair, whole)
    return found


def _thin_of(source: Folder, places: list[Place], parts, said: Said, module: str, where: str) -> Thin:
    """The pair of a module, of which `parts` names the tensors."""
    if not {"A", "B"} <= parts.keys():
        raise CheckpointError(f"{where}: has lora_{min(parts)} alone; a pair needs lora_A and lora_B")
    _check_pairable(places, where)
    kind = "an embedding" if places[0].path == TABLE else "a Linear"
    if {parts[letter][1] for letter in "AB"} != {kind}:
        raise CheckpointError(f"{where}: is {kind} here, and {parts['A'][0]!r} is of another kind of module")
    inputs, outputs = places[0].sizes
    a, b, rank = source.view(parts["A"][0]), source.view(parts["B"][0]), said.rank_of(module)
    if a.shape != (rank, inputs) or b.shape != (outputs, rank):
        shapes = f"{list(a.shape)} and {list(b.shape)}, and must be {[rank, inputs]} and {[outputs, rank]}"
        raise CheckpointError(f"{where}: lora_A and lora_B are {shapes} by {adapter_config.FILE} and the model")
    return Thin(_read(a, where), _read(b, where), said.scale_of(module))


def _whole(source: Folder, places: list[Place], parts, where: str) -> np.ndarray:
    """A module's own weight, which only the embedding and the output matrix may have."""
    if places[0].path not in (TABLE, HEAD):
        raise CheckpointError(
            f"{where}: has a whole weight (modules_to_save), which is read of the embedding and the output matrix "
            "alone; merge the adapter with PEFT"
        )
    values = source.view(parts["whole"][0])
    if values.shape != places[0].piece.shape:
        shapes = f"{list(values.shape)}, and the model's {list(places[0].piece.shape)}"
        raise CheckpointError(f"{where}: its weight is {shapes}; where tokens were added, merge the adapter with PEFT")
    return _read(values, where)


def _ours(module: str, places: Collection[str]) -> str:
    """A module's name in the family's tables; of a text model in one of several kinds PEFT has the newer name."""
    inner = module.removeprefix("model.language_model.")
    names = (module, f"language_model.model.{inner}" if inner != module else f"language_model.{module}")
    return next((name for name in names if name in places), module)


def _check_pairable(places: list[Place], where: str) -> None:
    """Raises `CheckpointError` unless the module is one matrix that multiplies, or the embedding."""
    if not all(place.param.is_matmul or place.path == TABLE for place in places):
        raise CheckpointError(f"{where}: is no matrix that multiplies, so it can have no pair")
    if len(places[0].piece.shape) != 2:
        raise CheckpointError(
            f"{where}: holds all experts in one tensor, and a pair belongs to one Linear; leave the experts out"
        )


def _read(tensor: np.ndarray, where: str) -> np.ndarray:
    if tensor.dtype not in READABLE:
        raise CheckpointError(f"{where}: its tensors are {tensor.dtype}, which holds no weights")
    return tensor.astype(np.float32)


def _change(parts: list[tuple[Place, Brought]], sharding: Sharding, dtype) -> Pair | FullWeight:
    """What an adapter has for one weight of ours."""
    pairs = [(place, brought.pair) for place, brought in parts if brought.pair is not None]
    pair = _pair(pairs, sharding, dtype) if pairs else None
    (place, brought), param = parts[0], parts[0][0].param
    if brought.whole is None:
        return pair
    values = place.piece.to_weight(brought.whole, param.shape)
    home = sharding.named(*param.axes, shape=param.shape)
    return FullWeight(w=jax.device_put(values, home).astype(dtype), pair=pair)


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
    family = FAMILIES[export.family_for(cfg, model_type)]
    places, (table, head) = _places(family, cfg), _ends(family)
    host = {path: jax.tree.map(_on_host, change) for path, change in adapter.items()}
    pairs = {path: change.pair if isinstance(change, FullWeight) else change for path, change in host.items()}
    every = {module: _stored(inside, pairs, module) for module, inside in places.items()}
    found = {module: stored for module, stored in every.items() if stored is not None}
    whole = {
        module: np.ascontiguousarray(place.piece.to_tensor(host[place.path].w))
        for module, (place, *_) in places.items()
        if isinstance(host.get(place.path), FullWeight)
    }
    if jax.process_index() != 0:
        return
    ranks = {module: (len(stored.a), stored.scale) for module, stored in found.items()}
    linear = [places[module][0].piece for module in found if places[module][0].path != TABLE]
    said = {"whole": whole.keys() - found.keys(), "tied": cfg.tie_embeddings and TABLE in adapter, "base": base}
    if said["tied"] and table in said["whole"]:
        whole[head] = whole[table]  # PEFT reads it of both
    said["fan_in_fan_out"] = not all(piece.transposed for piece in linear)
    tensors = [t for module, stored in found.items() for t in _outgoing(module, stored, places[module][0])]
    for module, values in whole.items():
        name = f"{PREFIX}{module}.{'base_layer.' if module in found else ''}weight"
        tensors.append(Outgoing(name, values.shape, values.dtype, lambda values=values: values))
    try:
        with files.replacing(folder, last=adapter_config.FILE) as staging:
            safetensors.write_file(staging / TENSORS, sorted(tensors, key=lambda tensor: tensor.name))
            adapter_config.write(staging, ranks, places, **said)
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
    _check_pairable(places, module)
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


def _outgoing(module: str, stored: Thin, place: Place) -> list[Outgoing]:
    end = "lora_embedding_{}" if place.path == TABLE else "lora_{}.weight"
    named = ((f"{PREFIX}{module}.{end.format(letter)}", x) for letter, x in (("A", stored.a), ("B", stored.b)))
    return [Outgoing(name, x.shape, x.dtype, lambda x=x: x) for name, x in named]
