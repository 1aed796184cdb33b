"""Tokenizers and the metadata of GGUF files (`tokenizer.*`), one made of the other. It knows no files."""

import itertools
import json
import random
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
from tokenizers import Tokenizer, pre_tokenizers

from vishwamai.errors import TokenizerError
from vishwamai.text.gguf_vocabulary import NAMED_KEYS, read_vocabulary
from vishwamai.text.sentencepiece_model import (
    BYTE,
    CONTROL,
    NORMAL,
    UNKNOWN,
    UNUSED,
    USER_DEFINED,
    Piece,
    implied_merges,
)
from vishwamai.text.split_patterns import SPLITS, make_pre_tokenizer
from vishwamai.text.tokenizer import VishwamAITokenizer

BYTE_PIECE = re.compile("<0x[0-9A-F]{2}>")
# Characters that splits treat in different ways: letters with and without capitals, marks, numbers, spaces, signs.
PROBED = "aZstlLéÉǅ1²٣' \t\n\r\u00a0\u3000-.$_/,;(漢かア한กि\u0301🙂।、ß"


def make_tokenizer(metadata: Mapping[str, Any], where: str) -> VishwamAITokenizer:
    """The tokenizer that the metadata of a GGUF file describes; see `text.gguf_vocabulary.read_vocabulary`."""
    return VishwamAITokenizer(*read_vocabulary(metadata, where))


def vocabulary_metadata(
    tokenizer: VishwamAITokenizer, size: int | None = None, end_ids: Sequence[int] = ()
) -> dict[str, Any]:
    """The metadata that describes a tokenizer: numbers, bools, texts, lists of texts, arrays for lists of numbers.

    `size`: how many ids the model has, where they are more than the tokens. `end_ids`: what else ends its texts beside
    the tokenizer's end token; the format has room for two. Left out is what the format has no words for and llama.cpp
    does not do: NFC, spaces that a special token takes along, and that no space is put before a text which begins with
    one. A split that llama.cpp has no name for is called "vishwamai" if it is that of `VishwamAITokenizer.train`;
    llama.cpp refuses that name. Raises `TokenizerError` for any other, and for vocabularies that are neither byte-level
    BPE nor that of a SentencePiece model of kind BPE.
    """
    state = json.loads(tokenizer.backend.to_str())
    model = state["model"]
    if model["type"] != "BPE" or model["dropout"] or model["continuing_subword_prefix"] or model["end_of_word_suffix"]:
        raise _inexpressible(f"its model is {model['type']}" + " with options" * (model["type"] == "BPE"))
    tokens, kinds = _tokens(tokenizer, size)
    if is_byte_level := "ByteLevel" in json.dumps(state["pre_tokenizer"]):
        found = _byte_level(tokenizer, state)
    else:
        found = _sentencepiece(tokens, kinds, model)
    found |= {"ggml.tokens": tokens, "ggml.token_type": np.array(kinds, np.int32)}
    found |= _around(tokenizer) | _special_ids(tokenizer, end_ids) | _templates(tokenizer)
    metadata = {f"tokenizer.{key}": value for key, value in found.items()}
    return metadata if is_byte_level else _with_prefix(tokenizer, metadata)


def _with_prefix(tokenizer: VishwamAITokenizer, metadata: dict[str, Any]) -> dict[str, Any]:
    """The metadata that says whether a space is put before a text: what gives the ids of the tokenizer is right."""
    probes = [text for text in itertools.islice(_probes(), 500) if not text.startswith(" ")]
    wanted = [tokenizer.encode(text) for text in probes]
    for prefix in (True, False):
        metadata["tokenizer.ggml.add_space_prefix"] = prefix
        made = make_tokenizer(metadata, "the metadata")
        if [made.encode(text) for text in probes] == wanted:
            return metadata
    raise _inexpressible("it changes texts in another way than by a space before them")


def _inexpressible(reason: str) -> TokenizerError:
    return TokenizerError(
        f"a GGUF file cannot describe this tokenizer: {reason}; it can those that are byte-level BPE with a split that "
        "llama.cpp knows, and SentencePiece models of kind BPE"
    )


def _tokens(tokenizer: VishwamAITokenizer, size: int | None) -> tuple[list[str], list[int]]:
    """The token of each id, and its kind."""
    vocab = tokenizer.get_vocab()
    count = max(len(tokenizer), size or 0)
    tokens, kinds = [f"[PAD{index}]" for index in range(count)], [UNUSED] * count
    for token, index in vocab.items():
        tokens[index], kinds[index] = token, NORMAL
    for index, token in tokenizer.backend.get_added_tokens_decoder().items():
        kinds[index] = CONTROL if token.special else USER_DEFINED
    return tokens, kinds


