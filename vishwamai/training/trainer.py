"""The loop around the step: data in, numbers out, checkpoints on the way, and a run that goes on where it stopped.

It knows no file format of weights but its own checkpoints: what is done with the trained weights is the caller's.
"""

import dataclasses
import json
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from functools import partial
from pathlib import Path

import jax
import numpy as np

from vishwamai.checkpoint import Checkpoints
from vishwamai.config import from_dict, load_json, to_dict
from vishwamai.data import corpus
from vishwamai.data.loader import BudgetBatches, PackedBatches, own_lines, prefetch
from vishwamai.data.packing import Batch, Samples
from vishwamai.errors import CheckpointError, ConfigError, DataError
from vishwamai.models import cost
from vishwamai.monitor.metrics import Metrics, Sink, Terminal, jsonl, picture, read, utilisation
from vishwamai.parallel import hosts
from vishwamai.parallel.mesh import make_mesh
from vishwamai.parallel.sharding import SINGLE, Sharding
from vishwamai.training.config import RunConfig
from vishwamai.training.step import abstract_state, compiled_step, evaluate_sums, init_state, state_of

HOPELESS = 10  # batches
RUN = "run.json"


@dataclasses.dataclass(frozen=True)
class Result:
    """What a run leaves: weights (or an adapter's pairs), tokenizer, steps done, its seconds, and why it ended."""

    weights: object
    tokenizer: object
    step: int
    seconds: float
    finished: bool  # False: a signal or the time limit ended it, and it can be resumed


def train(
    run: RunConfig,
    folder: str | Path,
    *,
    base=None,
    start=None,
    max_seconds: float | None = None,
    sinks: tuple[Sink, ...] = (),
    show: bool = True,
) -> Result:
    """Trains in `folder`, from its newest checkpoint if it has one. An adapter's run is given its `base`'s weights, and
    a run that goes on from a model those of its `start`, in float32.

    Writes `run.json` (what the run is), `metrics.jsonl`, `loss.png`, `checkpoints/` and `tokenizer/` there. SIGTERM,
    Ctrl-C and `max_seconds` end the run after the step at hand with a checkpoint, and the same call goes on. Raises
    `CheckpointError`, `DataError` or `ConfigError`; a run of which no batch gives a finite loss ends with a
    `DataError`.
    """
    folder, begun = _made(Path(folder)), time.monotonic()
    if max_seconds is not None and not max_seconds >= 0:
        raise ConfigError(f"max_seconds is {max_seconds}; it must be 0 or more")
    if (base is None) != (run.training.adapter is None) or run.model is None:
        raise ConfigError("training.adapter needs its base: train(run.beside(model.config), ..., base=model.weights)")
    if (start is None) != (run.training.start is None):
        raise ConfigError("training.start needs its weights: train(run, ..., start=model.weights)")
    sharding = _sharding(run)
    tokenizer = corpus.tokenizer(run.training.data, run.model.vocab_size, folder / "tokenizer")
    batches = _batches(run, corpus.samples(run.training.data, tokenizer))
    t = run.training
    if start is None:
        state = init_state(run.model, t.optimizer, t.steps, jax.random.key(t.seed), sharding, t.adapter)
    else:
        state = state_of(start, run.model, t.optimizer, t.steps)
    saved = Checkpoints(folder / "checkpoints", keep=run.logging.keep)
    if (found := saved.restore(state)) is not None:
        _, state, extra = found
        batches.restore(extra["batches"])
    if hosts.is_first():
        (folder / RUN).write_text(json.dumps(to_dict(run), indent=2) + "\n")
    first = int(state.step)
    late = None if max_seconds is None else begun + max_seconds
    terminal = Terminal(run.training.steps, first) if show and hosts.is_first() else nullcontext()
    with terminal as bar, _stop_signals() as stop:
        file = [jsonl(folder / "metrics.jsonl", after=first)] if hosts.is_first() else []
        log = Metrics(*file, *([bar] if bar else []), *sinks)
        loop = _Loop(run, base, sharding, log, saved, _evaluation(run, base, tokenizer, sharding))
        state = loop.go(state, batches, first, lambda: stop.is_set() or (late is not None and time.monotonic() > late))
    saved.close()
    if hosts.is_first() and (folder / "metrics.jsonl").exists():
        picture(read(folder / "metrics.jsonl"), folder / "loss.png")
    done = int(state.step)
    return Result(state.weights, tokenizer, done, time.monotonic() - begun, done >= run.training.steps)


def newest(folder: Path) -> tuple[RunConfig, Result]:
    """The run in a folder as its newest sound checkpoint left it, on one device. Nothing in `checkpoints/` is changed.

    Raises `ConfigError` where the folder holds no run, and `CheckpointError` where it has no checkpoint to use.
    """
    run = from_dict(RunConfig, load_json(folder / RUN), str(folder / RUN))
    if run.model is None or run.training.adapter is not None:
        raise ConfigError(f"{folder}: this run trains an adapter, which is no model; load_adapter reads its folder")
    one = jax.sharding.SingleDeviceSharding(jax.local_devices()[0])
    state = abstract_state(run.model, run.training.optimizer, run.training.steps, SINGLE)
    like = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=one), state)
    if (found := Checkpoints(folder / "checkpoints", clear=False).restore(like)) is None:
        raise CheckpointError(f"{folder}: this run has saved no checkpoint yet")
    tokenizer = corpus.tokenizer(run.training.data, run.model.vocab_size, folder / "tokenizer")
    return run, Result(found[1].weights, tokenizer, found[0], 0.0, found[0] >= run.training.steps)


