"""Reads the weights of a Hugging Face folder straight into sharded arrays, and writes them back.

Tensor by tensor: each is put on its devices in its stored form, from a memory map, and a compiled update turns it and
places it in its stacked leaf, which is donated. So the host holds no more than a few tensors at a time, and a device
no more than its share of the model and of one tensor. It knows no family: `names.py` says what each tensor is called.
"""

import functools
from collections.abc import Callable, Iterator
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import NamedSharding, PartitionSpec

from vishwamai.errors import CheckpointError
from vishwamai.hf import safetensors
from vishwamai.hf.coded import Coded, View
from vishwamai.hf.config import Pretrained
from vishwamai.hf.families import FAMILIES
from vishwamai.hf.family import Family
from vishwamai.hf.folder import Folder
from vishwamai.hf.pieces import Piece, is_ignored, pieces
from vishwamai.hf.problem import Problem
from vishwamai.hf.quantized import Storage
from vishwamai.hf.safetensors import Tensor
from vishwamai.models import transformer
from vishwamai.models.config import ModelConfig
from vishwamai.models.transformer import Transformer
from vishwamai.parallel.sharding import SINGLE, Sharding
from vishwamai.weights import quantize, spec
from vishwamai.weights.quantize import Quantized, Scheme, chosen, group_of, rounded
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
    check(source, family, wanted, cfg)
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


def check(source: Folder, family: Family, wanted: list[list[Piece]], cfg: ModelConfig) -> None:
    """Raises `CheckpointError` unless the tensors found are those wanted, in shape and kind."""
    found = list(problems(source, family, wanted, cfg))
    if found:
        alike = [problem.name for problem in found if problem.why == found[0].why]
        raise CheckpointError(f"{found[0].where}: {_some(alike)} {found[0].why}")
    head = family.whole["lm_head"]
    if cfg.tie_embeddings and head in source.tensors:
        _check_tied(source, head, family.whole["embed"])


def problems(source: Folder, family: Family, wanted: list[list[Piece]], cfg: ModelConfig) -> Iterator[Problem]:
    """Every tensor that is missing, too many, of another shape or of a kind that holds no weights. Reads no value."""
    found, names = source.tensors, {piece.name: piece for leaf in wanted for piece in leaf}
    known = names.keys() | ({family.whole["lm_head"]} if cfg.tie_embeddings else set())
    missing, shared = ([n for n in names if (n in found) == there] for there in (False, True))
    for name in missing:
        yield Problem(name, "", "missing from the weights", str(source.path))
    for name, tensor in found.items():
        if name not in known and not is_ignored(family, name):
            why = "in the weights, and the configuration has no place for it"
            yield Problem(name, _described(tensor), why, str(source.path))
    for name in shared:
        tensor, wanted_shape = found[name], names[name].shape
        if tensor.shape != wanted_shape:
            why = f"of shape {list(tensor.shape)} in the file, and {list(wanted_shape)} by the configuration"
            yield Problem(name, _described(tensor), why, str(tensor.path))
        if tensor.dtype not in READABLE:
            yield Problem(name, _described(tensor), f"{tensor.dtype}, which is not read as weights", str(tensor.path))


def _described(tensor: Tensor | Coded) -> str:
    return f"{tensor.dtype} {list(tensor.shape)}"


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