def _byte_level(tokenizer: VishwamAITokenizer, state: Mapping[str, Any]) -> dict[str, Any]:
    """What describes a byte-level vocabulary."""
    if (state["normalizer"] or {}).get("type") not in (None, "NFC"):
        raise _inexpressible(f"its normalizer is {state['normalizer']['type']}")
    model = state["model"]
    if not model["merges"]:
        raise _inexpressible("it has no merges")
    pieces, patterns = tokenizer.backend.pre_tokenizer, {split.patterns: split for split in SPLITS.values()}
    alike = {key for key, split in patterns.items() if _split_alike(pieces, make_pre_tokenizer(split))}
    names = [name for name, split in SPLITS.items() if split.patterns in alike]
    if not names:
        raise _inexpressible("the way that it splits texts has no name")
    same = [name for name in names if SPLITS[name].ignore_merges == model["ignore_merges"]]
    if not same and not _merges_reach_all(tokenizer.backend):
        raise _inexpressible("pieces that are tokens win over its merges, or the other way round")
    merges = [" ".join(merge) for merge in model["merges"]]
    return {"ggml.model": "gpt2", "ggml.pre": (same or names)[0], "ggml.merges": merges, "ggml.add_space_prefix": False}


def _split_alike(one: pre_tokenizers.PreTokenizer, other: pre_tokenizers.PreTokenizer) -> bool:
    """Whether two cut texts alike, tried on some thousand made of the characters that splits are about."""
    return all(one.pre_tokenize_str(text) == other.pre_tokenize_str(text) for text in _probes())


def _probes() -> Iterable[str]:
    choose = random.Random(0)
    for _ in range(4000):
        text = "".join(choose.choice(PROBED) * choose.choice((1, 1, 1, 2, 3)) for _ in range(choose.randrange(1, 9)))
        yield text + choose.choice(("", "", "'s", "'LL", "a'Re "))


def _merges_reach_all(backend: Tokenizer) -> bool:
    """Whether the merges make each token, so that a piece that is one becomes it in any case."""
    strict = Tokenizer.from_str(backend.to_str())
    strict.model.ignore_merges = False
    ids = backend.get_vocab(with_added_tokens=False)
    added = backend.get_added_tokens_decoder()
    return all([t.id for t in strict.model.tokenize(token)] == [i] for token, i in ids.items() if i not in added)


def _sentencepiece(tokens: list[str], kinds: list[int], model: Any) -> dict[str, Any]:
    """What describes the pieces of a SentencePiece model; `kinds` are changed to what these are called there.

    Pieces have scores by the place of their merges, and those whose merges are mixed have the same.
    """
    merges = [tuple(merge) for merge in model["merges"]]
    last = {left + right: rank for rank, (left, right) in enumerate(merges)}
    scores, start, end = {}, 0, -1
    for rank, (left, right) in enumerate(merges):
        start, end = rank if rank > end else start, max(end, last[left + right])
        scores[left + right] = -float(start)
    for index, (token, kind) in enumerate(zip(tokens, kinds, strict=True)):
        if kind == NORMAL and BYTE_PIECE.fullmatch(token):
            kinds[index] = BYTE
        elif kind == NORMAL and len(token) > 1 and token not in scores:
            kinds[index] = UNUSED
        elif kind == CONTROL and token == model["unk_token"]:
            kinds[index] = UNKNOWN
    pieces = [Piece(token, scores.get(token, 0.0), kind) for token, kind in zip(tokens, kinds, strict=True)]
    implied = implied_merges(pieces)
    if [a + b for a, b in implied] != [a + b for a, b in merges] or set(implied) != set(merges):
        raise _inexpressible("its merges are not in the order of scores of the pieces that they make")
    found: dict[str, Any] = {"ggml.model": "llama", "ggml.pre": "default"}
    found["ggml.scores"] = np.array([piece.score for piece in pieces], np.float32)
    return found


def _around(tokenizer: VishwamAITokenizer) -> dict[str, Any]:
    """Whether a start and an end token are put round a text."""
    plain, whole = (tokenizer.encode("a", add_special_tokens=special) for special in (False, True))
    bos, eos = [tokenizer.bos_token_id], [tokenizer.eos_token_id]
    for starts, ends in ((False, False), (True, False), (False, True), (True, True)):
        if whole == bos * starts + plain + eos * ends:
            return {"ggml.add_bos_token": starts, "ggml.add_eos_token": ends}
    raise _inexpressible("it puts other tokens round a text than a start token and an end token")


def _special_ids(tokenizer: VishwamAITokenizer, end_ids: Sequence[int]) -> dict[str, int]:
    named = {f"ggml.{key}": getattr(tokenizer, f"{name}_id") for name, key in NAMED_KEYS.items()}
    others = dict.fromkeys(index for index in end_ids if index != tokenizer.eos_token_id)
    named |= zip(("ggml.eot_token_id", "ggml.eom_token_id"), others, strict=False)
    return {key: index for key, index in named.items() if index is not None}


def _templates(tokenizer: VishwamAITokenizer) -> dict[str, Any]:
    """The chat templates: the one in use, and others by name."""
    templates = dict(tokenizer.settings.templates)
    found: dict[str, Any] = {"chat_template": templates.pop("default")} if "default" in templates else {}
    found |= {f"chat_template.{name}": template for name, template in templates.items()}
    return found | ({"chat_templates": list(templates)} if templates else {})
