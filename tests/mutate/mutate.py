"""Makes mistakes in the model's code on purpose, one at a time, and sees whether the logits of transformers tell.

`mutations.txt` lists them: `## file`, then for each `switch: what is wrong now (cases)`, the lines to be replaced after
`- ` and those that come in their place after `+ `. A case is one of `tests/hf/test_references.py`; `cached:case` means
decoding with a cache. Each mistake is made in a process of its own, forked from one that has imported everything but
started nothing, and there the package is imported anew with the changed source in the place of the file's. The cases
that it names are compared, and all others if those see nothing. Ends with 1 if a mistake is seen by none.
"""

import importlib.util
import os
import re
import resource
import sys
import tempfile
import warnings
from collections.abc import Iterable, Iterator
from importlib.machinery import SourceFileLoader
from multiprocessing import get_context
from pathlib import Path
from types import ModuleType
from typing import NamedTuple

from rich.console import Console
from rich.progress import track
from rich.table import Table

ROOT = Path(__file__).parent.parent.parent
LIST = Path(__file__).with_name("mutations.txt")
# Programs that run once are hardly optimised, which costs digits: the tests of the code as it is allow a third of this.
TOLERANCE = 3e-5
AT_ONCE = 2
SECONDS = 1200  # after which a mistake that hangs, or ends its process, ends all


class Mutation(NamedTuple):
    """One mistake: which switch of the model it is in, what is wrong, where, and which cases should tell."""

    switch: str
    what: str
    file: str
    old: str
    new: str
    cases: tuple[str, ...]


class Outcome(NamedTuple):
    """What came of a mistake: the case that saw it (empty: none), and how; with the CPU seconds that it took."""

    caught_by: str
    how: str
    seconds: float


def mutations() -> Iterator[Mutation]:
    """Those of the list, in its order."""
    for section in LIST.read_text(encoding="utf-8").split("## ")[1:]:
        file, *entries = section.strip("\n").split("\n\n")
        for entry in entries:
            head, *lines = entry.split("\n")
            switch, what, cases = re.fullmatch(r"(\w+): (.+) \(([\w: ]+)\)", head).groups()
            old, new = ("\n".join(line[2:] for line in lines if line[:2] == sign) for sign in ("- ", "+ "))
            yield Mutation(switch, what, file, old, new, tuple(cases.split()))


def module(path: str) -> ModuleType:
    """A file of the tests, imported anew; what of the package it needs is not."""
    found = importlib.util.spec_from_file_location(Path(path).stem, ROOT / path)
    made = importlib.util.module_from_spec(found)
    found.loader.exec_module(made)
    return made


def references() -> ModuleType:
    """The cases, and the package anew that they compare."""
    for name in [name for name in sys.modules if name.partition(".")[0] == "vishwamai"]:
        del sys.modules[name]
    return module("tests/hf/test_references.py")


def mistake(mutation: Mutation) -> None:
    """Makes a mistake in what this process imports from now on."""
    read = SourceFileLoader.get_code

    def get_code(loader: SourceFileLoader, name: str):
        if loader.path != str(ROOT / mutation.file):
            return read(loader, name)
        source = loader.get_source(name)
        return loader.source_to_code(source.replace(mutation.old, mutation.new), loader.path)

    SourceFileLoader.get_code = get_code


def compared(r: ModuleType, cases: Iterable[str]) -> Outcome:
    """The first of these cases that is not what transformers gave."""
    for case in cases:
        kind, _, name = case.rpartition(":")
        with tempfile.TemporaryDirectory() as folder:
            try:
                found = (r.cached_distance if kind else r.whole_distance)(name, Path(folder))
            except Exception as error:
                return Outcome(case, type(error).__name__, cpu_seconds())
        if not found <= TOLERANCE:
            return Outcome(case, f"{found:.0e}", cpu_seconds())
    return Outcome("", "survives", cpu_seconds())


def cpu_seconds() -> float:
    """Of this process."""
    used = resource.getrusage(resource.RUSAGE_SELF)
    return used.ru_utime + used.ru_stime


def healthy(cases: list[str]) -> Outcome:
    """Compares these cases with the code as it is."""
    return compared(references(), cases)


def outcome(mutation: Mutation) -> Outcome:
    """Makes one mistake and compares its own cases, then all."""
    mistake(mutation)
    try:
        r = references()
    except Exception as error:
        return Outcome("import", type(error).__name__, cpu_seconds())
    every = (*mutation.cases, *r.CASES, *(f"cached:{case}" for case in r.CACHED))
    return compared(r, dict.fromkeys(every))


def table(found: list[tuple[Mutation, Outcome]]) -> Table:
    """Every mistake and what saw it."""
    shown = Table("switch", "mistake", "caught by", "error", "CPU s")
    for mutation, (caught_by, how, seconds) in found:
        beside = "" if caught_by in (*mutation.cases, "") else " (not named)"
        shown.add_row(mutation.switch, mutation.what, f"{caught_by}{beside}", how, f"{seconds:.1f}")
    return shown


def main(words: list[str]) -> int:
    """Tries all mistakes, or those with one of these words in their switch, text or file. Returns the exit status."""
    console = Console(width=None if sys.stdout.isatty() else 160)
    chosen = [m for m in mutations() if not words or any(word in f"{m.switch} {m.what} {m.file}" for word in words)]
    os.environ["JAX_DISABLE_MOST_OPTIMIZATIONS"] = "1"
    sys.path.insert(0, str(ROOT))
    module("tests/conftest.py")  # JAX as in the tests
    references()
    warnings.filterwarnings("ignore", "os.fork", RuntimeWarning)  # JAX has threads once it has started, as it has not
    named = sorted({case for mutation in chosen for case in mutation.cases})
    with get_context("fork").Pool(AT_ONCE, maxtasksperchild=1) as pool:
        unhurt = [pool.apply_async(healthy, [named[i::AT_ONCE]]) for i in range(AT_ONCE)]
        begun = [pool.apply_async(outcome, [mutation]) for mutation in chosen]
        for caught_by, how, _ in (job.get(SECONDS) for job in unhurt):
            if caught_by:
                raise SystemExit(f"the code as it is fails {caught_by} ({how}), so nothing can be told")
        seen = [job.get(SECONDS) for job in track(begun, "breaking", console=console)]
    found = list(zip(chosen, seen, strict=True))
    survivors = [mutation for mutation, its in found if not its.caught_by]
    console.print(table(found))
    console.print(f"{len(found)} mistakes, {len(survivors)} not seen")
    return 1 if survivors else 0


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
