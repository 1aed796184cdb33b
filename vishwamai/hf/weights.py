"""Reads the weights of a Hugging Face folder straight into sharded arrays.

Every name and shape is checked first; then `filling.py` makes one leaf after another. It knows no family: `pieces.py`
says what each tensor is called.
"""

import math
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np

from vishwamai.errors import CheckpointError
from vishwamai.hf import safetensors
from vishwamai.hf.coded import QuantizedTensor, View
from vishwamai.hf.config import Pretrained
from vishwamai.hf.family import Family
from vishwamai.hf.filling import Loader
from vishwamai.hf.folder import Folder
from vishwamai.hf.pieces import TensorPiece, is_ignored, tensor_pieces
from vishwamai.hf.problem import CheckpointProblem
from vishwamai.hf.safetensors import Tensor
from vishwamai.hf.source import CheckpointSource, as_source
from vishwamai.models import transformer
from vishwamai.models.config import ModelConfig
from vishwamai.models.transformer import Transformer
from vishwamai.parallel.sharding import SINGLE, Sharding
from vishwamai.precision import AUTO, choose_dtype
from vishwamai.progress import Progress, Report, silent
from vishwamai.weights import quantize, spec
from vishwamai.weights.quantize import Quantized, Scheme, group_of, is_quantizable

READABLE = tuple(np.dtype(safetensors.TENSOR_DTYPES[name]) for name in ("F32", "F16", "BF16", "F64"))
KEEP = "keep"
TIED_ROWS = 1024  # of two matrices, compared at once


def load_weights(
    folder: Path | CheckpointSource,
    pretrained: Pretrained,
    *,
    sharding: Sharding = SINGLE,
    dtype="float32",
    quantization: str | None = None,
    progress: Progress = silent,
) -> Transformer:
    """The weights in a folder, or another source, that `pretrained` describes, laid out by `sharding`, in `dtype`.

    `quantization` is the name of a scheme that the layers' projections get as they are read; `KEEP` leaves those that
    are stored quantised as they are, which otherwise come in `dtype` like the rest. Every name and shape is checked
    before the first array is made, and `progress` shows the bytes read. Raises `CheckpointError` that names the file
    and the tensor where one is missing, unexpected, of another shape, or of a dtype that holds no weights.
    """
    specs = spec.with_dtype(transformer.specs(pretrained.model), jnp.dtype(dtype))
    source, wanted = open_checkpoint(folder, pretrained)
    with progress("loading the weights") as report:
        leaves = list(_leaves(source, specs, wanted, sharding, quantization, _counter(source, wanted, report)))
    return jax.tree.unflatten(jax.tree.structure(specs, is_leaf=spec.is_param), leaves)


def _leaves(
    source: Folder,
    specs: Transformer,
    wanted: list[list[TensorPiece]],
    sharding: Sharding,
    quantization: str | None,
    count: Callable[[str], None],
) -> Iterator[jax.Array | Quantized]:
    """The weights in the tree's order; `count` is told the name of each tensor before it is read."""
    asked = None if quantization in (None, KEEP) else Scheme.named(quantization)
    if asked is not None:
        quantize.check_groups(specs, asked)

    def view(name: str) -> np.ndarray | View:
        count(name)
        return source.view(name)

    def codes(name: str) -> View:
        count(name)
        return source.tensors[name].values()

    def load_stored(param: spec.Param, pieces: list[TensorPiece], scheme: Scheme) -> Quantized:
        target, group = quantize.specs(param, scheme), group_of(param, scheme)
        values = loader.load(target.values, pieces, codes)
        scale = loader.load(target.scale, pieces, lambda name: source.tensors[name].scales(group))
        if target.offset is None:
            return Quantized(values=values, scale=scale)
        offset = loader.load(target.offset, pieces, lambda name: source.tensors[name].offsets(group))
        return Quantized(values=values, scale=scale, offset=offset)

    loader = Loader(sharding, source.release)
    for (path, param), pieces in zip(spec.named(specs), wanted, strict=True):
        kept = _stored_scheme(source, pieces) if quantization == KEEP and param.is_matmul else None
        if asked is not None and is_quantizable(path, param) and group_of(param, asked) != 0:
            yield loader.load_quantized(param, pieces, view, asked)
        elif kept is not None and group_of(param, kept) != 0:
            yield load_stored(param, pieces, kept)
        else:
            yield loader.load(param, pieces, view)


def _stored_scheme(source: Folder, pieces: list[TensorPiece]) -> Scheme | None:
    """The scheme in which all the tensors of a weight are stored."""
    schemes = {getattr(source.tensors[piece.name], "scheme", None) for piece in pieces}
    return schemes.pop() if len(schemes) == 1 else None


