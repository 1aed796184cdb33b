"""What a run's folder holds is compared with the run that is to go on in it, before anything is written."""

import dataclasses
import json

import pytest

from vishwamai import config
from vishwamai.config import to_dict
from vishwamai.errors import CheckpointError, ConfigError
from vishwamai.parallel import hosts
from vishwamai.training import folder as run_folder
from vishwamai.training.config import RunConfig

RUN = config.load(RunConfig, "configs/train/smoke.json")[0]
OTHERS = {
    "training.seed=9": "training.seed: 0 -> 9",
    "training.data.seed=1": "training.data.seed: 0 -> 1",
    'training.data.sources=[{"kind": "text", "name": "a.txt"}]': 'training.data.sources.0.name: "game24" -> "a.txt"',
    "training.data.sources.0.weight=2.0": "training.data.sources.0.weight: 1.0 -> 2.0",
    "training.data.tokenizer=bytes": 'training.data.tokenizer: "train" -> "bytes"',
    "training.optimizer.learning_rate=0.1": "training.optimizer.learning_rate: 0.003 -> 0.1",
    "training.optimizer.schedule=wsd": 'training.optimizer.schedule: "cosine" -> "wsd"',
    "training.optimizer.optimizer=lion": 'training.optimizer.optimizer: "adamw" -> "lion"',
    "training.optimizer.ema_decay=0.9": "training.optimizer.ema_decay: null -> 0.9",
    "training.length=64": "training.length: 128 -> 64",
    "training.steps=29": "training.steps: 30 -> 29",
    "training.z_loss=0.001": "training.z_loss: 0.0 -> 0.001",
    'training.adapter={"base": "x"}': 'training.adapter.base: nothing -> "x"',
    "model.d_ff=32": "model.d_ff: 64 -> 32",
    "model.stacks.0.repeats=3": "model.stacks.0.repeats: 2 -> 3",
    "optimization.precision=mixed": 'optimization.precision: "float32" -> "mixed"',
}
SAME = [
    "training.optimizer.schedule=cosine",  # the defaults, as runs from before these could be null have them
    "training.optimizer.beta2=0.95",
    "training.steps=31",
    "about.result=good",
    "logging.log_every=1",
    "logging.save_every=3",
    "logging.peak_flops=1e12",
    "tpu.data=2",
    "tpu.fsdp=-1",
    "training.batch=16",
    "training.token_budget=2048",
    "training.lengths=[32,64]",
    "training.data.cache=elsewhere",
    "optimization.remat=full",
    "optimization.accumulate=2",
    "optimization.loss_chunks=1",
    "optimization.attention=blockwise",
    "optimization.experts=reference",
]


@pytest.fixture
def begun(tmp_path):
    """A folder with a run that has saved a checkpoint, and the file that says what it is."""
    run_folder.start_run(tmp_path, RUN)
    (tmp_path / "checkpoints" / "4").mkdir(parents=True)
    return tmp_path


@pytest.mark.parametrize("change", OTHERS)
def test_another_run_is_refused_and_what_differs_is_named(begun, change):
    other, before = config.override(RUN, change), (begun / "run.json").read_bytes()
    with pytest.raises(ConfigError, match="holds another run: .*--allow-changes") as error:
        run_folder.start_run(begun, other)
    assert OTHERS[change] in str(error.value) and (begun / "run.json").read_bytes() == before
    run_folder.start_run(begun, other, allow_changes=True)
    assert run_folder.read_run(begun) == other


@pytest.mark.parametrize("change", SAME)
def test_what_is_not_trained_may_be_another_from_start_to_start(begun, change):
    other = config.override(RUN, change)
    assert other != RUN
    run_folder.start_run(begun, other)
    assert run_folder.read_run(begun) == other


def test_every_value_is_one_or_the_other():
    paths = [path for path, _ in config._leaves(to_dict(RUN))]
    free = [path for path in paths if any(f"{path}.".startswith(f"{f}.") for f in run_folder.FREE)]
    assert {path.split(".")[0] for path in free} == {"about", "logging", "tpu", "optimization", "training"}
    assert set(paths) - set(free) > {"optimization.precision", "training.seed", "model.d_ff"}
    for prefix in run_folder.FREE:
        assert any(f"{path}.".startswith(f"{prefix}.") for path in paths), prefix


