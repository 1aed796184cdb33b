"""Reads the weights of a Hugging Face folder straight into sharded arrays, and writes them back.

Tensor by tensor: each is put on its devices in its stored form, from a memory map, and a compiled update turns it and
places it in its stacked leaf, which is donated. So the host holds no more than a few tensors at a time, and a device
no more than its share of the model and of one tensor. It knows no family: `names.py` says what each tensor is called.
"""

import dataclasses
import functools
import math
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import NamedSharding, PartitionSpec

from vishwamai.errors import CheckpointError
from vishwamai.hf import compressed, export, safetensors
from vishwamai.hf.coded import View
from vishwamai.hf.config import Generation, Pretrained
from vishwamai.hf.families import FAMILIES
from vishwamai.hf.families.own import OWN
from vishwamai.hf.family import Family
from vishwamai.hf.folder import Folder
from vishwamai.hf.pieces import Piece, is_ignored, pieces
from vishwamai.hf.quantized import Storage
from vishwamai.hf.safetensors import Outgoing
from vishwamai.models import transformer
from vishwamai.models.config import ModelConfig
from vishwamai.models.transformer import Transformer
from vishwamai.parallel.sharding import SINGLE, Sharding
from vishwamai.weights import quantize, spec
from vishwamai.weights.linear import plain
from vishwamai.weights.quantize import Quantized, Scheme, chosen, group_of, is_quantized, rounded
from vishwamai.weights.spec import Param

READABLE = tuple(np.dtype(safetensors.DTYPES[name]) for name in ("F32", "F16", "BF16", "F64"))
KEEP = "keep"
IN_FLIGHT = 32 * 2**20  # bytes put on devices before the host waits for them


def load(
    folder: Path,
    pretrained: Pretrained,
    *,
    sharding: Sharding = SINGLE,
    dtype="float32",
    quantization: str | None = None,
) -> Transformer:
    """The weights in a folder that `config.read` described, laid out by `sharding`, in `dtype`.

    `quantization` is the name of a scheme that the layers' projections get as they are read; `KEEP` leaves those that
    are stored quantised as they are, which otherwise come in `dtype` like the rest. Every name and shape is checked
    before the first array is made. Raises `CheckpointError` that names the file and the tensor where one is missing,
    unexpected, of another shape, or of a dtype that holds no weights.
    """
    family, cfg = FAMILIES[pretrained.model_type], pretrained.model
    specs = spec.with_dtype(transformer.specs(cfg), jnp.dtype(dtype))
    source, wanted = open_folder(folder, family, pretrained.storage), pieces(family, specs, cfg)
    check(source, family, wanted, tied=cfg.tie_embeddings)
    read = _reader(source, sharding, quantization)
    leaves = [read(path, param, parts) for (path, param), parts in zip(spec.named(specs), wanted, strict=True)]
    return jax.tree.unflatten(jax.tree.structure(specs, is_leaf=spec.is_param), leaves)


def _reader(source: Folder, sharding: Sharding, quantization: str | None) -> Callable:
    """`read(path, param, parts)` -> a leaf, plain or quantised."""
    asked = None if quantization in (None, KEEP) else Scheme.named(quantization)

    def read(path: str, param: Param, parts: list[Piece]):
        if asked is not None and chosen(path, param) and group_of(param, asked) != 0:
            return _leaf(param, parts, source.view, sharding, source, asked)
        schemes = {getattr(source.tensors[piece.name], "scheme", None) for piece in parts}
        if quantization == KEEP and len(schemes) == 1 and (scheme := schemes.pop()) and group_of(param, scheme) != 0:
            return _kept(param, parts, source, sharding, scheme)
        return _leaf(param, parts, source.view, sharding, source)

    return read


def _kept(param: Param, parts: list[Piece], source: Folder, sharding: Sharding, scheme: Scheme) -> Quantized:
    """A leaf of the codes and scales that are stored."""
    target, group = quantize.specs(param, scheme), group_of(param, scheme)
    return Quantized(
        values=_leaf(target.values, parts, lambda name: source.tensors[name].values(), sharding, source),
        scale=_leaf(target.scale, parts, lambda name: source.tensors[name].scales(group), sharding, source),
    )


