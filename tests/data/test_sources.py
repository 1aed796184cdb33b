"""Sources: files read strictly, passes shuffled, mixtures in proportion."""

from collections import Counter

import pytest

from vishwamai.data import corpus, sources
from vishwamai.data.rows import Row
from vishwamai.errors import ConfigError, DataError
from vishwamai.text.tokenizer import VishwamAITokenizer


def test_paragraphs_of_a_text_come_once_a_pass_in_another_order(tmp_path):
    (tmp_path / "a.txt").write_text("\n\n".join(f"paragraph {i}" for i in range(20)))
    row = sources.from_text(tmp_path / "a.txt", seed=3)
    first, second = [row(i).text for i in range(20)], [row(i).text for i in range(20, 40)]
    assert sorted(first) == sorted(second) == sorted(f"paragraph {i}" for i in range(20))
    assert first != second and first == [sources.from_text(tmp_path / "a.txt", seed=3)(i).text for i in range(20)]


def test_jsonl_rows_keep_prompts_out_of_the_loss(tmp_path):
    (tmp_path / "a.jsonl").write_text('{"prompt": "q", "completion": "a"}\n\n{"text": "t"}\n')
    row = sources.from_jsonl(tmp_path / "a.jsonl")
    assert {row(0), row(1)} == {Row((("q", 0.0), ("a", 1.0))), Row((("t", 1.0),))}


@pytest.mark.parametrize("line", ["{", '{"prompt": "q"}', '{"text": 3}', "[]"])
def test_bad_lines_are_named(tmp_path, line):
    (tmp_path / "a.jsonl").write_text('{"text": "t"}\n' + line)
    with pytest.raises(DataError, match="a.jsonl:2"):
        sources.from_jsonl(tmp_path / "a.jsonl")


def test_missing_empty_and_undecodable_files_are_refused(tmp_path):
    (tmp_path / "empty.txt").write_text("\n\n")
    (tmp_path / "latin.txt").write_bytes(b"caf\xe9")
    for name, words in (("none.txt", "cannot read"), ("empty.txt", "no rows"), ("latin.txt", "byte 3")):
        with pytest.raises(DataError, match=words):
            sources.from_text(tmp_path / name)


def test_a_mixture_draws_by_weight():
    parts = {"a": (lambda i: Row((("a", 1.0),)), 3.0), "b": (lambda i: Row((("b", 1.0),)), 1.0)}
    row = sources.mixture(parts, seed=1)
    counts = Counter(row(i).text for i in range(2000))
    assert 0.7 < counts["a"] / 2000 < 0.8
    with pytest.raises(DataError, match="weights"):
        sources.mixture({"a": (parts["a"][0], 0.0)})


def test_a_corpus_tokenises_by_pieces_and_keeps_its_tokenizer(tmp_path):
    data = corpus.Data(sources=(corpus.Source(kind="generated", name="game24"),), tokenizer_rows=200)
    made = corpus.tokenizer(data, 600, tmp_path)
    assert isinstance(made, VishwamAITokenizer) and (tmp_path / "tokenizer.json").exists()
    assert all(len(made.encode(f" {i}")) == 1 for i in range(201))
    assert corpus.tokenizer(data, 600, tmp_path).encode("Make 24 from") == made.encode("Make 24 from")
    tokens, weights = corpus.samples(data, made)(0)
    assert len(tokens) == len(weights) and tokens[-1] == made.eos_token_id and weights[0] == 0.0


def test_a_source_of_an_unknown_kind_is_refused():
    with pytest.raises(ConfigError, match="generated, text, jsonl"):
        corpus.Source(kind="parquet", name="x")
