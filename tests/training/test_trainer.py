"""A whole run: it learns, stops, resumes as if it had not stopped, and passes over a damaged checkpoint."""

import dataclasses
import functools
import json
import os
import shutil
import signal

import jax
import numpy as np
import pytest

from vishwamai import config
from vishwamai.checkpoint import Checkpoints
from vishwamai.errors import CheckpointError, ConfigError, DataError
from vishwamai.monitor.metrics import read_jsonl
from vishwamai.training import trainer
from vishwamai.training.config import RunConfig
from vishwamai.training.trainer import load_newest, train

pytestmark = pytest.mark.by_turns


def tiny(**training) -> RunConfig:
    file = config.load_json("configs/train/smoke.json")
    file["training"] |= {"steps": 6, "batch": 4, "length": 96, "lengths": [96], **training}
    file["training"]["data"] |= {"tokenizer": "bytes"}
    file["model"]["stacks"] = [{"pattern": [{}], "repeats": 1}]
    file["logging"] = {"log_every": 1, "eval_every": 6, "eval_batches": 1, "save_every": 2}
    return config.from_dict(RunConfig, file, "tiny")


@pytest.fixture(autouse=True, scope="module")
def compiled_once():
    """Runs of one shape share their programs: most of a tiny run's time is compiling."""
    with pytest.MonkeyPatch.context() as patch:
        for name in ("compiled_step", "compiled_evaluation"):
            patch.setattr(trainer, name, functools.cache(getattr(trainer, name)))
        yield


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    folder = tmp_path_factory.mktemp("whole")
    return folder, train(tiny(), folder, show=False)


def test_a_run_writes_its_numbers_and_its_picture(whole):
    folder, result = whole
    lines = read_jsonl(folder / "metrics.jsonl")
    assert result.finished and result.step == 6
    assert [line["step"] for line in lines if "loss" in line] == [1, 2, 3, 4, 5, 6]
    assert "eval_loss" in lines[-1] and lines[-2]["loss"] < lines[0]["loss"]
    assert (folder / "loss.png").stat().st_size > 5000


def test_the_evaluated_checkpoint_is_known_as_the_best(whole):
    assert Checkpoints(whole[0] / "checkpoints").best() == 6


def stop_at(wanted: int):
    """A sink that ends the run after a step."""

    def sink(step, numbers):
        if step == wanted:
            os.kill(os.getpid(), signal.SIGTERM)

    return sink


def test_an_error_leaves_the_checkpoint_that_was_being_written(tmp_path):
    def fail(self, step, numbers):
        if step == 5:
            raise DataError("a row that is none")

    with pytest.MonkeyPatch.context() as patch, pytest.raises(DataError, match="a row that is none"):
        patch.setattr(trainer.Metrics, "log", fail)
        train(tiny(), tmp_path, show=False)
    assert not [*(tmp_path / "checkpoints").glob("*tmp*")]
    assert train(tiny(), tmp_path, show=False).finished


def test_a_stopped_run_goes_on_bit_for_bit(whole, tmp_path, capfd):
    first = train(tiny(), tmp_path, show=False, sinks=(stop_at(3),))
    assert capfd.readouterr().err.count("SIGTERM: the step at hand ends, is saved, and then the run stops\n") == 1
    assert not first.finished and 3 <= first.step < 6
    second = train(tiny(), tmp_path, show=False)
    assert second.finished and second.step == 6
    jax.tree.map(np.testing.assert_array_equal, second.weights, whole[1].weights)


def test_a_stop_that_cannot_be_told_is_a_stop(monkeypatch):
    def fail(*_):
        raise BrokenPipeError

    monkeypatch.setattr(trainer.os, "write", fail)
    with trainer._stop_signals() as stop:
        signal.raise_signal(signal.SIGTERM)
        assert stop.is_set()


def test_a_run_tells_how_it_went(whole):
    folder, result = whole
    lines = read_jsonl(folder / "metrics.jsonl")
    assert (result.loss, result.eval_loss) == (lines[-2]["loss"], lines[-1]["eval_loss"])
    assert result.tokens == sum(line["tokens"] for line in lines if "loss" in line) and result.skipped == 0
    again = train(tiny(), folder, show=False)
    assert (again.loss, again.eval_loss, again.tokens) == (result.loss, result.eval_loss, 0)


