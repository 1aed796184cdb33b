"""A GGUF file as a source of a checkpoint: its configuration, tensors and tokenizer, as of a Hugging Face folder.

`open_source` finds out which of the two a name leads to.
"""

import dataclasses
import functools
import itertools
import mmap
import os
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from vishwamai import hub
from vishwamai.errors import ConfigError
from vishwamai.gguf.config import config_json, gguf_family
from vishwamai.gguf.decoding import PLAIN, Change, join_latent, make_tensor
from vishwamai.gguf_header import Header, TensorInfo, read_header
from vishwamai.hf import config
from vishwamai.hf.coded import DecodedTensor, QuantizedTensor, View
from vishwamai.hf.config import Pretrained
from vishwamai.hf.family import Family
from vishwamai.hf.generation_config import GenerationConfig, parse_settings
from vishwamai.hf.pieces import TensorPiece, tensor_pieces
from vishwamai.hf.problem import CheckpointProblem
from vishwamai.hf.safetensors import open_map
from vishwamai.hf.source import CheckpointSource
from vishwamai.hub import Part
from vishwamai.models import transformer
from vishwamai.models.config import ModelConfig
from vishwamai.text.gguf_vocabulary import end_ids, read_vocabulary
from vishwamai.text.tokenizer import VishwamAITokenizer


class GGUFTensors:
    """The tensors of a model by their names in the file: `tensors` has their shapes and dtypes, `view` returns values.

    It is what `hf.folder.Folder` is of a folder. `changes` are of some names.
    """

    def __init__(self, header: Header, changes: Mapping[str, Change]):
        self.path = header.path
        self.size = sum(info.nbytes for info in header.tensors.values())
        self._maps = {file: open_map(file) for file in header.paths}
        self.tensors: dict[str, DecodedTensor | QuantizedTensor] = {}
        for name, info in header.tensors.items():
            raw = np.frombuffer(self._maps[info.path], np.uint8, info.nbytes, info.start)
            self.tensors[name] = make_tensor(info, raw, changes.get(name, Change()))
        for keys in [name for name in self.tensors if ".attn_k_b." in name]:
            values, both = (keys.replace(".attn_k_b.", f".attn_{of}_b.") for of in ("v", "kv"))
            if values in self.tensors and both not in self.tensors:
                pair = self.tensors.pop(keys), self.tensors.pop(values)
                self.tensors[both] = join_latent(both, *(tensor.plain() for tensor in pair), path=header.path)

    def view(self, name: str) -> View:
        """A tensor's values, sliced as an array is; nothing is read before `np.asarray` asks for it."""
        return self.tensors[name].plain()

    def release(self) -> None:
        """Lets go of the pages that were read so far."""
        if hasattr(mmap, "MADV_DONTNEED"):
            for data in self._maps.values():
                data.madvise(mmap.MADV_DONTNEED)


