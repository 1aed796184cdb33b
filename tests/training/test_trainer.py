"""A whole run: it learns, stops, resumes as if it had not stopped, and passes over a damaged checkpoint."""

import dataclasses
import os
import signal

import jax
import numpy as np
import pytest

from vishwamai import config
from vishwamai.checkpoint import Checkpoints
from vishwamai.errors import CheckpointError, ConfigError, DataError
from vishwamai.monitor.metrics import read
from vishwamai.training.config import RunConfig
from vishwamai.training.trainer import newest, train


def tiny(**training) -> RunConfig:
    file = config.load_json("configs/train/smoke.json")
    file["training"] |= {"steps": 6, "batch": 4, "length": 96, "lengths": [96], **training}
    file["training"]["data"] |= {"tokenizer": "bytes"}
    file["model"]["stacks"][0]["repeats"] = 1
    file["logging"] = {"log_every": 1, "eval_every": 6, "eval_batches": 1, "save_every": 2}
    return config.from_dict(RunConfig, file, "tiny")


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    folder = tmp_path_factory.mktemp("whole")
    return folder, train(tiny(), folder, show=False)


def test_a_run_writes_its_numbers_and_its_picture(whole):
    folder, result = whole
    lines = read(folder / "metrics.jsonl")
    assert result.finished and result.step == 6
    assert [line["step"] for line in lines if "loss" in line] == [1, 2, 3, 4, 5, 6]
    assert "eval_loss" in lines[-1] and lines[-2]["loss"] < lines[0]["loss"]
    assert (folder / "loss.png").stat().st_size > 5000


def test_the_evaluated_checkpoint_is_known_as_the_best(whole):
    assert Checkpoints(whole[0] / "checkpoints").best() == 6


def test_a_stopped_run_goes_on_bit_for_bit(whole, tmp_path):
    def stop_at_three(step, numbers):
        if step == 3:
            os.kill(os.getpid(), signal.SIGTERM)

    first = train(tiny(), tmp_path, show=False, sinks=(stop_at_three,))
    assert not first.finished and 3 <= first.step < 6
    second = train(tiny(), tmp_path, show=False)
    assert second.finished and second.step == 6
    jax.tree.map(np.testing.assert_array_equal, second.weights, whole[1].weights)


def test_a_finished_run_does_nothing_more(whole):
    folder, result = whole
    again = train(tiny(), folder, show=False)
    jax.tree.map(np.testing.assert_array_equal, again.weights, result.weights)


def test_the_newest_checkpoint_is_had_without_training(whole):
    folder, result = whole
    before = sorted(path for path in (folder / "checkpoints").rglob("*"))
    run, left = newest(folder)
    assert run == tiny() and (left.step, left.finished) == (6, True) and len(left.tokenizer) == len(result.tokenizer)
    jax.tree.map(np.testing.assert_array_equal, left.weights, result.weights)
    assert sorted(path for path in (folder / "checkpoints").rglob("*")) == before


def test_a_folder_without_a_run_or_a_checkpoint_is_refused(whole, tmp_path):
    with pytest.raises(ConfigError, match=r"run.json: cannot be read"):
        newest(tmp_path)
    (tmp_path / "run.json").write_bytes((whole[0] / "run.json").read_bytes())
    with pytest.raises(CheckpointError, match="has saved no checkpoint yet"):
        newest(tmp_path)


def test_the_time_limit_saves_and_stops(tmp_path):
    assert not train(tiny(steps=10000), tmp_path, show=False, max_seconds=0.0).finished


def test_another_model_is_refused(whole):
    run = tiny()
    with pytest.warns(RuntimeWarning, match="passed over"), pytest.raises(CheckpointError, match="this run"):
        train(dataclasses.replace(run, model=dataclasses.replace(run.model, d_model=48)), whole[0], show=False)
    assert newest(whole[0])[0] == run


def test_contradictions_in_a_run_are_refused():
    file = config.load_json("configs/train/smoke.json")
    with pytest.raises(ConfigError, match="not a multiple of optimization.accumulate"):
        config.from_dict(RunConfig, {**file, "optimization": {"accumulate": 3}}, "x")
    with pytest.raises(ConfigError, match="4096 tokens is longer than model.max_length 256"):
        config.from_dict(RunConfig, {**file, "training": {**file["training"], "length": 4096}}, "x")
    budget = {**file["training"], "token_budget": 128 * 9, "lengths": [128]}
    with pytest.raises(ConfigError, match="training.token_budget // 128 is 9, which is not a multiple"):
        config.from_dict(RunConfig, {**file, "training": budget, "optimization": {"accumulate": 2}}, "x")
    unused = {**file["training"], "length": 256, "lengths": [512]}
    assert config.from_dict(RunConfig, {**file, "training": unused}, "x").training.length == 256
    with pytest.raises(ConfigError, match="float31"):
        config.from_dict(RunConfig, {**file, "optimization": {"precision": "float31"}}, "x")


def test_a_run_that_learns_from_nothing_ends(tmp_path):
    with pytest.raises(DataError, match="none of the first 6 batches"):
        train(tiny(z_loss=1e38), tmp_path, show=False)


def test_folders_and_limits_that_cannot_be_are_refused(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(CheckpointError, match="cannot be made"):
        train(tiny(), tmp_path / "file" / "run", show=False)
    with pytest.raises(ConfigError, match="max_seconds is -5"):
        train(tiny(), tmp_path, show=False, max_seconds=-5)


def test_evaluation_on_rows_held_out_of_a_file(tmp_path):
    (tmp_path / "rows.txt").write_text("\n\n".join(f"the row of number {i}" for i in range(60)))
    sources = [{"kind": "text", "name": str(tmp_path / "rows.txt"), "held_out": 0.2}]
    train(tiny(data={"sources": sources, "tokenizer": "bytes"}), tmp_path / "run", show=False)
    assert "eval_loss" in read(tmp_path / "run" / "metrics.jsonl")[-1]


def test_the_last_step_is_evaluated_whatever_its_number(tmp_path):
    run = tiny(steps=3)
    train(dataclasses.replace(run, logging=dataclasses.replace(run.logging, eval_every=2)), tmp_path, show=False)
    assert [line["step"] for line in read(tmp_path / "metrics.jsonl") if "eval_loss" in line] == [2, 3]


def test_a_budget_run_compiles_each_length_and_ends(tmp_path):
    run = tiny(token_budget=384, lengths=[48, 96], steps=3)
    assert train(run, tmp_path, show=False).step == 3