def open_folder(folder: Path, family: Family, storage: Storage | None = None) -> Folder:
    """The tensors of a folder by the names that the family's tables have, where its files left a prefix away."""
    found = safetensors.read_folder(Path(folder))
    if family.prefix and not any(name.startswith(family.prefix) for name in found):
        head = family.whole["lm_head"]
        found = {name if name == head else family.prefix + name: tensor for name, tensor in found.items()}
    return Folder(folder, found, storage)


def check(source: Folder, family: Family, wanted: list[list[Piece]], *, tied: bool) -> None:
    """Raises `CheckpointError` unless the tensors found are those wanted, in shape and kind."""
    folder, found = source.path, source.tensors
    names = {piece.name: piece for leaf in wanted for piece in leaf}
    missing = [name for name in names if name not in found]
    if missing:
        raise CheckpointError(f"{folder}: {_some(missing)} missing from the weights")
    extra = [name for name in found if name not in names and not is_ignored(family, name)]
    if tied and family.whole["lm_head"] in extra:
        _check_tied(source, family.whole["lm_head"], family.whole["embed"])
        extra.remove(family.whole["lm_head"])
    if extra:
        raise CheckpointError(f"{folder}: {_some(extra)} in the weights, and the configuration has no place for it")
    for name, piece in names.items():
        tensor = found[name]
        if tensor.shape != piece.shape:
            shapes = f"{list(tensor.shape)} in the file, and {list(piece.shape)} by the configuration"
            raise CheckpointError(f"{tensor.path}: tensor {name!r} has shape {shapes}")
        if tensor.dtype not in READABLE:
            raise CheckpointError(f"{tensor.path}: tensor {name!r} is {tensor.dtype}, which is not read as weights")


def _some(names: list[str]) -> str:
    shown = ", ".join(repr(name) for name in names[:3])
    return f"{shown} is" if len(names) == 1 else f"{shown}{' and others' if len(names) > 3 else ''} ({len(names)}) are"


def _check_tied(source: Folder, head: str, embed: str) -> None:
    if not np.array_equal(np.asarray(source.view(head)), np.asarray(source.view(embed))):
        path = source.tensors[head].path
        raise CheckpointError(f"{path}: {head!r} differs from the embedding that config.json ties it to")


def _leaf(
    param: Param, parts: list[Piece], view: Callable, sharding: Sharding, source: Folder, scheme: Scheme | None = None
):
    """One leaf, filled piece by piece where it will live: quantised on the way, where there is a scheme."""
    target = param if scheme is None else quantize.specs(param, scheme)
    home = spec.map_params(lambda p: sharding.named(*p.axes, shape=p.shape), target)
    leaf = spec.map_params(lambda p, h: jnp.zeros(p.shape, p.dtype, device=h), target, home)
    place = _stored_sharding(param, parts[0], sharding)
    pending = 0
    for piece in parts:
        stored = _put(view(piece.name)[piece.part], place)
        leaf = _fill(leaf, stored, np.asarray(piece.index, np.int32), piece.transposed, home, scheme)
        pending += stored.nbytes
        if pending > IN_FLIGHT:
            pending = _wait(leaf, source)
    _wait(leaf, source)
    return leaf


def _wait(leaf, source: Folder) -> int:
    """Waits until the leaf is whole, and lets go of the files' pages. Returns how many bytes are still under way: 0."""
    jax.block_until_ready(leaf)
    source.release()
    return 0


def _put(values: np.ndarray | View, place: NamedSharding | None) -> jax.Array:
    """A tensor on its devices, each of which is given its own part of the file."""
    if isinstance(values, np.ndarray) and values.dtype == np.float64:
        values = values.astype(np.float32)
    if place is None:
        return jnp.asarray(np.asarray(values))
    return jax.make_array_from_callback(values.shape, place, lambda index: np.asarray(values[index]))


