"""A tiny model in a folder, and commands that must be refused: for the tests of every verb."""

import io
import sys
from pathlib import Path

import pytest

from vishwamai import VishwamAI, VishwamAITokenizer
from vishwamai.cli import main
from vishwamai.models.config import ModelConfig, uniform

CONFIG = str(Path(__file__).parent.parent.parent / "configs/train/smoke.json")
SIZES = {"vocab_size": 263, "d_model": 16, "d_ff": 24, "n_heads": 4, "n_kv_heads": 2, "head_dim": 8}
SIZES |= {"n_experts": 4, "n_experts_per_token": 2, "d_expert": 16}


@pytest.fixture(scope="session")
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


def refused(capsys, *argv):
    """Runs a command that must end with exit code 2; returns its one sentence."""
    assert main(argv) == 2
    out, err = capsys.readouterr()
    assert err.startswith("vishwamai: error: ") and err.count("\n") == 1 and "Traceback" not in err
    assert out == ""
    return err


def type_in(monkeypatch, raw: bytes):
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(raw)))
