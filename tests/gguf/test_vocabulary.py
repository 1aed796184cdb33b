"""Tokenizers of GGUF metadata: what is read of it, what is refused, and metadata that is made of tokenizers."""

import json
import random
import re

import numpy as np
import pytest
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors

from vishwamai.errors import TokenizerError
from vishwamai.gguf.vocabulary import make_tokenizer, vocabulary_metadata
from vishwamai.text.bpe import byte_alphabet
from vishwamai.text.gguf_vocabulary import MAX_TOKENS, end_ids
from vishwamai.text.split_patterns import SPLITS
from vishwamai.text.tokenizer import VishwamAITokenizer

from .test_llama_cpp_ids import sentencepiece_metadata, write

SPECIAL = ("<unk>", "<s>", "</s>", "<|im_end|>", "<think>")
ALPHABET = "abcdeTRZ 019'.,\n\t_éÉß漢かकि🙂ﬁ▁<>|/\u00a0"


def byte_level(**changes) -> dict:
    """Metadata of a vocabulary of the bytes, three merges, and special tokens of each kind."""
    tokens = [*byte_alphabet(), "ab", "abc", "Ġa", *SPECIAL, "spare"]
    values = {
        "model": "gpt2",
        "pre": "llama-bpe",
        "tokens": tokens,
        "token_type": np.array([1] * 259 + [2, 3, 3, 3, 4, 5], np.int32),
        "merges": ["a b", "ab c", "Ġ a"],
        "bos_token_id": 260,
        "eos_token_id": 261,
        "unknown_token_id": 259,
        "padding_token_id": 0,
        **changes,
    }
    return {f"tokenizer.ggml.{key}": value for key, value in values.items() if value is not None}


def pieces(**changes) -> dict:
    """Metadata of a SentencePiece vocabulary."""
    tokens = [*SPECIAL[:3], *(f"<0x{byte:02X}>" for byte in range(256)), "▁", "a", "b", "ab", "▁ab"]
    values = {
        "model": "llama",
        "tokens": tokens,
        "token_type": np.array([2, 3, 3, *[6] * 256, *[1] * 5], np.int32),
        "scores": np.array([0.0] * 259 + [-9, -9, -9, -1, -2], np.float32),
        **changes,
    }
    return {f"tokenizer.ggml.{key}": value for key, value in values.items() if value is not None}


def texts(count: int = 300) -> list[str]:
    choose = random.Random(3)
    made = ["".join(choose.choices(ALPHABET, k=choose.randrange(1, 16))) for _ in range(count)]
    return [*made, "", " ", "  two  spaces  ", "I'LL 've 1234567 x", "\r\n\r\n x", "<think>a</s> b<|im_end|>"]


# What is read.


def test_special_tokens_have_their_names_and_kinds():
    tokenizer = make_tokenizer(byte_level(), "a.gguf")
    assert (tokenizer.bos_token, tokenizer.eos_token, tokenizer.unk_token) == ("<s>", "</s>", "<unk>")
    assert tokenizer.pad_token is None  # 0 is an ordinary word there, which stays one
    assert tokenizer.encode(" abc<think></s>") == [260, 32, 257, 263, 261]
    assert tokenizer.decode([260, 257, 263, 261], skip_special_tokens=True) == "abc<think>"
    assert 261 not in tokenizer.encode("</s>", allow_special=False)
    assert 263 in tokenizer.encode("<think>", allow_special=False)
    assert tokenizer.token_to_id("spare") is None


def test_merges_give_way_to_tokens_where_the_name_says_so():
    alone = byte_level(merges=["a b"])
    assert make_tokenizer(alone, "a").encode("abc", add_special_tokens=False) == [257]
    without = make_tokenizer(alone | {"tokenizer.ggml.pre": "dbrx"}, "a")
    assert without.encode("abc") == [256, without.token_to_id("c")]


