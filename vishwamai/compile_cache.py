"""The programs that XLA compiled, kept on disk for the next process: in which folder, and what is thrown away of them.

JAX keeps them and finds them again. Its key holds the program, the versions of jaxlib and of the platform, the flags
and what the processor can do, so a folder serves all of them; and it throws out the least recently used where the
folder is full. What it does not see to is done here: a folder to begin with, entries that a process left half written,
and those that nobody has asked for in a month, such as an older JAX's.
"""

import os
import re
import time
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

VARIABLE = "VISHWAMAI_COMPILE_CACHE"  # a folder, or one of OFF
OFF, ON = ("off", "0", "no", "false"), ("on", "1", "yes", "true")
OF_JAX = "JAX_COMPILATION_CACHE_DIR"
MOST_BYTES = 2**30
MOST_ENTRIES = 1000  # for JAX looks at each of them whenever it adds one
KEPT_SECONDS = 30 * 24 * 3600.0  # after its last use

_FILE = re.compile(r"(?P<key>.+-[0-9a-f]{64})-(?P<kind>cache|atime)")


class CachedProgram(NamedTuple):
    """A program on disk: its files, its bytes, and when it was last used (None: it was never written to its end)."""

    files: tuple[Path, ...]
    size: int
    used: float | None


def folder() -> tuple[Path | None, str | None]:
    """(where programs are kept, None: nowhere; the variable of the environment that says so, if one does).

    JAX's own variable comes before ours, and ours before the user's cache.
    """
    if of_jax := os.environ.get(OF_JAX):
        return Path(of_jax), OF_JAX
    asked = os.environ.get(VARIABLE, "")
    if asked.lower() in OFF:
        return None, VARIABLE
    if asked.lower() not in ("", *ON):
        return Path(asked).expanduser().absolute(), VARIABLE
    from platformdirs import user_cache_path

    return user_cache_path("vishwamai", appauthor=False).absolute() / "compiled", None


def enable() -> None:
    """Has JAX keep programs on disk from now on, unless whoever runs this has told JAX or us otherwise.

    What a user has set of JAX's own options stays. A folder that cannot be written is no error: nothing is kept then.
    """
    import jax

    found, _ = folder()
    if jax.config.jax_compilation_cache_dir is not None or found is None:
        return
    try:
        found.mkdir(mode=0o700, parents=True, exist_ok=True)
        sweep(found)
    except OSError:
        return
    # What cannot be read is compiled, and what cannot be written is not kept: neither needs anybody's attention.
    message = "Error (reading|writing) persistent compilation cache entry"
    warnings.filterwarnings("ignore", message, UserWarning, r"jax\.")
    for option, default, ours in (
        ("jax_compilation_cache_max_size", -1, MOST_BYTES),
        ("jax_persistent_cache_min_compile_time_secs", 1.0, 0.0),  # reading any program is quicker than compiling it
    ):
        if getattr(jax.config, option) == default:
            jax.config.update(option, ours)
    jax.config.update("jax_compilation_cache_dir", str(found))


def entries(where: Path) -> list[CachedProgram]:
    """The programs in a folder: those not written to their end, then the others, the longest unused first."""
    found: dict[str, dict[str, os.DirEntry]] = {}
    if where.is_dir():
        for file in os.scandir(where):
            if match := _FILE.fullmatch(file.name):
                found.setdefault(match["key"], {})[match["kind"]] = file
    made = [_entry(kinds) for kinds in found.values()]
    return sorted(made, key=lambda entry: entry.used or 0.0)


def _entry(kinds: dict[str, os.DirEntry]) -> CachedProgram:
    """JAX writes the program, and then notes the time of its use in a file beside it, as at each use."""
    sizes = {kind: file.stat().st_size for kind, file in kinds.items()}
    is_whole = len(kinds) == 2 and sizes["cache"] > 0
    used = kinds["atime"].stat().st_mtime if is_whole else None
    return CachedProgram(tuple(Path(file.path) for file in kinds.values()), sum(sizes.values()), used)


def sweep(where: Path) -> None:
    """Removes what nobody will ask for: half-written and long unused programs, and what is beyond the number kept."""
    with _lock(where):
        found = entries(where)
        stale = sum((entry.used or 0.0) < time.time() - KEPT_SECONDS for entry in found)
        _remove(found[: max(stale, len(found) - MOST_ENTRIES)])


def clear(where: Path) -> list[CachedProgram]:
    """Removes every program from a folder, and returns what they were. Raises `OSError`."""
    if not where.is_dir():
        return []
    with _lock(where):
        found = entries(where)
        _remove(found)
        return found


def _remove(doomed: list[CachedProgram]) -> None:
    for entry in doomed:
        for file in entry.files:
            file.unlink(missing_ok=True)


@contextmanager
def _lock(where: Path) -> Iterator[None]:
    """The lock that JAX takes to read or write the folder. Raises `OSError` where it cannot be had within seconds."""
    from filelock import FileLock

    with FileLock(where / ".lockfile", timeout=5):  # its Timeout is an OSError
        yield
