"""`VishwamAITokenizer`: text to ids and ids to text, over the `tokenizers` library.

Control tokens: `encode` reads the text of a special token (`<|eos|>`) as that token, as Hugging Face's tokenizers do,
unless `allow_special=False`; in chat (`text.chat`) what a person typed never becomes one. Decoding never cleans up
spaces. It knows no model, no device but for the arrays it is asked for, and no template syntax.
"""

import dataclasses
from collections.abc import Collection, Iterable, Sequence
from pathlib import Path
from typing import Any, Self

import numpy as np
from tokenizers import Encoding, Tokenizer

from vishwamai.errors import InputError, TokenizerError
from vishwamai.text import bpe, plain
from vishwamai.text.backend import backend_errors, check_backend, load_backend
from vishwamai.text.batch import Batch, Padding, Side, batch_of, check_tensors, to_array
from vishwamai.text.sentencepiece_model import load_sentencepiece
from vishwamai.text.settings import NAMED, Settings, read_settings, write_settings
from vishwamai.text.special import apply_settings, named_tokens

MAX_CHARACTERS = 1 << 23


class VishwamAITokenizer:
    """A tokenizer that is never changed once made; `with_tokens` gives another."""

    def __init__(self, backend: Tokenizer, settings: Settings | None = None):
        """Takes the backend over. `settings` may name tokens that it lacks: they are added to the vocabulary.

        `special_ids` are the ids that `skip_special_tokens` skips, `control_ids` those that text must not forge.
        """
        self.settings = settings or Settings()
        self.backend = check_backend(apply_settings(backend, self.settings), "the tokenizer")
        vocab = self.backend.get_vocab(with_added_tokens=True)
        self._size = max(vocab.values()) + 1
        self.special_ids = frozenset(i for i, t in self.backend.get_added_tokens_decoder().items() if t.special)
        self.control_ids = self._control_ids()

    # Where tokenizers come from.

    @classmethod
    def from_pretrained(cls, name: str | Path, *, revision: str | None = None) -> Self:
        """The tokenizer of a model: a built-in name, a local folder, or a Hugging Face repository id."""
        from vishwamai.hub import resolve

        return cls.from_folder(resolve(str(name), revision=revision, part="tokenizer"))

    @classmethod
    def from_folder(cls, folder: str | Path) -> Self:
        """The tokenizer in a folder with `tokenizer.json` (or a SentencePiece `tokenizer.model`) and its settings."""
        folder = Path(folder)
        if not folder.is_dir():
            raise TokenizerError(f"{folder}: is not a folder; give one that holds a tokenizer.json")
        said = read_settings(folder)
        if (folder / "tokenizer.json").exists():
            # What tokenizer.json puts round a text stands; like transformers 5, no flag beside it changes that.
            said = dataclasses.replace(said, add_bos=None, add_eos=None)
            return cls(load_backend(folder / "tokenizer.json"), said)
        if (folder / "tokenizer.model").exists():
            backend, own = load_sentencepiece(folder / "tokenizer.model")
            return cls(backend, dataclasses.replace(said, **{n: getattr(said, n) or getattr(own, n) for n in NAMED}))
        raise TokenizerError(f"{folder}: has neither tokenizer.json nor tokenizer.model; one of them must be there")

    @classmethod
    def from_file(cls, path: str | Path) -> Self:
        """The tokenizer in one `tokenizer.json` or SentencePiece `.model`; the settings beside it are not read."""
        path = Path(path)
        return cls(*load_sentencepiece(path)) if path.suffix == ".model" else cls(load_backend(path))

    @classmethod
    def bytes(cls) -> Self:
        """The byte tokenizer: id = byte of the UTF-8 text; `<|bos|>`, `<|eos|>`, `<|pad|>` and four roles from 256."""
        return cls(bpe.byte_tokenizer(), _own_settings(bpe.SPECIAL_TOKENS))

    @classmethod
    def train(
        cls,
        texts: Iterable[str],
        vocab_size: int,
        *,
        special_tokens: Sequence[str] = bpe.SPECIAL_TOKENS,
        pattern: str | None = None,
    ) -> Self:
        """A byte-level BPE tokenizer trained on `texts` (see `bpe.train_bpe`); it adds no token to a text by itself."""
        backend = bpe.train_bpe(texts, vocab_size, special_tokens=special_tokens, pattern=pattern)
        return cls(backend, _own_settings(special_tokens))

    def with_tokens(self, **changes: Any) -> Self:
        """The same tokenizer with other settings, e.g. `pad_token="<|eos|>"`, `add_bos=True` (fields of `Settings`)."""
        known = {field.name for field in dataclasses.fields(Settings)}
        if unknown := sorted(set(changes) - known):
            raise InputError(f"unknown settings {unknown}; there are {sorted(known)}")
        copy = Tokenizer.from_str(self.backend.to_str())
        return type(self)(copy, dataclasses.replace(self.settings, **changes))

    def save_pretrained(self, folder: str | Path) -> None:
        """Writes `tokenizer.json`, `tokenizer_config.json` and the chat templates; `transformers` reads them too.

        Raises `TokenizerError` where the folder cannot be made or written to.
        """
        folder = Path(folder)
        with backend_errors(f"{folder}: the tokenizer could not be written"):
            text = self.backend.to_str(pretty=True)
        try:
            folder.mkdir(parents=True, exist_ok=True)
            (folder / "tokenizer.json").write_text(text, encoding="utf-8")
            write_settings(folder, self.settings)
        except OSError as error:
            raise TokenizerError(f"{folder}: cannot be written to ({error.strerror}); name another folder") from None

    # Text to ids.

    def encode(
        self,
        text: str,
        return_tensors: str | None = None,
        add_special_tokens: bool = True,
        allow_special: bool | Collection[str] = True,
    ) -> Any:
        """Ids of a text: a list, or for `return_tensors` "jax"/"np" an int32 array [1, T].

        `add_special_tokens`: put round it what the model's tokenizer puts (often a start token). `allow_special`: which
        special tokens' text is read as the token: all, none, or those named. Raises `TokenizerError` for text that is
        not UTF-8 (lone surrogates) or longer than 8,388,608 characters.
        """
        check_tensors(return_tensors)
        if allow_special is True:
            ids = self._encoding(text, add_special_tokens).ids
        else:
            ids = self._encode_plain(text, add_special_tokens, frozenset(allow_special or ()))
        return ids if return_tensors is None else to_array([ids], return_tensors)

    def batch_encode(
        self,
        texts: Sequence[str],
        padding: Padding = False,
        truncation: bool = False,
        max_length: int | None = None,
        padding_side: Side = "right",
        return_tensors: str | None = None,
        add_special_tokens: bool = True,
    ) -> Batch:
        """Ids and attention masks of several texts, as Hugging Face's tokenizers give them.

        `padding` True/"longest" pads to the longest, "max_length" to `max_length`; `truncation` cuts the end of texts
        over `max_length` (the model's own where None), special tokens kept. Arrays need rows of one length. A
        `max_length` that would do neither is refused.
        """
        if isinstance(texts, str):
            raise InputError("batch_encode takes a list of texts; for one text use encode")
        if max_length is not None and not truncation and padding != "max_length":
            raise InputError(
                f'max_length={max_length!r} would do nothing: pass truncation=True to cut, or padding="max_length"'
            )
        limit = self._limit(max_length) if truncation or padding == "max_length" else None
        rows = [self._row(text, add_special_tokens, limit if truncation else None) for text in texts]
        return batch_of(rows, padding, limit, padding_side, self.pad_token_id, return_tensors)

    def _encoding(self, text: str, add_special_tokens: bool) -> Encoding:
        _check_text(text)
        with backend_errors("the text could not be encoded"):
            return self.backend.encode(text, add_special_tokens=add_special_tokens)

    def _encode_plain(self, text: str, add_special_tokens: bool, allowed: frozenset[str]) -> list[int]:
        _check_text(text)
        controls = {index: 1 for index in self.control_ids if self.backend.id_to_token(index) not in allowed}
        ids = plain.encode_plain(self.backend, text, controls)
        if not add_special_tokens:
            return ids
        around = self._encoding("a", True)
        real = [index for index, special in enumerate(around.special_tokens_mask) if not special]
        return around.ids[: real[0]] + ids + around.ids[real[-1] + 1 :]

    def _row(self, text: str, add_special_tokens: bool, limit: int | None) -> list[int]:
        if limit is None:
            return self._encoding(text, add_special_tokens).ids
        encoding = self._encoding(text, False)
        around = self.backend.num_special_tokens_to_add(False) if add_special_tokens else 0
        if limit < around:
            raise InputError(f"max_length {limit} leaves no room for the {around} special tokens round a text")
        encoding.truncate(limit - around)
        return self.backend.post_process(encoding, None, add_special_tokens).ids

    def _limit(self, max_length: int | None) -> int:
        limit = self.settings.max_length if max_length is None else max_length
        if limit is None:
            raise InputError("give max_length: this tokenizer does not say how long a text may be")
        if isinstance(limit, bool) or not isinstance(limit, int | np.integer) or limit < 1:
            raise InputError(f"max_length is {limit!r}; it must be a whole number of tokens, at least 1")
        return int(limit)

    # Ids to text.

    def decode(self, ids: Any, skip_special_tokens: bool = False) -> str:
        """The text of ids: a list, an array [T], or one id. Bytes that make no character become U+FFFD.

        Raises `TokenizerError` for an id outside the vocabulary, `InputError` for a batch or for numbers not whole.
        """
        row = _row_of_ids(ids)
        if row and not (0 <= min(row) and max(row) < self._size):
            wrong = next(index for index in row if not 0 <= index < self._size)
            raise TokenizerError(f"id {wrong} is outside the vocabulary of {self._size} tokens (0 to {self._size - 1})")
        with backend_errors("the ids could not be decoded"):
            return self.backend.decode(row, skip_special_tokens=skip_special_tokens)

    def batch_decode(self, rows: Iterable[Any], skip_special_tokens: bool = False) -> list[str]:
        """The texts of several rows of ids, e.g. of an array [B, T]."""
        return [self.decode(row, skip_special_tokens) for row in rows]

    # What is in it.

    def __len__(self) -> int:
        return self._size

    @property
    def vocab_size(self) -> int:
        """How many ids there are, added tokens counted (the highest id + 1): rows that an embedding must have."""
        return self._size

    def token_to_id(self, token: str) -> int | None:
        """The id of a token as the vocabulary writes it; None if there is none."""
        return self.backend.token_to_id(token)

    def id_to_token(self, index: int) -> str | None:
        """The token with this id as the vocabulary writes it; None if there is none."""
        return self.backend.id_to_token(index) if 0 <= index < self._size else None

    @property
    def special_tokens(self) -> tuple[str, ...]:
        """The text of every control token, by id."""
        return tuple(str(self.backend.id_to_token(index)) for index in sorted(self.special_ids))

    @property
    def bos_token(self) -> str | None:
        """The token that starts a text."""
        return self.settings.bos_token

    @property
    def eos_token(self) -> str | None:
        """The token that ends a text."""
        return self.settings.eos_token

    @property
    def pad_token(self) -> str | None:
        """The token that fills up a row."""
        return self.settings.pad_token

    @property
    def unk_token(self) -> str | None:
        """The token for what the vocabulary lacks."""
        return self.settings.unk_token

    @property
    def bos_token_id(self) -> int | None:
        """The id of `bos_token`."""
        return self._id(self.bos_token)

    @property
    def eos_token_id(self) -> int | None:
        """The id of `eos_token`."""
        return self._id(self.eos_token)

    @property
    def pad_token_id(self) -> int | None:
        """The id of `pad_token`."""
        return self._id(self.pad_token)

    @property
    def unk_token_id(self) -> int | None:
        """The id of `unk_token`."""
        return self._id(self.unk_token)

    @property
    def eos_token_ids(self) -> list[int]:
        """The ids that end a text, by the tokenizer alone; a model's generation settings may know more."""
        return [] if self.eos_token_id is None else [self.eos_token_id]

    @property
    def chat_template(self) -> str | None:
        """The Jinja source of the default chat template."""
        return dict(self.settings.templates).get("default")

    def _control_ids(self) -> frozenset[int]:
        """The special and the named ids, but for an unknown token that means nothing else."""
        ids = self.special_ids | {self.backend.token_to_id(token) for token in named_tokens(self.settings)}
        means_more = self.unk_token in (self.bos_token, self.eos_token, self.pad_token)
        kept = (index for index in ids if means_more or index != self.unk_token_id)
        return frozenset(index for index in kept if index is not None)

    def _id(self, token: str | None) -> int | None:
        return None if token is None else self.backend.token_to_id(token)


