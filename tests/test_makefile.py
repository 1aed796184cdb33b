"""What `make` takes for done: an environment is ready when the last of its packages is in, and not before."""

import os
import shutil
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PYTHON = """#!/bin/sh
echo "$*" >>"$LOG"
case "$*" in *"$BREAKS"*) exit 1 ;; esac
"""


@pytest.fixture
def make(tmp_path):
    """`make(environment, breaks)` -> (whether the environment is ready, what its Python was asked to do).

    Its Python installs nothing, and fails where an argument holds `breaks`.
    """
    shutil.copy(ROOT / "Makefile", tmp_path)
    shutil.copytree(ROOT / "requirements", tmp_path / "requirements")
    shutil.copy(ROOT / "pyproject.toml", tmp_path)

    def make(environment: str, breaks: str = "nothing at all"):
        python, log = tmp_path / environment / "bin" / "python", tmp_path / "log"
        python.parent.mkdir(parents=True, exist_ok=True)
        python.write_text(PYTHON)
        python.chmod(0o755)
        log.write_text("")
        ready = f"{environment}/ready"
        env = {name: value for name, value in os.environ.items() if not name.startswith(("MAKE", "MFLAGS", "VENV"))}
        env |= {"LOG": str(log), "BREAKS": breaks}
        done = subprocess.run(["make", ready], cwd=tmp_path, env=env, capture_output=True, text=True)
        assert (done.returncode == 0) == (tmp_path / ready).exists(), done.stdout + done.stderr
        return (tmp_path / ready).exists(), log.read_text()

    return make


needs_make = pytest.mark.skipif(shutil.which("make") is None, reason="asks make")


@needs_make
@pytest.mark.parametrize("environment", [".venv", ".venv-parity"])
def test_an_environment_is_ready_when_its_last_package_is_in(environment, make):
    ready, asked = make(environment)
    assert (
        ready
        and "-r requirements/dev.txt" in asked
        and asked.rstrip().endswith("peers.txt" if "parity" in environment else "-e .")
    )
    assert ("torch==" in asked) == ("parity" in environment)
    assert make(environment) == (True, "")


@needs_make
@pytest.mark.parametrize(
    "breaks", ["requirements/dev.txt", "requirements/parity.txt", "torch==", "requirements/peers.txt"]
)
def test_a_step_that_failed_is_done_again(breaks, make):
    ready, asked = make(".venv-parity", breaks)
    assert not ready and breaks in asked
    ready, asked = make(".venv-parity")
    assert ready and breaks in asked