class GGUFSource(CheckpointSource):
    """A model in a GGUF file, or in the several into which it is split; `path` is the (first) file."""

    @functools.cached_property
    def header(self) -> Header:
        """What stands before the data. Raises `CheckpointError`."""
        return read_header(self.path)

    @functools.cached_property
    def config_json(self) -> Mapping[str, Any]:
        """The object of the config.json that the model would have. Raises `ConfigError`, and `TokenizerError` for end
        tokens that are none."""
        try:
            data = config_json(self.header.metadata, self.header.tensors)
        except ConfigError as error:
            raise ConfigError(f"{self.path}: {error}") from None
        ends = end_ids(self.header.metadata, str(self.path)) if self.has_tokenizer() else ()
        return {**data, "dtype": self._dtype(), **({"eos_token_id": list(ends)} if ends else {})}

    @functools.cached_property
    def pretrained(self) -> Pretrained:
        """What the metadata says of the model."""
        return config.parse_pretrained(self.config_json, self.path, self._generation)

    def config_problems(self) -> Iterator[CheckpointProblem]:
        """Yields all that is not supported in the configuration."""
        return config.data_problems(self.config_json, self.path, self._generation)

    def family(self, model_type: str) -> Family:
        """A family with the names that its tensors have in GGUF."""
        return gguf_family(model_type)

    def stored(self) -> Mapping[str, TensorInfo]:
        """The tensors by name, as they are stored."""
        return self.header.tensors

    def has_weights(self) -> bool:
        """Whether there are weights."""
        return True

    def open(self, pretrained: Pretrained) -> GGUFTensors:
        """The tensors with the values, and the shapes, that the family's own files have."""
        family, tensors, changes = self.family(pretrained.model_type), dict(self.header.tensors), {}
        for piece in itertools.chain(*tensor_pieces(family, transformer.specs(pretrained.model), pretrained.model)):
            changes[piece.name] = stored_change(piece, family, pretrained.model)
            if (info := tensors.get(piece.name)) is not None and is_alike(info.shape, piece.shape):
                tensors[piece.name] = dataclasses.replace(info, shape=piece.shape)
        return GGUFTensors(dataclasses.replace(self.header, tensors=tensors), changes)

    def model_files(self) -> list[Path]:
        """The files that the model is read from."""
        return self.header.paths

    def tokenizer_files(self) -> list[Path]:
        """None but these."""
        return []

    def write_tokenizer(self, folder: Path) -> None:
        """Writes the tokenizer to a folder, as files of Hugging Face; nothing where there is none."""
        if self.has_tokenizer():
            self.tokenizer().save_pretrained(folder)

    def has_tokenizer(self) -> bool:
        """Whether the metadata have a tokenizer."""
        kind = self.header.metadata.get("tokenizer.ggml.model", "none")
        return not isinstance(kind, str) or kind not in ("none", "no_vocab")

    def tokenizer(self) -> VishwamAITokenizer:
        """The tokenizer. Raises `TokenizerError`."""
        return VishwamAITokenizer(*read_vocabulary(self.header.metadata, str(self.path)))

    def _generation(self) -> GenerationConfig:
        return parse_settings(self.config_json, str(self.path))

    def _dtype(self) -> str:
        """The type in which most bytes are, as a dtype where it is one: "float16", "q4_k"."""
        sizes: dict[str, int] = {}
        for info in self.header.tensors.values():
            sizes[info.type] = sizes.get(info.type, 0) + info.nbytes
        most = max(sizes, key=lambda kind: sizes[kind], default="F32")
        return PLAIN[most].name if most in PLAIN else most.lower()


def stored_change(piece: TensorPiece, family: Family, cfg: ModelConfig) -> Change:
    """How the values of a piece's tensor differ from those in the file."""
    tables, path = family.gguf, piece.path.split(".", 3)[-1] if piece.path.startswith("stacks.") else piece.path
    if path in tables.permuted:
        heads = cfg.n_heads if path.startswith("attn.q") else cfg.n_kv_heads
        # In each head the pairs that turn together are neighbours in the file, and halves here.
        order = np.arange(piece.shape[0]).reshape(heads, -1, 2).transpose(0, 2, 1).reshape(-1)
        return Change(order=order)
    return Change(added=-tables.norm_offset if path.endswith("norm.scale") else 0.0)


def is_alike(shape: tuple[int, ...], other: tuple[int, ...]) -> bool:
    """Whether shapes are the same but for axes of one."""
    return shape != other and [n for n in shape if n != 1] == [n for n in other if n != 1]


def open_source(
    name: str | os.PathLike[str], *, revision: str | None = None, part: Part = "model", gguf_file: str | None = None
) -> CheckpointSource:
    """The checkpoint that a name leads to, as `hub.resolve` finds it: a folder's, or a GGUF file's."""
    found = hub.resolve(name, revision=revision, part=part, gguf_file=gguf_file)
    return CheckpointSource(found) if found.is_dir() else GGUFSource(found)


def find_tokenizer(source: CheckpointSource) -> Callable[[], VishwamAITokenizer] | None:
    """What reads a checkpoint's tokenizer; None where it has none."""
    if isinstance(source, GGUFSource):
        return source.tokenizer if source.has_tokenizer() else None
    there = any((source.path / file).exists() for file in ("tokenizer.json", "tokenizer.model"))
    return functools.partial(VishwamAITokenizer.from_folder, source.path) if there else None
