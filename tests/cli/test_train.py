"""`vishwamai train`: the configuration that the trainer gets, and the model that is left."""

import numpy as np
import pytest

from vishwamai import VishwamAI
from vishwamai.cli import main
from vishwamai.training import trainer

from .conftest import CONFIG, SIZES, refused


def test_train_explains_every_value(capsys):
    assert main(["train", CONFIG, "training.steps=7", "--explain"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split("#")[1].strip() for line in lines if line.startswith("training.steps ")] == [
        "override training.steps=7"
    ]
    assert any(line.startswith("model.d_model ") and "file" in line for line in lines)


def test_train_refuses_what_it_does_not_know(capsys):
    assert "training.step=7" in refused(capsys, "train", CONFIG, "training.step=7")


@pytest.mark.parametrize(
    "change",
    [
        "training.seed=99999999999999999999",
        "training.batch=1000000000000",
        "training.batch=100000000",
        "training.steps=99999999999999999999",
        "training.token_budget=1",
        "training.token_budget=1000000000000",
        "training.lengths=[0]",
        "training.data.tokenizer_rows=-5",
    ],
)
def test_numbers_out_of_range(capsys, tmp_path, change):
    sentence = refused(capsys, "train", CONFIG, change, "-o", str(tmp_path / "run"))
    assert change.split("=")[0] in sentence and "must be" in sentence
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("name", ["file", "file/x"])
def test_a_run_that_cannot_be_kept(capsys, tmp_path, name):
    (tmp_path / "file").write_text("")
    assert str(tmp_path / name) in refused(capsys, "train", CONFIG, "-o", str(tmp_path / name))


def test_train_leaves_a_model(capsys, monkeypatch, folder, tmp_path):
    model = VishwamAI.from_pretrained(folder)

    def run(config, where, *, start, max_seconds):
        assert (config.training.steps, where, start, max_seconds) == (7, tmp_path, None, 5)
        return trainer.Result(model.weights, model.tokenizer, 3, 1.0, False)

    monkeypatch.setattr(trainer, "train", run)
    sizes = [f"model.{name}={value}" for name, value in SIZES.items()]
    argv = ["train", CONFIG, "training.steps=7", "-o", str(tmp_path), "--max-seconds", "5", *sizes]
    assert main(argv) == 0
    assert capsys.readouterr().out.startswith("stopped, and the same command goes on, at step 3 of 7")
    back = VishwamAI.from_pretrained(tmp_path / "model")
    np.testing.assert_array_equal(back.weights.embed, model.weights.embed)
    assert back.generation.eos_ids == (257,)
