"""`vishwamai tokenizer`: train, encode and decode."""

import pytest

from vishwamai.cli import main

from ..gguf.test_llama_cpp_ids import write
from ..gguf.test_vocabulary import byte_level
from .conftest import refused, type_in


def test_tokenizer_trains_encodes_and_decodes(capsys, monkeypatch, tmp_path):
    text = "the cat sat on the mat. " * 50
    (tmp_path / "a.txt").write_text(text, encoding="utf-8")
    model = str(tmp_path / "t")
    assert main(["tokenizer", "train", str(tmp_path / "a.txt"), "--vocab-size", "280", "-o", model]) == 0
    capsys.readouterr()
    assert main(["tokenizer", "encode", "the cat 🙂", "-m", model]) == 0
    ids = capsys.readouterr().out.strip()
    assert len(ids.split()) < len("the cat 🙂".encode())
    type_in(monkeypatch, ids.encode())
    assert main(["tokenizer", "decode", "-", "-m", model]) == 0
    assert capsys.readouterr().out == "the cat 🙂\n"


def test_the_tokenizer_of_a_gguf_file(capsys, tmp_path):
    model = str(write(byte_level(), tmp_path / "a.gguf"))
    assert main(["tokenizer", "encode", "abc</s>", "-m", model]) == 0
    assert capsys.readouterr().out == "260 257 261\n"
    assert main(["tokenizer", "decode", "257", "-m", model]) == 0
    assert capsys.readouterr().out == "abc\n"
    model = str(write(byte_level(pre="new"), tmp_path / "b.gguf"))
    assert "b.gguf: tokenizer.ggml.pre is 'new'" in refused(capsys, "tokenizer", "encode", "abc", "-m", model)


def test_a_target_that_cannot_be_written(capsys, tmp_path):
    (tmp_path / "a.txt").write_text("the cat", encoding="utf-8")
    for target in (tmp_path / "a.txt", tmp_path / "a.txt" / "x"):
        assert str(target) in refused(capsys, "tokenizer", "train", str(tmp_path / "a.txt"), "-o", str(target))


def test_a_file_that_is_not_utf8(capsys, tmp_path):
    (tmp_path / "a.txt").write_bytes(b"\xfe\xff")
    sentence = refused(capsys, "tokenizer", "train", str(tmp_path / "a.txt"), "-o", str(tmp_path / "t"))
    assert "a.txt is not UTF-8 (byte 0" in sentence


def test_a_byte_order_mark_is_no_text(capsys, monkeypatch, folder):
    shown = []
    for mark in (b"", b"\xef\xbb\xbf"):
        type_in(monkeypatch, mark + "caf\xe9\n".encode())
        assert main(["tokenizer", "encode", "-", "-m", str(folder)]) == 0
        shown.append(capsys.readouterr().out)
    assert shown[0] == shown[1] == "99 97 102 195 169\n"


@pytest.mark.parametrize("size", ["-1", "9" * 10, "9" * 20])
def test_a_vocabulary_that_no_tokenizer_has(capsys, tmp_path, size):
    (tmp_path / "a.txt").write_text("the cat", encoding="utf-8")
    argv = ["tokenizer", "train", str(tmp_path / "a.txt"), "--vocab-size", size, "-o", str(tmp_path / "t")]
    assert f"vocab_size {size} is " in refused(capsys, *argv).replace("--vocab-size is -1;", "vocab_size -1 is ")


def test_ids_that_are_not_numbers(capsys, folder):
    assert "'x'" in refused(capsys, "tokenizer", "decode", "104", "x", "-m", str(folder))
    assert "9999" in refused(capsys, "tokenizer", "decode", "9999", "-m", str(folder))
