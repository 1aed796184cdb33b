"""The loop around the step: data in, numbers out, checkpoints on the way, and a run that goes on where it stopped.

It knows no file format of weights but its own checkpoints: what is done with the trained weights is the caller's.
"""

import dataclasses
import math
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import jax
import numpy as np

from vishwamai.checkpoint import Checkpoints
from vishwamai.data import corpus
from vishwamai.data.loader import BudgetBatches, Own, PackedBatches, all_lines, prefetch, select_own_lines
from vishwamai.data.packing import Batch, Samples
from vishwamai.data.tokenised import open_given
from vishwamai.errors import CheckpointError, ConfigError, DataError
from vishwamai.models import cost, transformer
from vishwamai.monitor.display import show_progress
from vishwamai.monitor.metrics import Metrics, Sink, jsonl, read_jsonl, try_draw, utilisation
from vishwamai.parallel import hosts
from vishwamai.parallel.mesh import make_mesh
from vishwamai.parallel.sharding import SINGLE, Sharding
from vishwamai.progress import Progress, silent
from vishwamai.training import folder as run_folder
from vishwamai.training.config import RunConfig
from vishwamai.training.early_stopping import EarlyStopping
from vishwamai.training.step import (
    abstract_state,
    compiled_evaluation,
    compiled_step,
    evaluated_weights,
    init_state,
    make_state,
)
from vishwamai.weights import spec

HOPELESS = 10  # batches
METRICS = "metrics.jsonl"


@dataclasses.dataclass(frozen=True)
class Result:
    """What a run leaves: weights (or an adapter's pairs), tokenizer, steps done, its seconds, and why it ended.

    The weights are those that are evaluated: their average where the optimiser keeps one. `tokens` and `seconds` are
    those of this start, the losses the last that were logged, None where there are none.
    """

    weights: object
    tokenizer: object
    step: int
    seconds: float
    finished: bool  # False: a signal or the time limit ended it, and it can be resumed
    tokens: int = 0
    loss: float | None = None
    eval_loss: float | None = None
    skipped: int = 0  # batches of the whole run that were not finite
    early: bool = False  # it ended since its held-out loss was no better any more
    best: int | None = None  # the step whose weights these are, with `load_best_model_at_end`; `eval_loss` is its


def train(
    run: RunConfig,
    folder: str | Path,
    *,
    base=None,
    start=None,
    max_seconds: float | None = None,
    sinks: tuple[Sink, ...] = (),
    show: bool = True,
    allow_changes: bool = False,
    progress: Progress = silent,
    records: corpus.Given | None = None,
) -> Result:
    """Trains in `folder`, from its newest checkpoint if it has one. An adapter's run is given its `base`'s weights, and
    a run that goes on from a model those of its `start`, in float32. `records` are those of sources of the kind
    `memory`, by their names: a `datasets` object, or any iterable of mappings.

    Writes `run.json` (what the run is), `metrics.jsonl`, `loss.png`, `checkpoints/` and `tokenizer/` there. SIGTERM,
    Ctrl-C and `max_seconds` end the run after the step at hand with a checkpoint, and the same call goes on; with other
    data, another model, optimiser or seed it is refused, unless `allow_changes`. `progress` shows what comes before the
    first step; with `show` what each source holds is told on standard error. Raises `CheckpointError`, `DataError` or
    `ConfigError`; a run of which no batch gives a finite loss any more ends with a `DataError`.
    """
    folder, begun = Path(folder), time.monotonic()
    if max_seconds is not None and not max_seconds >= 0:
        raise ConfigError(f"max_seconds is {max_seconds}; it must be 0 or more")
    if (base is None) != (run.training.adapter is None) or run.model is None:
        raise ConfigError(
            "training.adapter needs its base: train(run.with_base_model(model.config), ..., base=model.weights)"
        )
    if (start is None) != (run.training.start is None):
        raise ConfigError("training.start needs its weights: train(run, ..., start=model.weights)")
    late = None if max_seconds is None else begun + max_seconds
    with run_folder.lock_run(folder):
        run_folder.start_run(folder, run, allow_changes=allow_changes)
        with progress("preparing data and weights"):
            given = {name: open_given(rows) for name, rows in (records or {}).items()}
            loop, state, batches = _prepare(run, folder, base, start, allow_changes, given, progress)
        if show and hosts.is_first():
            print(*loop.data.describe(), sep="\n", end="\n" if loop.data.rows else "", file=sys.stderr)
        first = int(state.step)
        with _stop_signals() as stop, show_progress(run.training.steps, first, show and hosts.is_first()) as display:
            file = [jsonl(folder / METRICS, after=first)] if hosts.is_first() else []
            loop.log = Metrics(*file, *([display] if display else []), *sinks)
            try:
                state = loop.go(state, batches, lambda: stop.is_set() or (late is not None and time.monotonic() > late))
                best, weights = loop.choose(state)
            finally:
                loop.saved.close()  # which waits for what is being written
        history = read_jsonl(folder / METRICS) if (folder / METRICS).exists() else []
        if hosts.is_first() and history:
            try_draw(history, folder / "loss.png")
    step, losses = int(state.step), {name: h[name] for h in history for name in ("loss", "eval_loss") if name in h}
    losses = {name: math.nan if loss is None else loss for name, loss in losses.items()}
    if best is not None:
        losses["eval_loss"] = loop.watch.least
    return Result(
        weights, loop.tokenizer, step, time.monotonic() - begun, loop.is_finished(step),
        tokens=loop.tokens, skipped=int(state.skipped), early=loop.watch.is_over, best=best, **losses,
    )  # fmt: skip


