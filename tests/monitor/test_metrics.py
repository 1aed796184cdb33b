"""Metrics: written, read back, drawn, and never in the way of a run."""

import pytest

from vishwamai.monitor.metrics import Metrics, jsonl, picture, read, utilisation


def test_lines_come_back_and_a_torn_last_line_is_left_out(tmp_path):
    log = Metrics(jsonl(tmp_path / "run" / "m.jsonl"))
    log.log(1, {"loss": 2.5})
    log.log(2, {"loss": 2.0, "eval_loss": 2.2})
    with (tmp_path / "run" / "m.jsonl").open("a") as file:
        file.write('{"step": 3, "lo')
    lines = read(tmp_path / "run" / "m.jsonl")
    assert [(line["step"], line["loss"]) for line in lines] == [(1, 2.5), (2, 2.0)]
    assert picture(lines, tmp_path / "loss.png").read_bytes()[:4] == b"\x89PNG"


def test_a_run_that_goes_on_takes_back_what_it_makes_again(tmp_path):
    for after, steps in ((0, (1, 2, 3, 4)), (2, (3, 4, 5))):
        log = Metrics(jsonl(tmp_path / "m.jsonl", after=after))
        for step in steps:
            log.log(step, {"loss": float(after)})
    lines = read(tmp_path / "m.jsonl")
    assert [(line["step"], line["loss"]) for line in lines] == [(1, 0.0), (2, 0.0), (3, 2.0), (4, 2.0), (5, 2.0)]


def test_a_failing_sink_is_dropped_and_the_others_go_on():
    got = []

    def broken(step, numbers):
        raise OSError("disk full")

    log = Metrics(broken, lambda step, numbers: got.append(step))
    with pytest.warns(RuntimeWarning, match="disk full"):
        log.log(1, {})
    log.log(2, {})
    assert got == [1, 2]


def test_utilisation_is_a_share_of_the_peak():
    assert utilisation(2e12, 4.0, 1e12) == 0.5
