"""Writes a folder's weights anew, tensor by tensor: as another family's, in our own format or out of it, in any dtype.

Every family's tables are over the same tree of weights, so a part of a tensor of one is found in a tensor of another by
the weight and the layer (and expert) that it is of. No model is ever in memory: a tensor of the target is put together
from the source's memory maps when its turn to be written comes. It knows no tokenizer: those files are copied.
"""

import dataclasses
import shutil
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import NamedTuple

import jax.numpy as jnp
import numpy as np

from vishwamai import hub
from vishwamai.errors import CheckpointError, InputError
from vishwamai.hf import compressed, config, export, safetensors, weights
from vishwamai.hf.coded import Coded
from vishwamai.hf.config import Pretrained
from vishwamai.hf.families import FAMILIES
from vishwamai.hf.family import Family
from vishwamai.hf.folder import Folder
from vishwamai.hf.pieces import Piece, pieces
from vishwamai.hf.safetensors import Outgoing
from vishwamai.models import transformer
from vishwamai.models.config import ModelConfig
from vishwamai.weights import quantize, spec
from vishwamai.weights.quantize import Scheme, is_quantized

COPIED = """
    tokenizer.json tokenizer.model tokenizer_config.json special_tokens_map.json added_tokens.json vocab.json merges.txt
    vocab.txt chat_template.json chat_template*.jinja additional_chat_templates/*.jinja
""".split()
GIB = 2**30


@dataclasses.dataclass(frozen=True)
class Converted:
    """What was written: as which family, the dtype of the embedding, and the bytes of all files."""

    model_type: str
    dtype: str
    size: int


class _Part(NamedTuple):
    """A part of a tensor of the source, the part of one of the target that it becomes, and its shape in our tree."""

    theirs: Piece
    ours: Piece
    shape: tuple[int, ...]


