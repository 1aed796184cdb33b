"""Writes a model's weights as a Hugging Face folder: the tables that weights are read by, backwards.

Tensor by tensor, each put together on the host when its turn comes. It knows no family: `pieces.py` says what each
tensor is called.
"""

import dataclasses
import functools
import math
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import NamedSharding, PartitionSpec

from vishwamai import files
from vishwamai.errors import CheckpointError
from vishwamai.hf import compressed, export, safetensors
from vishwamai.hf.families import FAMILIES
from vishwamai.hf.family import Family
from vishwamai.hf.generation_config import GenerationConfig
from vishwamai.hf.pieces import Piece, pieces
from vishwamai.hf.safetensors import Outgoing
from vishwamai.models import transformer
from vishwamai.models.config import ModelConfig
from vishwamai.models.transformer import Transformer
from vishwamai.weights import spec
from vishwamai.weights.linear import materialize
from vishwamai.weights.quantize import Quantized, Scheme, is_quantized


@contextmanager
def replacing(folder: Path, beside: tuple[str, ...] = ()) -> Iterator[Path]:
    """A folder to `save` a model into, and other files; at the end they replace at once what `folder` has of such.

    `beside` are patterns of the other files. In a run of several processes the first one's does so.
    """
    if jax.process_index() != 0:
        yield folder
        return
    try:
        with files.replacing(folder, last="config.json", obsolete=safetensors.WEIGHT_FILES + beside) as staging:
            yield staging
    except OSError as error:
        raise CheckpointError(f"{folder}: cannot be written to ({error.strerror})") from None


def save(
    folder: Path,
    w: Transformer,
    cfg: ModelConfig,
    *,
    model_type: str | None = None,
    generation: GenerationConfig | None = None,
    dtype=None,
    max_file_bytes: int = 5_000_000_000,
) -> None:
    """Writes a folder that transformers loads: weights, config.json, generation_config.json.

    Where they are not given, `model_type` is chosen by the model's switches and `dtype` is that of the weights. In a
    run of several processes each calls it and the first one writes. Raises `ConfigError` where no family expresses the
    model.
    """
    model_type, folder = export.family_for(cfg, model_type), Path(folder)
    kept = jax.tree.leaves(w.embed)[0].dtype
    dtype, writing = np.dtype(jnp.dtype(dtype or kept)), jax.process_index() == 0
    specs = spec.with_dtype(transformer.specs(cfg), dtype)
    _check(w, specs)
    scheme = compressed.written(w, cfg)
    model_type, how = compressed.how(model_type, w, cfg, scheme)
    if writing:
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise CheckpointError(f"{folder}: cannot be made ({error.strerror})") from None
    outgoing = list(_outgoing(FAMILIES[model_type], w, specs, cfg, scheme))
    safetensors.write_folder(folder, outgoing, max_file_bytes=max_file_bytes, writing=writing)
    if writing:
        export.write(folder, cfg, model_type, generation or GenerationConfig(), dtype.name, how)


def _check(w: Transformer, specs: Transformer) -> None:
    leaves = compressed.leaves(w)
    shapes = [leaf.values.shape if is_quantized(leaf) else getattr(leaf, "shape", None) for leaf in leaves]
    if shapes != [param.shape for param in spec.leaves(specs)]:
        raise CheckpointError("these weights are not of this configuration's shapes; merge or detach adapters first")


def _outgoing(
    family: Family, w: Transformer, specs: Transformer, cfg: ModelConfig, scheme: Scheme | None
) -> Iterator[Outgoing]:
    tensors: dict[str, list[tuple[Any, Piece]]] = {}
    dtypes: dict[str, np.dtype] = {}
    for leaf, param, parts in zip(compressed.leaves(w), spec.leaves(specs), pieces(family, specs, cfg), strict=True):
        for piece in parts:
            tensors.setdefault(piece.name, []).append((leaf, piece))
            dtypes[piece.name] = np.dtype(param.dtype)
    for name, parts in tensors.items():
        shape = parts[0][1].shape
        if scheme is None or not is_quantized(parts[0][0]):
            yield Outgoing(name, shape, dtypes[name], functools.partial(_stored, parts, dtypes[name]))
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
        taken = _take(leaf, np.asarray(piece.index, np.int32), shape, piece.transposed, dtype, spread)
        whole[piece.part] = np.asarray(taken)  # NumPy takes no single bfloat16 out of an array of JAX's
    return whole


@functools.partial(jax.jit, static_argnums=(2, 3, 4, 5))
def _take(leaf, index: jax.Array, shape: tuple[int, ...], transposed: bool, dtype, whole):
    for i in range(index.shape[0]):
        leaf = jax.tree.map(lambda a, i=i: jax.lax.dynamic_index_in_dim(a, index[i], 0, keepdims=False), leaf)
    out = materialize(leaf).astype(dtype).reshape(shape[::-1] if transposed else shape)
    out = out.T if transposed else out
    return out if whole is None else jax.lax.with_sharding_constraint(out, whole)
