"""A row's new text in pieces against the whole of it: UTF-8 decoded by Python, and stop texts found by brute force."""

import random

import pytest
from tokenizers import Tokenizer, decoders, models

from vishwamai.errors import InputError
from vishwamai.text.continuation import Continuation
from vishwamai.text.tokenizer import VishwamAITokenizer

BYTES = VishwamAITokenizer.bytes()
BOS, EOS = 256, 257


def pieces_of(ids: list[int], choose: random.Random) -> list[list[int]]:
    """The ids cut at up to four places; some pieces may be empty."""
    cuts = sorted(choose.choices(range(len(ids) + 1), k=choose.randrange(5)))
    return [ids[a:b] for a, b in zip([0, *cuts], [*cuts, len(ids)], strict=True)]


def pushed(continuation: Continuation, pieces: list[list[int]]) -> list[str]:
    """What each piece gives; the last is said to be the last."""
    return [continuation.push(piece, last=i == len(pieces) - 1) for i, piece in enumerate(pieces)]


def until_stop(text: str, stop: list[str]) -> str:
    """The text before the stop that is complete first, the longest of those that end together."""
    for end in range(len(text) + 1):
        complete = [s for s in stop if text[:end].endswith(s)]
        if complete:
            return text[: end - max(map(len, complete))]
    return text


def test_pieces_join_to_the_text_up_to_a_stop():
    choose, cut_short = random.Random(4), 0
    for _ in range(400):
        prompt, new = ("".join(choose.choices("abé🙂", k=choose.randrange(12))) for _ in range(2))
        stop = ["".join(choose.choices("abé🙂", k=choose.randrange(1, 4))) for _ in range(choose.randrange(3))]
        continuation = Continuation(BYTES, list(prompt.encode()), stop)
        want = until_stop(new, stop)
        assert "".join(pushed(continuation, pieces_of(list(new.encode()), choose))) == want, (prompt, new, stop)
        cut_short += want != new
    assert cut_short > 50


def test_text_comes_as_soon_as_it_can_be_no_stop():
    continuation = Continuation(BYTES, [], ["END"])
    pieces = [list(b) for b in (b"a", b"bE", b"N", b"Ex", b"E")]
    assert pushed(continuation, pieces) == ["a", "b", "", "ENEx", "E"]


def test_nothing_comes_after_a_stop():
    continuation = Continuation(BYTES, [], ["."])
    assert pushed(continuation, [list(b"a.b"), list(b"c"), list("é".encode()[:1])]) == ["a", "", ""]


def test_a_stop_text_in_the_prompt_or_begun_there_is_none():
    assert Continuation(BYTES, list(b"x END EN"), ["END"]).push(list(b"D y"), last=True) == "D y"


def test_it_has_stopped_with_the_token_that_completes_a_stop_text():
    continuation = Continuation(BYTES, list(b"EN"), ["END", "é"])
    said = [continuation.push([byte]) + "|" * continuation.stopped for byte in "DENé".encode()]
    assert said == ["D", "", "", "", "EN|"]
    broken = Continuation(BYTES, [], ["\ufffd"])
    broken.push([0xC3])
    assert not broken.stopped
    broken.push([], last=True)
    assert broken.stopped


def test_a_character_begun_in_the_prompt_comes_whole():
    ids = list("a🙂b".encode())
    assert pushed(Continuation(BYTES, ids[:3]), [ids[3:4], ids[4:]]) == ["", "🙂b"]


def test_a_broken_character_comes_at_the_end_only():
    first, second = "🙂".encode()[:2]
    assert pushed(Continuation(BYTES, []), [[97, first], [second], []]) == ["a", "", "\ufffd"]
    assert Continuation(BYTES, [], ["\ufffd"]).push([97, first], last=True) == "a"  # it may even be the stop


def test_special_tokens_are_no_text():
    continuation = Continuation(BYTES, [BOS, 97], ["bc"])
    assert pushed(continuation, [[100, EOS], [BOS, 98], [EOS, 99], [101]]) == ["d", "", "", ""]
    assert Continuation(BYTES, [BOS]).push([98, EOS], last=True) == "b"


USER = 260


@pytest.mark.parametrize(
    ("stop", "new", "text"),
    [
        (["<|eos|>"], [*b"ab", EOS, *b"c"], "ab"),
        (["b<|eos|>"], [*b"ab", EOS, *b"c"], "a"),
        (["<|eos|>c"], [*b"ab", EOS, *b"c"], "ab"),
        (["b<|eos|>c"], [*b"ab", EOS, *b"cd"], "a"),
        (["<|eos|><|user|>"], [*b"ab", EOS, USER, *b"c"], "ab"),
        (["<|eos|><|user|>"], [*b"ab", EOS, *b"c", USER, EOS, USER], "abc"),
        (["x<|eos|>"], [*b"ab", EOS, *b"c"], "abc"),
        (["bc"], [*b"ab", EOS, *b"cd"], "a"),  # in the text that people see
        (["bc", "<|user|>"], [*b"ab", EOS, *b"cd", USER], "a"),
        (["d", "<|eos|>"], [*b"ab", EOS, *b"cd"], "ab"),
        (["é<|eos|>"], [*"aé".encode(), EOS, *b"c"], "a"),
        (["<|eos"], [*b"ab", EOS, *b"c"], "abc"),  # no whole special token: text that people see alone
    ],
)
def test_stop_texts_that_are_or_hold_special_tokens(stop, new, text):
    choose = random.Random(1)
    for pieces in [[[token] for token in new], [new], *(pieces_of(new, choose) for _ in range(8))]:
        continuation = Continuation(BYTES, list(b"x"), stop)
        assert "".join(pushed(continuation, pieces)) == text, pieces
    stops, ended = Continuation(BYTES, [EOS], stop), [False]
    for token in new:
        stops.push([token])
        ended.append(stops.stopped)
    assert ended == sorted(ended) and ended[-1] == (text != "abc" or stop[0].endswith("<|user|>"))


def test_a_stop_text_after_bytes_that_wait_for_their_run_to_end():
    vocab = {f"<0x{byte:02X}>": byte for byte in range(256)}
    backend = Tokenizer(models.BPE(vocab=vocab, merges=[], byte_fallback=True))
    backend.decoder = decoders.Sequence([decoders.ByteFallback(), decoders.Fuse()])
    tokenizer = VishwamAITokenizer(backend).with_tokens(eos_token="</s>")
    continuation = Continuation(tokenizer, [], ["é</s>"])
    assert pushed(continuation, [list("aé".encode()), [256], [98]]) == ["", "a", ""] and continuation.stopped
    free = Continuation(tokenizer, [], ["x</s>"])
    assert "".join(pushed(free, [list("aé".encode()), [256], list("é".encode())])) == "aéé"


def test_words_keep_the_space_that_parts_them_from_the_prompt(trained):
    ids = trained.encode("the cat sat on the log")
    for cut in range(1, len(ids)):
        assert trained.decode(ids[:cut]) + Continuation(trained, ids[:cut]).push(
            ids[cut:], last=True
        ) == trained.decode(ids)


@pytest.mark.parametrize("stop", ["text", [""]])
def test_stop_texts_are_a_list_of_texts(stop):
    with pytest.raises(InputError, match="list of strings"):
        Continuation(BYTES, [], stop)
