"""Parts of the test files: together they are all of them, and what a part leaves out is named."""

import itertools
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import rotation

ROOT = Path(__file__).parents[2]
FILES = sorted((ROOT / "tests").rglob("test_*.py"))


@pytest.mark.parametrize("parts", [1, 2, 3, 7, len(FILES) + 2])
def test_the_parts_are_all_files_and_each_file_is_in_one(parts):
    run = [set(FILES) - set(rotation.left_out(FILES, number, parts)) for number in range(1, parts + 1)]
    assert sorted(itertools.chain(*run)) == FILES
    assert max(map(len, run)) - min(map(len, run)) <= 1


def test_the_order_in_which_files_are_found_is_no_matter():
    assert rotation.left_out(FILES[::-1], 1, 3) == rotation.left_out(FILES, 1, 3)


@pytest.mark.parametrize("text", ["", "2", "0/2", "3/2", "1/0", "-1/2", "a/b", "1/2/3"])
def test_a_part_that_is_none_is_refused(text):
    with pytest.raises(pytest.UsageError, match="write 2/3 for the second of three parts"):
        rotation.part(text)


@pytest.mark.parametrize("parts", [1, 2, 3, 5])
def test_the_parts_are_all_cases_and_a_case_of_many_tests_is_in_every_part(parts):
    tests = [f"test_{letter}.py::test_{letter}" for letter in "abcde"]
    names = [f"{test}[{case}-x[0]]" for test in tests for case in range(7)] + ["test_f.py::test_alone"]
    run = [set(names) - set(rotation.cases_left_out(names, number, parts)) for number in range(1, parts + 1)]
    assert sorted(itertools.chain(*run)) == sorted(names)
    for ran, case in itertools.product(run, range(7)):
        assert any(name.endswith(f"[{case}-x[0]]") for name in ran)


@pytest.mark.parametrize("workers", ["0", "2"])
def test_pytest_runs_a_part_of_the_cases_and_names_the_rest(workers, tmp_path):
    (tmp_path / "test_it.py").write_text(
        "import pytest\n@pytest.mark.by_turns\n@pytest.mark.parametrize('case', 'abcd')\n"
        "def test_one(case):\n    assert case in 'bd'\n"
        "@pytest.mark.parametrize('case', 'ef')\ndef test_other(case):\n    pass\n"
    )
    command = [sys.executable, "-m", "pytest", "-q", "-p", "rotation", "-n", workers, "-p", "no:cacheprovider", "."]
    env = os.environ | {"CASES_PART": "2/2", "PYTHONPATH": str(Path(rotation.__file__).parent)}
    done = subprocess.run(command, cwd=tmp_path, env=env, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout
    assert "part 2/2 of the cases of the dearest tests" in done.stdout and "test_it.py::test_one [a] [c]" in done.stdout
    assert re.search(r"^4 passed", done.stdout, re.MULTILINE)


def collected(folder: Path, **environment: str) -> tuple[set[str], str]:
    """The files that pytest collects in a folder of tests, and all that it printed."""
    command = [sys.executable, "-m", "pytest", "-q", "--collect-only", "-p", "no:cacheprovider", str(folder)]
    done = subprocess.run(command, cwd=ROOT, env=os.environ | environment, capture_output=True, text=True, check=True)
    return {line.split("::")[0] for line in done.stdout.splitlines() if "::" in line}, done.stdout


def test_pytest_runs_a_part_and_names_the_rest():
    folder = ROOT / "tests" / "text"
    of_folder = [str(file.relative_to(ROOT)) for file in FILES if file.parent == folder]
    runs = [collected(folder, TESTS_PART=f"{number}/2") for number in (1, 2)]
    assert sorted(runs[0][0] | runs[1][0]) == of_folder and not runs[0][0] & runs[1][0]
    for (ran, printed), number in zip(runs, (1, 2), strict=True):
        assert f"part {number}/2 of the test files" in printed
        assert all((file in printed) for file in of_folder) and ran