@dataclasses.dataclass
class _Loop:
    run: RunConfig
    base: object
    sharding: Sharding
    log: Metrics
    saved: Checkpoints
    evaluate: Callable

    def go(self, state, batches, first: int, stopping: Callable[[], bool]):
        """The state after the last step that was taken; it has been saved."""
        run, steps = self.run, self.run.training.steps
        step = compiled_step(run.model, run.training.optimizer, run.step, steps, self.sharding)
        pace, number, position = _Pace(run, self.sharding), first, batches.state
        for batch, after in prefetch(batches):
            if number >= steps or stopping():
                break
            state, numbers = step(state, place(batch, self.sharding), base=self.base)
            number, position = number + 1, after
            pace.add(batch)
            if number % run.logging.log_every == 0 or number == steps or number == first + 1:
                self.log.log(number, {**_floats(numbers), **pace.read()})
                _check_finite(number, int(numbers["skipped"]), steps)
            evaluated = {}
            if number % run.logging.eval_every == 0 or number == steps:
                evaluated = self.evaluate(state.weights)
                self.log.log(number, evaluated)
                pace.restart()
            if number % run.logging.save_every == 0 or number == steps:
                self.saved.save(number, state, {"batches": position}, loss=evaluated.get("eval_loss"))
        if number > first and number not in self.saved.steps():
            self.saved.save(number, state, {"batches": position})
        self.saved.wait()
        return state


class _Pace:
    """Tokens a second and utilisation since it was last read; the first step, which compiles, does not count."""

    def __init__(self, run: RunConfig, sharding: Sharding):
        self._run, self._n_devices = run, 1 if sharding.mesh is None else sharding.mesh.size
        self._began, self._tokens, self._flops, self._seen = time.monotonic(), 0, 0, 0

    def add(self, batch: Batch) -> None:
        lines, length = batch.tokens.shape
        self._tokens += int((batch.segments > 0).sum())
        self._flops += cost.train_flops(self._run.model, lines, length)
        self._seen += 1

    def restart(self) -> None:
        self._began, self._tokens, self._flops = time.monotonic(), 0, 0

    def read(self) -> dict[str, float]:
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


def place(batch: Batch, sharding: Sharding) -> Batch:
    """The batch on the devices: each process gives its own lines."""
    if sharding.mesh is None:
        return Batch(*map(jax.numpy.asarray, batch))
    mine, layout = own_lines(batch), sharding.named("batch", "seq", shape=batch.tokens.shape)
    pairs = zip(mine, batch, strict=True)
    return Batch(*(jax.make_array_from_process_local_data(layout, own, whole.shape) for own, whole in pairs))


def _made(folder: Path) -> Path:
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as e:
        raise CheckpointError(f"{folder}: the run's folder cannot be made ({e.strerror}); choose another") from None
    return folder


def _check_finite(step: int, skipped: int, steps: int) -> None:
    """A run that has not learnt from any batch so far will not begin to."""
    if skipped == step >= min(steps, HOPELESS):
        raise DataError(
            f"none of the first {step} batches gave a finite loss and gradient, so nothing was learnt; "
            "look at the data, the learning rate and the precision"
        )


def _sharding(run: RunConfig) -> Sharding:
    sizes = run.tpu.sizes()
    return Sharding(make_mesh(**sizes)) if sizes else SINGLE


def _batches(run: RunConfig, samples: Samples):
    t = run.training
    if t.token_budget is not None:
        return BudgetBatches(samples, budget=t.token_budget, lengths=t.lengths)
    return PackedBatches(samples, batch=t.batch, length=t.length)


def _evaluation(run: RunConfig, base, tokenizer, sharding: Sharding) -> Callable[[object], dict[str, float]]:
    """weights -> loss and accuracy on the first batches of the held-out split, always the same ones."""
    if not any(s.has_held_out for s in run.training.data.sources) or not run.logging.eval_batches:
        return lambda weights: {}
    samples = corpus.samples(run.training.data, tokenizer, "held_out")
    source = PackedBatches(samples, batch=run.training.batch, length=run.training.length)
    batches = [place(next(source), sharding) for _ in range(run.logging.eval_batches)]
    sums = jax.jit(partial(evaluate_sums, cfg=run.model, s=run.step, sharding=sharding))

    def evaluate(weights) -> dict[str, float]:
        nll, correct, weight = np.sum([[float(x) for x in sums(weights, b, base=base)] for b in batches], axis=0)
        return {"eval_loss": nll / weight, "eval_accuracy": correct / weight}

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
    before = {s: signal.signal(s, lambda *_: stop.set()) for s in (signal.SIGTERM, signal.SIGINT)}
    try:
        yield stop
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