def _counter(source: Folder, wanted: list[list[TensorPiece]], report: Report) -> Callable[[str], None]:
    """Returns a function of a tensor's name that reports the bytes read before that tensor."""
    left = {piece.name: math.prod(piece.shape) for parts in wanted for piece in parts}
    numbers, done, size = sum(left.values()), 0, source.size

    def count(name: str) -> None:
        nonlocal done
        report(size * done // numbers, size)
        done += left.pop(name, 0)  # none for a tensor that several leaves are parts of, once it was counted

    return count


def layer_kinds(
    source: Path | CheckpointSource, pretrained: Pretrained, dtype: str, quantization: str | None
) -> set[str]:
    """The dtype, or the kinds of quantisation, that the layers' weights of a checkpoint get when they are loaded."""
    if quantization != KEEP:
        return {dtype if quantization is None else quantization.partition(":")[0]}
    stored = as_source(source).open(pretrained).tensors.values()
    return {tensor.scheme.kind for tensor in stored if isinstance(tensor, QuantizedTensor)} or {dtype}


def choose_load_dtype(
    folder: Path | CheckpointSource, pretrained: Pretrained, asked: str, platform: str
) -> tuple[str, str]:
    """(the dtype that a folder is loaded in, why) where `asked` was asked for, on a platform ("cpu", "gpu", "tpu")."""
    return choose_dtype(asked, "" if asked != AUTO else stored_dtype(folder, pretrained), platform)


def stored_dtype(folder: Path | CheckpointSource, pretrained: Pretrained) -> str:
    """The dtype of the checkpoint in a folder, whose headers are read where its config.json does not say."""
    return checkpoint_dtype(pretrained, {} if pretrained.dtype else as_source(folder).stored())


def checkpoint_dtype(pretrained: Pretrained, tensors: Mapping[str, Tensor]) -> str:
    """The dtype of a checkpoint: what its config.json says, else that which most of its plain numbers have."""
    if pretrained.dtype is not None:
        return pretrained.dtype
    sizes: dict[str, int] = {}
    for tensor in tensors.values():
        if tensor.dtype in READABLE:
            sizes[tensor.dtype.name] = sizes.get(tensor.dtype.name, 0) + tensor.end - tensor.start
    return max(sizes, key=lambda name: sizes[name], default="float32")


def open_checkpoint(folder: Path | CheckpointSource, pretrained: Pretrained) -> tuple[Folder, list[list[TensorPiece]]]:
    """Returns a folder's (or another source's) tensors, and those that each weight is made of.

    Raises `CheckpointError` unless the tensors are what the configuration says, in name, shape and kind.
    """
    checkpoint, cfg = as_source(folder), pretrained.model
    family = checkpoint.family(pretrained.model_type)
    source, wanted = checkpoint.open(pretrained), tensor_pieces(family, transformer.specs(cfg), cfg)
    found = list(tensor_problems(source, family, wanted, cfg))
    if found:
        alike = [problem.name for problem in found if problem.why == found[0].why]
        raise CheckpointError(f"{found[0].where}: {_some(alike)} {found[0].why}")
    head = family.whole["lm_head"]
    if cfg.tie_embeddings and head in source.tensors:
        _check_tied(source, head, family.whole["embed"])
    return source, wanted


def tensor_problems(
    source: Folder, family: Family, wanted: list[list[TensorPiece]], cfg: ModelConfig
) -> Iterator[CheckpointProblem]:
    """Every tensor that is missing, too many, of another shape or of a kind that holds no weights. Reads no value."""
    found, names = source.tensors, {piece.name: piece for leaf in wanted for piece in leaf}
    known = names.keys() | ({family.whole["lm_head"]} if cfg.tie_embeddings else set())
    missing, shared = ([n for n in names if (n in found) == there] for there in (False, True))
    for name in missing:
        yield CheckpointProblem(name, "", "missing from the weights", str(source.path))
    for name, tensor in found.items():
        if name not in known and not is_ignored(family, name, cfg):
            why = "in the weights, and the configuration has no place for it"
            yield CheckpointProblem(name, _described(tensor), why, str(source.path))
    for name in shared:
        tensor, wanted_shape = found[name], names[name].shape
        if tensor.shape != wanted_shape:
            why = f"of shape {list(tensor.shape)} in the file, and {list(wanted_shape)} by the configuration"
            yield CheckpointProblem(name, _described(tensor), why, str(tensor.path))
        if tensor.dtype not in READABLE:
            yield CheckpointProblem(
                name, _described(tensor), f"{tensor.dtype}, which is not read as weights", str(tensor.path)
            )


def _described(tensor: Tensor | QuantizedTensor) -> str:
    return f"{tensor.dtype} {list(tensor.shape)}"


def _some(names: list[str]) -> str:
    shown = ", ".join(repr(name) for name in names[:3])
    return f"{shown} is" if len(names) == 1 else f"{shown}{' and others' if len(names) > 3 else ''} ({len(names)}) are"


def _check_tied(source: Folder, head: str, embed: str) -> None:
    there, here = source.view(head), source.view(embed)
    for start in range(0, here.shape[0], TIED_ROWS):
        rows = slice(start, start + TIED_ROWS)
        if there.shape != here.shape or not np.array_equal(np.asarray(there[rows]), np.asarray(here[rows])):
            path = source.tensors[head].path
            raise CheckpointError(f"{path}: {head!r} differs from the embedding that config.json ties it to")
        source.release()