def test_of_many_differences_the_first_are_named_and_the_rest_counted(begun):
    changes = [f"model.{name}=128" for name in ("vocab_size", "d_model", "d_ff", "head_dim", "d_expert", "max_length")]
    changes += ["training.seed=1", "training.length=64", "training.data.seed=3", "training.z_loss=1.0"]
    with pytest.raises(ConfigError, match="and 2 more. Choose"):
        run_folder.start_run(begun, config.override(RUN, *changes))


def test_before_the_first_checkpoint_there_is_nothing_to_go_on_with(tmp_path):
    run_folder.start_run(tmp_path, RUN)
    (tmp_path / "checkpoints" / "4.orbax-checkpoint-tmp").mkdir(parents=True)
    (tmp_path / "tokenizer").mkdir()
    run_folder.start_run(tmp_path, RUN)
    assert (tmp_path / "tokenizer").exists()
    other = config.override(RUN, "training.data.seed=1")
    run_folder.start_run(tmp_path, other)
    assert run_folder.read_run(tmp_path) == other and not (tmp_path / "tokenizer").exists()


def test_a_tokenizer_that_somebody_put_there_is_kept(tmp_path):
    (tmp_path / "tokenizer").mkdir()
    run_folder.start_run(tmp_path, RUN)
    assert (tmp_path / "tokenizer").exists()


@pytest.mark.parametrize("raw", [b"", b'{"training": {"st', b'{"model": null, "other": 1}', b"\xff"], ids=str)
def test_a_damaged_note_is_refused_where_it_matters(begun, tmp_path, raw):
    (begun / "run.json").write_bytes(raw)
    with pytest.raises(ConfigError, match="run.json.*--allow-changes"):
        run_folder.start_run(begun, RUN)
    assert (begun / "run.json").read_bytes() == raw
    run_folder.start_run(begun, RUN, allow_changes=True)
    assert run_folder.read_run(begun) == RUN


def test_a_damaged_note_before_the_first_checkpoint_is_written_anew(tmp_path):
    (tmp_path / "run.json").write_text("{")
    (tmp_path / "tokenizer").mkdir()
    run_folder.start_run(tmp_path, RUN)
    assert run_folder.read_run(tmp_path) == RUN and not (tmp_path / "tokenizer").exists()


def test_a_note_of_before_a_field_was_there_has_its_default(begun):
    plain = json.loads((begun / "run.json").read_text())
    del plain["training"]["z_loss"], plain["optimization"]
    (begun / "run.json").write_text(json.dumps(plain))
    run_folder.start_run(begun, RUN)
    with pytest.raises(ConfigError, match="training.z_loss: 0.0 -> 0.5"):
        run_folder.start_run(begun, dataclasses.replace(RUN, training=dataclasses.replace(RUN.training, z_loss=0.5)))


def test_two_runs_in_one_folder_are_refused(tmp_path):
    with run_folder.lock_run(tmp_path / "run"):
        with (
            pytest.raises(CheckpointError, match="another run is at work in this folder"),
            run_folder.lock_run(tmp_path / "run"),
        ):
            raise AssertionError("both hold it")
        with run_folder.lock_run(tmp_path / "other"):
            pass
    with run_folder.lock_run(tmp_path / "run"):
        pass


def test_the_processes_of_one_run_share_its_folder(tmp_path, monkeypatch):
    with run_folder.lock_run(tmp_path):
        monkeypatch.setattr(hosts, "is_first", lambda: False)
        with run_folder.lock_run(tmp_path):
            run_folder.start_run(tmp_path, RUN)
    assert not (tmp_path / "run.json").exists()  # the first one writes it


def test_a_folder_that_cannot_be_made_is_named(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(CheckpointError, match="cannot be made"), run_folder.lock_run(tmp_path / "file" / "run"):
        raise AssertionError
