"""How a run goes, as it is seen: a live bar on a terminal, plain lines in a pipe."""

import io
import math

import pytest
from rich.console import Console

from vishwamai.monitor.display import describe_numbers, show_progress

LOGGED = [(1, {"loss": 6.25, "compile_seconds": 2.0}), (20, {"loss": 2.5, "tokens_per_second": 12345.6})]
LOGGED += [(20, {"eval_loss": 3.0, "eval_accuracy": 0.5}), (1000, {"loss": math.nan})]


def printed(**console) -> str:
    file = io.StringIO()
    with show_progress(1000, 0, True, Console(file=file, width=120, **console)) as sink:
        for step, numbers in LOGGED:
            sink(step, numbers)
    return file.getvalue()


@pytest.mark.parametrize(
    "console", [{"force_terminal": False}, {"force_terminal": True, "_environ": {"TERM": "dumb"}}], ids=["pipe", "dumb"]
)
def test_a_pipe_gets_a_plain_line_for_each_step(console):
    assert printed(**console).splitlines() == [
        "step 1 of 1000  loss 6.25",
        "step 20 of 1000  loss 2.5  tokens_per_second 12,346",
        "step 20 of 1000  eval_loss 3",
        "step 1000 of 1000  loss nan",
    ]


def test_a_terminal_gets_a_bar():
    text = printed(force_terminal=True, _environ={"TERM": "xterm"})
    assert "\x1b[" in text and "training" in text and "1000/1000" in text


def test_nothing_is_shown_where_nobody_wants_it():
    file = io.StringIO()
    with show_progress(10, 0, False, Console(file=file)) as sink:
        assert sink is None
    assert file.getvalue() == ""


def test_only_what_says_how_it_goes_is_shown():
    assert describe_numbers({"loss": 1.0, "mfu_6nd": 0.5, "grad_norm": 3.0}) == "loss 1  mfu_6nd 0.5"
