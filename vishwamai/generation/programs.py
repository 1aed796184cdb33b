"""Programs that are compiled ahead of time, once for each function and shape, and shapes that are rounded up to few."""

import dataclasses
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import lru_cache, partial
from typing import Any

import jax

from vishwamai.progress import Progress, silent

PREFILL_CHUNKS = (4, 16, 64, 256)  # tokens after a cached prefix are read in runs that are filled up to one of these
FOUR_BIT_DTYPES = ("int4", "float4_e2m1fn")  # JAX 0.10 compiles ahead for another layout than a mesh gives such arrays


def bucket(n: int, least: int = 1, most: int | None = None) -> int:
    """The power of two that holds `n`, at least `least`; at most `most`, which need be no power of two."""
    size = max(least, 1 << max(n - 1, 0).bit_length())
    return size if most is None else min(size, most)


def prefill_chunk(n: int) -> int:
    """The length of the runs in which n tokens after a cached prefix are read."""
    return next((T for T in PREFILL_CHUNKS if n <= T), PREFILL_CHUNKS[-1])


class Programs:
    """The compiled programs of one owner: one for each function, its static settings, and its arguments' shapes."""

    def __init__(self, progress: Progress = silent):
        self._compiled: dict[tuple, Callable] = {}
        self.progress = progress
        self.seconds = 0.0  # spent compiling

    @property
    def count(self) -> int:
        """How many programs were compiled so far."""
        return len(self._compiled)

    def run(self, f: Callable, *args, donate: tuple[int, ...] = (), **static):
        """`f(*args, **static)`, compiled at the first call with such arguments; those at `donate` are used up."""
        key = _key(f, args, donate, static)
        if key not in self._compiled:
            jitted = _jitted(f, donate, key[1])
            if not _has_four_bits(args):
                self._compile(key, jitted, args)
            else:
                with self._compiling(f):
                    self._compiled[key], out = jitted, jitted(*args)
                    return out
        return self._compiled[key](*args)

    def prepare(self, f: Callable, *args, donate: tuple[int, ...] = (), **static) -> None:
        """Compiles what `run` would, and runs nothing: for whoever must not be held up later."""
        key = _key(f, args, donate, static)
        if key not in self._compiled and not _has_four_bits(args):
            self._compile(key, _jitted(f, donate, key[1]), args)

    def _compile(self, key: tuple, jitted: Any, args: tuple) -> None:
        with self._compiling(key[0]):
            self._compiled[key] = jitted.lower(*args).compile()

    @contextmanager
    def _compiling(self, f: Callable) -> Iterator[None]:
        start = time.perf_counter()
        with self.progress(f"compiling {f.__name__.replace('_', ' ')}"):
            yield
        self.seconds += time.perf_counter() - start


def _key(f: Callable, args: tuple, donate: tuple[int, ...], static: dict[str, Any]) -> tuple:
    leaves, tree = jax.tree.flatten(args)
    return f, tuple(sorted(static.items())), donate, tree, tuple((x.shape, x.dtype, x.sharding) for x in leaves)


@lru_cache(maxsize=64)
def _jitted(f: Callable, donate: tuple[int, ...], static: tuple[tuple[str, Any], ...]) -> Any:
    """One and the same for all owners, so that JAX compiles nothing twice for models of the same shape."""
    return jax.jit(partial(f, **dict(static)), donate_argnums=donate)


def _has_four_bits(args: tuple) -> bool:
    return any(x.dtype.name in FOUR_BIT_DTYPES for x in jax.tree.leaves(args))


@dataclasses.dataclass(frozen=True)
class Stats:
    """What a call took. Times are in seconds; those of prefill and decoding include no compiling."""

    prompt_tokens: int
    cached_tokens: int  # those of the prompt that a `PromptCache` held
    generated_tokens: int
    prefill_seconds: float
    decode_seconds: float
    compile_seconds: float
    compiles: int  # programs compiled by this call
    programs: int  # programs compiled by its generator so far

    @property
    def tokens_per_second(self) -> float:
        """New tokens of all rows per second of prefill and decoding."""
        return self.generated_tokens / max(self.prefill_seconds + self.decode_seconds, 1e-9)


class Clock:
    """Sums the seconds of each part of a call, leaving compiling and the caller's own time out."""

    def __init__(self, programs: Programs):
        self._programs, self._count, self._compiled = programs, programs.count, programs.seconds
        self._sums = {"prefill": 0.0, "decode": 0.0}
        self._mark = self._now()

    def _now(self) -> float:
        return time.perf_counter() - self._programs.seconds

    def lap(self, part: str | None) -> None:
        """Adds the time since the last lap to a part, or to none."""
        now = self._now()
        if part is not None:
            self._sums[part] += now - self._mark
        self._mark = now

    def stats(self, prompt_tokens: int, generated_tokens: int, cached_tokens: int = 0) -> Stats:
        """The figures of the call so far."""
        return Stats(
            prompt_tokens=prompt_tokens,
            cached_tokens=cached_tokens,
            generated_tokens=generated_tokens,
            prefill_seconds=self._sums["prefill"],
            decode_seconds=self._sums["decode"],
            compile_seconds=self._programs.seconds - self._compiled,
            compiles=self._programs.count - self._count,
            programs=self._programs.count,
        )
