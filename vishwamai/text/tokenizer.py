"""`VishwamAITokenizer`: text to ids and ids to text, over the `tokenizers` library.

Control tokens: `encode` reads the text of a special token (`<|eos|>`) as that token, as Hugging Face's tokenizers do,
unless `allow_special=False`; in chat (`text.chat`) what a person typed never becomes one. Decoding never cleans up
spaces. It knows no model, no device but for the arrays it is asked for, and no template syntax.
"""

import dataclasses
from collections.abc import Collection, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Self

import numpy as np
from tokenizers import Encoding, Tokenizer

from vishwamai.errors import InputError, TokenizerError
from vishwamai.files import replace_files, write_atomic
from vishwamai.text import bpe, plain
from vishwamai.text.backend import backend_errors, check_backend, check_text, load_backend
from vishwamai.text.batch import (
    BatchEncoding,
    Padding,
    Side,
    check_tensors,
    length_limits,
    make_batch,
    rows_of_ids,
    to_array,
    truncated_lengths,
)
from vishwamai.text.sentencepiece_model import load_sentencepiece
from vishwamai.text.settings import NAMED, TOKENIZER_FILES, Settings, read_settings, with_padding, write_settings
from vishwamai.text.special import apply_settings, declared_tokens


class VishwamAITokenizer:
    """A tokenizer that is never changed once made; `with_tokens` gives another."""

    # Tokens by their names and the ids of these, None where there is none.
    bos_token: str | None
    eos_token: str | None
    unk_token: str | None
    sep_token: str | None
    pad_token: str | None
    cls_token: str | None
    mask_token: str | None
    bos_token_id: int | None
    eos_token_id: int | None
    unk_token_id: int | None
    sep_token_id: int | None
    pad_token_id: int | None
    cls_token_id: int | None
    mask_token_id: int | None

    def __init__(self, backend: Tokenizer, settings: Settings | None = None):
        """Takes the backend over. `settings` may name tokens that it lacks: they are added to the vocabulary.

        `special_ids` are the ids that `skip_special_tokens` skips, `control_ids` those that text must not forge.
        """
        self.settings = with_padding(settings or Settings(), backend.padding)
        self.backend = apply_settings(backend, self.settings)
        vocab = check_backend(self.backend, "the tokenizer")
        self.backend.no_padding()
        self.backend.no_truncation()
        self._size = max(vocab.values()) + 1
        self.special_ids = frozenset(i for i, t in self.backend.get_added_tokens_decoder().items() if t.special)
        for name in NAMED:
            token = getattr(self.settings, name)
            setattr(self, name, token)
            setattr(self, f"{name}_id", None if token is None else vocab.get(token))
        self.control_ids = self._control_ids()

    def __setattr__(self, name: str, value: Any) -> None:
        """Raises `InputError` for what is set already: programs hold tokenizers, and ids, that must stay theirs."""
        if name in self.__dict__:
            change = f"{name}={value!r:.40}" if name in NAMED else "..."
            raise InputError(f"a tokenizer is not changed; take another one: tokenizer.with_tokens({change})")
        super().__setattr__(name, value)

    # Where tokenizers come from.

    @classmethod
    def from_pretrained(cls, name: str | Path, *, revision: str | None = None, gguf_file: str | None = None) -> Self:
        """The tokenizer of a model: a built-in name, a local folder or GGUF file, or a Hugging Face repository id.

        Of a folder or a repository that has several GGUF files `gguf_file` names one.
        """
        from vishwamai.hub import resolve

        found = resolve(str(name), revision=revision, part="tokenizer", gguf_file=gguf_file)
        return cls.from_folder(found) if found.is_dir() else cls.from_file(found)

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
        """The tokenizer in one `tokenizer.json`, SentencePiece `.model` or `.gguf`; what lies beside it is not read."""
        path = Path(path)
        if path.suffix == ".gguf":
            from vishwamai.text.gguf_vocabulary import load_gguf

            return cls(*load_gguf(path))
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
            with replace_files(folder, last="tokenizer.json", obsolete=TOKENIZER_FILES) as staging:
                write_settings(staging, self.settings)
                write_atomic(staging / "tokenizer.json", [text.encode()])
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

    def __call__(
        self,
        text: str | Sequence[str] | Sequence[Sequence[str]],
        text_pair: str | Sequence[str] | None = None,
        *,
        add_special_tokens: bool = True,
        padding: Padding = False,
        truncation: bool | str = False,
        max_length: int | None = None,
        padding_side: Side | None = None,
        return_tensors: str | None = None,
        return_token_type_ids: bool | None = None,
    ) -> BatchEncoding:
        """Ids and attention masks of a text, of several, or of pairs of texts, as Hugging Face's tokenizers give them.

        Pairs are two lists, or one list of pairs. One text gives flat lists, several give lists of lists, and
        `return_tensors` "jax" or "np" arrays [B, T].
        `padding` True/"longest" pads to the longest, "max_length" to `max_length`; `truncation` cuts the end of what is
        over `max_length` (the model's own where None), of a pair the longer text first, special tokens kept. A
        `max_length` that would do neither is refused. `padding_side` is the tokenizer's own where None, else "right".
        """
        texts, seconds, is_batch = _texts_of(text, text_pair)
        limit, cut = length_limits(padding, truncation, max_length, self.settings.max_length)
        found = [self._pair(a, b, add_special_tokens, cut) for a, b in zip(texts, seconds, strict=True)]
        with_types = self.settings.token_type_ids if return_token_type_ids is None else return_token_type_ids
        batch = make_batch(
            [encoding.ids for encoding in found],
            padding,
            limit,
            padding_side or self.settings.padding_side or "right",
            self.pad_token_id,
            return_tensors,
            [encoding.type_ids for encoding in found] if with_types else None,
        )
        return batch if is_batch or return_tensors is not None else batch.first()

    def batch_encode(self, texts: Sequence[str], **options: Any) -> BatchEncoding:
        """Calls the tokenizer with several texts; `options` are those of a call."""
        if isinstance(texts, str):
            raise InputError("batch_encode takes a list of texts; for one text use encode")
        return self(texts, **options)

    def apply_chat_template(
        self, conversation: Sequence[Any], tools: Sequence[Mapping[str, Any]] | None = None, **given: Any
    ) -> Any:
        """The prompt of a conversation, or of several; see `text.chat_batch.apply_chat_template`."""
        from vishwamai.text.chat_batch import apply_chat_template

        return apply_chat_template(self, conversation, tools=tools, **given)

    def tokenize(self, text: str, pair: str | None = None, add_special_tokens: bool = False) -> list[str]:
        """The tokens of a text, or of a pair of texts, as the vocabulary writes them."""
        return self._pair(text, pair, add_special_tokens, None).tokens

    def _encoding(self, text: str, add_special_tokens: bool, pair: str | None = None) -> Encoding:
        for one in (text,) if pair is None else (text, pair):
            _check_text(one)
        with backend_errors("the text could not be encoded"):
            return self.backend.encode(text, pair, add_special_tokens=add_special_tokens)

    def _encode_plain(self, text: str, add_special_tokens: bool, allowed: frozenset[str]) -> list[int]:
        ids = self._encoding(text, False).ids
        if not self.control_ids.isdisjoint(ids):
            controls = {index: 1 for index in self.control_ids if self.backend.id_to_token(index) not in allowed}
            ids = plain.encode_plain(self.backend, text, controls)
        if not add_special_tokens:
            return ids
        around = self._encoding("a", True)
        real = [index for index, special in enumerate(around.special_tokens_mask) if not special]
        return around.ids[: real[0]] + ids + around.ids[real[-1] + 1 :]

    def _pair(self, text: str, second: str | None, add_special_tokens: bool, limit: int | None) -> Encoding:
        """A text, or a pair of them, with at most `limit` tokens."""
        if limit is None:
            return self._encoding(text, add_special_tokens, second)
        first, other = self._encoding(text, False), None if second is None else self._encoding(second, False)
        around = self.backend.num_special_tokens_to_add(other is not None) if add_special_tokens else 0
        if limit < around:
            raise InputError(f"max_length {limit} leaves no room for the {around} special tokens round a text")
        kept = truncated_lengths(len(first), 0 if other is None else len(other), limit - around)
        for encoding, length in zip((first, other), kept, strict=True):
            if encoding is not None:
                encoding.truncate(length)
        return self.backend.post_process(first, other, add_special_tokens)

    # Ids to text.

    def decode(self, ids: Any, skip_special_tokens: bool = False) -> Any:
        """The text of ids: a list, an array [T], or one id; of a list of rows or an array [B, T] the list of texts.

        Bytes that make no character become U+FFFD. An id that the vocabulary lacks has no text: models have more rows
        than their tokenizers have tokens. Raises `InputError` for what is no row of whole numbers.
        """
        rows, is_batch = rows_of_ids(ids)
        with backend_errors("the ids could not be decoded"):
            texts = [self.backend.decode(row, skip_special_tokens=skip_special_tokens) for row in rows]
        return texts if is_batch else texts[0]

    def batch_decode(self, rows: Iterable[Any], skip_special_tokens: bool = False) -> list[str]:
        """The texts of several rows of ids, e.g. of an array [B, T]."""
        return [self.decode(row, skip_special_tokens) for row in rows]

    # What is in it.

    def __len__(self) -> int:
        """How many ids there are, added tokens counted (the highest id + 1): rows that an embedding must have."""
        return self._size

    @property
    def vocab_size(self) -> int:
        """How many tokens the vocabulary has without those that were added to it; `len(tokenizer)` counts all."""
        return self.backend.get_vocab_size(with_added_tokens=False)

    @property
    def model_max_length(self) -> int:
        """How many tokens a text may have, as the folder says; 10^30 where it does not."""
        return int(1e30) if self.settings.max_length is None else self.settings.max_length

    def get_vocab(self) -> dict[str, int]:
        """Every token and its id."""
        return self.backend.get_vocab(with_added_tokens=True)

    def token_to_id(self, token: str) -> int | None:
        """The id of a token as the vocabulary writes it; None if there is none."""
        return self.backend.token_to_id(token)

    def id_to_token(self, index: int) -> str | None:
        """The token with this id as the vocabulary writes it; None if there is none."""
        return self.backend.id_to_token(index) if 0 <= index < self._size else None

    def convert_tokens_to_ids(self, tokens: str | Sequence[str]) -> Any:
        """The id of a token, or the ids of several; that of the unknown token (or None) for what is no token."""
        if isinstance(tokens, str):
            index = self.backend.token_to_id(tokens)
            return self.unk_token_id if index is None else index
        return [self.convert_tokens_to_ids(token) for token in tokens]

    def convert_ids_to_tokens(self, ids: Any, skip_special_tokens: bool = False) -> Any:
        """The token of an id, or the tokens of a row of ids, as the vocabulary writes them; None for no token's id."""
        if isinstance(ids, int | np.integer):
            return self.id_to_token(int(ids))
        [row], _ = rows_of_ids(ids)
        return [self.id_to_token(i) for i in row if not (skip_special_tokens and i in self.special_ids)]

    @property
    def all_special_tokens(self) -> list[str]:
        """The tokens that have a name, then those listed as special; `special_ids` has the vocabulary's own too."""
        return declared_tokens(self.settings)

    @property
    def all_special_ids(self) -> list[int]:
        """The ids of `all_special_tokens`."""
        return self.convert_tokens_to_ids(self.all_special_tokens)

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
        ids = self.special_ids | {self.backend.token_to_id(token) for token in declared_tokens(self.settings)}
        means_more = self.unk_token in (self.bos_token, self.eos_token, self.pad_token)
        kept = (index for index in ids if means_more or index != self.unk_token_id)
        return frozenset(index for index in kept if index is not None)


