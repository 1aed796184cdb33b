"""Makes a `tokenizers` backend of what the metadata of a GGUF file says of its tokenizer (`tokenizer.*`).

Two kinds are read: "gpt2", a byte-level vocabulary with merges whose split has a name (`text.split_patterns`), and
"llama", the pieces of a SentencePiece model, which merge by their scores. The ids are those of llama.cpp, whose reading
of the metadata is followed where a value is missing; like it, this normalises nothing. They differ where special tokens
overlap in a text (here the first that begins wins, there the longest) and where llama.cpp follows a split only roughly.
"""

import dataclasses
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from tokenizers import Tokenizer, decoders, models

from vishwamai.errors import TokenizerError
from vishwamai.gguf_header import read_header
from vishwamai.text.backend import backend_errors
from vishwamai.text.sentencepiece_model import (
    BPE,
    BYTE,
    CONTROL,
    NORMAL,
    UNUSED,
    USER_DEFINED,
    Piece,
    SentencePieceModel,
    add_tokens,
    make_backend,
)
from vishwamai.text.settings import MAX_TEMPLATE_BYTES, TEMPLATE_NAME, DeclaredToken, Settings
from vishwamai.text.split_patterns import SPLITS, make_pre_tokenizer

MAX_TOKENS = 1 << 20
MAX_MERGES = 1 << 22
MAX_CHARACTERS = 1 << 25  # of all tokens
MAX_TEMPLATES = 64
MAX_PIECE = 512  # characters of a SentencePiece piece: each place to cut it is tried
# What settings call a token, and the key of its id.
NAMED_KEYS = {
    "bos_token": "bos_token_id",
    "eos_token": "eos_token_id",
    "unk_token": "unknown_token_id",
    "sep_token": "seperator_token_id",  # the format's own spelling
    "pad_token": "padding_token_id",
    "mask_token": "mask_token_id",
}
LLAMA_IDS = {"unk_token": 0, "bos_token": 1, "eos_token": 2}  # where files of the kind "llama" do not say
# Tokens that end a text in llama.cpp, whatever the metadata says of them.
END_TOKENS = (
    "<|eot_id|>", "<|im_end|>", "<|end|>", "<|return|>", "<|call|>", "<|flush|>", "<|calls|>", "<end_of_turn>",
    "<|endoftext|>", "</s>", "<|eom_id|>", "<EOT>", "_<EOT>", "[EOT]", "[EOS]", "<|end_of_text|>",
    "<end_of_utterance>", "<eos>", "<turn|>", "<|tool_response>", "<｜end▁of▁sentence｜>", "[e~[",
)  # fmt: skip


@dataclasses.dataclass(frozen=True)
class Vocabulary:
    """The tokens of a file, their kinds, and the rest of its metadata."""

    where: str
    metadata: Mapping[str, Any]
    tokens: list[str]
    kinds: list[int]

    def value(self, key: str, *types: type) -> Any:
        """The value of `tokenizer.{key}`, None where there is none. Raises `TokenizerError` for one of another type."""
        value = self.metadata.get(f"tokenizer.{key}")
        if value is not None and type(value) not in types:
            raise self.error(f"tokenizer.{key} is {value!r:.80}, of the wrong type")
        return value

    def index(self, key: str) -> int | None:
        """The id of a token."""
        index = self.value(f"ggml.{key}", int)
        if index is not None and not 0 <= index < len(self.tokens):
            raise self.error(f"tokenizer.ggml.{key} is {index}, and there are {len(self.tokens):,} tokens")
        return index

    def error(self, reason: str) -> TokenizerError:
        """What is raised for a value."""
        return TokenizerError(f"{self.where}: {reason}")


def load_gguf(path: Path) -> tuple[Tokenizer, Settings]:
    """The tokenizer in a GGUF file and its settings. Raises `TokenizerError`, and `CheckpointError` for damage."""
    return read_vocabulary(read_header(path).metadata, str(path))


def make_vocabulary(metadata: Mapping[str, Any], where: str) -> Vocabulary:
    """The tokens of a file and their kinds. Raises `TokenizerError` for values that are damaged, and for too many."""
    given = Vocabulary(where, metadata, [], [])
    tokens = _texts(given, "ggml.tokens", MAX_TOKENS)
    if tokens is None:
        raise given.error("its metadata has no tokens (tokenizer.ggml.tokens), so that it has no tokenizer")
    tokens = [token or f"[EMPTY_{index}]" for index, token in enumerate(tokens)]
    if len(set(tokens)) != len(tokens):
        [(token, _)] = Counter(tokens).most_common(1)
        raise given.error(f"tokenizer.ggml.tokens has {token!r:.80} more than once")
    kinds = _numbers(given, "ggml.token_type", len(tokens))
    return Vocabulary(where, metadata, tokens, [NORMAL] * len(tokens) if kinds is None else kinds.astype(int).tolist())


