"""Saves and restores any tree of arrays (Orbax), in the background and all or nothing, onto any mesh.

Beside the arrays stands a checksum of each and one of all that stands beside them, since Orbax restores a flipped bit
without a word: a step that does not match is passed over for the one before it. It knows no model and no trainer.
"""

import dataclasses
import json
import math
import warnings
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import orbax.checkpoint as ocp
from orbax.checkpoint.checkpoint_managers import AnyPreservationPolicy, LatestN

from vishwamai.errors import CheckpointError
from vishwamai.weights.spec import path_name

Array = jax.Array


class Checkpoints:
    """The checkpoints of one run in a folder: the newest `keep`, and of those saved with a loss the one with the least.

    What a killed process left half written is cleared away when the folder is opened; with `clear=False` nothing is,
    since another process may be writing it.
    """

    def __init__(self, folder: str | Path, *, keep: int = 3, clear: bool = True):
        kept = AnyPreservationPolicy([LatestN(keep), _Best(self.best)])
        options = ocp.CheckpointManagerOptions(preservation_policy=kept, cleanup_tmp_directories=clear)
        handlers = {"state": ocp.StandardCheckpointHandler(), "notes": ocp.JsonCheckpointHandler()}
        self._manager = ocp.CheckpointManager(Path(folder).absolute(), options=options, item_handlers=handlers)
        self._losses = {step: self._loss(step) for step in self.steps()}

    def save(self, step: int, tree, extra: dict, *, loss: float | None = None) -> None:
        """Begins to save; the tree may be donated to the next step at once. `extra` is anything JSON can hold.

        A step that is there already is replaced: a run saves one again only after it has passed over a damaged one.
        A `loss` that is not finite counts as none. An error of an earlier save in the background is raised here.
        """
        flat = flatten(tree)
        sums = {name: int(value) for name, value in checksums(flat).items()}
        arrays = ocp.args.StandardSave(flat)
        loss = loss if loss is not None and math.isfinite(loss) else None
        notes = {"extra": extra, "checksums": sums, "loss": loss}
        noted = ocp.args.JsonSave({**notes, "checksum": _checksum(notes)})
        self._losses[step] = loss
        with self._naming_errors(f"step {step} cannot be saved in"):
            if step in self._manager.all_steps():
                self._manager.wait_until_finished()
                self._manager.delete(step)
            self._manager.save(step, args=ocp.args.Composite(state=arrays, notes=noted), force=True)

    def steps(self) -> list[int]:
        """The steps that are saved, oldest first."""
        return sorted(self._manager.all_steps())

    def best(self) -> int | None:
        """The step that was saved with the least loss, if any was saved with one; `restore` takes it by number."""
        known = {step: loss for step in self.steps() if (loss := self._losses.get(step)) is not None}
        return min(known, key=known.__getitem__, default=None)

    def restore(self, like, step: int | None = None) -> tuple[int, object, dict] | None:
        """(step, tree, extra) of the newest sound checkpoint, laid out like `like`; None if there is none at all.

        `like` is a tree of arrays or `ShapeDtypeStruct`s with shardings. Raises `CheckpointError` where checkpoints
        exist and none of them can be used, or the one asked for by number cannot.
        """
        problems = []
        for at in [step] if step is not None else self.steps()[::-1]:
            try:
                return at, *self._restore(at, like)
            except Exception as e:  # of a damaged file Orbax raises whatever comes, bare `Exception` too
                problems.append(f"step {at}: {(str(e) or type(e).__name__).splitlines()[0]}")
                warnings.warn(f"checkpoint passed over: {problems[-1]}", RuntimeWarning, stacklevel=2)
        if problems:
            raise CheckpointError(f"no checkpoint in {self._manager.directory} can be used: {'; '.join(problems)}")
        return None

    def _restore(self, step: int, like) -> tuple[object, dict]:
        notes = self._notes(step)
        _compare(flatten(like), self._manager.item_metadata(step)["state"])
        target = {name: _abstract(x) for name, x in flatten(like).items()}
        arrays = ocp.args.StandardRestore(target)
        flat = self._manager.restore(step, args=ocp.args.Composite(state=arrays))["state"]
        found = checksums(flat)
        damaged = [name for name, value in found.items() if int(value) != notes["checksums"].get(name)]
        if damaged:
            raise CheckpointError(f"the values of {', '.join(damaged[:3])} are not those that were saved")
        return jax.tree.unflatten(jax.tree.structure(like), flat.values()), notes["extra"]

    def _notes(self, step: int) -> dict:
        """What was saved beside the arrays. Raises `CheckpointError` where it is not what was saved."""
        notes = self._manager.restore(step, args=ocp.args.Composite(notes=ocp.args.JsonRestore()))["notes"]
        checksum = notes.pop("checksum", None)
        if checksum != _checksum(notes):
            raise CheckpointError("its notes (the place in the data, the loss) are not those that were saved")
        return notes

    def _loss(self, step: int) -> float | None:
        """What the step was saved with; None where its notes cannot be read, which `restore` reports."""
        try:
            return self._notes(step).get("loss")
        except Exception:
            return None

    def wait(self) -> None:
        """Returns when everything begun is on disk; an error in the background is raised here."""
        with self._naming_errors("a checkpoint could not be finished in"):
            self._manager.wait_until_finished()

    def close(self) -> None:
        """Waits, then lets go of the folder."""
        self.wait()
        self._manager.close()

    @contextmanager
    def _naming_errors(self, what: str) -> Iterator[None]:
        try:
            yield
        except (OSError, ValueError) as e:
            raise CheckpointError(f"{what} {self._manager.directory}: {e}; is the disk full or read-only?") from e


