"""What a checkpoint is read from, as loading, inspecting and converting ask for it: a Hugging Face folder.

Checkpoints of other formats are subclasses, which say the same of theirs. It knows no weights.
"""

import functools
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from vishwamai import hub
from vishwamai.errors import CheckpointError
from vishwamai.hf import config, safetensors
from vishwamai.hf.config import Pretrained
from vishwamai.hf.families import FAMILIES
from vishwamai.hf.family import Family
from vishwamai.hf.folder import Folder
from vishwamai.hf.problem import CheckpointProblem
from vishwamai.hf.safetensors import Tensor

TOKENIZER_PATTERNS = """
    tokenizer.json tokenizer.model tokenizer_config.json special_tokens_map.json added_tokens.json vocab.json merges.txt
    vocab.txt chat_template.json chat_template*.jinja additional_chat_templates/*.jinja
""".split()
WEIGHT_SUFFIXES = (".safetensors", ".bin", ".pt", ".pth", ".pkl")


class CheckpointSource:
    """A Hugging Face folder: `path` is where it lies."""

    def __init__(self, path: Path):
        self.path = Path(path)

    @functools.cached_property
    def config_json(self) -> Mapping[str, Any]:
        """The object of its config.json. Raises `ConfigError`."""
        return config.load_config_json(self.path)

    @functools.cached_property
    def pretrained(self) -> Pretrained:
        """What it says of its model. Raises `ConfigError`."""
        return config.read_pretrained(self.path)

    def config_problems(self) -> Iterator[CheckpointProblem]:
        """Yields all that is not supported in its configuration."""
        return config.config_problems(self.path)

    def family(self, model_type: str) -> Family:
        """A family with the names that its tensors have here."""
        return FAMILIES[model_type]

    def stored(self) -> Mapping[str, Tensor]:
        """Its tensors by name, as they are stored. Raises `CheckpointError`."""
        return safetensors.read_folder(self.path)

    def has_weights(self) -> bool:
        """Whether there are weights: not in a folder of the cache that was not fetched whole."""
        cached = self.path.resolve().parent.name == "snapshots"
        there = any(file.suffix in WEIGHT_SUFFIXES or file.name == hub.INDEX for file in self.path.iterdir())
        return there and not (cached and not hub.is_complete(self.path))

    def open(self, pretrained: Pretrained) -> Folder:
        """Its tensors by the names that the family's tables have, where its files left a prefix away."""
        found, family = self.stored(), self.family(pretrained.model_type)
        if family.prefix and not any(name.startswith(family.prefix) for name in found):
            head = family.whole["lm_head"]
            found = {name if name == head else family.prefix + name: tensor for name, tensor in found.items()}
        return Folder(self.path, found, pretrained.storage)

    def model_files(self) -> list[Path]:
        """The files that a model is read from: its configuration and its weights."""
        kept = [name for name in ("config.json", "generation_config.json", hub.INDEX) if (self.path / name).is_file()]
        kept += {tensor.path.name for tensor in self.stored().values()}
        return [self.path / name for name in kept]

    def tokenizer_files(self) -> list[Path]:
        """The files that its tokenizer is read from. Raises `CheckpointError` for a link out of the folder."""
        found = sorted({path for pattern in TOKENIZER_PATTERNS for path in self.path.glob(pattern) if path.is_file()})
        for path in found:
            if not hub.stays_inside(self.path, path):
                raise CheckpointError(f"{path} is a link that leads out of its folder; put the file itself there")
        return found

    def write_tokenizer(self, folder: Path) -> None:
        """Writes its tokenizer's files to a folder, as they are."""
        for file in self.tokenizer_files():
            copy = folder / file.relative_to(self.path)
            copy.parent.mkdir(exist_ok=True)
            safetensors.write_bytes(copy, [file.read_bytes()])


def as_source(given: Path | CheckpointSource) -> CheckpointSource:
    """A source, where a folder may be meant."""
    return given if isinstance(given, CheckpointSource) else CheckpointSource(given)
