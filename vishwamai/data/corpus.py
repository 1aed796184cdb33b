"""What a run trains on, from its configuration: sources tokenised, mixed, and numbered for a loader.

Grain shuffles and mixes: row i of a mixture is found without those before it, so no order is ever held in memory. It
knows no model beyond the size of its vocabulary.
"""

import dataclasses
import functools
import itertools
import os
import re
import sys
import zlib
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from vishwamai.config import check_numbers
from vishwamai.data import generated, sources
from vishwamai.data.forms import PLAIN, AnyRow, RowFormat
from vishwamai.data.packing import Sample, Samples, has_target
from vishwamai.data.readers import Part, Record, find_files, find_parts
from vishwamai.data.records import read_row
from vishwamai.data.rows import ChatRow, encode_row
from vishwamai.data.tokenise import Job, read_rows
from vishwamai.data.tokenised import (
    TokenisedRows,
    digest_known_file,
    digest_records,
    name_folder,
    open_given,
    tokenise,
)
from vishwamai.errors import ConfigError, DataError
from vishwamai.parallel import hosts
from vishwamai.progress import Progress, silent
from vishwamai.text import bpe
from vishwamai.text.templates import ROLE_TEMPLATE
from vishwamai.text.tokenizer import VishwamAITokenizer

LAST_QUESTION = "{{ messages[-1]['content'] }}"  # rows are a question and its answer: no roles, no turns
CONTROL = re.compile("|".join(map(re.escape, bpe.SPECIAL_TOKENS)))  # no merges are learnt from their text
WHOLE = ("tokenizer.json", "tokenizer_config.json")  # a tokenizer without its end token would be no other to look at
VARIABLE = "VISHWAMAI_ROWS_CACHE"  # a folder, where the configuration names none
KINDS = ("generated", "text", "jsonl", "parquet", "datasets", "memory")
BAD_ROWS = ("refuse", "skip")
ORDER = "the order of rows"  # of files; another number for another way to shuffle

Given = Mapping[str, Iterable[Any]]  # records of sources of the kind `memory`, by name