@functools.partial(jax.jit, static_argnums=(3, 4, 5), donate_argnums=0)
def _fill(leaf, stored: jax.Array, index: jax.Array, transposed: bool, home, scheme: Scheme | None = None):
    """The leaf with one stored tensor turned and written at `index` of its leading axes."""
    n = index.shape[0]
    turned = stored.T if transposed else stored
    if scheme is None:
        return _placed(leaf, turned, index, home)
    part = rounded(turned.reshape(leaf.values.shape[n:]), leaf.scale.shape[n:], scheme)
    return jax.tree.map(lambda whole, new, at: _placed(whole, new, index, at), leaf, part, home)


def _placed(leaf: jax.Array, part: jax.Array, index: jax.Array, home: NamedSharding | None) -> jax.Array:
    n = index.shape[0]
    part = part.reshape(leaf.shape[n:]).astype(leaf.dtype)
    starts = [index[i] for i in range(n)] + [jnp.zeros((), jnp.int32)] * (leaf.ndim - n)
    leaf = jax.lax.dynamic_update_slice(leaf, part[(None,) * n], starts)
    return leaf if home is None else jax.lax.with_sharding_constraint(leaf, home)


def _stored_sharding(param: Param, piece: Piece, sharding: Sharding) -> NamedSharding | None:
    """The layout of a stored tensor that turns into the leaf's without moving data between devices."""
    if sharding.mesh is None:
        return None
    parts = list(sharding.spec(*param.axes, shape=param.shape))
    inner = [(axis, part) for axis, part in zip(param.axes, parts, strict=True) if axis not in spec.STACKED]
    if piece.transposed:
        groups = [[p for a, p in inner if a not in param.contract], [p for a, p in inner if a in param.contract]]
    elif param.contract:
        groups = [[part] for _, part in inner]
    else:
        groups = [[part for _, part in inner]]
    return NamedSharding(sharding.mesh, PartitionSpec(*(group[0] for group in groups)))


def save(
    folder: Path,
    w: Transformer,
    cfg: ModelConfig,
    *,
    model_type: str | None = None,
    generation: Generation | None = None,
    dtype=None,
    max_file_bytes: int = 5_000_000_000,
) -> None:
    """Writes a folder that transformers loads: weights, config.json, generation_config.json.

    Where they are not given, `model_type` is chosen by the model's switches and `dtype` is that of the weights. In a
    run of several processes each calls it and the first one writes. Raises `ConfigError` where no family expresses the
    model.
    """
    model_type, folder = export.family_for(cfg, model_type), Path(folder)
    dtype, writing = np.dtype(jnp.dtype(dtype or w.embed.dtype)), jax.process_index() == 0
    specs = transformer.specs(cfg)
    scheme = _written(w, specs)
    if scheme is not None and not _has_matrices(FAMILIES[model_type], w, specs, cfg):
        what = f"{model_type} has quantised weights in tensors that no published format of ours has a place for"
        warnings.warn(f"{what}, so only VishwamAI will load this folder", stacklevel=2)
        model_type = OWN
    if writing:
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise CheckpointError(f"{folder}: cannot be made ({error.strerror})") from None
    outgoing = list(_outgoing(FAMILIES[model_type], w, specs, cfg, dtype, scheme))
    safetensors.write_folder(folder, outgoing, max_file_bytes=max_file_bytes, writing=writing)
    if writing:
        how = {} if scheme is None else {"quantization_config": _described(FAMILIES[model_type], w, specs, cfg, scheme)}
        export.write(folder, cfg, model_type, generation or Generation(), dtype.name, how)


def _written(w: Transformer, specs: Transformer) -> Scheme | None:
    """The scheme in which the quantised weights are written, if there are any and there is one."""
    pairs = [(leaf, p) for leaf, p in zip(_leaves(w), spec.leaves(specs), strict=True) if is_quantized(leaf)]
    return compressed.written((quantize.scheme_of(leaf, p), p.shape[quantize.last_contracted(p)]) for leaf, p in pairs)


def _leaves(w: Transformer) -> list:
    return jax.tree.leaves(w, is_leaf=is_quantized)


def _by_leaf(family: Family, w: Transformer, specs: Transformer, cfg: ModelConfig) -> Iterator[tuple[Any, list[Piece]]]:
    return zip(_leaves(w), pieces(family, specs, cfg), strict=True)