def _own_settings(special_tokens: Sequence[str]) -> Settings:
    bos, eos, pad = (token if token in special_tokens else None for token in (bpe.BOS, bpe.EOS, bpe.PAD))
    return Settings(bos_token=bos, eos_token=eos, pad_token=pad)


def _check_text(text: str) -> None:
    if not isinstance(text, str):
        several = "; for several texts call the tokenizer" if isinstance(text, list | tuple) else ""
        raise InputError(f"a text is {type(text).__name__}, not str{several}")
    check_text(text)


def _texts_of(text: Any, text_pair: Any) -> tuple[Sequence[str], Sequence[str | None], bool]:
    """(first texts, second texts, whether they were a batch). Raises `InputError` where they do not fit together."""
    if isinstance(text, str):
        if not isinstance(text_pair, str | None):
            raise InputError("text is one text and text_pair several; give a text for each, or a list for each")
        return [text], [text_pair], False
    if not isinstance(text, list | tuple):
        raise InputError(f"a text is {type(text).__name__}; give a text or a list of texts")
    if text_pair is None:
        if text and all(isinstance(item, list | tuple) and len(item) == 2 for item in text):
            for pair in text:
                _check_text(pair[1])
            return [first for first, _ in text], [second for _, second in text], True
        return text, [None] * len(text), True
    if not isinstance(text_pair, list | tuple) or len(text_pair) != len(text):
        raise InputError(f"text has {len(text)} texts; text_pair must be a list of as many")
    return text, text_pair, True