def test_the_step_at_which_a_run_is_stopped_is_logged(tmp_path, monkeypatch):
    def put_batch(batch, sharding, real=trainer.put_batch):
        batches.append(batch)
        if len(batches) == 4:  # the first is the evaluation's
            os.kill(os.getpid(), signal.SIGTERM)
        return real(batch, sharding)

    batches = []
    monkeypatch.setattr(trainer, "put_batch", put_batch)
    run = dataclasses.replace(tiny(), logging=dataclasses.replace(tiny().logging, log_every=6, save_every=6))
    result = train(run, tmp_path, show=False)
    assert result.step == 3 and [line["step"] for line in read_jsonl(tmp_path / "metrics.jsonl")] == [1, 3]


def test_a_finished_run_does_nothing_more(whole):
    folder, result = whole
    again = train(tiny(), folder, show=False)
    jax.tree.map(np.testing.assert_array_equal, again.weights, result.weights)


def test_the_newest_checkpoint_is_had_without_training(whole):
    folder, result = whole
    before = sorted(path for path in (folder / "checkpoints").rglob("*"))
    run, left = load_newest(folder)
    assert run == tiny() and (left.step, left.finished) == (6, True) and len(left.tokenizer) == len(result.tokenizer)
    jax.tree.map(np.testing.assert_array_equal, left.weights, result.weights)
    assert sorted(path for path in (folder / "checkpoints").rglob("*")) == before


def test_a_folder_without_a_run_or_a_checkpoint_is_refused(whole, tmp_path):
    with pytest.raises(ConfigError, match=r"run.json: cannot be read"):
        load_newest(tmp_path)
    (tmp_path / "run.json").write_bytes((whole[0] / "run.json").read_bytes())
    with pytest.raises(CheckpointError, match="has saved no checkpoint yet"):
        load_newest(tmp_path)


def test_the_time_limit_saves_and_stops(tmp_path):
    assert not train(tiny(steps=10000), tmp_path, show=False, max_seconds=0.0).finished


def test_another_model_is_refused(whole):
    run = tiny()
    other = dataclasses.replace(run, model=dataclasses.replace(run.model, d_model=48))
    with pytest.raises(ConfigError, match="model.d_model: 32 -> 48"):
        train(other, whole[0], show=False)
    assert load_newest(whole[0])[0] == run


def test_another_model_cannot_go_on_on_purpose_either(whole, tmp_path):
    shutil.copytree(whole[0], tmp_path / "run")
    run = tiny()
    other = dataclasses.replace(run, model=dataclasses.replace(run.model, d_model=48))
    with pytest.warns(RuntimeWarning, match="passed over"), pytest.raises(CheckpointError, match="this run"):
        train(other, tmp_path / "run", show=False, allow_changes=True)


def test_a_finished_run_with_other_values_is_refused_and_goes_on_on_purpose(whole, tmp_path):
    shutil.copytree(whole[0], tmp_path / "run")
    before = (tmp_path / "run" / "run.json").read_bytes()
    with pytest.raises(ConfigError, match="training.seed: 0 -> 9"):
        train(tiny(seed=9), tmp_path / "run", show=False)
    assert (tmp_path / "run" / "run.json").read_bytes() == before
    assert train(tiny(seed=9), tmp_path / "run", show=False, allow_changes=True).step == 6


def test_a_file_of_the_data_that_changes_between_two_starts_is_named(tmp_path):
    rows = tmp_path / "rows.txt"
    rows.write_text("\n\n".join(f"the row of number {i}" for i in range(60)))
    run = tiny(data={"sources": [{"kind": "text", "name": str(rows)}], "tokenizer": "bytes"})
    stopped = train(run, tmp_path / "run", show=False, sinks=(stop_at(3),))
    assert 3 <= stopped.step < 6
    rows.write_text(rows.read_text().replace("number 7", "number 8"))
    with pytest.raises(ConfigError, match=f"{rows} changed after step {stopped.step}.*--allow-changes"):
        train(run, tmp_path / "run", show=False)
    assert train(run, tmp_path / "run", show=False, allow_changes=True).step == 6


def test_a_tokenizer_that_changes_between_two_starts_is_named(tmp_path):
    run = config.override(tiny(steps=2), "training.data.tokenizer=train", "training.data.tokenizer_rows=20")
    train(run, tmp_path, show=False)
    path = tmp_path / "tokenizer" / "tokenizer.json"
    tokenizer = json.loads(path.read_text(encoding="utf-8"))
    vocab = tokenizer["model"]["vocab"]
    vocab["a"], vocab["b"] = vocab["b"], vocab["a"]
    path.write_text(json.dumps(tokenizer), encoding="utf-8")
    with pytest.raises(ConfigError, match="the tokenizer changed after step 2"):
        train(run, tmp_path, show=False)


