"""Writes a checkpoint anew, as a folder: as another family's, in our own format or out of it, in any dtype.

No model is ever in memory: each tensor is put together from the source's memory maps when its turn to be written comes.
The tokenizer's files are copied.
"""

import dataclasses
import shutil
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from vishwamai.errors import CheckpointError, InputError
from vishwamai.hf import export, safetensors, weights
from vishwamai.hf.assembly import StoredWeights, assemble
from vishwamai.hf.safetensors import LazyTensor
from vishwamai.hf.saving import make_folder, stage_folder
from vishwamai.hf.source import CheckpointSource, as_source
from vishwamai.models import transformer
from vishwamai.weights import quantize
from vishwamai.weights.quantize import Scheme

GIB = 2**30


@dataclasses.dataclass(frozen=True)
class Conversion:
    """What was written: as which family, the dtype of the embedding, and the bytes of all files."""

    model_type: str
    dtype: str
    size: int


def convert_checkpoint(
    source: Path | CheckpointSource,
    target: Path,
    *,
    model_type: str | None = None,
    dtype: str | None = None,
    quantization: str | None = None,
    max_file_bytes: int = 5_000_000_000,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> Conversion:
    """Writes the model in the folder (or other) `source` to the folder `target`, empty or new, with its tokenizer.

    `model_type` is the family to write it as (None: its own), `dtype` that of the weights (None: each as it is stored;
    a quantised one as the embedding), and `quantization` the scheme that the layers' projections get. `progress` is
    told the bytes made so far and in all. A conversion that fails leaves nothing, one that is killed leaves no
    config.json. Raises `InputError`, `CheckpointError` or `ConfigError`.
    """
    source = as_source(source)
    check_target(source.path, target)
    found = source.pretrained
    specs = transformer.specs(found.model)
    if quantization is not None:
        scheme = Scheme.named(quantization)
        quantize.check_groups(specs, scheme)
        specs = quantize.quantizable_specs(specs, scheme)
    model_type = export.choose_family(found.model, model_type or found.model_type)
    folder, pieces = weights.open_checkpoint(source, found)
    stored = StoredWeights(folder, pieces, transformer.specs(found.model), dtype)
    model_type, how, tensors = assemble(model_type, found.model, specs, stored)
    copied = source.tokenizer_files()
    total = sum(t.size for t in tensors)
    check_space(target, total + sum(file.stat().st_size for file in copied))
    named = dtype or tensors[0].dtype.name  # the embedding is the first of our tree
    was_there = target.exists()
    make_folder(target)
    try:
        with stage_folder(target) as staging:
            tensors = count_made(tensors, folder, total, progress, partial(_check_range, folder.path))
            safetensors.write_folder(staging, tensors, max_file_bytes=max_file_bytes)
            source.write_tokenizer(staging)
            export.write_configs(staging, found.model, model_type, found.generation, named, how)
    except BaseException:
        if not was_there:
            shutil.rmtree(target, ignore_errors=True)
        raise
    return Conversion(model_type, named, sum(f.stat().st_size for f in target.rglob("*") if f.is_file()))


def count_made(
    tensors: list, source, total: int, progress: Callable[[int, int], None], check: Callable[[Any, np.ndarray], None]
) -> list:
    """Returns the same tensors; each, when it is made, lets go of what was read for it, is checked and reports its
    bytes."""
    done = 0

    def make(tensor) -> np.ndarray:
        nonlocal done
        made, done = tensor.values(), done + tensor.size
        source.release()
        check(tensor, made)
        progress(done, total)
        return made

    return [dataclasses.replace(tensor, values=partial(make, tensor)) for tensor in tensors]


def _check_range(where: Path, tensor: LazyTensor, made: np.ndarray) -> None:
    if tensor.dtype == np.float16 and not np.isfinite(made).all():
        raise CheckpointError(f"{where}: {tensor.name!r} has numbers that float16 does not hold; write bfloat16")


def check_target(source: Path, target: Path) -> None:
    """Raises `InputError` for a folder that what is read from `source` cannot be written to."""
    if target.exists() and (not target.is_dir() or any(target.iterdir())):
        raise InputError(f"{target} is there already; name a folder that is empty or new")
    if target.resolve().is_relative_to(source.resolve()):
        raise InputError(f"{target} lies in the folder that is read, {source}; name a folder outside it")


def check_space(target: Path, needed: int) -> None:
    """Raises `CheckpointError` where a disk has fewer bytes free than are needed."""
    there = next(folder for folder in (target.absolute(), *target.absolute().parents) if folder.exists())
    free = shutil.disk_usage(there).free
    if free < needed:
        sizes = f"{needed / GIB:,.2f} GiB are needed, and {free / GIB:,.2f} GiB are free"
        raise CheckpointError(f"{target}: {sizes}; make room, choose another disk or a smaller dtype")
