"""Reads the weights of a Hugging Face folder straight into sharded arrays, and writes them back.

Tensor by tensor: each is put on its devices in its stored form, from a memory map, and a compiled update turns it and
places it in its stacked leaf, which is donated. So the host holds no more than a few tensors at a time, and a device
no more than its share of the model and of one tensor. It knows no family: `names.py` says what each tensor is called.
"""

import functools
from collections.abc import Iterator
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import NamedSharding, PartitionSpec

from vishwamai.errors import CheckpointError
from vishwamai.hf import export, safetensors
from vishwamai.hf.config import Generation, Pretrained
from vishwamai.hf.families import FAMILIES
from vishwamai.hf.family import Family
from vishwamai.hf.folder import Folder
from vishwamai.hf.pieces import Piece, is_ignored, pieces
from vishwamai.hf.safetensors import Outgoing
from vishwamai.models import transformer
from vishwamai.models.config import ModelConfig
from vishwamai.models.transformer import Transformer
from vishwamai.parallel.sharding import SINGLE, Sharding
from vishwamai.weights import spec
from vishwamai.weights.spec import Param

READABLE = tuple(np.dtype(safetensors.DTYPES[name]) for name in ("F32", "F16", "BF16", "F64"))
IN_FLIGHT = 32 * 2**20  # bytes put on devices before the host waits for them


def load(folder: Path, pretrained: Pretrained, *, sharding: Sharding = SINGLE, dtype="float32") -> Transformer:
    """The weights in a folder that `config.read` described, laid out by `sharding`, in `dtype`.

    Every name and shape is checked before the first array is made. Raises `CheckpointError` that names the file and
    the tensor where one is missing, unexpected, of another shape, or of a dtype that holds no weights.
    """
    family, cfg = FAMILIES[pretrained.model_type], pretrained.model
    specs = spec.with_dtype(transformer.specs(cfg), jnp.dtype(dtype))
    source, wanted = open_folder(folder, family), pieces(family, specs, cfg)
    check(source, family, wanted, cfg)
    leaves = [_leaf(param, parts, source, sharding) for param, parts in zip(spec.leaves(specs), wanted, strict=True)]
    return jax.tree.unflatten(jax.tree.structure(specs, is_leaf=spec.is_param), leaves)


def open_folder(folder: Path, family: Family) -> Folder:
    """The tensors of a folder by the names that the family's tables have, where its files left a prefix away."""
    found = safetensors.read_folder(Path(folder))
    if family.prefix and not any(name.startswith(family.prefix) for name in found):
        head = family.whole["lm_head"]
        found = {name if name == head else family.prefix + name: tensor for name, tensor in found.items()}
    return Folder(folder, found)


def check(source: Folder, family: Family, wanted: list[list[Piece]], cfg: ModelConfig) -> None:
    """Raises `CheckpointError` unless the tensors found are those wanted, in shape and kind."""
    folder, found = source.path, source.tensors
    names = {piece.name: piece for leaf in wanted for piece in leaf}
    missing = [name for name in names if name not in found]
    if missing:
        raise CheckpointError(f"{folder}: {_some(missing)} missing from the weights")
    extra = [name for name in found if name not in names and not is_ignored(family, name, cfg)]
    if cfg.tie_embeddings and family.whole["lm_head"] in extra:
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
    if not np.array_equal(source.view(head), source.view(embed)):
        path = source.tensors[head].path
        raise CheckpointError(f"{path}: {head!r} differs from the embedding that config.json ties it to")


def _leaf(param: Param, parts: list[Piece], source: Folder, sharding: Sharding):
    """One leaf, filled piece by piece where it will live."""
    home = sharding.named(*param.axes, shape=param.shape)
    leaf = jnp.zeros(param.shape, param.dtype, device=home)
    place = _stored_sharding(param, parts[0], sharding)
    pending = 0
    for piece in parts:
        stored = _put(source.view(piece.name)[piece.part], place)
        leaf = _fill(leaf, stored, np.asarray(piece.index, np.int32), piece.transposed, home)
        pending += stored.nbytes
        if pending > IN_FLIGHT:
            pending = _wait(leaf, source)
    _wait(leaf, source)
    return leaf