def read_vocabulary(metadata: Mapping[str, Any], where: str) -> tuple[Tokenizer, Settings]:
    """The tokenizer of a file and its settings; `where` names the file in errors.

    `metadata` has plain values: numbers, bools and texts, lists of texts, and NumPy arrays for lists of numbers. Raises
    `TokenizerError` for a kind or a split that is not known, and for values that are damaged.
    """
    vocabulary = make_vocabulary(metadata, where)
    kind = vocabulary.value("ggml.model", str)
    if kind not in ("gpt2", "llama"):
        raise vocabulary.error(f"tokenizer.ggml.model is {kind!r:.80}; gpt2 (byte-level BPE) and llama are read")
    with backend_errors(f"{where}: its tokens make no tokenizer"):
        backend, add_bos = (_byte_level if kind == "gpt2" else _sentencepiece)(vocabulary)
    named = {name: vocabulary.index(key) for name, key in NAMED_KEYS.items()}
    if kind == "llama":
        present = {name: index for name, index in LLAMA_IDS.items() if index < len(vocabulary.tokens)}
        named |= {name: index for name, index in present.items() if named[name] is None}
    # An ordinary word is not made special for being what unknown words or padding turn into.
    kept = ("bos_token", "eos_token")
    named = {n: i for n, i in named.items() if i is not None and (n in kept or vocabulary.kinds[i] != NORMAL)}
    texts: dict[str, Any] = {name: vocabulary.tokens[index] for name, index in named.items()}
    settings = Settings(
        **texts,
        add_bos=_adds(vocabulary, "bos", named, add_bos),
        add_eos=_adds(vocabulary, "eos", named, False),
        added=_stripping(vocabulary),
        templates=_templates(vocabulary),
    )
    return backend, settings


def end_ids(metadata: Mapping[str, Any], where: str) -> tuple[int, ...]:
    """The ids that end a text: those that the metadata names, then the special tokens of `END_TOKENS`.

    (llama.cpp takes ordinary words of these names for ends too, such as the </s> of HTML in the vocabulary of Qwen2.)
    """
    vocabulary = make_vocabulary(metadata, where)
    stated = [vocabulary.index(key) for key in ("eos_token_id", "eot_token_id", "eom_token_id")]
    wanted = set(END_TOKENS)
    listed = enumerate(zip(vocabulary.tokens, vocabulary.kinds, strict=True))
    by_name = {token: index for index, (token, kind) in listed if token in wanted and kind != NORMAL}
    # Where these end a text, <|end|> ends one of its parts, and </s> is a word.
    if "<|call|>" in by_name and "<|return|>" in by_name or "<|calls|>" in by_name and "<|flush|>" in by_name:
        by_name.pop("<|end|>", None)
    if "<|tool_response>" in by_name:
        by_name.pop("</s>", None)
    ids = [*stated, *(by_name[token] for token in END_TOKENS if token in by_name)]
    return tuple(dict.fromkeys(index for index in ids if index is not None))


def _texts(vocabulary: Vocabulary, key: str, limit: int) -> list[str] | None:
    texts = vocabulary.value(key, list)
    if texts is None:
        return None
    if not texts or len(texts) > limit:
        raise vocabulary.error(f"tokenizer.{key} has {len(texts):,} entries; there may be 1 to {limit:,}")
    if not all(type(text) is str for text in texts):
        raise vocabulary.error(f"tokenizer.{key} has an entry that is no text")
    if (total := sum(map(len, texts))) > MAX_CHARACTERS:
        raise vocabulary.error(f"tokenizer.{key} has {total:,} characters; there may be {MAX_CHARACTERS:,}")
    return texts


def _numbers(vocabulary: Vocabulary, key: str, count: int) -> np.ndarray | None:
    """A number for each token."""
    numbers = vocabulary.value(key, np.ndarray)
    if numbers is None:
        return None
    if numbers.ndim != 1 or len(numbers) < count or numbers.dtype.kind not in "iuf":
        raise vocabulary.error(f"tokenizer.{key} has {numbers.size:,} numbers for {count:,} tokens")
    if not np.isfinite(numbers).all():
        raise vocabulary.error(f"tokenizer.{key} has a number that is not finite")
    return numbers[:count]