def has_checkpoints(folder: Path) -> bool:
    """Whether a folder holds finished steps, sound or not. It is only looked at."""
    return folder.is_dir() and any(path.name.isdigit() and path.is_dir() for path in folder.iterdir())


def flatten(tree) -> dict:
    """Leaves by name, in the tree's order."""
    return {f"{i:05d}.{path_name(path)}": x for i, (path, x) in enumerate(jax.tree.leaves_with_path(tree))}


@jax.jit
def checksums(flat: dict[str, Array]) -> dict[str, Array]:
    """A number for each array that any single flipped bit changes: the sum of its bits times odd weights, mod 2^32.

    It does not depend on how the array is laid out.
    """

    def one(x: Array) -> Array:
        unsigned = jnp.dtype(f"uint{x.dtype.itemsize * 8}")
        bits = jax.lax.bitcast_convert_type(x, unsigned).astype(jnp.uint32).reshape(-1)
        return jnp.sum(bits * (2 * jnp.arange(bits.size, dtype=jnp.uint32) + 1), dtype=jnp.uint32)

    return {name: one(x) for name, x in flat.items()}


def _checksum(notes: dict) -> int:
    """A number for plain JSON values that any changed character of them changes."""
    return zlib.crc32(json.dumps(notes, sort_keys=True).encode())


@dataclasses.dataclass(frozen=True)
class _Best:
    """A rule of Orbax's that keeps the step that `best` names."""

    best: Callable[[], int | None]

    def should_preserve(self, checkpoints, *, context) -> list[bool]:
        step = self.best()
        return [info.step == step for info in checkpoints]


def _abstract(x):
    return jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=getattr(x, "sharding", None))


def _compare(wanted: dict, found) -> None:
    """Orbax would cast another dtype silently."""
    missing = sorted(set(wanted) ^ set(found))
    if missing:
        raise CheckpointError(f"it holds other arrays than this run's model and optimiser: {', '.join(missing[:3])}")
    for name, x in wanted.items():
        there = found[name]
        if tuple(there.shape) != tuple(x.shape) or np.dtype(there.dtype) != np.dtype(x.dtype):
            raise CheckpointError(
                f"{name} is {np.dtype(there.dtype)}{tuple(there.shape)} there and {x.dtype}{tuple(x.shape)} in this run"
            )
