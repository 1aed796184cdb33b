"""Rows become tokens piece by piece, weights beside them, closed by the end token; text is no control token."""

import pytest

from vishwamai.data.rows import ChatRow, PairRow, Row, encode_pair, encode_row
from vishwamai.errors import DataError
from vishwamai.text.tokenizer import VishwamAITokenizer

ROW = Row((("ab", 0.0), ("c", 0.0), ("é", 0.5)))
BYTES = VishwamAITokenizer.bytes()
START, END = BYTES.bos_token_id, BYTES.eos_token_id


def test_tokens_and_weights_stand_side_by_side():
    tokens, weights = encode_row(BYTES, ROW)
    assert tokens == [97, 98, 99, 195, 169, END]
    assert weights == [0.0, 0.0, 0.0, 0.5, 0.5, 0.5]


def test_no_end_token_where_the_tokenizer_has_none():
    assert encode_row(BYTES.with_tokens(eos_token=None), ROW)[0] == [97, 98, 99, 195, 169]


def test_text_becomes_a_control_token_only_where_the_row_says_so():
    spans = (("<|bos|>a<|eos|>", 1.0),)
    plain, read = encode_row(BYTES, Row(spans)), encode_row(BYTES, Row(spans, read_special_tokens=True))
    assert plain.tokens == [*b"<|bos|>a<|eos|>", END] and read.tokens == [START, 97, END]
    assert set(plain.weights) == set(read.weights) == {1.0}


def test_what_the_tokenizer_puts_before_a_text_stands_before_a_row():
    starting = BYTES.with_tokens(add_bos=True, add_eos=True)
    assert encode_row(starting, ROW) == ([START, 97, 98, 99, 195, 169, END], [0.0, 0.0, 0.0, 0.0, 0.5, 0.5, 0.5])
    assert encode_row(starting, Row(ROW.text_spans, add_special_tokens=False))[0][0] == 97
    assert encode_row(starting, Row((("<|bos|>a", 1.0),), read_special_tokens=True)).tokens == [START, 97, END]


def test_both_answers_of_a_pair_have_its_prompt():
    pair = encode_pair(BYTES, PairRow(Row((("q", 0.0), ("a", 1.0))), Row((("q", 0.0), ("bc", 1.0)))))
    assert pair.chosen == ([*b"qa", END], [0.0, 1.0, 1.0]) and pair.rejected == ([*b"qbc", END], [0.0, 1.0, 1.0, 1.0])
    with pytest.raises(DataError, match="a pair of which one is preferred"):
        encode_row(BYTES, PairRow(ROW, ROW))


TALK = [{"role": role, "content": text} for role, text in zip(["user", "assistant"] * 2, "abcd", strict=True)]


@pytest.mark.parametrize(
    ("given", "learnt"),
    [({}, "b<|eos|>d<|eos|>"), ({"turns": "last"}, "d<|eos|>"), ({"n_prompt": 2}, "d<|eos|>"), ({"n_prompt": 4}, "")],
)
def test_which_turns_of_a_conversation_are_learnt(given, learnt):
    tokens, weights = encode_row(BYTES, ChatRow(TALK, **given))
    assert BYTES.decode([token for token, weight in zip(tokens, weights, strict=True) if weight]) == learnt
    assert BYTES.decode(tokens) == "<|user|>a<|eos|><|assistant|>b<|eos|><|user|>c<|eos|><|assistant|>d<|eos|>"


def test_a_row_joins_its_pieces():
    assert (ROW.text, ROW.prompt, ROW.completion) == ("abcé", "ab", "cé")