def _has_matrices(family: Family, w: Transformer, specs: Transformer, cfg: ModelConfig) -> bool:
    """Whether each quantised weight is a torch Linear of the family, or a part of one."""
    quantised = [parts[0] for leaf, parts in _by_leaf(family, w, specs, cfg) if is_quantized(leaf)]
    return all(len(piece.shape) == 2 and piece.transposed for piece in quantised)


def _described(family: Family, w: Transformer, specs: Transformer, cfg: ModelConfig, scheme: Scheme) -> dict[str, Any]:
    plain_ones = [parts for leaf, parts in _by_leaf(family, w, specs, cfg) if not is_quantized(leaf)]
    matmuls = {piece.name.removesuffix(".weight") for parts in plain_ones for piece in parts if piece.transposed}
    return compressed.configuration(scheme, matmuls | ({"lm_head"} if cfg.tie_embeddings else set()))


def _outgoing(
    family: Family, w: Transformer, specs: Transformer, cfg: ModelConfig, dtype, scheme: Scheme | None
) -> Iterator[Outgoing]:
    shapes = [leaf.values.shape if is_quantized(leaf) else getattr(leaf, "shape", None) for leaf in _leaves(w)]
    if shapes != [param.shape for param in spec.leaves(specs)]:
        raise CheckpointError("these weights are not of this model's shapes; merge or detach adapters first")
    tensors: dict[str, list[tuple[Any, Piece]]] = {}
    for leaf, parts in _by_leaf(family, w, specs, cfg):
        for piece in parts:
            tensors.setdefault(piece.name, []).append((leaf, piece))
    for name, parts in tensors.items():
        shape = parts[0][1].shape
        if scheme is None or not is_quantized(parts[0][0]):
            yield Outgoing(name, shape, dtype, functools.partial(_stored, parts, dtype))
            continue
        values = [(leaf.values, piece) for leaf, piece in parts]
        grid = np.dtype(np.int8) if scheme.kind != "fp8" else np.dtype(values[0][0].dtype)
        as_stored = functools.partial(_stored, values, grid), functools.partial(_scales, parts, scheme)
        yield from compressed.tensors(name, shape, scheme, *as_stored)


def _scales(parts: list[tuple[Quantized, Piece]], scheme: Scheme) -> np.ndarray:
    """The scales of one tensor `[out, in]`, with a column for each group of the scheme."""
    leaf, first = parts[0]
    outputs, inputs = first.shape
    sizes = zip(leaf.values.shape, leaf.scale.shape, strict=True)
    groups = inputs // math.prod(n // scales for n, scales in sizes)
    narrow = [
        (leaf.scale, dataclasses.replace(piece, shape=(outputs, groups), part=(piece.part[0], slice(0, groups))))
        for leaf, piece in parts
    ]
    return np.repeat(_stored(narrow, np.dtype(np.float32)), inputs // (scheme.group or inputs) // groups, axis=1)


def _stored(parts: list[tuple[Any, Piece]], dtype) -> np.ndarray:
    """One tensor in its stored form, on the host, put together from its parts."""
    whole = np.empty(parts[0][1].shape, dtype)
    for leaf, piece in parts:
        home = jax.tree.leaves(leaf)[0].sharding
        spread = NamedSharding(home.mesh, PartitionSpec()) if isinstance(home, NamedSharding) else None
        shape = whole[piece.part].shape
        whole[piece.part] = _take(leaf, np.asarray(piece.index, np.int32), shape, piece.transposed, dtype, spread)
    return whole


@functools.partial(jax.jit, static_argnums=(2, 3, 4, 5))
def _take(leaf, index: jax.Array, shape: tuple[int, ...], transposed: bool, dtype, whole):
    for i in range(index.shape[0]):
        leaf = jax.tree.map(lambda a, i=i: jax.lax.dynamic_index_in_dim(a, index[i], 0, keepdims=False), leaf)
    out = plain(leaf).astype(dtype).reshape(shape[::-1] if transposed else shape)
    out = out.T if transposed else out
    return out if whole is None else jax.lax.with_sharding_constraint(out, whole)
