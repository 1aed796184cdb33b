"""Several processes that run one program: start-up, and which part of the data is this process's."""

import os

import jax

from vishwamai.errors import ConfigError


def initialize(coordinator: str | None = None, n_processes: int | None = None, process: int | None = None) -> None:
    """Joins the processes of one job (`jax.distributed`); does nothing in a job of one process.

    On a TPU slice and under Slurm nothing needs to be given. Elsewhere give the coordinator's `host:port`, the number
    of processes and this one's number, or set `COORDINATOR_ADDRESS`, `NUM_PROCESSES` and `PROCESS_ID`.
    """
    coordinator = coordinator or os.environ.get("COORDINATOR_ADDRESS")
    n_processes = n_processes if n_processes is not None else _number("NUM_PROCESSES")
    process = process if process is not None else _number("PROCESS_ID")
    if coordinator is None and n_processes in (None, 1) and not _is_multi_process():
        return
    if coordinator is not None and (n_processes is None or process is None):
        raise ConfigError("a coordinator address needs the number of processes and this process's number beside it")
    jax.distributed.initialize(coordinator, n_processes, process)


def _is_multi_process() -> bool:
    """Whether a launcher that JAX knows by its variables started several processes: of a TPU slice, Slurm or MPI."""
    addresses = (os.environ.get(name, "") for name in ("TPU_WORKER_HOSTNAMES", "TPU_PROCESS_ADDRESSES"))
    counts = (_number(name) or 1 for name in ("SLURM_STEP_NUM_TASKS", "OMPI_COMM_WORLD_SIZE"))
    return any("," in text for text in addresses) or any(count > 1 for count in counts)


def rows_of_process(n_rows: int) -> slice:
    """Which rows of a global batch this process feeds. Raises `ConfigError` where they do not divide."""
    count, index = jax.process_count(), jax.process_index()
    if n_rows % count:
        raise ConfigError(f"a batch of {n_rows} rows does not divide over {count} processes")
    return slice(index * n_rows // count, (index + 1) * n_rows // count)


def is_first() -> bool:
    """Whether this process writes logs and files that exist once."""
    return jax.process_index() == 0


def _number(name: str) -> int | None:
    value = os.environ.get(name)
    if value is None or value.isdigit():
        return None if value is None else int(value)
    raise ConfigError(f"the environment variable {name} is {value!r}; it must be a whole number")