@pytest.mark.parametrize(
    ("metadata", "bos", "eos"),
    [
        (byte_level(), True, False),
        (byte_level(pre="qwen2"), False, False),
        (byte_level(pre=None), False, False),
        (byte_level(bos_token_id=None), False, False),
        (byte_level(add_bos_token=False, add_eos_token=True), False, True),
        (pieces(), True, False),
        (pieces(add_bos_token=False, add_eos_token=True), False, True),
    ],
)
def test_what_is_put_round_a_text(metadata, bos, eos):
    tokenizer = make_tokenizer(metadata, "a.gguf")
    plain = tokenizer.encode("ab", add_special_tokens=False)
    assert tokenizer.encode("ab") == [tokenizer.bos_token_id] * bos + plain + [tokenizer.eos_token_id] * eos


def test_pieces_merge_by_their_scores_and_bytes_spell_the_rest():
    tokenizer = make_tokenizer(pieces(), "a.gguf")
    assert tokenizer.encode("ab abé", add_special_tokens=False) == [263, 263, 3 + 0xC3, 3 + 0xA9]
    assert tokenizer.decode(tokenizer.encode("ab  bé"), skip_special_tokens=True) == "ab  bé"
    plain = make_tokenizer(pieces(add_space_prefix=False), "a.gguf")
    assert plain.encode("ab", add_special_tokens=False) == [262]


def test_chat_templates():
    metadata = byte_level() | {
        "tokenizer.chat_template": "{{ messages }}",
        "tokenizer.chat_templates": ["tool_use"],
        "tokenizer.chat_template.tool_use": "{{ tools }}",
    }
    tokenizer = make_tokenizer(metadata, "a.gguf")
    assert tokenizer.chat_template == "{{ messages }}"
    assert dict(tokenizer.settings.templates)["tool_use"] == "{{ tools }}"
    again = vocabulary_metadata(tokenizer)
    assert {key: again[key] for key in metadata if "chat" in key} == {
        key: metadata[key] for key in metadata if "chat" in key
    }


def test_end_tokens_are_the_stated_ones_and_those_known_by_name():
    assert end_ids(byte_level(eot_token_id=263), "a") == (261, 263, 262)
    names = {"harmony": ["<|end|>", "<|return|>", "<|call|>"], "phi": ["<|end|>", "<|endoftext|>"]}
    tokens = {name: [*byte_alphabet(), *extra] for name, extra in names.items()}
    kinds = {name: np.array([1] * 256 + [3] * len(extra), np.int32) for name, extra in names.items()}
    found = {
        name: end_ids(byte_level(tokens=tokens[name], token_type=kinds[name], eos_token_id=None), "a") for name in names
    }
    assert found == {"harmony": (257, 258), "phi": (256, 257)}
    words = byte_level(tokens=tokens["phi"], token_type=np.ones(258, np.int32), eos_token_id=257)
    assert end_ids(words, "a") == (257,)


def test_special_tokens_of_phi3_take_spaces_along():
    metadata = pieces() | {"general.name": "Phi-3 mini"}
    metadata["tokenizer.ggml.token_type"][2] = 3
    tokenizer = make_tokenizer(metadata, "a.gguf")
    assert tokenizer.encode("</s>  ab", add_special_tokens=False) == [2, 263]
    assert tokenizer.encode("<s> ab", add_special_tokens=False) == [1, 259, 263]


def test_a_file_has_a_tokenizer_by_its_name(tmp_path):
    write(byte_level(), tmp_path / "a.gguf")
    for name, options in ((tmp_path / "a.gguf", {}), (tmp_path, {}), (tmp_path, {"gguf_file": "a.gguf"})):
        tokenizer = VishwamAITokenizer.from_pretrained(name, **options)
        assert tokenizer.encode("abc") == make_tokenizer(byte_level(), "a").encode("abc")


# What is refused.


