"""Makes mistakes in the model's code on purpose, one at a time, and sees whether the logits of transformers tell.

`mutations.txt` lists them: `## file`, then for each `switch: what is wrong now (cases)`, the lines to be replaced after
`- ` and those that come in their place after `+ `. A case is one of `tests/hf/test_references.py`; `cached:case` means
decoding with a cache. Each mistake is made in a copy of the package, where the tests of its cases run, and all of them
if those see nothing. Ends with 1 if a mistake is seen by none.
"""

import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

from rich.console import Console
from rich.progress import track
from rich.table import Table

ROOT = Path(__file__).parent.parent.parent
LIST = Path(__file__).with_name("mutations.txt")
TESTS = "tests/hf/test_references.py"
STORED = ("references.json", "references.npz", "adapters.npz")
WHOLE, CACHED = "test_logits_are_those_that_transformers_gave", "test_decoding_with_a_cache_gives_them_too"
AT_ONCE = 2


class Mutation(NamedTuple):
    """One mistake: which switch of the model it is in, what is wrong, where, and which cases should tell."""

    switch: str
    what: str
    file: str
    old: str
    new: str
    cases: tuple[str, ...]


class Outcome(NamedTuple):
    """What came of a mistake: the test that saw it (empty: none), and how."""

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


def node(case: str) -> str:
    """pytest's name of a case."""
    kind, _, name = case.rpartition(":")
    return f"{TESTS}::{CACHED if kind == 'cached' else WHOLE}[{name}]"


def outcome(mutation: Mutation | None) -> Outcome:
    """Tries one mistake (None: the code as it is) in a copy of its own."""
    begin = time.monotonic()
    with tempfile.TemporaryDirectory() as folder:
        copy(Path(folder))
        if mutation is not None:
            path = Path(folder) / mutation.file
            path.write_text(path.read_text(encoding="utf-8").replace(mutation.old, mutation.new), encoding="utf-8")
        named = [] if mutation is None else [node(case) for case in mutation.cases]
        caught_by, how = (named and run(folder, *named)) or run(folder, "-m", "not parity", TESTS) or ("", "survives")
    return Outcome(caught_by, how, time.monotonic() - begin)


def copy(folder: Path) -> None:
    """What the tests need: the package without its built-in model, and the tests themselves."""
    shutil.copytree(ROOT / "vishwamai", folder / "vishwamai", ignore=shutil.ignore_patterns("assets", "__pycache__"))
    plugins = (f"tests/plugins/{name}.py" for name in ("cpu_seconds", "rotation"))
    for name in ("pyproject.toml", "tests/conftest.py", *plugins, TESTS, *(f"tests/hf/{name}" for name in STORED)):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(ROOT / name, folder / name)


def run(folder: str, *tests: str) -> tuple[str, str] | None:
    """(the first of these tests that fails, why), or None if all pass. The folder's package is the one imported."""
    command = [sys.executable, "-m", "pytest", "-x", "-q", "--tb=line", "-p", "no:cacheprovider", *tests]
    wide = os.environ | {"COLUMNS": "400"}  # or pytest leaves out why a test failed
    done = subprocess.run(command, cwd=folder, env=wide, capture_output=True, text=True, check=False)
    if done.returncode == 0:
        return None
    failed = re.search(r"^(?:FAILED|ERROR) \S+?(?:::(\w+)(?:\[(\w+)\])?)?(?: - (.*))?$", done.stdout, re.MULTILINE)
    if failed is None:
        raise SystemExit(f"{' '.join(command)} did not run:\n{done.stdout}{done.stderr}")
    test, case, why = failed.groups()
    seen = f"{'cached:' if test == CACHED else ''}{case or test or 'collection'}"
    distance = re.match(r"(?:AssertionError: )?assert ([\d.e+-]+|nan) <= ", why or "")
    return seen, f"{float(distance[1]):.0e}" if distance else (why or "not collected").split(":")[0]


def table(found: list[tuple[Mutation, Outcome]]) -> Table:
    """Every mistake and what saw it."""
    shown = Table("switch", "mistake", "caught by", "error", "s")
    for mutation, (caught_by, how, seconds) in found:
        beside = "" if caught_by in (*mutation.cases, "") else " (not named)"
        shown.add_row(mutation.switch, mutation.what, f"{caught_by}{beside}", how, f"{seconds:.1f}")
    return shown


def main(words: list[str]) -> int:
    """Tries all mistakes, or those with one of these words in their switch, text or file. Returns the exit status."""
    begin, console = time.monotonic(), Console(width=None if sys.stdout.isatty() else 160)
    chosen = [m for m in mutations() if not words or any(word in f"{m.switch} {m.what} {m.file}" for word in words)]
    if (healthy := outcome(None)).caught_by:
        raise SystemExit(f"the code as it is fails {healthy.caught_by} ({healthy.how}), so nothing can be told")
    with ThreadPoolExecutor(AT_ONCE) as pool:
        seen = list(track(pool.map(outcome, chosen), "breaking", total=len(chosen), console=console))
    found = list(zip(chosen, seen, strict=True))
    survivors = [mutation for mutation, its in found if not its.caught_by]
    console.print(table(found))
    console.print(f"{len(found)} mistakes, {len(survivors)} not seen, {time.monotonic() - begin:.0f} s")
    return 1 if survivors else 0


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