def _prepare(run: RunConfig, folder: Path, base, start, allow_changes: bool, records, progress: Progress):
    """(the loop, the state it begins from, its batches), from the newest checkpoint if there is one."""
    t, sharding = run.training, _sharding(run)
    tokenizer = corpus.tokenizer(t.data, run.model.vocab_size, folder / run_folder.TOKENIZER, records)
    data = corpus.Corpus(t.data, tokenizer, records, progress)
    batches = _batches(run, data.samples(), sharding)
    if start is None:
        state = init_state(run.model, t.optimizer, t.steps, jax.random.key(t.seed), sharding, t.adapter)
    else:
        _check_start(start, run)
        state = make_state(start, run.model, t.optimizer, t.steps)
    saved = Checkpoints(folder / run_folder.CHECKPOINTS, keep=run.logging.keep)
    loop = _Loop(run, base, sharding, saved, data)
    if (found := saved.restore(state)) is not None:
        step, state, extra = found
        _check_data(extra["data"], data.digests, folder, step, allow_changes)
        batches.restore(extra["batches"])
        loop.watch.restore(extra.get("early_stopping", EarlyStopping().state))
    return loop, state, batches


def _check_data(old: dict, new: dict, folder: Path, step: int, allow_changes: bool) -> None:
    """Raises `ConfigError` where a checkpoint's place in the data means another one now."""
    other = [name for name in new if old.get(name, new[name]) != new[name]]
    if corpus.ORDER in new and corpus.ORDER not in old:
        other.append(f"{corpus.ORDER} (an earlier version of vishwamai shuffled files otherwise)")
    if other and not allow_changes:
        raise ConfigError(
            f"{folder}: {' and '.join(other)} changed after step {step}, and so did what the place in the data "
            f"means; put the old one back, or choose another folder; {run_folder.PURPOSE}"
        )


def _check_start(weights, run: RunConfig) -> None:
    """Raises `ConfigError` where the weights to start from are not of the run's model, layer for layer."""
    specs = transformer.specs(run.model)
    if [leaf.shape for leaf in jax.tree.leaves(weights)] != [param.shape for param in spec.leaves(specs)]:
        raise ConfigError(
            "training.start: the weights are of other shapes than model; use from_pretrained(..., scan_layers=True)"
        )


def load_newest(folder: Path) -> tuple[RunConfig, Result]:
    """The run in a folder as its newest sound checkpoint left it, on one device. Nothing in `checkpoints/` is changed.

    Raises `ConfigError` where the folder holds no run, and `CheckpointError` where it has no checkpoint to use.
    """
    run = run_folder.read_run(folder)
    if run.model is None or run.training.adapter is not None:
        raise ConfigError(
            f"{folder}: this run trains an adapter, which is no model; `vishwamai merge {folder / 'adapter'} TO` "
            "writes its base with the adapter merged into it"
        )
    one = jax.sharding.SingleDeviceSharding(jax.local_devices()[0])
    state = abstract_state(run.model, run.training.optimizer, run.training.steps, SINGLE)
    like = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=one), state)
    if (found := Checkpoints(folder / run_folder.CHECKPOINTS, clear=False).restore(like)) is None:
        raise CheckpointError(f"{folder}: this run has saved no checkpoint yet")
    tokenizer = corpus.tokenizer(run.training.data, run.model.vocab_size, folder / run_folder.TOKENIZER)
    weights = evaluated_weights(found[1], run.model, run.training.optimizer)
    return run, Result(weights, tokenizer, found[0], 0.0, found[0] >= run.training.steps)


