"""Early stopping and which weights a run leaves, by evaluations that were planned."""

import dataclasses

import jax
import numpy as np
import pytest

from vishwamai import config
from vishwamai.checkpoint import Checkpoints
from vishwamai.errors import ConfigError
from vishwamai.training import trainer
from vishwamai.training.config import Logging, RunConfig
from vishwamai.training.early_stopping import EarlyStopping
from vishwamai.training.step import init_state
from vishwamai.training.trainer import load_newest, train

CHANGES = [
    "training.steps=9", "training.batch=2", "training.length=96", "training.lengths=[96]", "model.stacks.0.repeats=1",
    "training.data.tokenizer=bytes", "logging.log_every=100", "logging.eval_every=1", "logging.save_every=100",
    "logging.keep=1",
]  # fmt: skip
RUN, _ = config.load(RunConfig, "configs/train/smoke.json", CHANGES)


def with_logging(**changes) -> RunConfig:
    return dataclasses.replace(RUN, logging=dataclasses.replace(RUN.logging, **changes))


@pytest.mark.parametrize(
    ("threshold", "losses", "bests", "over"),
    [
        (0.0, [3, 2, 2.5, 2.4], [0, 1], 3),
        (0.0, [3, 2, 2, 1.9, 2, 2], [0, 1, 3], 5),
        (0.5, [3, 2.8, 2.7], [0, 1, 2], 2),  # better, and by too little
        (0.5, [3, 2.8, 2.2, 2.1, 2.0], [0, 1, 2, 3, 4], 4),
        (0.0, [3, None, 3.5, None, 4], [0], 4),  # an evaluation without a loss counts for nothing
    ],
)
def test_it_counts_evaluations_that_are_no_better(threshold, losses, bests, over):
    watch, found = EarlyStopping(2, threshold), []
    for i, loss in enumerate(losses):
        assert not watch.is_over
        found += [i] * watch.see(loss)
    assert found == bests and watch.is_over and over == len(losses) - 1
    again = EarlyStopping(3)
    again.restore(watch.state)
    assert not again.is_over and again.least == watch.least
    assert not dataclasses.replace(watch, patience=None).is_over


@pytest.fixture
def planned(monkeypatch):
    """Evaluations that give these losses in turn; and the weights that each of them saw."""
    losses, seen = iter([3.0, 2.0, 2.5, 2.4, 2.6, 2.7]), []

    def evaluate(weights):
        seen.append(jax.tree.map(np.array, weights))
        return {"eval_loss": next(losses)}

    monkeypatch.setattr(trainer, "_evaluation", lambda *_: evaluate)
    return seen


def same(a, b) -> None:
    jax.tree.map(np.testing.assert_array_equal, a, b)


def test_a_run_ends_early_with_its_best_weights_and_goes_on_with_more_patience(planned, tmp_path):
    run = with_logging(early_stopping_patience=2, load_best_model_at_end=True)
    result = train(run, tmp_path, show=False)
    assert (result.step, result.finished, result.early, result.best, result.eval_loss) == (4, True, True, 2, 2.0)
    same(result.weights, planned[1])
    assert Checkpoints(tmp_path / "checkpoints").steps() == [2, 4]
    again = train(run, tmp_path, show=False)
    assert (again.step, again.early, again.best, len(planned)) == (4, True, 2, 4)
    same(again.weights, planned[1])
    longer = with_logging(early_stopping_patience=3)
    last = train(longer, tmp_path, show=False)
    assert (last.step, last.early, last.best, len(planned)) == (5, True, None, 5)
    same(last.weights, planned[4])


@pytest.mark.parametrize("change", ["ema_decay=0.9", "optimizer=schedule_free_adamw"])
def test_an_average_is_what_is_evaluated_and_what_a_run_leaves(planned, tmp_path, change):
    run = config.override(with_logging(), f"training.optimizer.{change}", "training.steps=3")
    result = train(run, tmp_path, show=False)
    same(result.weights, planned[2])
    same(load_newest(tmp_path)[1].weights, planned[2])
    like = init_state(run.model, run.training.optimizer, 3, jax.random.key(0))
    state = Checkpoints(tmp_path / "checkpoints").restore(like)[1]
    assert np.abs(state.weights.embed - result.weights.embed).max() > 1e-4


def test_without_evaluations_it_is_refused():
    for changes in ({"early_stopping_patience": 2}, {"load_best_model_at_end": True}):
        with pytest.raises(ConfigError, match="need evaluations; set logging.eval_batches"):
            with_logging(**changes, eval_batches=0)
    with pytest.raises(ConfigError, match="early_stopping_threshold would do nothing without early_stopping_patience"):
        Logging(early_stopping_threshold=0.1)