@pytest.mark.parametrize(
    ("metadata", "sentence"),
    [
        ({}, "no tokens"),
        (byte_level(model="gemma4"), "'gemma4'; gpt2 .* and llama are read"),
        (byte_level(model=None), "model is None"),
        (byte_level(model=7), "wrong type"),
        (
            byte_level(pre="llama-bpe\0"),
            r"'llama-bpe\\x00', which is not known here; known are a.x-4.0, afmoe, .*youtu",
        ),
        (byte_level(tokens=[]), "0 entries"),
        (byte_level(tokens="abc"), "wrong type"),
        (byte_level(tokens=["a"] * (MAX_TOKENS + 1)), "1,048,577 entries"),
        (byte_level(tokens=["a", "b", "a"]), "'a' more than once"),
        (byte_level(tokens=["a" * (1 << 25), "b"]), "33,554,433 characters"),
        (byte_level(tokens=["a", 7]), "no text"),
        (byte_level(token_type=np.array([1, 2])), "2 numbers for 265 tokens"),
        (byte_level(token_type=np.full(265, np.nan)), "not finite"),
        (byte_level(merges=["ab"]), "'ab', which is not two tokens"),
        (byte_level(merges=["a b c"]), "'a b c', which is not two tokens"),
        (byte_level(merges=["a Z"]), "make no tokenizer: .*aZ"),
        (byte_level(merges=["a \0"]), "make no tokenizer"),
        (byte_level(bos_token_id=265), "bos_token_id is 265, and there are 265 tokens"),
        (byte_level(eos_token_id=-1), "eos_token_id is -1"),
        (byte_level(padding_token_id=True), "wrong type"),
        (byte_level(add_bos_token=True, bos_token_id=None), "add_bos_token is true, and there is no bos_token_id"),
        (byte_level(add_bos_token=1), "wrong type"),
        (pieces(scores=None), "no scores"),
        (pieces(scores=np.zeros(3)), "3 numbers for 264 tokens"),
        (pieces(scores=np.full(264, np.inf)), "not finite"),
        (pieces(tokens=["a" * 600, *pieces()["tokenizer.ggml.tokens"][1:]]), "a piece of 600 characters"),
        (byte_level() | {"tokenizer.chat_template": "x" * 300_000}, "template default has over 256,000 bytes"),
        (byte_level() | {"tokenizer.chat_templates": ["../x"]}, "a name is letters"),
        (byte_level() | {"tokenizer.chat_templates": ["x"] * 1000}, "1,000 entries"),
    ],
)
def test_what_is_damaged_is_said_in_a_sentence(metadata, sentence):
    with pytest.raises(TokenizerError, match=f"^a.gguf: .*{sentence}"):
        make_tokenizer(metadata, "a.gguf")


JUNK = [
    -1, 1 << 70, 0, 2.5, float("nan"), True, "", "\0", "default", "x y" * 999, [], [1], ["a"] * 3, [""], ["\0", "a b"],
    ["a b"] * 265, [*"abc"] * 99, np.zeros(0), np.full(265, np.nan), np.full(265, 3), np.full(300, 1 << 40),
    np.full((2, 265), 1), np.array(["a"] * 265), {"a": 1}, b"a", ("a",), object(),
]  # fmt: skip


@pytest.mark.parametrize("make", [byte_level, pieces])
def test_whatever_stands_there_is_a_tokenizer_or_a_sentence(make):
    keys = [*byte_level(), *pieces(), "tokenizer.chat_template", "tokenizer.chat_templates", "general.name"]
    keys += [
        f"tokenizer.ggml.{name}" for name in ("add_bos_token", "add_eos_token", "add_space_prefix", "eot_token_id")
    ]
    made = 0
    for key in dict.fromkeys(keys):
        for value in JUNK:
            metadata = make() | {key: value}
            try:
                tokenizer = make_tokenizer(metadata, "a.gguf")
                end_ids(metadata, "a.gguf")
            except TokenizerError as error:
                assert str(error).startswith("a.gguf: ") and len(str(error)) < 1200
            else:
                assert tokenizer.decode(tokenizer.encode("ab é\0")) is not None
                made += 1
    assert made > 20


