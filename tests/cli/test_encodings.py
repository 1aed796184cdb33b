"""Every verb prints on a terminal of any encoding: what that lacks is written as an escape, and nothing is lost."""

import io
import json
import os
import subprocess
import sys
from types import SimpleNamespace

import pytest

from vishwamai import VishwamAI, VishwamAITokenizer
from vishwamai.cli import main
from vishwamai.outputs import Chunk
from vishwamai.reasoning.scripted import Scripted
from vishwamai.training import trainer

from .conftest import CONFIG, type_in

TEXT = "caf\xe9 \u2713 \u6570 \U0001f600"
LATIN = "caf\xe9 \\u2713 \\u6570 \\U0001f600"
ASCII = "caf\\xe9 \\u2713 \\u6570 \\U0001f600"


@pytest.fixture(params=[("ascii", ASCII), ("latin-1", LATIN), ("utf-8", TEXT)], ids=lambda param: param[0])
def terminal(request, monkeypatch):
    """`terminal(argv)`: what a command prints where the encoding is so, and the words of `TEXT` there."""
    encoding, shown = request.param

    def run(*argv: str) -> str:
        streams = [io.TextIOWrapper(io.BytesIO(), encoding=encoding, errors="strict") for _ in range(2)]
        monkeypatch.setattr(sys, "stdout", streams[0])
        monkeypatch.setattr(sys, "stderr", streams[1])
        run.code = main(argv)
        for stream in streams:
            stream.flush()
        return "".join(stream.buffer.getvalue().decode(encoding) for stream in streams)

    run.shown = shown
    return run


class Says:
    """A model that says one text, whatever it is asked."""

    def __init__(self, text: str):
        self.text = text
        self.generation_config, self.config = SimpleNamespace(num_beams=None), SimpleNamespace(max_length=100)
        self.tokenizer = VishwamAITokenizer.from_pretrained("vishwamai/base")

    def stream(self, *args, **options):
        return iter([Chunk(self.text, [], [], finish_reason="stop")])


@pytest.fixture
def model(monkeypatch):
    """Any model that a command loads says `TEXT`."""

    monkeypatch.setattr(VishwamAI, "from_pretrained", lambda *args, **options: Says(TEXT))


def test_generate(terminal, model):
    assert terminal.shown in terminal("generate", "hi") and terminal.code == 0


def test_chat(terminal, model, monkeypatch):
    type_in(monkeypatch, b"hi\n")
    assert terminal.shown in terminal("chat") and terminal.code == 0


@pytest.mark.parametrize("how", [["--method", "cot"], ["--json"]], ids=["steps", "json"])
def test_reason(terminal, monkeypatch, how):
    model = Scripted(lambda prompt, n: [f"{TEXT}\nAnswer: {TEXT}"] * n)
    monkeypatch.setattr("vishwamai.cli.reason._model", lambda args, own, status: model)
    printed = terminal("reason", TEXT, *how)
    assert terminal.code == 0 and (terminal.shown if how[0] == "--method" else "\\u2713") in printed


def test_train(terminal, monkeypatch, tmp_path):
    monkeypatch.setattr(trainer, "train", lambda *args, **options: (_ for _ in ()).throw(KeyboardInterrupt))
    assert terminal("train", CONFIG, "-o", str(tmp_path / TEXT)) == "\n" and terminal.code == 130
    assert terminal.shown in terminal("train", CONFIG, f"about.command={TEXT}", "--explain") and terminal.code == 0


def test_what_is_refused(terminal, tmp_path):
    assert terminal.shown in terminal("train", str(tmp_path / TEXT)) and terminal.code == 2


def test_decoded_tokens(terminal, folder):
    ids = json.dumps(list(TEXT.encode())).strip("[]")
    assert terminal.shown in terminal("tokenizer", "decode", ids, "-m", str(folder)) and terminal.code == 0


def test_half_a_surrogate_pair_is_no_error_anywhere(terminal, monkeypatch):
    monkeypatch.setattr(VishwamAI, "from_pretrained", lambda *args, **options: Says("a\ud800b"))
    assert "a\\ud800b" in terminal("generate", "hi")


def test_a_process_in_a_locale_without_utf_8():
    environment = {
        **os.environ,
        "PYTHONIOENCODING": "ascii",
        "LC_ALL": "C",
        "PYTHONUTF8": "0",
        "PYTHONCOERCECLOCALE": "0",
    }
    argv = [sys.executable, "-m", "vishwamai", "train", "caf\xe9.json"]
    done = subprocess.run(argv, env=environment, capture_output=True, text=True, encoding="ascii")
    assert done.returncode == 2 and "caf\\" in done.stderr and "Traceback" not in done.stderr
