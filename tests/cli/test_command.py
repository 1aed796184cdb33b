"""The command as a whole: exit codes, every bad input as one sentence on standard error, and real processes."""

import json
import struct
import subprocess
import sys

import jax
import pytest

from vishwamai import VishwamAI
from vishwamai.cli import main

from .conftest import CONFIG, refused, type_in


def config_with(**changes):
    return lambda raw: json.dumps(json.loads(raw) | changes).encode()


def reshape_first(raw):
    """Turns the shape of one tensor in a safetensors header, leaving the bytes it covers as they were."""
    size = struct.unpack("<Q", raw[:8])[0]
    header = json.loads(raw[8 : 8 + size])
    header["model.embed_tokens.weight"]["shape"].reverse()
    text = json.dumps(header, separators=(",", ":")).encode()
    return struct.pack("<Q", len(text)) + text + raw[8 + size :]


def test_a_missing_folder(capsys, tmp_path):
    assert "nowhere" in refused(capsys, "generate", "hi", "-m", str(tmp_path / "nowhere"))


def test_truncated_weights(capsys, damaged):
    model = damaged("model.safetensors", lambda raw: raw[:-100])
    assert "model.safetensors" in refused(capsys, "generate", "hi", "-m", model)


def test_a_tensor_of_the_wrong_shape(capsys, damaged):
    model = damaged("model.safetensors", reshape_first)
    sentence = refused(capsys, "generate", "hi", "-m", model)
    assert "model.embed_tokens.weight" in sentence and "[16, 263]" in sentence and "[263, 16]" in sentence


@pytest.mark.parametrize("verb", [["generate", "-"], ["tokenizer", "encode", "-"], ["tokenizer", "decode", "-"]])
def test_a_closed_input(capsys, monkeypatch, folder, verb):
    monkeypatch.setattr("sys.stdin", None)
    assert "standard input is closed" in refused(capsys, *verb, "-m", str(folder))


@pytest.mark.parametrize("name", ["x" * 300, "~nouser-at-all/x"])
def test_names_that_no_folder_can_have(capsys, name):
    assert f"there is no folder {name}" in refused(capsys, "generate", "hi", "-m", name)


def test_a_path_that_the_system_refuses(capsys, monkeypatch, tmp_path):
    (tmp_path / "file").write_text("")
    monkeypatch.setattr(VishwamAI, "from_pretrained", lambda *args, **options: (tmp_path / "file" / "x").mkdir())
    assert f"{tmp_path / 'file' / 'x'}: Not a directory; check the path" in refused(capsys, "generate", "hi")


def test_an_unknown_architecture(capsys, damaged):
    model = damaged("config.json", config_with(model_type="parrot"))
    assert "parrot" in refused(capsys, "generate", "hi", "-m", model)


def test_an_unknown_config_key(capsys, damaged):
    model = damaged("config.json", config_with(number_of_wings=2))
    assert "number_of_wings" in refused(capsys, "generate", "hi", "-m", model)


def test_heads_that_do_not_divide(capsys, damaged):
    model = damaged("config.json", config_with(num_key_value_heads=3))
    assert "n_heads 4 is not a multiple of n_kv_heads 3" in refused(capsys, "generate", "hi", "-m", model)


@pytest.mark.parametrize("verb", [["generate", "-"], ["tokenizer", "encode", "-"]])
def test_input_that_is_not_utf8(capsys, monkeypatch, folder, verb):
    type_in(monkeypatch, b"abc\xff")
    assert "standard input is not UTF-8 (byte 3" in refused(capsys, *verb, "-m", str(folder))


def test_unknown_words_end_with_usage(capsys):
    for argv in (["sing"], ["generate", "hi", "--no-such-flag"], []):
        with pytest.raises(SystemExit) as ended:
            main(argv)
        assert ended.value.code == 2
        assert "usage: vishwamai" in capsys.readouterr().err


def test_a_missing_extra_is_named(capsys, monkeypatch):
    monkeypatch.setitem(sys.modules, "optax", None)
    for name in [name for name in sys.modules if name.startswith("vishwamai.training")]:
        monkeypatch.delitem(sys.modules, name)
    assert "vishwamai[train]" in refused(capsys, "train", CONFIG)


def failing_with(error):
    def fail(*args, **options):
        raise error

    return fail


@pytest.mark.parametrize(
    "error",
    [
        MemoryError(),
        jax.errors.JaxRuntimeError("RESOURCE_EXHAUSTED: Error allocating device buffer"),
        jax.errors.JaxRuntimeError("INTERNAL: Error dispatching computation: Out of memory allocating 52 bytes."),
    ],
)
def test_memory_that_there_is_not(capsys, monkeypatch, folder, error):
    monkeypatch.setattr(VishwamAI, "stream", failing_with(error))
    assert "not enough memory; ask for fewer beams" in refused(capsys, "generate", "hi", "-m", str(folder))


def test_another_failure_of_the_device_is_not_hidden(monkeypatch, folder):
    monkeypatch.setattr(VishwamAI, "stream", failing_with(jax.errors.JaxRuntimeError("INTERNAL: a bug")))
    with pytest.raises(jax.errors.JaxRuntimeError, match="a bug"):
        main(["generate", "hi", "-m", str(folder)])


def test_interruption(capsys, monkeypatch, folder):
    def stop(*args, **options):
        raise KeyboardInterrupt

    monkeypatch.setattr(VishwamAI, "stream", stop)
    assert main(["generate", "hi", "-m", str(folder)]) == 130


HEAVY = {"jax", "numpy", "tokenizers", "huggingface_hub", "jinja2", "rich", "optax"}
HELP = """
import atexit, sys
atexit.register(lambda: print("imported:", *sorted({name.split(".")[0] for name in sys.modules})))
sys.argv = ["vishwamai", "--help"]
from vishwamai.cli import main
main()
"""


def test_help_imports_nothing_heavy():
    run = subprocess.run([sys.executable, "-c", HELP], capture_output=True, text=True, timeout=120)
    shown, imported = run.stdout.split("imported: ")
    assert run.returncode == 0 and "inspect" in shown and "vishwamai" in imported.split()
    assert not HEAVY & set(imported.split())


def test_a_process_that_fails_shows_no_traceback(tmp_path):
    command = [sys.executable, "-m", "vishwamai", "inspect", str(tmp_path)]
    run = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert run.returncode == 2
    assert run.stderr.startswith("vishwamai: error: ") and run.stderr.count("\n") == 1
