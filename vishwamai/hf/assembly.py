"""Puts a checkpoint's tensors together, from the weights of a model in memory or of another checkpoint's folder.

It goes by the pieces that weights are read by, and a tensor is made on the host when it is asked for. Every family's
tables are over the same tree of weights, so a part of one family's tensor is found in another's by the weight, the
layer and the expert that it holds. It knows no family.
"""

import dataclasses
import itertools
import math
import warnings
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import NamedSharding, PartitionSpec

from vishwamai.hf.coded import QuantizedTensor, as_readable
from vishwamai.hf.compressed import Codes, common_scheme, compressed_tensors, quantization_config, round_codes
from vishwamai.hf.config import QUANTIZATION
from vishwamai.hf.families import FAMILIES
from vishwamai.hf.families.own import OWN
from vishwamai.hf.family import Family
from vishwamai.hf.folder import Folder
from vishwamai.hf.pieces import TensorPiece, tensor_pieces
from vishwamai.hf.safetensors import LazyTensor
from vishwamai.models import transformer
from vishwamai.models.config import ModelConfig
from vishwamai.weights import spec
from vishwamai.weights.linear import materialize
from vishwamai.weights.quantize import Scheme, is_quantized


class Checkpoint(NamedTuple):
    """What is to be written: as which family, what config.json says of quantised weights, and the tensors."""

    model_type: str
    quantization: Mapping[str, Any]
    tensors: list[LazyTensor]


def assemble(model_type: str, cfg: ModelConfig, tree, source: "ModelWeights | StoredWeights") -> Checkpoint:
    """A model as a family's checkpoint, its tensors in the order of our tree.

    Weights that are quantised in `tree` (weights or specs) are written as compressed-tensors, where they have one
    scheme. Each must be a torch Linear of the family, or a part of one; else the checkpoint is of our own format, with
    a warning.
    """
    specs, weights = transformer.specs(cfg), named_weights(tree)
    scheme = common_scheme(weights, dict(spec.named(specs)))
    parts = parts_by_tensor(FAMILIES[model_type], cfg)
    quantized = {name for name, of in parts.items() if scheme is not None and is_quantized(weights[of[0].path])}
    if not all(len(parts[name][0].shape) == 2 and parts[name][0].transposed for name in quantized):
        what = f"{model_type} keeps weights that are quantised in tensors which compressed-tensors has no form for"
        warnings.warn(f"{what}, so only VishwamAI will load this folder", stacklevel=3)
        return assemble(OWN, cfg, tree, source)
    tensors: list[LazyTensor] = []
    for name, of in parts.items():
        if name in quantized:
            tensors += compressed_tensors(name, of[0].shape, scheme, source.codes(of, scheme))
        else:
            dtype = source.dtype(of)
            tensors.append(LazyTensor(name, of[0].shape, dtype, partial(join_parts, of, dtype, source.values)))
    if scheme is None:
        return Checkpoint(model_type, {}, tensors)
    plain = {name.removesuffix(".weight") for name, of in parts.items() if name not in quantized and of[0].transposed}
    plain |= {"lm_head"} if cfg.tie_embeddings else set()
    return Checkpoint(model_type, {QUANTIZATION: quantization_config(scheme, plain)}, tensors)


def named_weights(tree) -> dict[str, Any]:
    """A model's weights, or their specs, by path; a quantised one is one of them."""
    leaves = jax.tree.leaves_with_path(tree, is_leaf=lambda x: is_quantized(x) or spec.is_param(x))
    return {spec.path_name(path): leaf for path, leaf in leaves}


def parts_by_tensor(family: Family, cfg: ModelConfig) -> dict[str, list[TensorPiece]]:
    """The pieces of each tensor of a model's checkpoint, by its name, in the order of our tree."""
    parts: dict[str, list[TensorPiece]] = {}
    for piece in itertools.chain(*tensor_pieces(family, transformer.specs(cfg), cfg)):
        parts.setdefault(piece.name, []).append(piece)
    return parts


def join_parts(
    parts: Sequence[TensorPiece], dtype: np.dtype, values: Callable[[TensorPiece, np.dtype], Any]
) -> np.ndarray:
    """A tensor of its pieces, whose values in `dtype` are what `values` returns."""
    tensor = np.empty(parts[0].shape, dtype)
    for piece in parts:
        with np.errstate(over="ignore"):
            tensor[piece.part] = np.asarray(piece.to_tensor(values(piece, dtype)))
    return tensor


