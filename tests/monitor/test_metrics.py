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
