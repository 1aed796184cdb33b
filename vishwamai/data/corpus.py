"""What a run trains on, from its configuration: sources mixed, tokenised, and numbered for a loader.

It knows no model beyond the size of its vocabulary.
"""

import dataclasses
import itertools
from pathlib import Path

from vishwamai.data import sources
from vishwamai.data.loader import Samples
from vishwamai.data.rows import encode_row
from vishwamai.errors import ConfigError
from vishwamai.text.tokenizer import VishwamAITokenizer

LAST_QUESTION = "{{ messages[-1]['content'] }}"  # rows are a question and its answer: no roles, no turns
KINDS = ("generated", "text", "jsonl")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Source:
    """One source: `generated` by name, or a `text` or `jsonl` file by path; `weight` is its share of the rows."""

    kind: str
    name: str
    weight: float = 1.0

    def __post_init__(self):
        if self.kind not in KINDS:
            raise ConfigError(f"a source's kind is {self.kind!r}; it must be one of {', '.join(KINDS)}")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Data:
    """The sources, and the tokenizer: a model's name or folder, `bytes`, or `train` for one made from these sources."""

    sources: tuple[Source, ...]
    tokenizer: str = "train"
    tokenizer_rows: int = 20000
    seed: int = 0


def rows(data: Data, split: str = "train") -> sources.Rows:
    """Row number -> row, over all sources. The `held_out` split has the generated sources alone."""
    parts = {}
    for s in data.sources:
        if s.kind == "generated":
            parts[s.name] = sources.from_generated(s.name, data.seed, split), s.weight
        elif split == "train":
            read = sources.from_text if s.kind == "text" else sources.from_jsonl
            parts[s.name] = read(s.name, data.seed), s.weight
    return sources.mixture(parts, data.seed)


def tokenizer(data: Data, vocab_size: int, folder: Path) -> VishwamAITokenizer:
    """The run's tokenizer; one that is trained is kept in `folder` and found there again."""
    if data.tokenizer == "bytes":
        return VishwamAITokenizer.bytes()
    if data.tokenizer != "train":
        return VishwamAITokenizer.from_pretrained(data.tokenizer)
    if not (folder / "tokenizer.json").exists():
        row = rows(data)
        texts = itertools.chain(_numbers(), (row(i).text for i in range(data.tokenizer_rows)))
        made = VishwamAITokenizer.train(texts, vocab_size).with_tokens(templates=(("default", LAST_QUESTION),))
        made.save_pretrained(folder)
    return VishwamAITokenizer.from_pretrained(str(folder))


def samples(data: Data, tokenizer: VishwamAITokenizer, split: str = "train") -> Samples:
    """Sample number -> tokens and their weights in the loss."""
    row = rows(data, split)
    return lambda i: encode_row(tokenizer, row(i))


def _numbers() -> list[str]:
    """Text that makes each number up to 200 a token: the generated corpora calculate with whole numbers."""
    return ["".join(f" {i}" for i in range(201))] * 40
