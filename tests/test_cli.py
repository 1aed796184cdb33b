"""The command line: what it prints, its exit codes, and every bad input as one sentence on standard error."""

import io
import json
import struct
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from vishwamai import VishwamAI, VishwamAITokenizer
from vishwamai.api import Chunk
from vishwamai.cli import main
from vishwamai.models import cost
from vishwamai.models.config import ModelConfig, uniform
from vishwamai.training import trainer

CONFIG = str(Path(__file__).parent.parent / "configs/train/smoke.json")
SIZES = {"vocab_size": 263, "d_model": 16, "d_ff": 24, "n_heads": 4, "n_kv_heads": 2, "head_dim": 8}
SIZES |= {"n_experts": 4, "n_experts_per_token": 2, "d_expert": 16}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A random mixture-of-experts model over bytes, with a context of 64 tokens."""
    cfg = ModelConfig(**SIZES, stacks=uniform(2, moe=True), max_length=64, qk_norm=True, tie_embeddings=True)
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


def test_generate_prints_the_completion(capsys, monkeypatch, folder):
    want = VishwamAI.from_pretrained(folder).complete("hi", max_new_tokens=8)[0]
    type_in(monkeypatch, b"hi\n")
    assert main(["generate", "-", "-m", str(folder), "-n", "8", "--stats"]) == 0
    out, err = capsys.readouterr()
    assert out == want + "\n" and err.startswith("8 tokens, ")


def test_a_sampling_flag_samples(capsys, folder):
    want = VishwamAI.from_pretrained(folder).complete("hi", max_new_tokens=8, do_sample=True, temperature=2.0, seed=4)
    assert main(["generate", "hi", "-m", str(folder), "-n", "8", "-t", "2", "--seed", "4"]) == 0
    assert capsys.readouterr().out == want[0] + "\n"


def test_a_chat_remembers_until_it_is_reset(capsys, monkeypatch, folder):
    asked = []

    def stream(self, messages, **options):
        asked.append([message["content"] for message in messages])
        yield Chunk("fine [b]", [1], [0.0], "stop")

    monkeypatch.setattr(VishwamAI, "stream", stream)
    type_in(monkeypatch, b"one\ntwo\n/reset\n\nthree\n/exit\nfour\n")
    assert main(["chat", "-m", str(folder), "--system", "be kind"]) == 0
    first = ["be kind", "one"]
    assert asked == [first, [*first, "fine [b]", "two"], ["be kind", "three"]]
    assert capsys.readouterr().out.count("fine [b]") == 3


def test_train_explains_every_value(capsys):
    assert main(["train", CONFIG, "training.steps=7", "--explain"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split("#")[1].strip() for line in lines if line.startswith("training.steps ")] == [
        "override training.steps=7"
    ]
    assert any(line.startswith("model.d_model ") and "file" in line for line in lines)


def test_train_refuses_what_it_does_not_know(capsys):
    assert "training.step=7" in refused(capsys, "train", CONFIG, "training.step=7")


def test_train_leaves_a_model(capsys, monkeypatch, folder, tmp_path):
    model = VishwamAI.from_pretrained(folder)

    def run(config, where, *, max_seconds):
        assert (config.training.steps, where, max_seconds) == (7, tmp_path, 5)
        return trainer.Result(model.weights, model.tokenizer, 3, 1.0, False)

    monkeypatch.setattr(trainer, "train", run)
    sizes = [f"model.{name}={value}" for name, value in SIZES.items()]
    argv = ["train", CONFIG, "training.steps=7", "-o", str(tmp_path), "--max-seconds", "5", *sizes]
    assert main(argv) == 0
    assert capsys.readouterr().out.startswith("stopped, and the same command goes on, at step 3 of 7")
    back = VishwamAI.from_pretrained(tmp_path / "model")
    np.testing.assert_array_equal(back.weights.embed, model.weights.embed)
    assert back.generation.eos_ids == (257,)


def test_a_missing_extra_is_named(capsys, monkeypatch):
    monkeypatch.setitem(sys.modules, "optax", None)
    for name in [name for name in sys.modules if name.startswith("vishwamai.training")]:
        monkeypatch.delitem(sys.modules, name)
    assert "vishwamai[train]" in refused(capsys, "train", CONFIG)


def test_interruption(capsys, monkeypatch, folder):
    def stop(*args, **options):
        raise KeyboardInterrupt

    monkeypatch.setattr(VishwamAI, "stream", stop)
    assert main(["generate", "hi", "-m", str(folder)]) == 130


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