def _wait(leaf: jax.Array, source: Folder) -> int:
    """Waits until the leaf is whole, and lets go of the files' pages. Returns how many bytes are still under way: 0."""
    leaf.block_until_ready()
    source.release()
    return 0


def _put(values: np.ndarray, place: NamedSharding | None) -> jax.Array:
    """A tensor on its devices, each of which is given its own part of the file."""
    values = values.astype(np.float32) if values.dtype == np.float64 else values
    if place is None:
        return jnp.asarray(values)
    return jax.make_array_from_callback(values.shape, place, lambda index: values[index])


@functools.partial(jax.jit, static_argnums=(3, 4), donate_argnums=0)
def _fill(leaf: jax.Array, stored: jax.Array, index: jax.Array, transposed: bool, home: NamedSharding | None):
    """The leaf with one stored tensor turned and written at `index` of its leading axes."""
    n = index.shape[0]
    part = (stored.T if transposed else stored).reshape(leaf.shape[n:]).astype(leaf.dtype)
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
    model_type = export.family_for(cfg, model_type)
    folder, writing = Path(folder), jax.process_index() == 0
    dtype = np.dtype(jnp.dtype(dtype or w.embed.dtype))
    specs = spec.with_dtype(transformer.specs(cfg), dtype)
    if writing:
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise CheckpointError(f"{folder}: cannot be made ({error.strerror})") from None
    outgoing = list(_outgoing(FAMILIES[model_type], w, specs, cfg))
    safetensors.write_folder(folder, outgoing, max_file_bytes=max_file_bytes, writing=writing)
    if writing:
        export.write(folder, cfg, model_type, generation or Generation(), dtype.name)


def _outgoing(family: Family, w: Transformer, specs: Transformer, cfg: ModelConfig) -> Iterator[Outgoing]:
    params, leaves = spec.leaves(specs), jax.tree.leaves(w)
    if [p.shape for p in params] != [x.shape for x in leaves]:
        raise CheckpointError(
            "these weights are not plain arrays of this model's shapes; merge or dequantise them first"
        )
    tensors: dict[str, list[tuple[jax.Array, Piece]]] = {}
    dtypes: dict[str, np.dtype] = {}
    for param, leaf, parts in zip(params, leaves, pieces(family, specs, cfg), strict=True):
        for piece in parts:
            tensors.setdefault(piece.name, []).append((leaf, piece))
            dtypes[piece.name] = np.dtype(param.dtype)
    for name, parts in tensors.items():
        yield Outgoing(name, parts[0][1].shape, dtypes[name], functools.partial(_stored, parts, dtypes[name]))


def _stored(parts: list[tuple[jax.Array, Piece]], dtype) -> np.ndarray:
    """One tensor in its stored form, on the host, put together from its parts."""
    whole = np.empty(parts[0][1].shape, dtype)
    for leaf, piece in parts:
        home = leaf.sharding
        spread = NamedSharding(home.mesh, PartitionSpec()) if isinstance(home, NamedSharding) else None
        shape = whole[piece.part].shape
        whole[piece.part] = _take(leaf, np.asarray(piece.index, np.int32), shape, piece.transposed, dtype, spread)
    return whole


@functools.partial(jax.jit, static_argnums=(2, 3, 4, 5))
def _take(leaf: jax.Array, index: jax.Array, shape: tuple[int, ...], transposed: bool, dtype, whole):
    for i in range(index.shape[0]):
        leaf = jax.lax.dynamic_index_in_dim(leaf, index[i], 0, keepdims=False)
    out = leaf.astype(dtype).reshape(shape[::-1] if transposed else shape)
    out = out.T if transposed else out
    return out if whole is None else jax.lax.with_sharding_constraint(out, whole)
