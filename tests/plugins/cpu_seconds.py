"""What the tests cost in CPU seconds: user and system time of all processes, which a busy machine does not stretch.

At the end of a run it prints the sum, and the files that took the most. A test's seconds are those of the process it
runs in and of the processes that it started and waited for.
"""

import collections
import resource

import pytest

SHOWN = 12
_begun, _of_files = 0.0, collections.Counter()


def cpu_seconds() -> float:
    """Of this process and of the children that it has waited for."""
    used = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(one.ru_utime + one.ru_stime for one in used)


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_logstart():
    global _begun
    _begun = cpu_seconds()


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item, call):
    report = yield
    if call.when == "teardown":  # a property of the report reaches the process that prints
        report.user_properties.append(("cpu_seconds", cpu_seconds() - _begun))
    return report


def pytest_runtest_logreport(report):
    if report.when == "teardown":
        _of_files[report.location[0]] += dict(p for p in report.user_properties if len(p) == 2).get("cpu_seconds", 0.0)


def pytest_terminal_summary(terminalreporter):
    terminalreporter.section("CPU seconds")
    for file, seconds in _of_files.most_common(SHOWN):
        if seconds >= 0.5:
            terminalreporter.write_line(f"{seconds:8.1f}  {file}")
    terminalreporter.write_line(f"{cpu_seconds():8.1f}  in all, of {len(_of_files)} files and what starts them")
