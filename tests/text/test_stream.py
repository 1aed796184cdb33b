"""Streaming against the whole: the same text whatever the cuts, complete characters only, stop strings never shown."""

import random

import pytest
from tokenizers import AddedToken, Tokenizer, decoders, models, normalizers, pre_tokenizers

from vishwamai.errors import InputError
from vishwamai.text.stream import Detokenizer, StopMatcher, Trimmer
from vishwamai.text.tokenizer import VishwamAITokenizer

from .conftest import HARD_TEXTS


def byte_fallback() -> VishwamAITokenizer:
    """Like Llama 2's: spaces as U+2581, bytes as `<0x..>`, the first space dropped."""
    words = ["<unk>", "<s>", "</s>", *(f"<0x{byte:02X}>" for byte in range(256)), "\u2581", *"abcé", "\u2581a", "ab"]
    vocab = {word: index for index, word in enumerate(words)}
    merges = [("\u2581", "a"), ("a", "b")]
    backend = Tokenizer(models.BPE(vocab, merges, unk_token="<unk>", fuse_unk=True, byte_fallback=True))
    backend.normalizer = normalizers.Sequence([normalizers.Prepend("\u2581"), normalizers.Replace(" ", "\u2581")])
    steps = [decoders.Replace("\u2581", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    backend.decoder = decoders.Sequence(steps)
    backend.add_special_tokens([AddedToken(word, special=True, normalized=False) for word in words[:3]])
    return VishwamAITokenizer(backend)


def metaspace() -> VishwamAITokenizer:
    """Like T5's and the newer Llama converters': the Metaspace pair, a prefix at the first word only."""
    words = {"<unk>": 0, "</s>": 1, "\u2581": 2, "\u2581a": 3, "a": 4, "b": 5, "\u2581b": 6}
    backend = Tokenizer(models.Unigram([(word, -float(index)) for word, index in words.items()], unk_id=0))
    backend.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="first", split=False)
    backend.decoder = decoders.Metaspace(prepend_scheme="first", split=False)
    backend.add_special_tokens([AddedToken(word, special=True, normalized=False) for word in ("<unk>", "</s>")])
    return VishwamAITokenizer(backend)


@pytest.fixture(scope="module", params=["trained", "bytes", "byte_fallback", "metaspace"])
def tokenizer(request, trained) -> VishwamAITokenizer:
    makers = {"bytes": VishwamAITokenizer.bytes, "byte_fallback": byte_fallback, "metaspace": metaspace}
    return trained if request.param == "trained" else makers[request.param]()


def streamed(tokenizer: VishwamAITokenizer, ids: list[int], skip: bool) -> list[str]:
    detokenizer = Detokenizer(tokenizer, skip_special_tokens=skip)
    return [*(detokenizer.push(index) for index in ids), detokenizer.finish()]


@pytest.mark.parametrize("skip", [True, False])
def test_stream_of_real_text_is_its_decoding(tokenizer, skip):
    for text in HARD_TEXTS:
        ids = tokenizer.encode(text)
        assert "".join(streamed(tokenizer, ids, skip)) == tokenizer.decode(ids, skip_special_tokens=skip)


@pytest.mark.parametrize("skip", [True, False])
def test_stream_of_random_ids_is_their_decoding(tokenizer, skip):
    choose = random.Random(1)
    for length in [choose.randrange(1, 60) for _ in range(200)]:
        ids = [choose.randrange(len(tokenizer)) for _ in range(length)]
        assert "".join(streamed(tokenizer, ids, skip)) == tokenizer.decode(ids, skip_special_tokens=skip)


def test_a_stream_after_a_prompt_gives_what_the_prompt_did_not(tokenizer):
    for text in [*HARD_TEXTS, "ab a  b a", "b 🙂a🙂 é" * 9]:
        ids = tokenizer.encode(text[:80])
        whole = tokenizer.decode(ids, skip_special_tokens=True)
        for cut in range(0, min(len(ids), 60)):
            before = tokenizer.decode(ids[:cut], skip_special_tokens=True)
            if not whole.startswith(before) or before.endswith("\ufffd"):  # The prompt ends within a character.
                continue
            stream = Detokenizer(tokenizer, context=ids[:cut])
            assert before + stream.push(ids[cut:]) + stream.finish() == whole


def test_a_character_that_the_prompt_begins_comes_whole():
    stream = Detokenizer(VishwamAITokenizer.bytes(), context=list("a🙂".encode()[:3]))
    assert stream.push(list("🙂".encode()[2:])) == "🙂"


def test_characters_come_whole_and_as_soon_as_they_are():
    tokenizer = VishwamAITokenizer.bytes()
    assert streamed(tokenizer, list("é🙂a".encode()), True) == ["", "é", "", "", "", "🙂", "a", ""]


def test_words_come_with_their_token(trained):
    ids = trained.encode("the cat sat")
    assert streamed(trained, ids, True)[:-1] == [trained.decode([index]) for index in ids]


def test_many_ids_at_once(trained):
    ids = trained.encode("naïve 🙂🙃 text")
    detokenizer = Detokenizer(trained)
    assert detokenizer.push(ids) + detokenizer.finish() == "naïve 🙂🙃 text"
    assert detokenizer.push(ids) + detokenizer.finish() == "naïve 🙂🙃 text"


def test_broken_bytes_do_not_fill_the_window():
    detokenizer = Detokenizer(VishwamAITokenizer.bytes())
    ids = [0xFF, 0xE4] * 2000 + [0xE4, 0xBD]
    text = detokenizer.push(ids)
    assert len(detokenizer._window) < 16
    text += detokenizer.push(0xA0)
    assert text + detokenizer.finish() == bytes([*ids, 0xA0]).decode("utf-8", "replace")


def test_ids_beyond_the_vocabulary_are_no_text(trained):
    ids = trained.encode("the cat 🙂 sat")
    with_gaps = [x for i in ids for x in (i, len(trained), 2**31 - 1)]
    stream = Detokenizer(trained)
    assert stream.push(with_gaps) + stream.finish() == "the cat 🙂 sat"
    stream.push([*ids, *[len(trained)] * 1000])
    assert len(stream._window) < 32


def test_ids_beyond_the_vocabulary_do_not_end_a_run_of_bytes():
    vocab = {f"<0x{byte:02X}>": byte for byte in range(256)}
    backend = Tokenizer(models.BPE(vocab=vocab, merges=[], byte_fallback=True))
    backend.decoder = decoders.Sequence([decoders.ByteFallback(), decoders.Fuse()])
    tokenizer = VishwamAITokenizer(backend)
    for ids in ([0x61, 300, 0xFF], [0xC3, 300, 0xA9, 300], [300, 0x61, 300, 300]):
        stream = Detokenizer(tokenizer)
        assert stream.push(ids) + stream.finish() == tokenizer.decode(ids)


def stopped(stop: list[str], pieces: list[str]) -> tuple[str, str | None]:
    matcher = StopMatcher(stop)
    text = "".join(matcher.push(piece) for piece in pieces) + matcher.finish()
    return text, matcher.matched


@pytest.mark.parametrize(
    ("stop", "text", "given", "matched"),
    [
        (["\n\n"], "one\ntwo\n\nthree", "one\ntwo", "\n\n"),
        (["END"], "the EN of the E END it", "the EN of the E ", "END"),
        (["abab"], "aababab", "a", "abab"),
        (["b", "abc"], "xabc", "xa", "b"),
        (["bc", "abc"], "xabc", "x", "abc"),
        (["zz"], "fizz", "fi", "zz"),
        (["stop"], "no end in st", "no end in st", None),
        ([], "anything", "anything", None),
    ],
)
def test_stop_strings_whatever_the_cuts(stop, text, given, matched):
    choose = random.Random(2)
    assert stopped(stop, [text]) == stopped(stop, list(text)) == (given, matched)
    for _ in range(20):
        cuts = sorted(choose.choices(range(len(text) + 1), k=3))
        pieces = [text[a:b] for a, b in zip([0, *cuts], [*cuts, len(text)], strict=True)]
        assert stopped(stop, pieces) == (given, matched)


def test_stop_strings_against_brute_force():
    choose = random.Random(3)
    for _ in range(500):
        text = "".join(choose.choices("ab", k=12))
        stop = ["".join(choose.choices("ab", k=choose.randrange(1, 5))) for _ in range(2)]
        ends = [end for end in range(len(text) + 1) if any(text[:end].endswith(s) for s in stop)]
        longest = max((s for s in stop if ends and text[: ends[0]].endswith(s)), key=len, default=None)
        expected = text if longest is None else text[: ends[0] - len(longest)]
        assert stopped(stop, list(text)) == stopped(stop, [text[:5], text[5:]]) == (expected, longest)


def test_text_is_held_back_no_longer_than_needed():
    matcher = StopMatcher(["</answer>"])
    assert matcher.push("42 <") == "42 "
    assert matcher.push("b") == "<b"
    assert matcher.push("</ans") == ""
    assert matcher.push("wer> and more") == ""
    assert (matcher.matched, matcher.push("more"), matcher.finish()) == ("</answer>", "", "")


@pytest.mark.parametrize("stop", ["text", [""], [3]])
def test_stop_that_is_no_list_of_strings_is_refused(stop):
    with pytest.raises(InputError, match="list of strings"):
        StopMatcher(stop)


# White space


@pytest.mark.parametrize("text", ["", " ", "\n Hi", "Hi \n", " a  b\n\n c\t", "\u3000a\u00a0", "a", " \n \t", "  ab  "])
def test_trimmed_text_is_the_stripped_whole_whatever_the_cuts(text):
    for seed in range(20):
        choose, trimmer, given = random.Random(seed), Trimmer(), ""
        cuts = sorted(choose.choices(range(len(text) + 1), k=3))
        for start, end in zip([0, *cuts], [*cuts, len(text)], strict=True):
            given += trimmer.push(text[start:end])
            assert given == text[:end].strip()
        assert given == text.strip()


@pytest.mark.parametrize("text", ["", " ", "\n Hi", "Hi \n", " \n \t", "  ab  c "])
def test_what_goes_on_with_a_text_keeps_the_white_space_before_it(text):
    trimmer = Trimmer(leading=False)
    assert "".join(map(trimmer.push, text)) == text.rstrip()