class ModelWeights:
    """A model's weights, on whatever mesh, in the dtypes of its specs."""

    def __init__(self, w, specs):
        self._leaves, self._params = named_weights(w), dict(spec.named(specs))

    def dtype(self, parts: Sequence[TensorPiece]) -> np.dtype:
        """The dtype of a tensor of these parts."""
        return np.dtype(self._params[parts[0].path].dtype)

    def values(self, piece: TensorPiece, dtype: np.dtype, field: str | None = None) -> jax.Array:
        """A piece's values on one device or all; of a quantised weight what it stands for, or the `field` alone."""
        leaf = self._leaves[piece.path]
        leaf = leaf if field is None else getattr(leaf, field)
        home = jax.tree.leaves(leaf)[0].sharding
        whole = NamedSharding(home.mesh, PartitionSpec()) if isinstance(home, NamedSharding) else None
        return _take(leaf, np.asarray(piece.index, np.int32), dtype, whole)

    def codes(self, parts: Sequence[TensorPiece], scheme: Scheme) -> Codes:
        """A quantised tensor's codes and scales; these are repeated where the scheme's groups are smaller."""
        first, (outputs, inputs) = self._leaves[parts[0].path], parts[0].shape
        sizes = zip(first.values.shape, first.scale.shape, strict=True)
        groups = inputs // math.prod(n // scales for n, scales in sizes)
        narrow = [
            dataclasses.replace(piece, shape=(outputs, groups), part=(piece.part[0], slice(0, groups)))
            for piece in parts
        ]

        def scales() -> np.ndarray:
            found = join_parts(narrow, np.dtype(np.float32), partial(self.values, field="scale"))
            return np.repeat(found, inputs // (scheme.group or inputs) // groups, axis=1)

        dtype = first.values.dtype if scheme.kind == "fp8" else np.dtype(np.int8)
        return Codes(partial(join_parts, parts, dtype, partial(self.values, field="values")), scales)


@partial(jax.jit, static_argnums=(2, 3))
def _take(leaf, index: jax.Array, dtype: np.dtype, whole: NamedSharding | None) -> jax.Array:
    for i in range(index.shape[0]):
        leaf = jax.tree.map(lambda a, i=i: jax.lax.dynamic_index_in_dim(a, index[i], 0, keepdims=False), leaf)
    out = materialize(leaf).astype(dtype)
    return out if whole is None else jax.lax.with_sharding_constraint(out, whole)


class StoredWeights:
    """The weights in a checkpoint's folder, in `dtype` (None: as they are stored)."""

    def __init__(self, folder: Folder, pieces: list[list[TensorPiece]], specs, dtype: str | None = None):
        self._folder, self._is_cast = folder, dtype is not None
        self._params = dict(spec.named(specs if dtype is None else spec.with_dtype(specs, jnp.dtype(dtype))))
        self._pieces = {(piece.path, piece.index): piece for piece in itertools.chain(*pieces)}

    def dtype(self, parts: Sequence[TensorPiece]) -> np.dtype:
        """The dtype of a tensor of these parts: as stored, float32 where they differ or are float64.

        A quantised part counts as the folder's plain tensors.
        """
        if self._is_cast:
            return np.dtype(self._params[parts[0].path].dtype)
        tensors = self._folder.tensors
        found = [tensors[self._pieces[piece.path, piece.index].name] for piece in parts]
        if any(isinstance(tensor, QuantizedTensor) for tensor in found):
            found = [tensor for tensor in tensors.values() if not isinstance(tensor, QuantizedTensor)][:1] or found
        dtypes = {tensor.dtype for tensor in found}
        return dtypes.pop() if len(dtypes) == 1 and np.dtype(np.float64) not in dtypes else np.dtype(np.float32)

    def values(self, piece: TensorPiece, dtype: np.dtype) -> np.ndarray:
        """A piece's values, in the dtype that they are stored in; float64 as float32, as loading does."""
        stored = self._pieces[piece.path, piece.index]
        found = as_readable(self._folder.view(stored.name)[stored.part])
        return stored.to_weight(found, self._params[piece.path].shape[len(stored.index) :])

    def codes(self, parts: Sequence[TensorPiece], scheme: Scheme) -> Codes:
        """A tensor's values rounded to codes and scales."""
        plain = partial(join_parts, parts, np.dtype(np.float32), self.values)
        return round_codes(parts[0].shape, scheme, plain)