def _byte_level(vocabulary: Vocabulary) -> tuple[Tokenizer, bool]:
    """(the backend, whether it is usual to put a start token before a text) of the kind "gpt2"."""
    name = vocabulary.value("ggml.pre", str) or "default"
    if name not in SPLITS:
        known = ", ".join(sorted(SPLITS))
        raise vocabulary.error(f"tokenizer.ggml.pre is {name!r:.80}, which is not known here; known are {known}")
    lines = _texts(vocabulary, "ggml.merges", MAX_MERGES) or []
    parts = [line.split(" ") for line in lines]
    if wrong := [line for line, pair in zip(lines, parts, strict=True) if len(pair) != 2]:
        raise vocabulary.error(
            f"tokenizer.ggml.merges has {wrong[0]!r:.80}, which is not two tokens with a space between"
        )
    merges = [(left, right) for left, right in parts]
    listed = zip(vocabulary.tokens, vocabulary.kinds, strict=True)
    ids = {token: index for index, (token, kind) in enumerate(listed) if kind != UNUSED}
    backend = Tokenizer(models.BPE(ids, merges, ignore_merges=SPLITS[name].ignore_merges))
    backend.pre_tokenizer = make_pre_tokenizer(SPLITS[name])
    backend.decoder = decoders.ByteLevel()
    add_tokens(backend, vocabulary.tokens, vocabulary.kinds)
    return backend, SPLITS[name].add_bos


def _sentencepiece(vocabulary: Vocabulary) -> tuple[Tokenizer, bool]:
    """The same of the kind "llama"."""
    longest = max(map(len, vocabulary.tokens))
    if longest > MAX_PIECE:
        raise vocabulary.error(f"tokenizer.ggml.tokens has a piece of {longest:,} characters, over {MAX_PIECE}")
    scores = _numbers(vocabulary, "ggml.scores", len(vocabulary.tokens))
    if scores is None:
        raise vocabulary.error("its metadata has no scores (tokenizer.ggml.scores), by which pieces merge")
    unknown = vocabulary.index("unknown_token_id")
    prefix = vocabulary.value("ggml.add_space_prefix", bool)
    model = SentencePieceModel(
        pieces=tuple(map(Piece, vocabulary.tokens, scores.tolist(), vocabulary.kinds)),
        kind=BPE,
        byte_fallback=BYTE in vocabulary.kinds,
        named=(LLAMA_IDS["unk_token"] if unknown is None else unknown, -1, -1, -1),
        add_prefix=prefix is not False,
        strip_spaces=False,
    )
    return make_backend(model), True


def _adds(vocabulary: Vocabulary, name: str, named: Mapping[str, int], usual: bool) -> bool:
    """Whether a start or end token is put round a text."""
    stated = vocabulary.value(f"ggml.add_{name}_token", bool)
    if stated and f"{name}_token" not in named:
        raise vocabulary.error(f"tokenizer.ggml.add_{name}_token is true, and there is no {name}_token_id")
    return f"{name}_token" in named and (usual if stated is None else stated)


def _stripping(vocabulary: Vocabulary) -> tuple[DeclaredToken, ...]:
    """The special tokens that take the spaces after them along. The format has no word for it; those of Phi-3 do."""
    name = str(vocabulary.metadata.get("general.name", "")).lower()
    if "phi-3" not in name and "phi3" not in name:
        return ()
    listed = enumerate(zip(vocabulary.tokens, vocabulary.kinds, strict=True))
    found = [
        (token, index, kind) for index, (token, kind) in listed if kind in (CONTROL, USER_DEFINED) or token == "</s>"
    ]
    return tuple(
        DeclaredToken(token, index, rstrip=True, special=kind == CONTROL)
        for token, index, kind in found
        if token not in ("<unk>", "<s>", "<|endoftext|>")
    )


def _templates(vocabulary: Vocabulary) -> tuple[tuple[str, str], ...]:
    """(name, Jinja source) of the chat templates; the one in use is named "default"."""
    names = _texts(vocabulary, "chat_templates", MAX_TEMPLATES) or []
    if wrong := [name for name in names if not TEMPLATE_NAME.fullmatch(name)]:
        raise vocabulary.error(f"tokenizer.chat_templates has {wrong[0]!r:.80}; a name is letters, digits, _ . -")
    keys = {name: f"chat_template.{name}" for name in names} | {"default": "chat_template"}
    found = [(name, vocabulary.value(key, str)) for name, key in sorted(keys.items())]
    templates = tuple((name, template) for name, template in found if template)
    if long := [name for name, template in templates if len(template.encode()) > MAX_TEMPLATE_BYTES]:
        raise vocabulary.error(f"its chat template {long[0]} has over {MAX_TEMPLATE_BYTES:,} bytes")
    return templates
