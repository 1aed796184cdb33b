"""What a run trains on, from its configuration: sources mixed, tokenised, and numbered for a loader.

It knows no model beyond the size of its vocabulary.
"""

import dataclasses
import functools
import itertools
import re
import zlib
from pathlib import Path

from vishwamai.config import check_numbers
from vishwamai.data import generated, sources
from vishwamai.data.forms import PLAIN, RowFormat
from vishwamai.data.packing import Samples
from vishwamai.data.rows import ChatRow, encode_row
from vishwamai.errors import ConfigError
from vishwamai.parallel import hosts
from vishwamai.text import bpe
from vishwamai.text.templates import ROLE_TEMPLATE
from vishwamai.text.tokenizer import VishwamAITokenizer

LAST_QUESTION = "{{ messages[-1]['content'] }}"  # rows are a question and its answer: no roles, no turns
CONTROL = re.compile("|".join(map(re.escape, bpe.SPECIAL_TOKENS)))  # no merges are learnt from their text
WHOLE = ("tokenizer.json", "tokenizer_config.json")  # a tokenizer without its end token would be no other to look at
KINDS = ("generated", "text", "jsonl")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Source:
    """One source: `generated` by name, or a `text` or `jsonl` file by path; `weight` is its share of the rows.

    `held_out` is the share of a file's rows that is kept for evaluation; generated sources hold out rows of their own.
    `rows` says how the records of a file are rows.
    """

    kind: str
    name: str
    weight: float = 1.0
    held_out: float = 0.0
    rows: RowFormat = PLAIN

    def __post_init__(self):
        if self.kind not in KINDS:
            raise ConfigError(f"a source's kind is {self.kind!r}; it must be one of {', '.join(KINDS)}")
        check_numbers(self, "weight", least=0, section=f"the source {self.name!r}: ")
        check_numbers(self, "held_out", least=0, below=1, section=f"the source {self.name!r}: ")
        if self.kind == "generated" and self.held_out:
            raise ConfigError(f"the generated source {self.name!r} holds out rows of its own; leave held_out away")
        if self.kind == "generated" and self.rows != PLAIN:
            raise ConfigError(f"the generated source {self.name!r} has rows of its own form; leave rows away")

    @property
    def has_held_out(self) -> bool:
        """Whether there are rows to evaluate on."""
        return self.weight > 0 and (self.kind == "generated" or self.held_out > 0)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Data:
    """The sources, and the tokenizer: a model's name or folder, `bytes`, or `train` for one made from these sources."""

    sources: tuple[Source, ...]
    tokenizer: str = "train"
    tokenizer_rows: int = 20000
    seed: int = 0

    def __post_init__(self):
        check_numbers(self, "tokenizer_rows", least=1, section="training.data.")
        check_numbers(self, "seed", section="training.data.")
        if not any(source.weight for source in self.sources):
            raise ConfigError("training.data.sources holds none of a weight over 0; name at least one")


def rows(data: Data, split: str = "train") -> sources.Rows:
    """Row number -> row, over all sources of a split ("train", or "held_out" of those that hold rows out)."""
    used = [s for s in data.sources if (s.weight > 0 if split == "train" else s.has_held_out)]
    return sources.mix([(_source_rows(s, data.seed, split), s.weight) for s in used], data.seed)


def _source_rows(source: Source, seed: int, split: str) -> sources.Rows:
    if source.kind == "generated":
        return sources.from_generated(source.name, seed, split)
    read = sources.from_text if source.kind == "text" else sources.from_jsonl
    parts = sources.split_rows(read(source.name, source.rows), source.held_out)
    return sources.shuffle_rows(parts[split], seed, f"{source.name} ({split})" if source.held_out else source.name)


def tokenizer(data: Data, vocab_size: int, folder: Path) -> VishwamAITokenizer:
    """The run's tokenizer, of at most `vocab_size` tokens; one that is trained is kept in `folder` and found there.

    Raises `ConfigError` where it has more tokens than the model has a place for.
    """
    found = _tokenizer(data, vocab_size, folder)
    if len(found) > vocab_size:
        raise ConfigError(
            f"the tokenizer {data.tokenizer!r} has {len(found)} tokens and the model has a place for {vocab_size}; "
            "make model.vocab_size that large"
        )
    return found.with_tokens(templates=(("default", ROLE_TEMPLATE),)) if _has_chats(data) else found


def _has_chats(data: Data) -> bool:
    return any(source.kind == "generated" and source.name in generated.CHATS for source in data.sources)


def _tokenizer(data: Data, vocab_size: int, folder: Path) -> VishwamAITokenizer:
    if data.tokenizer == "bytes":
        return VishwamAITokenizer.bytes()
    if data.tokenizer != "train":
        return VishwamAITokenizer.from_pretrained(data.tokenizer)
    if all((folder / file).exists() for file in WHOLE):
        return VishwamAITokenizer.from_folder(folder)
    drawn = list(map(rows(data), range(data.tokenizer_rows)))
    spans = (text for row in drawn for text, _ in row.text_spans)  # as they are encoded
    texts = itertools.chain(_numbers(), (part for text in spans for part in CONTROL.split(text)))
    template = ROLE_TEMPLATE if any(isinstance(row, ChatRow) for row in drawn) else LAST_QUESTION
    made = VishwamAITokenizer.train(texts, vocab_size).with_tokens(templates=(("default", template),))
    if hosts.is_first():
        made.save_pretrained(folder)
    return made


def samples(data: Data, tokenizer: VishwamAITokenizer, split: str = "train") -> Samples:
    """Sample number -> tokens and their weights in the loss. A row longer than a batch is asked for many times."""
    row = rows(data, split)
    return functools.lru_cache(maxsize=4)(lambda i: encode_row(tokenizer, row(i)))


def digests(data: Data, tokenizer: VishwamAITokenizer) -> dict[str, int]:
    """A number for what each file of the sources holds and for the tokenizer: another one means other rows."""
    files = {s.name: zlib.crc32(Path(s.name).read_bytes()) for s in data.sources if s.weight and s.kind != "generated"}
    texts = {
        "the tokenizer": f"{tokenizer.backend.to_str()} {tokenizer.eos_token}",
        "the chat template": repr(sorted(tokenizer.settings.templates)),
    }
    return {**files, **{name: zlib.crc32(text.encode()) for name, text in texts.items()}}


def _numbers() -> list[str]:
    """Text that makes each number up to 200 a token: the generated corpora calculate with whole numbers."""
    return ["".join(f" {i}" for i in range(201))] * 40