def test_every_byte_of_a_text_may_be_nul():
    for metadata in (byte_level(), pieces()):
        tokenizer = make_tokenizer(metadata, "a.gguf")
        assert tokenizer.decode(tokenizer.encode("a\0b"), skip_special_tokens=True) == "a\0b"


# Metadata of tokenizers.


def trained(pattern: str | None = None) -> VishwamAITokenizer:
    return VishwamAITokenizer.train([*texts(), *["a b abc the 123 ab's"] * 9], 400, pattern=pattern)


def other_split(tokenizer: VishwamAITokenizer, split: pre_tokenizers.PreTokenizer) -> VishwamAITokenizer:
    backend = Tokenizer.from_str(tokenizer.backend.to_str())
    backend.pre_tokenizer = split
    return VishwamAITokenizer(backend, tokenizer.settings)


def spaced_pieces(prefix: bool, by_metaspace: bool) -> VishwamAITokenizer:
    """A vocabulary in the manner of Llama 2 or Gemma, as their tokenizer.json files write it."""
    found = json.loads(make_tokenizer(pieces(add_space_prefix=prefix), "a").backend.to_str())["model"]
    core = models.BPE(
        found["vocab"], [tuple(m) for m in found["merges"]], unk_token="<unk>", fuse_unk=True, byte_fallback=True
    )
    backend = Tokenizer(core)
    if by_metaspace:
        scheme = "always" if prefix else "never"
        backend.pre_tokenizer = pre_tokenizers.Metaspace("▁", prepend_scheme=scheme, split=False)
    else:
        steps = [normalizers.Prepend("▁")] if prefix else []
        backend.normalizer = normalizers.Sequence([*steps, normalizers.Replace(" ", "▁")])
    backend.decoder = decoders.Sequence([decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()])
    backend.add_special_tokens(["<unk>", "<s>", "</s>"])
    backend.post_processor = processors.TemplateProcessing(
        single="<s> $A", pair="<s> $A $B", special_tokens=[("<s>", 1)]
    )
    return VishwamAITokenizer(backend).with_tokens(bos_token="<s>", eos_token="</s>", unk_token="<unk>")


CASES = {
    "base": lambda: (VishwamAITokenizer.from_pretrained("vishwamai/base"), "vishwamai"),
    "trained": lambda: (trained(), "vishwamai"),
    "trained with both ends": lambda: (trained().with_tokens(add_bos=True, add_eos=True), "vishwamai"),
    "Qwen2": lambda: (trained(SPLITS["qwen2"].patterns[0]), "qwen2"),
    "Llama 3": lambda: (trained(SPLITS["llama-bpe"].patterns[0]), "dbrx"),
    "GPT-2": lambda: (other_split(trained(), pre_tokenizers.ByteLevel(add_prefix_space=False)), "gpt-2"),
    "SmolLM": lambda: (
        other_split(
            trained(),
            pre_tokenizers.Sequence([pre_tokenizers.Digits(True), pre_tokenizers.ByteLevel(add_prefix_space=False)]),
        ),
        "smollm",
    ),
    "llama": lambda: (make_tokenizer(pieces(), "a"), "default"),
    "llama without prefix": lambda: (make_tokenizer(pieces(add_space_prefix=False), "a"), "default"),
    "llama with runs of spaces": lambda: (make_tokenizer(sentencepiece_metadata(True), "a"), "default"),
    "Llama 2": lambda: (spaced_pieces(True, by_metaspace=False), "default"),
    "Gemma": lambda: (spaced_pieces(False, by_metaspace=False), "default"),
    "Metaspace": lambda: (spaced_pieces(True, by_metaspace=True), "default"),
    "Metaspace without prefix": lambda: (spaced_pieces(False, by_metaspace=True), "default"),
}


