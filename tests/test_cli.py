"""The command line: what it prints, its exit codes, and every bad input as one sentence on standard error."""

import io
import json
import struct
import subprocess
import sys
import time

import numpy as np
import pytest

from vishwamai import VishwamAI, VishwamAITokenizer
from vishwamai.cli import main
from vishwamai.models import cost
from vishwamai.models.config import ModelConfig, uniform


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A random mixture-of-experts model over bytes, with a context of 64 tokens."""
    sizes = {"vocab_size": 263, "d_model": 16, "d_ff": 24, "n_heads": 4, "n_kv_heads": 2, "head_dim": 8}
    experts = {"n_experts": 4, "n_experts_per_token": 2, "d_expert": 16, "qk_norm": True}
    cfg = ModelConfig(**sizes, **experts, stacks=uniform(2, moe=True), max_length=64, tie_embeddings=True)
    folder = tmp_path_factory.mktemp("model")
    VishwamAI.from_config(cfg, tokenizer=VishwamAITokenizer.bytes()).save_pretrained(folder)
    return folder


@pytest.fixture
def damaged(folder, tmp_path):
    """`damaged(name, change)`: a copy of the model's folder with one file's bytes changed."""

    def damage(name, change):
        for file in folder.iterdir():
            raw = file.read_bytes()
            (tmp_path / file.name).write_bytes(change(raw) if file.name == name else raw)
        return str(tmp_path)

    return damage


def config_with(**changes):
    return lambda raw: json.dumps(json.loads(raw) | changes).encode()


def reshape_first(raw):
    """Turns the shape of one tensor in a safetensors header, leaving the bytes it covers as they were."""
    size = struct.unpack("<Q", raw[:8])[0]
    header = json.loads(raw[8 : 8 + size])
    header["model.embed_tokens.weight"]["shape"].reverse()
    text = json.dumps(header, separators=(",", ":")).encode()
    return struct.pack("<Q", len(text)) + text + raw[8 + size :]


def refused(capsys, *argv):
    """Runs a command that must end with exit code 2; returns its one sentence."""
    assert main(argv) == 2
    out, err = capsys.readouterr()
    assert err.startswith("vishwamai: error: ") and err.count("\n") == 1 and "Traceback" not in err
    assert out == ""
    return err


def type_in(monkeypatch, raw: bytes):
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(raw)))


# Bad input


def test_a_missing_folder(capsys, tmp_path):
    assert "nowhere" in refused(capsys, "generate", "hi", "-m", str(tmp_path / "nowhere"))


def test_truncated_weights(capsys, damaged):
    model = damaged("model.safetensors", lambda raw: raw[:-100])
    assert "model.safetensors" in refused(capsys, "generate", "hi", "-m", model)


def test_a_tensor_of_the_wrong_shape(capsys, damaged):
    model = damaged("model.safetensors", reshape_first)
    sentence = refused(capsys, "generate", "hi", "-m", model)
    assert "model.embed_tokens.weight" in sentence and "[16, 263]" in sentence and "[263, 16]" in sentence


def test_an_unknown_architecture(capsys, damaged):
    model = damaged("config.json", config_with(model_type="parrot"))
    assert "parrot" in refused(capsys, "generate", "hi", "-m", model)


def test_an_unknown_config_key(capsys, damaged):
    model = damaged("config.json", config_with(number_of_wings=2))
    assert "number_of_wings" in refused(capsys, "inspect", model)


def test_heads_that_do_not_divide(capsys, damaged):
    model = damaged("config.json", config_with(num_key_value_heads=3))
    assert "n_heads 4 is not a multiple of n_kv_heads 3" in refused(capsys, "inspect", model)


def test_a_prompt_longer_than_the_context(capsys, folder):
    sentence = refused(capsys, "generate", "x" * 65, "-m", str(folder))
    assert "65" in sentence and "64" in sentence


@pytest.mark.parametrize("verb", [["generate", "-"], ["tokenizer", "encode", "-"]])
def test_input_that_is_not_utf8(capsys, monkeypatch, folder, verb):
    type_in(monkeypatch, b"abc\xff")
    assert "standard input is not UTF-8 (byte 3" in refused(capsys, *verb, "-m", str(folder))


def test_an_argument_that_is_not_utf8(capsys, folder):
    assert "not UTF-8" in refused(capsys, "generate", "abc\udcff", "-m", str(folder))


def test_a_file_that_is_not_utf8(capsys, tmp_path):
    (tmp_path / "a.txt").write_bytes(b"\xfe\xff")
    sentence = refused(capsys, "tokenizer", "train", str(tmp_path / "a.txt"), "-o", str(tmp_path / "t"))
    assert "a.txt is not UTF-8 (byte 0" in sentence


@pytest.mark.parametrize(
    ("option", "value"),
    [
        ("--temperature", "nan"),
        ("--temperature", "inf"),
        ("--temperature", "-1"),
        ("--max-new-tokens", "-5"),
        ("--max-length", "-5"),
        ("--max-new-tokens", "0"),
        ("--top-k", "-2"),
        ("--top-p", "nan"),
        ("--top-p", "1.5"),
        ("--min-p", "-0.5"),
        ("--repetition-penalty", "0"),
        ("--repetition-penalty", "nan"),
        ("--num-beams", "0"),
        ("--stop", ""),
    ],
)
def test_numbers_out_of_range(capsys, folder, option, value):
    sentence = refused(capsys, "generate", "hi", "-m", str(folder), option, value)
    assert option.strip("-").replace("-", "_") in sentence


def test_a_length_shorter_than_the_prompt(capsys, folder):
    assert "max_length" in refused(capsys, "generate", "hello", "-m", str(folder), "--max-length", "3")


def test_ids_that_are_not_numbers(capsys, folder):
    assert "'x'" in refused(capsys, "tokenizer", "decode", "104", "x", "-m", str(folder))
    assert "9999" in refused(capsys, "tokenizer", "decode", "9999", "-m", str(folder))


def test_conversion_over_something_that_is_there(capsys, folder):
    assert "is there already" in refused(capsys, "convert", str(folder), str(folder))


def test_inspection_of_an_empty_cache(capsys, folder):
    assert "1 or more" in refused(capsys, "inspect", str(folder), "--length", "0")


def test_unknown_words_end_with_usage(capsys):
    for argv in (["sing"], ["generate", "hi", "--no-such-flag"], []):
        with pytest.raises(SystemExit) as ended:
            main(argv)
        assert ended.value.code == 2
        assert "usage: vishwamai" in capsys.readouterr().err


# What each verb does


def test_inspect_counts_without_weights(capsys, folder, tmp_path):
    (tmp_path / "config.json").write_bytes((folder / "config.json").read_bytes())
    assert main(["inspect", str(tmp_path)]) == 0
    out = capsys.readouterr().out
    config = VishwamAI.from_pretrained(folder).config
    assert f"{cost.parameters(config).total:,}" in out and f"{cost.parameters(config).active:,}" in out
    assert "qwen3_moe" in out and "2 x (full experts)" in out


def test_convert_writes_what_loads(capsys, folder, tmp_path):
    target = tmp_path / "new"
    assert main(["convert", str(folder), str(target), "--dtype", "float32"]) == 0
    a, b = VishwamAI.from_pretrained(folder), VishwamAI.from_pretrained(target)
    assert a.config == b.config
    np.testing.assert_array_equal(a.weights.embed, b.weights.embed)
    assert b.tokenizer.encode("hé") == [104, 195, 169]


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


# Real processes


def test_help_is_fast():
    def seconds():
        start = time.perf_counter()
        run = subprocess.run([sys.executable, "-m", "vishwamai.cli", "--help"], capture_output=True, text=True)
        assert run.returncode == 0 and "inspect" in run.stdout
        return time.perf_counter() - start

    assert min(seconds() for _ in range(5)) < 0.5


def test_a_process_that_fails_shows_no_traceback(tmp_path):
    command = [sys.executable, "-m", "vishwamai.cli", "inspect", str(tmp_path)]
    run = subprocess.run(command, capture_output=True, text=True)
    assert run.returncode == 2
    assert run.stderr.startswith("vishwamai: error: ") and run.stderr.count("\n") == 1
