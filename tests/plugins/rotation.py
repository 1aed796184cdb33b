"""A run of some of the test files, by turns, where all of them would take too long: `TESTS_PART=2/3 make test`.

Of the files in their order every third one runs, from the second on; the parts 1/3, 2/3 and 3/3 are all of them. Files
of another part are not even imported, and are named at the end.
"""

import os
import re
from collections.abc import Sequence
from pathlib import Path

import pytest

VARIABLE = "TESTS_PART"
FOLDER = Path(__file__).parent.parent
ROOT = FOLDER.parent
LEFT_OUT = pytest.StashKey[frozenset[Path]]()


def part(text: str) -> tuple[int, int]:
    """(2, 3) of "2/3"."""
    if (found := re.fullmatch(r"(\d+)/(\d+)", text)) and 1 <= int(found[1]) <= int(found[2]):
        return int(found[1]), int(found[2])
    raise pytest.UsageError(f"{VARIABLE} is {text!r}: write 2/3 for the second of three parts")


def left_out(files: Sequence[Path], number: int, parts: int) -> list[Path]:
    """Those of the files that this part does not run."""
    return [file for i, file in enumerate(sorted(files)) if i % parts != number - 1]


def pytest_configure(config):
    number, parts = part(os.environ.get(VARIABLE) or "1/1")
    config.stash[LEFT_OUT] = frozenset(left_out([*FOLDER.rglob("test_*.py")], number, parts))


def pytest_ignore_collect(collection_path, config):
    return True if collection_path in config.stash[LEFT_OUT] else None


def pytest_terminal_summary(terminalreporter, config):
    if missing := config.stash[LEFT_OUT]:
        terminalreporter.section(f"part {os.environ[VARIABLE]} of the test files; these were left out")
        terminalreporter.write_line(" ".join(str(file.relative_to(ROOT)) for file in sorted(missing)))