class _Loop:
    """The steps of one start, and what is noted and saved on the way."""

    def __init__(self, run: RunConfig, base, sharding: Sharding, saved: Checkpoints, data: corpus.Corpus):
        self.run, self.base, self.sharding, self.saved, self.data = run, base, sharding, saved, data
        self.tokenizer, self.log, self.tokens, self.is_done = data.tokenizer, Metrics(), 0, False
        self.watch = EarlyStopping(run.logging.early_stopping_patience, run.logging.early_stopping_threshold)
        self._evaluate = _evaluation(run, base, data, sharding)

    def go(self, state, batches, stopping: Callable[[], bool]):
        """The state after the last step that was taken; it has been saved."""
        run, steps, logging = self.run, self.run.training.steps, self.run.logging
        step = compiled_step(run.model, run.training.optimizer, run.step, steps, self.sharding)
        first = number = noted = int(state.step)
        pace, health = _Pace(run, self.sharding), _Health(first, int(state.skipped), steps)
        position, numbers = batches.state, {}

        def note() -> None:
            self.log.log(number, {**_floats(numbers), **pace.rates()})
            health.check(number, int(numbers["skipped"]))

        for batch, after in prefetch(batches):
            if self.is_finished(number) or stopping():
                break
            state, numbers = step(state, put_batch(batch, self.sharding), base=self.base)
            number, position = number + 1, after
            self.tokens += pace.add(batch)
            if number % logging.log_every == 0 or number in (steps, first + 1):
                note()
                noted = number
            loss, is_kept = None, False
            if number % logging.eval_every == 0 or number == steps:
                loss, is_kept = self._assess(number, state)
                pace.restart()
            if number % logging.save_every == 0 or self.is_finished(number) or is_kept:
                self._save(number, state, position, loss)
        else:
            self.is_done = True  # with the data
        if noted < number:
            note()
        loss = None
        if self.is_done and first < number < steps and number % logging.eval_every:
            loss, _ = self._assess(number, state)
        if first < number and number not in self.saved.steps():
            self._save(number, state, position, loss)
        self.saved.wait()
        return state

    def is_finished(self, step: int) -> bool:
        """Whether a run that is at this step has nothing more to do."""
        return step >= self.run.training.steps or self.is_done or self.watch.is_over

    def choose(self, state) -> tuple[int | None, object]:
        """(step, weights) that a run leaves: those of its best evaluation, if it is to, or (None, its last)."""
        best = self.saved.best() if self.run.logging.load_best_model_at_end else None
        if best is None or not self.is_finished(int(state.step)):
            return None, self._evaluated(state)
        return best, self._evaluated(self.saved.restore(state, best)[1])

    def _assess(self, number: int, state) -> tuple[float | None, bool]:
        """(held-out loss, whether the step is to be saved for it)."""
        self.log.log(number, evaluated := self._evaluate(self._evaluated(state)))
        loss = evaluated.get("eval_loss")
        return loss, self.watch.see(loss) and self.run.logging.keeps_best

    def _evaluated(self, state):
        return evaluated_weights(state, self.run.model, self.run.training.optimizer, self.run.training.adapter)

    def _save(self, number: int, state, position: dict, loss: float | None = None) -> None:
        extra = {"batches": position, "data": self.data.digests, "early_stopping": self.watch.state}
        self.saved.save(number, state, extra, loss=loss)


class _Health:
    """Ends a run that learns nothing any more: whose last batches all were not finite, as far as it was looked at."""

    def __init__(self, first: int, skipped: int, steps: int):
        self._seen, self._skipped, self._in_a_row = first, skipped, 0
        self._enough = min(steps - first, HOPELESS)

    def check(self, step: int, skipped: int) -> None:
        """Looks at the counts after a step. Raises `DataError`."""
        seen, all_bad = step - self._seen, skipped - self._skipped == step - self._seen
        self._in_a_row = self._in_a_row + seen if all_bad else 0
        self._seen, self._skipped = step, skipped
        if not 0 < self._enough <= self._in_a_row:
            return
        which = f"first {step}" if skipped == step else f"last {self._in_a_row}"
        raise DataError(
            f"none of the {which} batches gave a finite loss, gradient and weights, so nothing was learnt from them; "
            "look at the data, the learning rate and the precision"
        )


