"""Rows become tokens piece by piece, weights beside them, closed by the end token."""

from vishwamai.data.rows import Row, encode_row


class Bytes:
    """A tokenizer with one token per byte and end token 256."""

    eos_token_id: int | None = 256

    def encode(self, text, *, add_special_tokens=True):
        assert not add_special_tokens
        return list(text.encode())


ROW = Row((("ab", 0.0), ("c", 0.0), ("é", 0.5)))


def test_tokens_and_weights_stand_side_by_side():
    tokens, weights = encode_row(Bytes(), ROW)
    assert tokens == [97, 98, 99, 195, 169, 256]
    assert weights == [0.0, 0.0, 0.0, 0.5, 0.5, 0.5]


def test_no_end_token_where_the_tokenizer_has_none():
    tokenizer = Bytes()
    tokenizer.eos_token_id = None
    assert encode_row(tokenizer, ROW)[0] == [97, 98, 99, 195, 169]


def test_a_row_joins_its_pieces():
    assert (ROW.text, ROW.prompt, ROW.completion) == ("abcé", "ab", "cé")
