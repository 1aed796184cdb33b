"""Writes a checkpoint anew as a GGUF file, which llama.cpp and what is built on it load.

No model is ever in memory: each tensor is put together from the source's memory maps when its turn to be written comes.
What is stored in the asked type under the same name already is copied, bit by bit.
"""

import tempfile
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from vishwamai.errors import CheckpointError, InputError
from vishwamai.gguf import config
from vishwamai.gguf.encoding import FLOATS, WRITTEN, EncodedTensor, encode, fits, package, write_file
from vishwamai.gguf.source import GGUFSource, find_tokenizer, is_alike, stored_change
from vishwamai.gguf.vocabulary import vocabulary_metadata
from vishwamai.gguf_header import TensorInfo
from vishwamai.hf import weights
from vishwamai.hf.assembly import StoredWeights, join_parts, parts_by_tensor
from vishwamai.hf.convert import Conversion, check_space, count_made
from vishwamai.hf.family import Family
from vishwamai.hf.pieces import TensorPiece
from vishwamai.hf.saving import make_folder
from vishwamai.hf.source import CheckpointSource, as_source
from vishwamai.models import transformer
from vishwamai.models.config import ModelConfig
from vishwamai.parallel import hosts
from vishwamai.text.split_patterns import OWN_SPLIT

KINDS = tuple(kind.lower() for kind in WRITTEN)
EIGHT_BITS = "Q8_0"  # what the embedding and the output matrix have where the rest has fewer, as in llama.cpp
DROPPED = ("split.", "general.alignment")  # of a file that is written anew as one
EXACT = (".bias", "norm.weight", "ffn_gate_inp.weight", "position_embd.weight")  # ends of names: always F32


