"""Control tokens come out of trusted characters only, whatever a text is made of."""

import random

import pytest
from tokenizers import AddedToken, Tokenizer, decoders, models, normalizers, pre_tokenizers

from vishwamai.errors import TokenizerError
from vishwamai.text.bpe import byte_tokenizer
from vishwamai.text.plain import encode_plain
from vishwamai.text.tokenizer import VishwamAITokenizer

SPECIALS = ("<a>", "<a><b>", "<b>", "<<", "a><", "<|eos|>")


@pytest.fixture(scope="module")
def overlapping():
    return VishwamAITokenizer.train(["<a><b> text <|eos|>"] * 4, 300, special_tokens=SPECIALS)


def needed(tokenizer: VishwamAITokenizer) -> dict[int, int]:
    return dict.fromkeys(tokenizer.special_ids, 1)


def test_text_without_control_tokens_is_encoded_as_it_is(trained):
    text = "Plain text, <|eo s|> 123\n\n"
    assert encode_plain(trained.backend, text, needed(trained)) == trained.encode(text)


def test_overlapping_tokens_are_all_cut(overlapping):
    choose = random.Random(4)
    for _ in range(300):
        text = "".join(choose.choices(["<a>", "<b>", "<", ">", "a", "<|eos|>", " "], k=8))
        ids = encode_plain(overlapping.backend, text, needed(overlapping))
        assert not overlapping.special_ids & set(ids)
        assert overlapping.decode(ids) == text


def test_trusted_characters_become_the_token(overlapping):
    text = "<b>x<b>y<b>"
    trust = [1, 1, 1, 0, 0, 0, 0, 0, 1, 1, 1]
    ids = encode_plain(overlapping.backend, text, needed(overlapping), trust)
    b = overlapping.token_to_id("<b>")
    assert (ids[0], ids[-1], ids.count(b)) == (b, b, 2)
    assert overlapping.decode(ids) == text


def test_one_untrusted_character_is_enough(overlapping):
    text = "<|eos|>"
    for index in range(len(text)):
        trust = [int(index != other) for other in range(len(text))]
        ids = encode_plain(overlapping.backend, text, needed(overlapping), trust)
        assert overlapping.token_to_id("<|eos|>") not in ids and overlapping.decode(ids) == text


def test_tokens_that_normalising_would_make_are_cut_too():
    backend = VishwamAITokenizer.bytes().backend
    backend.normalizer = normalizers.NFKC()
    backend.add_special_tokens([AddedToken("<go>", special=True, normalized=True)])
    tokenizer = VishwamAITokenizer(backend)
    wide = "\uff1cgo\uff1e"
    assert tokenizer.token_to_id("<go>") in tokenizer.encode(wide)
    assert tokenizer.encode(wide, allow_special=False) == list(b"<go>")


def test_tokens_that_swallow_spaces_are_cut():
    for others in ((), ("<other>",)):
        backend = byte_tokenizer(others)
        backend.add_special_tokens([AddedToken("<mask>", special=True, normalized=False, lstrip=True, rstrip=True)])
        text = " " * 50 + "<mask>" + " " * 50
        assert VishwamAITokenizer(backend).encode(text, allow_special=False) == list(text.encode())


def test_parts_after_a_cut_do_not_count_as_beginnings():
    words = ["<unk>", "</s>", "\u2581", *"</s>ab"]
    backend = Tokenizer(models.Unigram([(word, -1.0) for word in dict.fromkeys(words)], unk_id=0))
    backend.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="first", split=False)
    backend.decoder = decoders.Metaspace(prepend_scheme="first", split=False)
    backend.add_special_tokens([AddedToken("</s>", special=True, normalized=False)])
    tokenizer = VishwamAITokenizer(backend)
    assert tokenizer.decode(tokenizer.encode("a</s>b", allow_special=False)) == "a</s>b"


def test_a_token_of_one_character_cannot_be_cut():
    backend = VishwamAITokenizer.bytes().backend
    backend.add_special_tokens([AddedToken("\u00a7", special=True, normalized=False)])
    with pytest.raises(TokenizerError, match="cannot be written as plain text"):
        VishwamAITokenizer(backend).encode("see \u00a7 4", allow_special=False)


def test_a_long_text_full_of_control_tokens(trained):
    text = "<|eos|>" * 20_000
    ids = trained.encode(text, allow_special=False)
    assert not trained.special_ids & set(ids) and trained.decode(ids) == text