@dataclasses.dataclass(frozen=True, kw_only=True)
class Source:
    """One source: `generated` by name; `text`, `jsonl` or `parquet` files by the path of one, of their folder or by a
    glob; a folder that `datasets` saved; or `memory`, records that are given by that name. `weight` is its share of the
    rows, and `rows` says how its records are rows.

    `held_out` is the share of a source's rows that is kept for evaluation; generated ones hold out rows of their own.
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
    """The sources, and the tokenizer: a model's name or folder, `bytes`, or `train` for one made from these sources.

    The mixture is endless, or it stops when the first of its sources (or the last) has been gone through `epochs`
    times. `bad_rows` that cannot be read are refused, or skipped and counted. Tokenised rows are kept in `cache`.
    """

    sources: tuple[Source, ...]
    tokenizer: str = "train"
    tokenizer_rows: int = 20000
    seed: int = 0
    stop: str = "endless"
    epochs: int = 1
    bad_rows: str = "refuse"
    cache: str | None = None
    processes: int | None = None

    def __post_init__(self):
        check_numbers(self, "tokenizer_rows", "epochs", "processes", least=1, section="training.data.")
        check_numbers(self, "seed", section="training.data.")
        for field, allowed in (("stop", sources.STOPS), ("bad_rows", BAD_ROWS)):
            if (value := getattr(self, field)) not in allowed:
                raise ConfigError(f"training.data.{field} is {value!r}; it must be one of {', '.join(allowed)}")
        if not any(source.weight for source in self.sources):
            raise ConfigError("training.data.sources holds none of a weight over 0; name at least one")
        if self.stop != "endless" and all(source.kind == "generated" for source in self.used("train")):
            raise ConfigError(f"training.data.stop is {self.stop!r}, and generated rows never end; leave it out")
        if self.stop == "endless" and self.epochs != 1:
            raise ConfigError("training.data.epochs would do nothing: set training.data.stop too")

    def used(self, split: str) -> list[Source]:
        """The sources that give rows to a split ("train", or "held_out")."""
        return [s for s in self.sources if (s.weight > 0 if split == "train" else s.has_held_out)]

    @property
    def cache_folder(self) -> Path:
        """Where tokenised rows are kept."""
        if (asked := self.cache or os.environ.get(VARIABLE)) is not None:
            return Path(asked).expanduser()
        from platformdirs import user_cache_path

        return user_cache_path("vishwamai", appauthor=False) / "rows"


def tokenizer(data: Data, vocab_size: int, folder: Path, given: Given | None = None) -> VishwamAITokenizer:
    """The run's tokenizer, of at most `vocab_size` tokens; one that is trained is kept in `folder` and found there.

    Raises `ConfigError` where it has more tokens than the model has a place for.
    """
    found = _tokenizer(data, vocab_size, folder, given or {})
    if len(found) > vocab_size:
        raise ConfigError(
            f"the tokenizer {data.tokenizer!r} has {len(found)} tokens and the model has a place for {vocab_size}; "
            "make model.vocab_size that large"
        )
    return found.with_tokens(templates=(("default", ROLE_TEMPLATE),)) if _has_chats(data) else found


def _has_chats(data: Data) -> bool:
    return any(source.kind == "generated" and source.name in generated.CHATS for source in data.sources)


def _tokenizer(data: Data, vocab_size: int, folder: Path, given: Given) -> VishwamAITokenizer:
    if data.tokenizer == "bytes":
        return VishwamAITokenizer.bytes()
    if data.tokenizer != "train":
        return VishwamAITokenizer.from_pretrained(data.tokenizer)
    if all((folder / file).exists() for file in WHOLE):
        return VishwamAITokenizer.from_folder(folder)
    drawn = list(map(_draw_rows(data, given), range(data.tokenizer_rows)))
    spans = (text for row in drawn for text, _ in row.text_spans)  # as they are encoded
    texts = itertools.chain(_numbers(), (part for text in spans for part in CONTROL.split(text)))
    template = ROLE_TEMPLATE if any(isinstance(row, ChatRow) for row in drawn) else LAST_QUESTION
    made = VishwamAITokenizer.train(texts, vocab_size).with_tokens(templates=(("default", template),))
    if hosts.is_first():
        made.save_pretrained(folder)
    return made


def _draw_rows(data: Data, given: Given) -> sources.Rows:
    """Row number -> one of the rows that a tokenizer is made from: of files some from each part, as they are mixed."""
    used = data.used("train")
    total = sum(s.weight for s in used)
    parts = []
    for s in used:
        if s.kind == "generated":
            parts.append((sources.from_generated(s.name, data.seed), s.weight))
        else:
            some = _first_rows(s, data, given, -int(-data.tokenizer_rows * s.weight // total))
            parts.append((lambda i, some=some: some[i % len(some)], s.weight))
    return sources.mix(parts, data.seed)


def _first_rows(source: Source, data: Data, given: Given, wanted: int) -> list[AnyRow]:
    """Some rows of a file or of memory, as many from each part; none that are held out. Raises `DataError`."""
    parts, records = _parts(source), _records(source, given)

    def make(value: Any, path: str, line: int) -> AnyRow:
        return read_row(source.kind, value, source.rows, path, line)

    def read(part: Part) -> Iterable[AnyRow]:
        numbered = None if records is None else map(Record, itertools.count(), records)
        for row in read_rows(source.kind, part, source.rows.columns.names, numbered, make):
            if not isinstance(row, DataError):
                if zlib.crc32(row.text.encode()) >= source.held_out * 2**32:
                    yield row
            elif data.bad_rows == "refuse":
                raise row

    some = -(-wanted // max(1, len(parts)))
    if not (found := [row for part in parts for row in itertools.islice(read(part), some)]):
        raise DataError(f"{source.name} holds no rows")
    return found


def _parts(source: Source) -> list[Part]:
    if source.kind == "memory":
        return [Part(source.name, 0, 0, 0)]
    return [part for path in find_files(source.kind, source.name) for part in find_parts(source.kind, path)]


def _records(source: Source, given: Given) -> Sequence[Any] | None:
    """The records of a source in memory; None of any other. Raises `ConfigError` where they were not given."""
    if source.kind != "memory":
        return None
    if source.name not in given:
        raise ConfigError(f"the source {source.name!r} is in memory: train(..., records={{{source.name!r}: records}})")
    return open_given(given[source.name])


class Corpus:
    """The sources of a run with its tokenizer. What is in files and in memory is tokenised here, if it was not before.

    Raises `DataError` where a source has no row to learn from, or one that breaks and is not skipped, or rows cannot be
    kept, and `ConfigError` where records in memory were not given.
    """

    def __init__(self, data: Data, tokenizer: Any, given: Given | None = None, progress: Progress = silent):
        self.data, self.tokenizer = data, tokenizer
        named, texts = _digests_of_tokenizer(tokenizer), data.used("train")
        self.digests, self.rows = dict(named), {}
        for source in (s for s in texts if s.kind != "generated"):
            records = _records(source, given or {})
            files = [] if records is not None else find_files(source.kind, source.name)
            crcs = [digest_known_file(path, data.cache_folder) for path in files]
            crcs = crcs if records is None else [digest_records(records)]
            self.digests[source.name] = crcs[0] if len(crcs) == 1 else zlib.crc32(repr(crcs).encode())
            self.digests[ORDER] = 2
            self.rows[source] = self._tokenise(source, records, crcs, named, progress)

    def _tokenise(
        self, source: Source, records: Any, crcs: list[int], named: dict[str, int], progress: Progress
    ) -> TokenisedRows:
        skip = self.data.bad_rows == "skip"
        how = {k: v for k, v in dataclasses.asdict(source).items() if k not in ("name", "weight", "held_out")}
        folder = self.data.cache_folder / name_folder({"files": crcs, "how": how, "skip": skip, **named})
        job = Job(self.tokenizer, source.kind, source.rows, skip, str(folder))
        processes = self.data.processes or os.cpu_count() or 1
        with progress(f"tokenising {source.name}") as report:
            rows = tokenise(job, lambda: _parts(source), records, folder, processes, report)
        if not len(rows):
            nothing = rows.facts["nothing"]
            why = f"its {nothing:,} rows have nothing to predict" if nothing else "it holds no rows"
            raise DataError(f"{source.name}: {why}{''.join(f'; {text}' for text in rows.problems[:1])}")
        return rows

    def describe(self) -> list[str]:
        """A line on each source of files or memory: its rows, its tokens, and what was left out."""
        lines = []
        for source, rows in self.rows.items():
            facts, told = rows.facts, "".join(f"\n  {text}" for text in rows.problems)
            left_out = f"; {facts['nothing']:,} rows have nothing to predict" if facts["nothing"] else ""
            left_out += f"; {facts['skipped']:,} could not be read and were skipped, the first:{told}" if told else ""
            lines.append(f"{source.name}: {facts['rows']:,} rows of {facts['tokens']:,} tokens{left_out}")
        return lines

    def samples(self, split: str = "train") -> Samples:
        """Sample number -> tokens and their weights in the loss, of a split ("train" or "held_out")."""
        import grain

        used, seed, known = self.data.used(split), self.data.seed, []
        for source in used:
            if source.kind == "generated":
                known.append((grain.MapDataset.source(_Generated(source.name, seed, split, self.tokenizer)), None))
            else:
                name = f"{source.name} ({split}) {seed}"
                picked = _Picked(source, self.rows[source], split)
                known.append((grain.MapDataset.source(picked).shuffle(zlib.crc32(name.encode())), len(picked)))
        ends = {"stop": self.data.stop, "epochs": self.data.epochs} if split == "train" else {}
        mixture = sources.Mixture([s.weight for s in used], seed, [size for _, size in known], **ends)
        rows = grain.MapDataset.select_from_datasets([rows for rows, _ in known], mixture)
        found = functools.lru_cache(maxsize=4)(rows.__getitem__)
        return Samples(lambda i: found(i).read(), lambda i: found(i).length, mixture.end)


class _Row:
    """A row that is read when it is asked for."""

    def __init__(self, rows: TokenisedRows, number: int):
        self.length, self._rows, self._number = int(rows.lengths[number]), rows, number

    def read(self) -> Sample:
        return self._rows[self._number]


class _Picked:
    """The rows of a split of a tokenised source."""

    def __init__(self, source: Source, rows: TokenisedRows, split: str):
        self._rows, self._numbers = rows, None
        if source.held_out:
            self._numbers = rows.find_split(source.held_out)[split == "held_out"]
            if not len(self._numbers):
                raise DataError(f"{source.name} ({split}) holds no rows; of {len(rows):,} none falls to this split")

    def __len__(self) -> int:
        return len(self._rows if self._numbers is None else self._numbers)

    def __getitem__(self, i: int) -> _Row:
        return _Row(self._rows, i if self._numbers is None else int(self._numbers[i]))


class _EncodedRow:
    """A generated row."""

    def __init__(self, sample: Sample):
        self._sample, self.length = sample, len(sample[0]) if has_target(sample[1]) else 0

    def read(self) -> Sample:
        return self._sample


class _Generated:
    """The rows of a generated corpus, which has no end."""

    def __init__(self, name: str, seed: int, split: str, tokenizer: Any):
        self._row, self._tokenizer = sources.from_generated(name, seed, split), tokenizer

    def __len__(self) -> int:
        return sys.maxsize

    def __getitem__(self, i: int) -> _EncodedRow:
        return _EncodedRow(encode_row(self._tokenizer, self._row(i)))


def _digests_of_tokenizer(tokenizer: VishwamAITokenizer) -> dict[str, int]:
    """A number for the tokenizer and one for its chat templates: another one means other rows."""
    texts = {
        "the tokenizer": f"{tokenizer.backend.to_str()} {tokenizer.eos_token}",
        "the chat template": repr(sorted(tokenizer.settings.templates)),
    }
    return {name: zlib.crc32(text.encode()) for name, text in texts.items()}


def _numbers() -> list[str]:
    """Text that makes each number up to 200 a token: the generated corpora calculate with whole numbers."""
    return ["".join(f" {i}" for i in range(201))] * 40
