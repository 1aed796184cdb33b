"""Training: what the vocabulary holds, how numbers split, and that the same text gives the same tokenizer."""

import random
import subprocess
import sys

import pytest

from vishwamai.errors import InputError, TokenizerError
from vishwamai.text import bpe
from vishwamai.text.tokenizer import VishwamAITokenizer

from .conftest import CORPUS, HARD_TEXTS


def pieces(tokenizer: VishwamAITokenizer, text: str) -> list[str]:
    return [tokenizer.decode([index]) for index in tokenizer.encode(text)]


def test_ids_begin_with_the_special_tokens_and_hold_all_bytes(trained):
    assert [trained.id_to_token(index) for index in range(7)] == list(bpe.SPECIAL_TOKENS)
    assert {trained.token_to_id(character) for character in bpe.byte_alphabet()} == set(range(7, 263))
    assert trained.vocab_size == len(trained) == 400


def test_byte_alphabet_is_gpt2s():
    alphabet = bpe.byte_alphabet()
    assert len(set(alphabet)) == 256
    assert (alphabet[0x20], alphabet[0x0A], alphabet[0x41], alphabet[0xFF]) == ("Ġ", "Ċ", "A", "ÿ")


@pytest.mark.parametrize("text", HARD_TEXTS, ids=range(len(HARD_TEXTS)))
def test_round_trip(trained, text):
    assert trained.decode(trained.encode(text)) == text
    assert trained.decode(trained.encode(text, allow_special=False)) == text


def test_round_trip_of_random_text(trained):
    choose = random.Random(0)
    for _ in range(200):
        codes = [choose.choice((choose.randrange(0x80), choose.randrange(0x3000), choose.randrange(0x110000)))] * 2
        codes += [choose.randrange(0x110000) for _ in range(choose.randrange(20))]
        text = "".join(chr(code) for code in codes if not 0xD800 <= code < 0xE000)
        assert trained.decode(trained.encode(text)) == text


def test_numbers_split_in_threes_with_one_leading_space():
    numbers = VishwamAITokenizer.train([" 123 456 789 123456 " * 50], 700)
    assert pieces(numbers, "x 1234567") == ["x", " 123", "456", "7"]


def test_split_pattern_can_be_chosen():
    digits = VishwamAITokenizer.train(["11 111 1111 " * 50], 300, pattern=r"\d|[^\d]+")
    assert pieces(digits, "111") == ["1", "1", "1"]


def test_no_merge_crosses_a_piece():
    tokenizer = VishwamAITokenizer.train(["ab" * 100], 300, pattern="[ab]")
    assert pieces(tokenizer, "abab") == ["a", "b", "a", "b"]


def test_training_is_the_same_in_another_process():
    script = (
        "import sys; sys.path.insert(0, '.'); from vishwamai.text.tokenizer import VishwamAITokenizer as T\n"
        f"print(T.train({CORPUS!r}, 400).backend.to_str(), end='')"
    )
    ours = VishwamAITokenizer.train(CORPUS, 400).backend.to_str()
    env = {"PYTHONHASHSEED": "7", "TOKENIZERS_PARALLELISM": "true", "PYTHONUTF8": "1", "JAX_PLATFORMS": "cpu"}
    theirs = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, encoding="utf-8", env=env, check=True, timeout=120
    )
    assert theirs.stdout == ours


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"vocab_size": 262}, "under 263"),
        ({"vocab_size": 300, "special_tokens": ("<a>", "<a>")}, "distinct"),
        ({"vocab_size": 300, "special_tokens": ("",)}, "not empty"),
        ({"vocab_size": 300, "pattern": "("}, "not a regular expression"),
    ],
)
def test_bad_options_are_refused(options, said):
    with pytest.raises(InputError, match=said):
        VishwamAITokenizer.train(["text"], **options)


@pytest.mark.parametrize(("text", "said"), [("a\ud800", "lone surrogate"), (b"bytes", "is bytes")])
def test_bad_texts_are_refused(text, said):
    with pytest.raises(TokenizerError, match=said):
        VishwamAITokenizer.train(["fine", text], 300)


def test_byte_tokenizer_is_utf8():
    tokenizer = VishwamAITokenizer.bytes()
    text = "héllo 🙂\0"
    assert tokenizer.encode(text) == list(text.encode())
    assert (len(tokenizer), tokenizer.bos_token_id, tokenizer.eos_token_id, tokenizer.pad_token_id) == (
        263,
        256,
        257,
        258,
    )
    assert tokenizer.decode([0xF0, 0x9F, 257]) == "\ufffd<|eos|>"