def test_a_folder_that_another_run_works_in_is_left_alone(tmp_path):
    def second(step, numbers):
        before = sorted(tmp_path.rglob("*"))
        with pytest.raises(CheckpointError, match="another run is at work in this folder"):
            train(tiny(), tmp_path, show=False)
        assert sorted(tmp_path.rglob("*")) == before
        tried.append(step)

    tried = []
    assert train(tiny(steps=2), tmp_path, show=False, sinks=(second,)).finished
    assert tried == [1, 2, 2]
    assert train(tiny(steps=2), tmp_path, show=False).finished  # the lock was given back


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
    assert [line["skipped"] for line in strictly(tmp_path / "metrics.jsonl")] == [1, 2, 3, 4, 5, 6]


def strictly(path) -> list[dict]:
    """The lines of a file as a reader takes them who knows no NaN."""

    def refuse(constant):
        raise AssertionError(f"{constant} is no JSON")

    return [json.loads(line, parse_constant=refuse) for line in path.read_text().splitlines()]


def diverging(**training) -> RunConfig:
    """A first step that makes the weights so large that no later loss is finite."""
    run = tiny(optimizer={"learning_rate": 1e30, "warmup_steps": 0, "weight_decay": 0.0}, **training)
    return dataclasses.replace(run, logging=dataclasses.replace(run.logging, eval_batches=0, save_every=100))


def test_a_run_that_diverges_ends_with_a_word(tmp_path):
    with pytest.raises(DataError, match="none of the last 10 batches gave a finite loss, gradient and weights"):
        train(diverging(steps=40), tmp_path, show=False)
    last = strictly(tmp_path / "metrics.jsonl")[-1]
    assert (last["step"], last["skipped"]) == (11, 10)


def test_it_is_looked_at_as_often_as_it_is_logged(tmp_path):
    run = diverging(steps=40)
    run = dataclasses.replace(run, logging=dataclasses.replace(run.logging, log_every=7))
    with pytest.raises(DataError, match="none of the last 13 batches"):  # steps 2 to 14: it is logged at 1, 7, 14
        train(run, tmp_path, show=False)


@pytest.mark.parametrize(
    ("looks", "words"),
    [
        ([(1, 0), (5, 4), (10, 9), (11, 10)], "last 10"),  # one good batch, then ten that are not
        ([(5, 5), (9, 9), (10, 10)], "first 10"),
        ([(5, 5), (10, 9), (15, 14), (19, 18)], None),  # the good one among 6 to 10 begins the count anew
        ([(9, 9), (10, 9), (19, 18)], None),
        ([(9, 9), (10, 9), (20, 19)], "last 10"),
    ],
)
def test_batches_are_counted_in_a_row(looks, words):
    health = trainer._Health(0, 0, 1000)
    for look in looks[:-1]:
        health.check(*look)
    if words is None:
        return health.check(*looks[-1])
    with pytest.raises(DataError, match=f"none of the {words} batches"):
        health.check(*looks[-1])


def test_a_run_that_goes_on_counts_what_it_sees_itself():
    health = trainer._Health(100, 40, 103)  # three steps are left
    health.check(102, 42)
    with pytest.raises(DataError, match="none of the last 3"):
        health.check(103, 43)


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
    assert "eval_loss" in read_jsonl(tmp_path / "run" / "metrics.jsonl")[-1]


def test_the_last_step_is_evaluated_whatever_its_number(tmp_path):
    run = tiny(steps=3)
    train(dataclasses.replace(run, logging=dataclasses.replace(run.logging, eval_every=2)), tmp_path, show=False)
    assert [line["step"] for line in read_jsonl(tmp_path / "metrics.jsonl") if "eval_loss" in line] == [2, 3]


def test_a_budget_run_compiles_each_length_and_ends(tmp_path):
    run = tiny(token_budget=384, lengths=[48, 96], steps=3)
    assert train(run, tmp_path, show=False).step == 3


def test_an_evaluation_without_a_target_logs_nothing(whole, tmp_path, monkeypatch):
    def no_targets(*args):
        return lambda weights, batch, base: (0.0, 0.0, 0.0)

    monkeypatch.setattr(trainer, "compiled_evaluation", no_targets)
    result = train(tiny(steps=2), tmp_path, show=False)
    assert result.eval_loss is None and Checkpoints(tmp_path / "checkpoints").best() is None
    assert [line["step"] for line in strictly(tmp_path / "metrics.jsonl")] == [1, 2]


