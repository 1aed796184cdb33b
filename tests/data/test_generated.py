"""Corpora by name: wrong names are told, and the tokenizer's text makes every number one token."""

import pytest

from vishwamai.data import corpus
from vishwamai.data.generated import CORPORA, generated, held_out, row_at
from vishwamai.data.rows import encode_row
from vishwamai.errors import DataError


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory):
    """As the built-in model's is made, from fewer rows."""
    sources = tuple(corpus.Source(kind="generated", name=name) for name in CORPORA)
    return corpus.tokenizer(corpus.Data(sources=sources, tokenizer_rows=2000), 2048, tmp_path_factory.mktemp("t"))


@pytest.mark.parametrize("name, split", [("chess", "train"), ("game24", "test"), ("", "held_out")])
def test_unknown_names_are_refused(name, split):
    with pytest.raises(DataError, match="names are"):
        generated(name, split)


def test_held_out_of_an_unknown_corpus_is_refused():
    with pytest.raises(DataError, match="game24, word_problems, explanations, countdown, conversations, game24_chat"):
        held_out("mixture")


def test_every_number_and_sign_is_one_token(tokenizer):
    words = [*(f" {number}" for number in range(201)), " +", " -", " *", " /", " =", " (", " )", " yes", " no", "\n"]
    assert [word for word in words if len(tokenizer.encode(word, add_special_tokens=False)) != 1] == []


def test_role_tokens_are_no_text_to_learn_merges_from(tokenizer):
    merged = [tokenizer.id_to_token(i) for i in range(len(tokenizer)) if i not in tokenizer.special_ids]
    assert [token for token in merged if "<|" in token or "|>" in token] == []


@pytest.mark.parametrize("name", CORPORA)
def test_rows_survive_the_tokenizer_and_are_short(tokenizer, name):
    for index in range(100):
        row = row_at(name, "train", 0, index)
        tokens, weights = encode_row(tokenizer, row)
        assert tokens[-1] == tokenizer.eos_token_id and len(tokens) == len(weights)
        assert len(tokens) <= (512 if name == "conversations" else 180)
        assert tokenizer.decode(tokens[:-1]) == row.text
        assert tokens[: len(tokenizer.encode(row.prompt))] == tokenizer.encode(row.prompt)
        assert weights[0] == 0.0 and weights[-1] == 1.0