def _own_settings(special_tokens: Sequence[str]) -> Settings:
    bos, eos, pad = (token if token in special_tokens else None for token in (bpe.BOS, bpe.EOS, bpe.PAD))
    return Settings(bos_token=bos, eos_token=eos, pad_token=pad)


def _check_text(text: str) -> None:
    if not isinstance(text, str):
        raise InputError(f"a text is {type(text).__name__}, not str")
    if len(text) > MAX_CHARACTERS:
        raise TokenizerError(f"a text has {len(text):,} characters, over {MAX_CHARACTERS:,}; encode it in parts")
    try:
        text.encode("utf-8")
    except UnicodeEncodeError as error:
        raise TokenizerError(f"the text has a lone surrogate at character {error.start}: it is not UTF-8") from None


def _row_of_ids(ids: Any) -> list[int]:
    if isinstance(ids, list) and all(type(index) is int for index in ids):
        return ids
    try:
        row = np.asarray(ids)
    except ValueError:
        raise InputError("ids are rows of different lengths; decode takes one row: use batch_decode") from None
    if row.size and row.ndim > 1:
        raise InputError(f"ids have the shape {row.shape}; decode takes whole numbers in one row: use batch_decode")
    if row.size and row.dtype.kind not in "iu":
        raise InputError(f"ids are {row.dtype}; decode takes whole numbers in one row")
    return row.reshape(-1).tolist()
