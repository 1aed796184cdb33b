"""`vishwamai convert`: what it writes loads as the same model, with a certificate of it."""

import json
from types import SimpleNamespace

import numpy as np
import pytest

from vishwamai import VishwamAI
from vishwamai.cli import convert, main
from vishwamai.hf import certificate, reference
from vishwamai.hf.source import CheckpointSource
from vishwamai.training import trainer

from .conftest import refused


def test_convert_writes_what_loads(capsys, folder, tmp_path, monkeypatch):
    def absent(folder, rows):
        raise ModuleNotFoundError("no", name="transformers")

    monkeypatch.setattr(reference, "logits", absent)
    target = tmp_path / "new"
    assert main(["convert", str(folder), str(target)]) == 0
    a, b = VishwamAI.from_pretrained(folder), VishwamAI.from_pretrained(target)
    assert a.config == b.config
    np.testing.assert_array_equal(a.weights.embed, b.weights.embed)
    assert b.tokenizer.encode("hé") == [104, 195, 169]
    out = capsys.readouterr().out.splitlines()
    assert out[0].startswith(f"{target}: qwen3_moe, float32, ")
    n = sum(min(len(text.encode()), certificate.LONGEST) for text in certificate.TEXTS)
    assert out[1] == (
        f"source to target: logits differ by 0.0e+00 of the largest, the same greedy token at 100.0% of {n} positions"
    )
    assert out[2] == "target to transformers: transformers cannot be asked: transformers is not installed"
    made = json.loads((target / "parity.json").read_text())
    assert made["prompts"][0]["text"] == certificate.TEXTS[0] and made["source"]["name"] == str(folder)


@pytest.mark.parametrize("wanted", ["hashes", "none"])
def test_less_of_a_certificate(capsys, folder, tmp_path, wanted):
    command = ["convert", str(folder), str(tmp_path / "new"), "--as", "vishwamai", "--dtype", "bfloat16"]
    assert main([*command, "--certificate", wanted]) == 0
    assert capsys.readouterr().out.startswith(f"{tmp_path / 'new'}: vishwamai, bfloat16, ")
    assert (tmp_path / "new/parity.json").exists() == (wanted == "hashes")
    if wanted == "hashes":
        assert certificate.changed_files(tmp_path / "new") == []


def test_a_folder_without_a_tokenizer_is_asked_seeded_ids(folder, tmp_path):
    for name in ("config.json", "model.safetensors"):
        (tmp_path / name).write_bytes((folder / name).read_bytes())
    assert [p.text for p in convert._prompts(CheckpointSource(tmp_path))] == [None, None]


def test_conversion_over_something_that_is_there(capsys, folder):
    assert "is there already" in refused(capsys, "convert", str(folder), str(folder))


def test_a_family_that_does_not_express_the_model(capsys, folder, tmp_path):
    assert "llama (" in refused(capsys, "convert", str(folder), str(tmp_path / "new"), "--as", "llama")
    assert "'llamma' is not written; use" in refused(
        capsys, "convert", str(folder), str(tmp_path / "x"), "--as", "llamma"
    )


def test_a_training_run_is_converted_from_its_newest_checkpoint(capsys, folder, tmp_path, monkeypatch):
    model = VishwamAI.from_pretrained(folder)
    run = SimpleNamespace(model=model.config, training=SimpleNamespace(steps=9))
    left = trainer.Result(model.weights, model.tokenizer, 4, 0.0, False)
    monkeypatch.setattr(trainer, "load_newest", lambda where: (run, left))
    (tmp_path / "run.json").write_text("{}")
    command = ["convert", str(tmp_path), str(tmp_path / "new"), "--as", "vishwamai", "--certificate", "hashes"]
    assert main(command) == 0
    assert capsys.readouterr().out.startswith(f"{tmp_path}: step 4 of 9\n{tmp_path / 'new'}: vishwamai, float32, ")
    back = VishwamAI.from_pretrained(tmp_path / "new")
    np.testing.assert_array_equal(back.weights.embed, model.weights.embed)
    assert back.generation_config.eos_ids == (257,) and sorted(p.name for p in tmp_path.iterdir()) == [
        "new",
        "run.json",
    ]
