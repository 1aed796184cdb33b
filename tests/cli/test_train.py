"""`vishwamai train`: the configuration that the trainer gets, and the model that is left."""

import numpy as np
import pytest

from vishwamai import VishwamAI
from vishwamai.cli import main, train
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
    model = VishwamAI.from_pretrained(folder, scan_layers=True)

    def run(config, where, *, start, max_seconds, allow_changes, progress):
        assert (config.training.steps, where, start, max_seconds, allow_changes) == (7, tmp_path, None, 5, True)
        return trainer.Result(model.weights, model.tokenizer, 3, 1.0, False, tokens=1234, loss=2.5, skipped=2)

    monkeypatch.setattr(trainer, "train", run)
    sizes = [f"model.{name}={value}" for name, value in SIZES.items()]
    argv = ["train", CONFIG, "training.steps=7", "-o", str(tmp_path), "--max-seconds", "5", "--allow-changes", *sizes]
    assert main(argv) == 0
    assert capsys.readouterr().out == (
        "stopped, and the same command goes on, at step 3 of 7: loss 2.5, 1,234 tokens in 1 s, 2 batches were not "
        f"finite and changed nothing; the model is in {tmp_path / 'model'}\n"
    )
    back = VishwamAI.from_pretrained(tmp_path / "model")
    np.testing.assert_array_equal(back.weights.embed, model.weights.embed)
    assert back.generation_config.eos_ids == (257,)


@pytest.mark.parametrize(("finished", "limit", "code"), [(True, [], 0), (False, [], 130), (False, ["5"], 0)])
def test_a_run_that_a_signal_stopped_has_the_exit_code_of_one(monkeypatch, folder, tmp_path, finished, limit, code):
    model = VishwamAI.from_pretrained(folder, scan_layers=True)
    found = trainer.Result(model.weights, model.tokenizer, 3, 1.0, finished)
    monkeypatch.setattr(trainer, "train", lambda *args, **options: found)
    sizes = [f"model.{name}={value}" for name, value in SIZES.items()]
    argv = ["train", CONFIG, "-o", str(tmp_path), *sizes, *(["--max-seconds", *limit] if limit else [])]
    assert main(argv) == code


def test_the_last_line_says_how_it_went():
    line = train._describe(
        trainer.Result(None, None, 7000, 3661.4, True, tokens=12345678, loss=1.23456, eval_loss=2.0), 7000
    )
    assert line == "finished at step 7,000 of 7,000: loss 1.235, held-out loss 2, 12,345,678 tokens in 3,661 s"
    line = train._describe(trainer.Result(None, None, 400, 9.0, True, loss=1.0, early=True, best=200), 7000)
    assert line.startswith("finished early at step 400 of 7,000: loss 1, ")
    assert line.endswith("the weights are those of step 200, its best")


def test_train_alone_says_what_is_missing(capsys):
    with pytest.raises(SystemExit, match="2"):
        main(["train"])
    assert capsys.readouterr().err.endswith("vishwamai train: error: the following arguments are required: config\n")
    assert main(["train", CONFIG, "--explain", "training.steps=7"]) == 0


@pytest.mark.by_turns
def test_a_run_in_a_pipe_is_plain_lines(capsys, tmp_path):
    changes = ["training.steps=2", "training.data.tokenizer=bytes", "logging.eval_every=2", "logging.log_every=1"]
    changes += ["training.length=96", "training.batch=2", "training.lengths=[96]", "model.stacks.0.repeats=1"]
    assert main(["train", CONFIG, *changes, "-o", str(tmp_path)]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split("  ")[0] for line in lines[:3]] == ["step 1 of 2", "step 2 of 2", "step 2 of 2"]
    assert "loss " in lines[0] and "eval_loss " in lines[2] and not any("\x1b" in line for line in lines)
    assert lines[3].startswith("finished at step 2 of 2: loss ") and ", held-out loss " in lines[3]
    assert lines[3].endswith(f" s; the model is in {tmp_path / 'model'}") and len(lines) == 4