def convert(
    source: Path,
    target: Path,
    *,
    model_type: str | None = None,
    dtype: str | None = None,
    quantization: str | None = None,
    max_file_bytes: int = 5_000_000_000,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> Converted:
    """Writes the model in the folder `source` to `target`, which must be empty or new, with its tokenizer's files.

    `model_type` is the family to write it as (None: its own), `dtype` that of the weights (None: each as it is stored;
    a quantised one as the embedding), and `quantization` the scheme that the layers' projections get. `progress` is
    told the bytes made so far and in all. A conversion that fails leaves nothing, one that is killed leaves no
    config.json. Raises `InputError`, `CheckpointError` or `ConfigError`.
    """
    check_target(source, target)
    found = config.read(source)
    tree = _specs(found.model, quantization)
    scheme = compressed.written(tree, found.model)
    family = export.family_for(found.model, model_type or found.model_type)
    written_as, how = compressed.how(family, tree, found.model, scheme)
    folder = open_checked(source, found)
    tensors = list(outgoing(folder, found, FAMILIES[written_as], dtype, tree))
    copied = tokenizer_files(source)
    total = sum(t.size for t in tensors)
    _check_space(target, total + sum(file.stat().st_size for file in copied))
    named = dtype or tensors[0].dtype.name  # the embedding is the first of our tree
    was_there = target.exists()
    _made(target)
    try:
        safetensors.write_folder(target, list(_counted(tensors, total, progress)), max_file_bytes=max_file_bytes)
        for file in copied:
            _copy(file, target / file.relative_to(source))
        export.write(target, found.model, written_as, found.generation, named, how)
    except BaseException:
        _empty(target)
        if not was_there:
            target.rmdir()
        raise
    return Converted(written_as, named, sum(f.stat().st_size for f in target.rglob("*") if f.is_file()))


def open_checked(path: Path, pretrained: Pretrained) -> Folder:
    """The tensors of a folder that holds what its configuration says. Raises `CheckpointError` where it does not."""
    family, cfg = FAMILIES[pretrained.model_type], pretrained.model
    source = weights.open_folder(path, family, pretrained.storage)
    weights.check(source, family, pieces(family, transformer.specs(cfg), cfg), cfg)
    source.release()
    return source


def _specs(cfg: ModelConfig, quantization: str | None):
    specs = transformer.specs(cfg)
    if quantization is None:
        return specs
    quantize.check_groups(specs, Scheme.named(quantization))
    return quantize.quantizable_specs(specs, Scheme.named(quantization))


def outgoing(
    source: Folder, pretrained: Pretrained, family: Family, dtype: str | None = None, tree=None
) -> Iterator[Outgoing]:
    """The tensors of a family that hold the source's model, made when they are asked for, in the order of our tree.

    In `dtype`, or each in the dtype that its parts are stored in (float32 where these differ, or are float64); those
    that are quantised in `tree`, the model's specs, as compressed-tensors.
    """
    cfg = pretrained.model
    specs = transformer.specs(cfg)
    tree = specs if tree is None else tree
    params = spec.leaves(specs if dtype is None else spec.with_dtype(specs, jnp.dtype(dtype)))
    theirs, ours = (pieces(f, specs, cfg) for f in (FAMILIES[pretrained.model_type], family))
    parts: dict[str, list[_Part]] = {}
    dtypes: dict[str, np.dtype] = {}
    for param, into, out_of in zip(params, ours, theirs, strict=True):
        for a, b in zip(out_of, into, strict=True):
            parts.setdefault(b.name, []).append(_Part(a, b, param.shape[len(b.index) :]))
            dtypes[b.name] = np.dtype(param.dtype)
    pairs, scheme = zip(compressed.leaves(tree), ours, strict=True), compressed.written(tree, cfg)
    quantised = {piece.name for leaf, into in pairs if is_quantized(leaf) for piece in into}
    for name, of in parts.items():
        shape = of[0].ours.shape
        if scheme is not None and name in quantised:
            whole = partial(_values, source, of, np.dtype(np.float32))
            yield from compressed.rounded(name, shape, scheme, whole)
            continue
        kept = dtypes[name] if dtype else _common(source, [part.theirs.name for part in of])
        yield Outgoing(name, shape, kept, partial(_values, source, of, kept))


def _common(source: Folder, names: list[str]) -> np.dtype:
    """The dtype that holds the values of these tensors: of a quantised one, that of the folder's plain ones."""
    found = [source.tensors[name] for name in names]
    if any(isinstance(tensor, Coded) for tensor in found):
        found = [tensor for tensor in source.tensors.values() if not isinstance(tensor, Coded)][:1] or found
    dtypes = {tensor.dtype for tensor in found}
    return dtypes.pop() if len(dtypes) == 1 and np.dtype(np.float64) not in dtypes else np.dtype(np.float32)


def _values(source: Folder, parts: list[_Part], dtype: np.dtype) -> np.ndarray:
    """One tensor of the target, put together from its parts."""
    whole = np.empty(parts[0].ours.shape, dtype)
    for part in parts:
        values = np.asarray(source.view(part.theirs.name)[part.theirs.part])
        values = values.astype(np.float32) if values.dtype == np.float64 else values  # as loading does
        values = (values.T if part.theirs.transposed else values).reshape(part.shape)
        shape = whole[part.ours.part].shape
        with np.errstate(over="ignore"):
            whole[part.ours.part] = values.reshape(shape[::-1]).T if part.ours.transposed else values.reshape(shape)
    source.release()
    if dtype == np.float16 and not np.isfinite(whole).all():
        name = parts[0].theirs.name
        raise CheckpointError(f"{source.path}: {name!r} has numbers that float16 does not hold; write bfloat16")
    return whole


def tokenizer_files(folder: Path) -> list[Path]:
    """The files of a folder that its tokenizer is read from. Raises `CheckpointError` for a link out of the folder."""
    found = sorted({path for pattern in COPIED for path in folder.glob(pattern) if path.is_file()})
    for path in found:
        if not hub.stays_inside(folder, path):
            raise CheckpointError(f"{path} is a link that leads out of its folder; put the file itself there")
    return found


def _copy(file: Path, target: Path) -> None:
    target.parent.mkdir(exist_ok=True)
    safetensors.write_whole(target, [file.read_bytes()])


def _counted(tensors: list[Outgoing], total: int, progress: Callable[[int, int], None]) -> Iterator[Outgoing]:
    """The same tensors; each tells of its bytes when it is made."""
    done = 0

    def values(tensor: Outgoing) -> np.ndarray:
        nonlocal done
        made, done = tensor.values(), done + tensor.size
        progress(done, total)
        return made

    for tensor in tensors:
        yield dataclasses.replace(tensor, values=partial(values, tensor))


def check_target(source: Path, target: Path) -> None:
    """Raises `InputError` for a folder that what is read from `source` cannot be written to."""
    if target.exists() and (not target.is_dir() or any(target.iterdir())):
        raise InputError(f"{target} is there already; name a folder that is empty or new")
    if target.resolve().is_relative_to(source.resolve()):
        raise InputError(f"{target} lies in the folder that is read, {source}; name a folder outside it")


def _check_space(target: Path, needed: int) -> None:
    there = next(folder for folder in (target.absolute(), *target.absolute().parents) if folder.exists())
    free = shutil.disk_usage(there).free
    if free < needed:
        sizes = f"{needed / GIB:,.2f} GiB are needed, and {free / GIB:,.2f} GiB are free"
        raise CheckpointError(f"{target}: {sizes}; make room, choose another disk or a smaller dtype")


def _made(folder: Path) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise CheckpointError(f"{folder}: cannot be made ({error.strerror})") from None


def _empty(folder: Path) -> None:
    """Takes away what a conversion wrote into a folder that was empty."""
    for path in folder.iterdir():
        shutil.rmtree(path, ignore_errors=True) if path.is_dir() else path.unlink(missing_ok=True)
