"""Memory that a process keeps: pages that it had need not be given to it again."""

import subprocess
import sys

import pytest

from vishwamai import cli
from vishwamai.host_memory import keep_freed_memory

CODE = """
import resource, sys
import numpy as np
import pytest

from vishwamai import cli
from vishwamai.host_memory import keep_freed_memory

kept = sys.argv[1] == "keep" and keep_freed_memory()
for _ in range(2):
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    np.full(1 << 25, 1.0)
print(kept, resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


def faults(how):
    """(whether memory is kept, pages that a second array of 256 MB needed from the system)."""
    out = subprocess.run([sys.executable, "-c", CODE, how], capture_output=True, text=True, check=True).stdout.split()
    return out[0] == "True", int(out[1])


def test_an_array_takes_the_memory_of_the_one_before():
    kept, pages = faults("keep")
    if not kept:
        pytest.skip("the C library is not glibc, which alone can keep memory")
    assert 10 * pages < faults("leave")[1]


def test_another_system_is_left_as_it_is(monkeypatch):
    def missing(name):
        raise OSError(name)

    monkeypatch.setattr("vishwamai.host_memory.ctypes.CDLL", missing)
    assert keep_freed_memory() is False


@pytest.mark.parametrize("given, kept", [(None, ["kept"]), (["train", "absent.json"], [])], ids=["command", "call"])
def test_only_the_command_itself_keeps_memory_for_training(given, kept, monkeypatch):
    calls = []
    monkeypatch.setattr(cli, "keep_freed_memory", lambda: calls.append("kept"))
    monkeypatch.setattr("sys.argv", ["vishwamai", "train", "absent.json"])
    assert cli.main(given) == 2  # there is no such configuration
    assert calls == kept
