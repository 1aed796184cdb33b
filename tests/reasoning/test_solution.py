"""A solution as text and as figures."""

import json

from vishwamai.reasoning.solution import Solution, Step
from vishwamai.reasoning.trace import Trace

SOLVED = Solution(
    problem="3 + 4, twice",
    method="cot",
    answer="14",
    verified=True,
    steps=(Step("3 + 4 = 7", True), Step("7 * 2 = 14")),
    candidates=("14", "13"),
    samples=("14", None, "13"),
    tokens=9,
    trace=Trace("3 + 4, twice", "cot"),
)


def test_it_shows_its_work_and_then_the_answer():
    assert str(SOLVED) == "3 + 4 = 7\n7 * 2 = 14\n14"
    assert SOLVED.work == "3 + 4 = 7\n7 * 2 = 14"
    assert str(Solution(problem="p", method="cot", answer="14")) == "14"
    assert str(Solution(problem="p", method="cot")) == "no answer"


def test_it_is_complete_unless_something_stopped_it():
    assert SOLVED.complete and not Solution(problem="p", method="cot", stopped="tokens").complete


def test_the_figures_are_without_trace_and_work_and_can_be_written_as_json():
    figures = SOLVED.summary()
    assert not {"trace", "steps"} & set(figures)
    assert json.loads(json.dumps(figures)) | {"answer": "14", "tokens": 9, "samples": ["14", None, "13"]} == json.loads(
        json.dumps(figures)
    )
    assert "trace" not in repr(SOLVED)