def convert_to_gguf(
    source: Path | CheckpointSource,
    target: Path,
    *,
    kind: str | None = None,
    model_type: str | None = None,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> Conversion:
    """Writes the model in a folder, or in a GGUF file, to the GGUF file `target`, with its tokenizer.

    `kind` is the type of the weights (one of `KINDS`; None: each as it is stored); norms, biases and routers are F32
    whatever it is, and the embedding and the output matrix have 8 bits or more. `model_type` is the family to write it
    as (None: its own, or the first that GGUF files have). `progress` is told the bytes made so far and in all. A
    conversion that fails or is killed leaves no `target`. Raises `InputError`, `CheckpointError` or `ConfigError`.
    """
    source = as_source(source)
    _check_asked(target, kind)
    found, asked = source.pretrained, kind and kind.upper()
    model_type = config.choose_family(found.model, model_type or found.model_type)
    described = config.describe(found.model, model_type, found.generation)
    if lost := config.overlooked(model_type, described.metadata):
        warnings.warn(f"llama.cpp overlooks {', '.join(lost)}: where it matters its text is another", stacklevel=2)
    folder, pieces = weights.open_checkpoint(source, found)
    stored = StoredWeights(folder, pieces, transformer.specs(found.model))
    tensors = [
        EncodedTensor(name, "F32", values.shape, partial(encode, values, "F32"))
        for name, values in described.tensors.items()
    ]
    family = config.gguf_family(model_type)
    for parts in parts_by_tensor(family, found.model).values():
        there = _same_tensor(source, parts[0], family.gguf.architecture)
        kept = there.type if there is not None else _kind(parts[0], _stored_kind(stored, parts))
        tensors.append(_tensor(parts, family, found.model, stored, _kind(parts[0], asked) if asked else kept, there))
    tensors.sort(key=_place)
    total = sum(tensor.size for tensor in tensors)
    check_space(target, total)
    metadata = _metadata(source, target.stem, found.model, described.metadata) | _about(source, tensors, asked)
    if metadata.get("tokenizer.ggml.pre") == OWN_SPLIT:
        warnings.warn(
            "llama.cpp has no name for how this tokenizer splits texts, and refuses the file; it knows one that is "
            "trained with a pattern of text.split_patterns.SPLITS, such as that of qwen2",
            stacklevel=2,
        )
    write_file(target, metadata, count_made(tensors, folder, total, progress, partial(_check_range, source.path)))
    return Conversion(model_type, _most(tensors).lower(), target.stat().st_size)


@contextmanager
def stage_gguf(target: Path, kind: str | None = None) -> Iterator[Path]:
    """A folder to save a model into, of which the GGUF file `target` is made at the end; as `convert_to_gguf`.

    In a run of several processes each has such a folder, and the first one makes the file.
    """
    _check_asked(target, kind)
    make_folder(target.parent)
    try:
        staging = tempfile.TemporaryDirectory(dir=target.parent)  # on the disk that has room for the file
    except OSError as error:
        raise CheckpointError(f"{target}: cannot be written ({error.strerror})") from None
    with staging as folder:
        yield Path(folder)
        if hosts.is_first():
            convert_to_gguf(Path(folder), target, kind=kind)


def _check_asked(target: Path, kind: str | None) -> None:
    """Raises `InputError` for a type that is not written or a target that is there, `ConfigError` without `gguf`."""
    if kind is not None and kind.upper() not in WRITTEN:
        raise InputError(f"type {kind!r} is not written; use {', '.join(KINDS)}")
    if target.exists():
        raise InputError(f"{target} is there already; name a file that is new")
    package()


def _same_tensor(source: CheckpointSource, piece: TensorPiece, architecture: str) -> TensorInfo | None:
    """The tensor that a GGUF file of the same architecture has under this name."""
    if not isinstance(source, GGUFSource) or source.header.metadata.get(config.ARCHITECTURE) != architecture:
        return None
    found = source.header.tensors.get(piece.name)
    alike = found is not None and (found.shape == piece.shape or is_alike(found.shape, piece.shape))
    return found if alike else None


def _tensor(
    parts: list[TensorPiece],
    family: Family,
    cfg: ModelConfig,
    stored: StoredWeights,
    kind: str,
    there: TensorInfo | None,
) -> EncodedTensor:
    """One tensor of a file: a copy of the bytes that are `there`, where they are of this type."""
    name, shape = parts[0].name, _shape(parts[0])
    if there is not None and there.type == kind:
        copy = partial(np.fromfile, there.path, np.uint8, there.nbytes, offset=there.start)
        return EncodedTensor(name, kind, shape, copy)
    change = stored_change(parts[0], family, cfg)

    def values() -> np.ndarray:
        made = join_parts(parts, np.dtype(np.float32), stored.values)
        if change.order is not None:
            rows, made = made, np.empty_like(made)
            made[change.order] = rows
        return encode((made - np.float32(change.added) if change.added else made).reshape(shape), kind)

    return EncodedTensor(name, kind, shape, values)


def _place(tensor: EncodedTensor) -> int:
    """The number of a tensor's layer; -1 for what belongs to none."""
    parts = tensor.name.split(".")
    return int(parts[1]) if parts[0] == "blk" else -1


def _shape(piece: TensorPiece) -> tuple[int, ...]:
    """The shape that llama.cpp's files give a tensor: that of a matrix of one row is a vector's."""
    return piece.shape[1:] if len(piece.shape) == 2 and piece.shape[0] == 1 else piece.shape


def _kind(piece: TensorPiece, asked: str) -> str:
    """The type of a tensor where the weights have the type `asked`: what is small is F32, and rows that do not come out
    even in blocks F16, as llama.cpp's own conversion has it."""
    name, shape = piece.name, _shape(piece)
    if len(shape) == 1 or name.endswith(EXACT):
        return "F32"
    if name in (config.EMBEDDING, config.HEAD) and asked not in FLOATS:
        asked = EIGHT_BITS
    return asked if fits(asked, shape[-1]) else "F16"


def _stored_kind(stored: StoredWeights, parts: list[TensorPiece]) -> str:
    """The type that keeps the numbers of a folder's tensor as they are."""
    dtype = stored.dtype(parts)
    return next((kind for kind, known in FLOATS.items() if known == dtype), "F32")


def _metadata(source: CheckpointSource, name: str, cfg: ModelConfig, described: Mapping[str, Any]) -> dict[str, Any]:
    """What a file says of a model, its tokenizer and its name; what a GGUF file said of other things stays."""
    if isinstance(source, GGUFSource):
        own = f"{source.header.metadata[config.ARCHITECTURE]}."
        kept = source.header.metadata.items()
        return {key: value for key, value in kept if not key.startswith((own, *DROPPED))} | dict(described)
    general = {"general.type": "model", "general.name": name}
    read = find_tokenizer(source)
    if read is None:
        return general | {"tokenizer.ggml.model": "none"} | dict(described)
    vocabulary = vocabulary_metadata(read(), cfg.vocab_size, source.pretrained.generation.eos_ids or ())
    return general | {**described, **vocabulary}


def _about(source: CheckpointSource, tensors: list[EncodedTensor], asked: str | None) -> dict[str, Any]:
    """What a file says of its types."""
    kept = source.header.metadata.get(config.FILE_TYPE) if isinstance(source, GGUFSource) and asked is None else None
    number = WRITTEN.get(_most(tensors)) if kept is None else kept
    return ({} if number is None else {config.FILE_TYPE: number}) | {"general.quantization_version": 2}


def _most(tensors: list[EncodedTensor]) -> str:
    """The type that most bytes are in."""
    sizes: dict[str, int] = {}
    for tensor in tensors:
        sizes[tensor.type] = sizes.get(tensor.type, 0) + tensor.size
    return max(sizes, key=lambda kind: sizes[kind])


def _check_range(where: Path, tensor: EncodedTensor, made: np.ndarray) -> None:
    if tensor.type == "F16" and not np.isfinite(made.view(np.float16)).all():
        raise CheckpointError(f"{where}: {tensor.name!r} has numbers that F16 does not hold; write bf16")
