"""`vishwamai score`: what is printed for texts, against the model's own scores."""

import json
import math

import pytest

from vishwamai import VishwamAI
from vishwamai.cli import main

from .conftest import refused, type_in


@pytest.fixture(scope="module")
def scores(folder):
    texts = ["hello", "hi"]
    return dict(zip(texts, VishwamAI.from_pretrained(folder).score(texts), strict=True))


def printed(capsys, *argv) -> list[dict]:
    assert main(["score", *map(str, argv), "--json"]) == 0
    return [json.loads(line) for line in capsys.readouterr().out.splitlines()]


def test_a_line_for_each_text(capsys, folder, scores):
    assert main(["score", "hello", "hi", "-m", str(folder)]) == 0
    lines = capsys.readouterr().out.splitlines()
    for line, (text, score) in zip(lines, scores.items(), strict=True):
        mean = sum(score.logprobs) / len(score.logprobs)
        want = f"{sum(score.logprobs):.3f} nats, {mean:.4f} a token, perplexity {math.exp(-mean):.3f}"
        assert line == f"{want}, {len(text) - 1} tokens: {text!r}"


def test_texts_of_arguments_files_and_standard_input(capsys, monkeypatch, folder, scores, tmp_path):
    (tmp_path / "a.txt").write_text("hello\n\nhi\r\n")
    type_in(monkeypatch, b"hi\n")
    found = printed(capsys, "hello", "-", "-f", tmp_path / "a.txt", "--lines", "-m", folder)
    assert [one["text"] for one in found] == ["hello", "hi", "hello", "hi"]
    for one in found:
        score = scores[one["text"]]
        assert one["sum"] == pytest.approx(score.sum, abs=1e-4) and one["scored"] == one["tokens"] - 1
        assert one["per_token"] == pytest.approx(score.per_token, abs=1e-4)
        assert one["perplexity"] == pytest.approx(score.perplexity, rel=1e-4)
    [whole] = printed(capsys, "-f", tmp_path / "a.txt", "-m", folder)
    assert whole["text"] == "hello\n\nhi\r\n"


def test_one_token_has_nothing_before_it(capsys, folder):
    [found] = printed(capsys, "a", "-m", folder)
    assert (found["sum"], found["per_token"], found["perplexity"]) == (0.0, None, None)
    assert main(["score", "a", "-m", str(folder)]) == 0
    assert capsys.readouterr().out == "one token, which has nothing before it: 'a'\n"


def test_what_cannot_be_scored(capsys, folder, tmp_path):
    assert "--lines is about the files of --file" in refused(capsys, "score", "hi", "--lines")
    assert "there is no text to score" in refused(capsys, "score", "-m", str(folder))
    assert "nowhere.txt: cannot be read" in refused(capsys, "score", "-f", str(tmp_path / "nowhere.txt"))
    assert "text 1 is empty" in refused(capsys, "score", "hi", "", "-m", str(folder))
    assert "100 tokens; the model's context is 64" in refused(capsys, "score", "a" * 100, "-m", str(folder))
