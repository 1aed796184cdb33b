"""A run's folder: who may write in it, and which run it holds. It knows no step and no loop."""

import dataclasses
import json
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from vishwamai.checkpoint import has_checkpoints
from vishwamai.config import find_differences, from_dict, load_json, to_dict
from vishwamai.errors import CheckpointError, ConfigError
from vishwamai.files import lock_folder, write_atomic
from vishwamai.parallel import hosts
from vishwamai.training.config import RunConfig

RUN = "run.json"
CHECKPOINTS = "checkpoints"
TOKENIZER = "tokenizer"
# What may be another from start to start: it is not what is trained, only where, how and how often it is looked at.
# `training.steps` may grow too, and batches may be of other sizes: a place in the data is a number of samples.
FREE = ("about", "logging", "tpu", *(f"optimization.{n}" for n in ("remat", "accumulate", "loss_chunks", "attention")),
        "optimization.experts", *(f"training.{n}" for n in ("batch", "token_budget", "lengths")),
        *(f"training.data.{n}" for n in ("cache", "processes", "bad_rows")))  # fmt: skip
PURPOSE = "--allow-changes (allow_changes=True) goes on all the same"


@contextmanager
def lock_run(folder: Path) -> Iterator[None]:
    """Makes the folder, and holds it for one run; of the processes of one run the first holds it for all.

    Raises `CheckpointError` where it cannot be made, or another run is at work in it.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as e:
        raise CheckpointError(f"{folder}: the run's folder cannot be made ({e.strerror}); choose another") from None
    if not hosts.is_first():
        yield
        return
    with lock_folder(folder) as is_ours:
        if not is_ours:
            raise CheckpointError(f"{folder}: another run is at work in this folder; wait for it, or choose another")
        yield


def start_run(folder: Path, run: RunConfig, *, allow_changes: bool = False) -> None:
    """Notes in `run.json` what the run is, unless the folder holds checkpoints of another one.

    Raises `ConfigError` that names what differs. Before the first checkpoint there is nothing to go on with: then a
    tokenizer that was made from other data is made anew.
    """
    old, has_begun = _stored_run(folder, allow_changes), has_checkpoints(folder / CHECKPOINTS)
    if old is not None and has_begun and not allow_changes and (found := find_changes(old, run)):
        shown = "; ".join(f"{path}: {change}" for path, change in list(found.items())[:8])
        more = f" and {len(found) - 8} more" if len(found) > 8 else ""
        raise ConfigError(f"{folder} holds another run: {shown}{more}. Choose another folder, or {PURPOSE}")
    if not hosts.is_first():
        return
    if not has_begun and old != run and (folder / RUN).exists():
        shutil.rmtree(folder / TOKENIZER, ignore_errors=True)
    write_atomic(folder / RUN, [json.dumps(to_dict(run), indent=2).encode() + b"\n"])


def find_changes(old: RunConfig, new: RunConfig) -> dict[str, str]:
    """What may not be another in a run that goes on, `old -> new` by its path. A default may be written out or not."""
    found = find_differences(_with_defaults(old), _with_defaults(new))
    if new.training.steps >= old.training.steps:
        found.pop("training.steps", None)
    return {path: change for path, change in found.items() if not any(f"{path}.".startswith(f"{f}.") for f in FREE)}


def _with_defaults(run: RunConfig) -> RunConfig:
    training = dataclasses.replace(run.training, optimizer=run.training.optimizer.with_defaults())
    return dataclasses.replace(run, training=training)


def read_run(folder: Path) -> RunConfig:
    """What the run in a folder is. Raises `ConfigError` where the folder holds none."""
    return from_dict(RunConfig, load_json(folder / RUN), str(folder / RUN))


def _stored_run(folder: Path, allow_changes: bool) -> RunConfig | None:
    """The run in the folder; None where there is none, or a damaged note is to be written over."""
    if not (folder / RUN).exists():
        return None
    try:
        return read_run(folder)
    except ConfigError as error:
        if allow_changes or not has_checkpoints(folder / CHECKPOINTS):
            return None
        raise ConfigError(f"{error}; {PURPOSE}") from None