class _Pace:
    """Tokens a second and utilisation since it was last read; the first step, which compiles, does not count."""

    def __init__(self, run: RunConfig, sharding: Sharding):
        self._run, self._n_devices = run, 1 if sharding.mesh is None else sharding.mesh.size
        self._began, self._tokens, self._flops, self._seen = time.monotonic(), 0, 0, 0

    def add(self, batch: Batch) -> int:
        """Takes note of a batch; returns its tokens."""
        lines, length = batch.tokens.shape
        tokens = int((batch.segments > 0).sum())
        self._tokens += tokens
        self._flops += cost.train_flops(self._run.model, lines, length)
        self._seen += 1
        return tokens

    def restart(self) -> None:
        self._began, self._tokens, self._flops = time.monotonic(), 0, 0

    def rates(self) -> dict[str, float]:
        """The caller has just waited for the device, so the time that passed is the time that the steps took."""
        seconds, tokens, flops = time.monotonic() - self._began, self._tokens, self._flops
        self.restart()
        if self._seen <= 1:
            return {"compile_seconds": round(seconds, 3)}
        found = {"tokens_per_second": round(tokens / seconds, 1)}
        if self._run.logging.peak_flops is not None and self._run.training.adapter is None:
            peak = self._run.logging.peak_flops * self._n_devices
            found["mfu_6nd"] = utilisation(cost.six_n_flops(self._run.model, tokens), seconds, peak)
            found["mfu_matmul"] = utilisation(flops, seconds, peak)
        return found


def put_batch(batch: Batch, sharding: Sharding) -> Batch:
    """The batch on the devices: each process gives its own lines."""
    if sharding.mesh is None:
        return Batch(*map(jax.numpy.asarray, batch))
    mine, layout = select_own_lines(batch), sharding.named("batch", "seq", shape=batch.tokens.shape)
    pairs = zip(mine, batch, strict=True)
    return Batch(*(jax.make_array_from_process_local_data(layout, own, whole.shape) for own, whole in pairs))


def _sharding(run: RunConfig) -> Sharding:
    sizes = run.tpu.sizes()
    return Sharding(make_mesh(**sizes)) if sizes else SINGLE


def _batches(run: RunConfig, samples: Samples, sharding: Sharding):
    t, own = run.training, _own_lines(sharding)
    if t.token_budget is not None:
        return BudgetBatches(samples, budget=t.token_budget, lengths=t.lengths, own=own)
    return PackedBatches(samples, batch=t.batch, length=t.length, own=own)


def _own_lines(sharding: Sharding) -> Own:
    return all_lines if sharding.mesh is None else hosts.rows_of_process


def _evaluation(run: RunConfig, base, data: corpus.Corpus, sharding: Sharding) -> Callable[[object], dict[str, float]]:
    """weights -> loss and accuracy on the first batches of the held-out split, always the same ones; or nothing."""
    if not any(s.has_held_out for s in run.training.data.sources) or not run.logging.eval_batches:
        return lambda weights: {}
    samples, shape = data.samples("held_out"), {"batch": run.training.batch, "length": run.training.length}
    source = PackedBatches(samples, **shape, own=_own_lines(sharding))
    batches = [put_batch(next(source), sharding) for _ in range(run.logging.eval_batches)]
    sums = compiled_evaluation(run.model, run.step, sharding)

    def evaluate(weights) -> dict[str, float]:
        nll, correct, weight = np.sum([[float(x) for x in sums(weights, b, base=base)] for b in batches], axis=0)
        return {"eval_loss": nll / weight, "eval_accuracy": correct / weight} if weight > 0 else {}

    return evaluate


def _floats(numbers: dict) -> dict[str, float]:
    return {name: float(f"{float(x):.6g}") for name, x in jax.device_get(numbers).items()}


@contextmanager
def _stop_signals() -> Iterator[threading.Event]:
    """An event that SIGTERM and Ctrl-C set, so that the step at hand ends and is saved."""
    stop = threading.Event()
    if threading.current_thread() is not threading.main_thread():
        yield stop
        return

    def ask(number: int, _: object) -> None:
        is_first = not stop.is_set() and hosts.is_first()
        stop.set()
        if is_first:
            with suppress(OSError):  # a terminal or a pipe that is gone
                name = signal.Signals(number).name
                os.write(2, f"\n{name}: the step at hand ends, is saved, and then the run stops\n".encode())

    before = {s: signal.signal(s, ask) for s in (signal.SIGTERM, signal.SIGINT)}
    try:
        yield stop
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