def test_without_evaluation_nothing_is_logged_for_it(tmp_path):
    run = tiny(steps=2)
    train(dataclasses.replace(run, logging=dataclasses.replace(run.logging, eval_batches=0)), tmp_path, show=False)
    assert [sorted(line) for line in strictly(tmp_path / "metrics.jsonl") if "loss" not in line] == []


def test_held_out_rows_that_are_long_prompts_are_evaluated_where_their_answers_are(tmp_path):
    lines = [json.dumps({"prompt": "q" * 200 + str(i), "completion": " a"}) for i in range(40)]
    (tmp_path / "rows.jsonl").write_text("\n".join(lines))
    sources = [{"kind": "jsonl", "name": str(tmp_path / "rows.jsonl"), "held_out": 0.5}]
    run = tiny(data={"sources": sources, "tokenizer": "bytes"}, steps=1)
    result = train(run, tmp_path / "run", show=False)
    assert np.isfinite(result.eval_loss) and result.eval_loss > 1


def test_held_out_rows_that_have_nothing_to_predict_are_refused(tmp_path):
    (tmp_path / "rows.jsonl").write_text('{"text": ""}\n' * 3)
    sources = [{"kind": "jsonl", "name": str(tmp_path / "rows.jsonl")}]
    with pytest.raises(DataError, match="nothing to predict"):
        train(tiny(data={"sources": sources, "tokenizer": "bytes"}), tmp_path / "run", show=False)


def numbered(tmp_path, **data):
    """A run over the 60 rows of a file, each of which says its number."""
    (tmp_path / "rows.txt").write_text("\n\n".join(f"the row of number {i}" for i in range(60)))
    sources = [{"kind": "text", "name": str(tmp_path / "rows.txt")}]
    return tiny(data={"sources": sources, "tokenizer": "bytes", "stop": "first_exhausted", **data}, steps=50)


def test_a_run_ends_with_its_data_and_goes_on_with_batches_of_another_size_over_the_rest(tmp_path, monkeypatch):
    def put_batch(batch, sharding, real=trainer.put_batch):
        taken.append(batch)
        return real(batch, sharding)

    taken, run = [], numbered(tmp_path)
    monkeypatch.setattr(trainer, "put_batch", put_batch)
    first = train(run, tmp_path / "run", show=False, sinks=(stop_at(2),))
    assert not first.finished and len(taken) == first.step
    other = dataclasses.replace(run, training=dataclasses.replace(run.training, batch=2))
    second = train(other, tmp_path / "run", show=False)
    assert second.finished and first.step < second.step < 50
    tokens = np.concatenate([batch.tokens[batch.segments > 0] for batch in taken]).tolist()
    rows = "".join(chr(token) if token < 256 else "\n" for token in tokens).splitlines()
    assert sorted(rows) == sorted(f"the row of number {i}" for i in range(60))
    assert train(other, tmp_path / "run", show=False).step == second.step


def test_a_checkpoint_of_the_version_that_shuffled_files_otherwise_is_refused(tmp_path, monkeypatch):
    run = numbered(tmp_path)

    def save(self, step, state, extra, real=trainer.Checkpoints.save, **given):
        data = {name: crc for name, crc in extra["data"].items() if name != trainer.corpus.ORDER}
        return real(self, step, state, {**extra, "data": data}, **given)

    with monkeypatch.context() as patch:
        patch.setattr(trainer.Checkpoints, "save", save)
        stopped = train(run, tmp_path / "run", show=False, sinks=(stop_at(2),))
    with pytest.raises(
        ConfigError, match=f"the order of rows .an earlier version .* changed after step {stopped.step}"
    ):
        train(run, tmp_path / "run", show=False)


def test_records_in_memory_are_trained_on(tmp_path, capfd):
    data = {"sources": [{"kind": "memory", "name": "mine"}], "tokenizer": "bytes", "stop": "all_exhausted", "epochs": 2}
    records = ({"prompt": f"{i}?", "completion": f" {i}."} for i in range(30))
    result = train(tiny(data=data, steps=50), tmp_path, records={"mine": records})
    assert (
        "mine: 30 rows of " in capfd.readouterr().err
        and result.finished
        and result.tokens == 2 * sum(2 * len(str(i)) + 4 for i in range(30))
    )
