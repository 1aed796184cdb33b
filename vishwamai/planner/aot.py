"""Compiles a program for a TPU slice on a machine that has none, and reads what it needs.

The compiler is the real one (`libtpu`, from JAX's own `tpu` extra: a newer libtpu than JAX pins breaks on some chips),
so memory is exact: it is the program's own allocation. Its operation counts are not used: it counts a scanned body
once and knows nothing of kernels. It knows no model.
"""

import collections
import dataclasses
import importlib.util
import math
import os
import re

import jax
from jax.experimental import topologies
from jax.sharding import Mesh

from vishwamai.errors import BackendError
from vishwamai.parallel.mesh import make_mesh

COLLECTIVES = ("all-gather", "all-reduce", "reduce-scatter", "all-to-all", "collective-permute", "ragged-all-to-all")
_FOUND = re.compile(rf"= (.*?) ({'|'.join(COLLECTIVES)})(-start)?\(")
_ENVIRONMENT = {  # without these libtpu asks a metadata server that is not there, or refuses a second process
    "TPU_SKIP_MDS_QUERY": "1",
    "TPU_ACCELERATOR_TYPE": "v5litepod-4",
    "TPU_WORKER_HOSTNAMES": "localhost",
    "ALLOW_MULTIPLE_LIBTPU_LOAD": "1",
}


@dataclasses.dataclass(frozen=True)
class Memory:
    """Bytes on each chip: what is passed in, what comes out, how much of that is the same memory, and the rest."""

    arguments: int
    outputs: int
    aliased: int
    temporaries: int

    @property
    def peak(self) -> int:
        """What the chip must hold at once."""
        return self.arguments + self.outputs - self.aliased + self.temporaries


@dataclasses.dataclass(frozen=True)
class Report:
    """What a compiled program needs of each chip for one run of it."""

    memory: Memory
    collectives: dict[str, int]  # bytes of each kind's results, loops multiplied out
    kernels: dict[str, int]  # hand-written (Pallas) kernels in the program, by name


def can_compile() -> bool:
    """Whether the TPU compiler is installed here."""
    return importlib.util.find_spec("libtpu") is not None


def slice_mesh(name: str, **sizes: int) -> Mesh:
    """A mesh over the chips of a slice that need not exist: `slice_mesh("v5e:4x4", fsdp=-1)`."""
    if not can_compile():
        raise BackendError('the TPU compiler is not installed; run: pip install "vishwamai[tpu]"')
    for key, value in _ENVIRONMENT.items():
        if os.environ.get(key, "WARNING").startswith("WARNING"):  # what JAX writes there when it has found no TPU
            os.environ[key] = value
    try:
        devices = topologies.get_topology_desc(topology_name=name, platform="tpu").devices
    except (RuntimeError, ValueError) as e:
        raise BackendError(f"no TPU slice {name!r} (names are like v5e:4x4, v6e:8x8): {str(e).splitlines()[0]}") from e
    return make_mesh(devices, **sizes)


def compile_tpu(fn, *args, donate: tuple[int, ...] = (), static: tuple[int, ...] = (), out_shardings=None):
    """The compiled program of `fn(*args)`; `args` are `ShapeDtypeStruct`s whose shardings name a slice's devices.

    Raises `BackendError` with the compiler's own words where it does not fit the chip.
    """
    options = {} if out_shardings is None else {"out_shardings": out_shardings}
    jitted = jax.jit(fn, donate_argnums=donate, static_argnums=static, **options)
    try:
        return jitted.trace(*args).lower(lowering_platforms=("tpu",)).compile()
    except jax.errors.JaxRuntimeError as e:
        raise BackendError(f"the TPU compiler refuses the program: {str(e).strip().splitlines()[0]}") from e


def report(compiled) -> Report:
    """Memory, collectives and kernels of a compiled program."""
    m = compiled.memory_analysis()
    text = compiled.as_text()
    return Report(
        memory=Memory(
            arguments=m.argument_size_in_bytes,
            outputs=m.output_size_in_bytes,
            aliased=m.alias_size_in_bytes,
            temporaries=m.temp_size_in_bytes,
        ),
        collectives=collective_bytes(text),
        kernels=kernels(text),
    )


def kernels(hlo: str) -> dict[str, int]:
    """How often each hand-written kernel stands in a program, by the name that it was compiled under."""
    found = re.findall(r"%([\w\-]+?)(?:\.\d+)* = .*custom-call\(.*custom_call_target=\"tpu_custom_call\"", hlo)
    return dict(collections.Counter(found))


def collective_bytes(hlo: str) -> dict[str, int]:
    """Bytes per chip of each collective's results, times the trip counts of the loops around it.

    The compiler may write one asynchronous collective into several fusions that follow one another: its kind and its
    channel say that it is one, within the body of a loop. TPU programs carry no trip counts: a loop's bound is the
    largest constant that its condition compares with.
    """
    computations, counted = _computations(hlo), {}

    def trip_count(condition: str) -> int:
        lines = computations.get(condition, ())
        return max((int(c) for line in lines for c in re.findall(r"constant\((\d+)\)", line)), default=1)

    def walk(name: str, times: int, body: str) -> None:
        for i, line in enumerate(computations.get(name, ())):
            if found := _FOUND.search(line):
                channel = re.search(r"channel_id=(\d+)", line)
                key = found.group(2), body, channel.group(1) if channel else (name, i)
                size = times * _result_bytes(found.group(1), last_only=bool(found.group(3)))
                counted[key] = max(counted.get(key, 0), size)
            if loop := re.search(r" while\(.*condition=%?([\w.\-]+).*body=%?([\w.\-]+)", line):
                walk(loop.group(2), times * trip_count(loop.group(1)), loop.group(2))
            elif called := re.search(r"(?: fusion| call|async-start)\(.*(?:calls|to_apply)=%?([\w.\-]+)", line):
                walk(called.group(1), times, body)

    walk("ENTRY", 1, "ENTRY")
    totals: dict[str, int] = {}
    for (kind, *_), size in counted.items():
        totals[kind] = totals.get(kind, 0) + size
    return totals


def _computations(hlo: str) -> dict[str, list[str]]:
    found: dict[str, list[str]] = {}
    body: list[str] = []
    for line in hlo.splitlines():
        if line and not line[0].isspace() and line.rstrip().endswith("{"):
            body = []
            found[re.match(r"(?:ENTRY )?%?([\w.\-]+)", line).group(1)] = body
            if line.startswith("ENTRY"):
                found["ENTRY"] = body
        else:
            body.append(line)
    return found


def _result_bytes(shapes: str, *, last_only: bool) -> int:
    """Of an asynchronous start's results the last large one is the collective's, the first its operand."""
    sizes = [_n_bytes(t) * math.prod(int(d) for d in dims.split(",") if d) for t, dims in _shapes(shapes)]
    large = [s for s in sizes if s > 16]
    return large[-1] if last_only and large else sum(large)


def _shapes(text: str) -> list[tuple[str, str]]:
    return re.findall(r"([a-z]\w*)\[([\d,]*)\]", text)


def _n_bytes(dtype: str) -> int:
    """Bytes of one number: `bf16` 2, `f8e4m3fn` 1, `pred` 1."""
    bits = re.search(r"\d+", dtype)
    return 1 if bits is None else max(int(bits.group()) // 8, 1)