@pytest.mark.parametrize("case", CASES)
def test_metadata_make_the_same_tokenizer_again(case):
    tokenizer, name = CASES[case]()
    metadata = vocabulary_metadata(tokenizer)
    assert metadata["tokenizer.ggml.pre"] == name
    again = make_tokenizer(metadata, "a.gguf")
    # A Metaspace puts no space before a text that begins with one.
    for text in (text for text in texts() if case != "Metaspace" or not re.search("(^|</s>)[ ▁]", text)):
        assert again.encode(text) == tokenizer.encode(text)
        assert again.encode(text, allow_special=False) == tokenizer.encode(text, allow_special=False)
        assert again.decode(again.encode(text)) == tokenizer.decode(tokenizer.encode(text))
    assert (again.bos_token, again.eos_token, again.chat_template) == (
        tokenizer.bos_token,
        tokenizer.eos_token,
        tokenizer.chat_template,
    )


@pytest.mark.parametrize("name", {split: name for name, split in SPLITS.items()}.values())
def test_each_split_is_found_again(name):
    found = vocabulary_metadata(make_tokenizer(byte_level(pre=name), "a"))["tokenizer.ggml.pre"]
    assert (SPLITS[found].patterns, SPLITS[found].ignore_merges) == (SPLITS[name].patterns, SPLITS[name].ignore_merges)


def test_rows_of_the_model_without_a_token_are_unused():
    tokenizer = make_tokenizer(byte_level(), "a")
    metadata = vocabulary_metadata(tokenizer, size=300, end_ids=[261, 262])
    assert len(metadata["tokenizer.ggml.tokens"]) == len(metadata["tokenizer.ggml.token_type"]) == 300
    assert metadata["tokenizer.ggml.token_type"][264:].tolist() == [5] * 36
    assert end_ids(metadata, "a") == (261, 262) and len(make_tokenizer(metadata, "a")) == len(tokenizer)


def test_whether_pieces_win_over_merges_does_not_matter_where_merges_make_each_token():
    tokenizer = trained(SPLITS["tekken"].patterns[0])
    assert vocabulary_metadata(tokenizer)["tokenizer.ggml.pre"] == "tekken"
    lacking = byte_level(pre="qwen2", merges=["a b"])
    backend = Tokenizer.from_str(make_tokenizer(lacking, "a").backend.to_str())
    backend.model.ignore_merges = True
    with pytest.raises(TokenizerError, match="win over its merges"):
        vocabulary_metadata(VishwamAITokenizer(backend))


def unlike(**changes) -> VishwamAITokenizer:
    backend = Tokenizer.from_str(trained().backend.to_str())
    for name, value in changes.items():
        setattr(backend, name, value)
    return VishwamAITokenizer(backend)


@pytest.mark.parametrize(
    ("make", "reason"),
    [
        (VishwamAITokenizer.bytes, "no merges"),
        (lambda: VishwamAITokenizer(Tokenizer(models.Unigram([("a", 0.0)]))), "its model is Unigram"),
        (lambda: trained(r"\p{L}+|\p{N}{1,2}|."), "the way that it splits texts has no name"),
        (lambda: unlike(normalizer=normalizers.Lowercase()), "its normalizer is Lowercase"),
        (lambda: unlike(pre_tokenizer=pre_tokenizers.Whitespace()), "merges are not in the order"),
        (
            lambda: unlike(post_processor=processors.TemplateProcessing("$A <|tool|>", None, [("<|tool|>", 6)])),
            "other tokens round a text",
        ),
    ],
)
def test_what_the_format_cannot_say_is_said_in_a_sentence(make, reason):
    with pytest.raises(TokenizerError, match=f"a GGUF file cannot describe this tokenizer: .*{reason}"):
        vocabulary_metadata(make())
