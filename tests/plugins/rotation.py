"""A run of some of the tests, by turns, where all of them would take too long.

`TESTS_PART=2/3 make test`: of the test files in their order every third one runs, from the second on. Files of another
part are not even imported. `CASES_PART=2/3 make parity`: of the cases of each test that is marked `parity` or
`by_turns` every third one runs; the second test of a file begins one further than the first, so that a case which many
tests take is in some of them every time. The parts 1/3, 2/3 and 3/3 are all there is, and what was left out is named at
the end.
"""

import itertools
import os
import re
from collections.abc import Sequence
from pathlib import Path

import pytest

FILES, CASES = "TESTS_PART", "CASES_PART"
MARKS = ("parity", "by_turns")  # whose cases take turns
FOLDER = Path(__file__).parent.parent
ROOT = FOLDER.parent
LEFT_OUT = pytest.StashKey[frozenset[Path]]()
CASES_LEFT_OUT = pytest.StashKey[set[str]]()


def part(text: str, variable: str = FILES) -> tuple[int, int]:
    """(2, 3) of "2/3"."""
    if (found := re.fullmatch(r"(\d+)/(\d+)", text)) and 1 <= int(found[1]) <= int(found[2]):
        return int(found[1]), int(found[2])
    raise pytest.UsageError(f"{variable} is {text!r}: write 2/3 for the second of three parts")


def left_out(files: Sequence[Path], number: int, parts: int) -> list[Path]:
    """Those of the files that this part does not run."""
    return [file for i, file in enumerate(sorted(files)) if i % parts != number - 1]


def cases_left_out(names: Sequence[str], number: int, parts: int) -> list[str]:
    """Those of the tests (`file::test[case]`, together as they are collected) whose case this part does not run."""
    tests = [list(of_it) for _, of_it in itertools.groupby(names, lambda name: name.partition("[")[0])]
    return [name for i, of_it in enumerate(tests) for j, name in enumerate(of_it) if (i + j) % parts != number - 1]


def pytest_configure(config):
    number, parts = part(os.environ.get(FILES) or "1/1")
    part(os.environ.get(CASES) or "1/1", CASES)
    config.stash[LEFT_OUT] = frozenset(left_out([*FOLDER.rglob("test_*.py")], number, parts))
    config.stash[CASES_LEFT_OUT] = set()


def pytest_ignore_collect(collection_path, config):
    return True if collection_path in config.stash[LEFT_OUT] else None


@pytest.hookimpl(trylast=True)  # of what -m and -k leave
def pytest_collection_modifyitems(config, items):
    missing = config.stash[CASES_LEFT_OUT]
    turning = [item.nodeid for item in items if any(item.get_closest_marker(mark) for mark in MARKS)]
    missing.update(cases_left_out(turning, *part(os.environ.get(CASES) or "1/1")))
    config.hook.pytest_deselected(items=[item for item in items if item.nodeid in missing])
    items[:] = [item for item in items if item.nodeid not in missing]


@pytest.hookimpl(trylast=True)
def pytest_sessionfinish(session):
    if hasattr(session.config, "workeroutput"):  # a worker of a parallel run tells the process that prints
        session.config.workeroutput[CASES] = sorted(session.config.stash[CASES_LEFT_OUT])


@pytest.hookimpl(optionalhook=True)
def pytest_testnodedown(node):
    node.config.stash[CASES_LEFT_OUT].update(getattr(node, "workeroutput", {}).get(CASES, ()))


def pytest_terminal_summary(terminalreporter, config):
    if missing := config.stash[LEFT_OUT]:
        terminalreporter.section(f"part {os.environ[FILES]} of the test files; these were left out")
        terminalreporter.write_line(" ".join(str(file.relative_to(ROOT)) for file in sorted(missing)))
    if cases := sorted(config.stash[CASES_LEFT_OUT]):
        terminalreporter.section(f"part {os.environ[CASES]} of the cases of the dearest tests; these were left out")
        for test, of_it in itertools.groupby(cases, lambda name: name.partition("[")[0]):
            terminalreporter.write_line(" ".join([test, *(name.removeprefix(test) for name in of_it)]))
