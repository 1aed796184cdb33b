"""Metrics: written, read back, drawn, and never in the way of a run."""

import json
import math

import numpy as np
import pytest

from vishwamai.monitor.metrics import Metrics, draw_picture, jsonl, read_jsonl, try_draw, utilisation


def test_lines_come_back_and_a_torn_last_line_is_left_out(tmp_path):
    log = Metrics(jsonl(tmp_path / "run" / "m.jsonl"))
    log.log(1, {"loss": 2.5})
    log.log(2, {"loss": 2.0, "eval_loss": 2.2})
    with (tmp_path / "run" / "m.jsonl").open("a") as file:
        file.write('{"step": 3, "lo')
    lines = read_jsonl(tmp_path / "run" / "m.jsonl")
    assert [(line["step"], line["loss"]) for line in lines] == [(1, 2.5), (2, 2.0)]
    assert draw_picture(lines, tmp_path / "loss.png").read_bytes()[:4] == b"\x89PNG"


def test_a_run_that_goes_on_takes_back_what_it_makes_again(tmp_path):
    for after, steps in ((0, (1, 2, 3, 4)), (2, (3, 4, 5))):
        log = Metrics(jsonl(tmp_path / "m.jsonl", after=after))
        for step in steps:
            log.log(step, {"loss": float(after)})
    lines = read_jsonl(tmp_path / "m.jsonl")
    assert [(line["step"], line["loss"]) for line in lines] == [(1, 0.0), (2, 0.0), (3, 2.0), (4, 2.0), (5, 2.0)]


def strict(line: str) -> dict:
    """A line as a reader takes it who knows no NaN."""

    def refuse(constant):
        raise AssertionError(f"{constant} is no JSON")

    return json.loads(line, parse_constant=refuse)


@pytest.mark.parametrize("number", [math.nan, math.inf, -math.inf, np.float64("nan")], ids=str)
def test_what_is_not_finite_is_null_and_stays_so(tmp_path, number):
    path = tmp_path / "m.jsonl"
    Metrics(jsonl(path)).log(1, {"loss": number, "accuracy": np.float64(0.5), "tokens": 7})
    Metrics(jsonl(path, after=1)).log(2, {"loss": 1.0})
    first, second = map(strict, path.read_text().splitlines())
    assert first["loss"] is None and (first["accuracy"], first["tokens"], second["loss"]) == (0.5, 7, 1.0)
    assert draw_picture(read_jsonl(path), tmp_path / "loss.png").exists()


def test_nothing_is_logged_where_there_is_nothing(tmp_path):
    Metrics(jsonl(tmp_path / "m.jsonl")).log(1, {})
    assert not (tmp_path / "m.jsonl").exists()


def test_lines_that_are_no_numbers_of_a_step_are_left_out(tmp_path):
    (tmp_path / "m.jsonl").write_bytes(
        b'{"step": 1, "loss": 2.0}\n\xff\xfe\n3\n[]\n{"loss": 1}\n{"step": 2, "loss": 1.5}\n'
    )
    assert [line["step"] for line in read_jsonl(tmp_path / "m.jsonl")] == [1, 2]
    jsonl(tmp_path / "m.jsonl", after=1)
    assert [strict(line)["step"] for line in (tmp_path / "m.jsonl").read_text().splitlines()] == [1]


@pytest.mark.parametrize("history", [[], [{"step": 1, "loss": None}], [{"step": 1, "loss": 0.0}, {"step": 2}]], ids=str)
def test_a_picture_of_nothing_is_drawn_all_the_same(tmp_path, history):
    assert draw_picture(history, tmp_path / "loss.png").read_bytes()[:4] == b"\x89PNG"


def test_a_picture_that_cannot_be_drawn_is_a_warning(tmp_path):
    (tmp_path / "loss.png").mkdir()
    with pytest.warns(RuntimeWarning, match="is not drawn"):
        try_draw([{"step": 1, "loss": 2.0}], tmp_path / "loss.png")


def test_a_failing_sink_is_dropped_and_the_others_go_on():
    got = []

    def broken(step, numbers):
        raise OSError("disk full")

    log = Metrics(broken, lambda step, numbers: got.append(step))
    with pytest.warns(RuntimeWarning, match="disk full"):
        log.log(1, {"loss": 1.0})
    log.log(2, {"loss": 1.0})
    assert got == [1, 2]


def test_utilisation_is_a_share_of_the_peak():
    assert utilisation(2e12, 4.0, 1e12) == 0.5
