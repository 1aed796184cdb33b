"""Traces of real searches: saved, read back, and damaged in many ways."""

import dataclasses
import json

import pytest

from vishwamai.errors import DataError
from vishwamai.reasoning.proposals import sampled
from vishwamai.reasoning.search import SEARCHES
from vishwamai.reasoning.trace import STATUSES, Thought, Trace, load_trace
from vishwamai.reasoning.tree import TreeOfThoughts
from vishwamai.reasoning.values import program


@pytest.fixture
def traces(land):
    """Of real searches, one for each way of searching."""
    found = {}
    for name in SEARCHES:
        task = land(seed=9)
        how = {"values": program(task.worth), "proposals": sampled(0.7), "stop_early": False, "max_branches": 6}
        found[name] = TreeOfThoughts(task.model, search=name, task=task, **how).solve("x\u2028 “é”").trace
    return found


def plain(trace):
    """As it is after a file: states are texts, and tuples lists."""
    thoughts = [dataclasses.replace(t, state=None if t.state is None else str(t.state)) for t in trace.thoughts]
    return Trace(trace.problem, trace.method, thoughts, json.loads(json.dumps(trace.result)))


@pytest.mark.parametrize("name", SEARCHES)
def test_a_search_is_read_back_as_it_was(name, traces, tmp_path):
    trace = traces[name]
    trace.save(tmp_path / "t.jsonl")
    read = load_trace(tmp_path / "t.jsonl")
    assert read == plain(trace) and read.method == f"tot-{name}" and len(read.thoughts) > 15
    assert {thought.status for thought in read.thoughts} <= set(STATUSES)
    read.save(tmp_path / "again.jsonl")
    assert (tmp_path / "again.jsonl").read_bytes() == (tmp_path / "t.jsonl").read_bytes()


def test_a_state_that_is_no_text_becomes_one(tmp_path):
    Trace("4 9 10 13", "tot", [Thought((), "", (4, 9, 10, 13)), Thought((0,), "x")]).save(tmp_path / "t")
    assert [thought.state for thought in load_trace(tmp_path / "t").thoughts] == ["(4, 9, 10, 13)", None]


def lines_of(traces, tmp_path):
    traces["breadth"].save(tmp_path / "t.jsonl")
    return (tmp_path / "t.jsonl").read_bytes().split(b"\n")[:-1]


def damaged(line, **changes):
    entry = json.loads(line) | changes
    return json.dumps({name: value for name, value in entry.items() if value != "gone"}).encode()


DAMAGES = {
    "cut in the middle": lambda line: line[: len(line) // 2],
    "no JSON": lambda line: b"hello",
    "no object": lambda line: b"[1, 2]",
    "not UTF-8": lambda line: line.replace(b"expanded", b"\xff\xfe"),
    "nested without end": lambda line: b"[" * 100000,
    "an unknown kind": lambda line: damaged(line, kind="song"),
    "no kind": lambda line: damaged(line, kind="gone"),
    "a second search": lambda line: b'{"kind": "search", "problem": "x", "method": "y"}',
    "no path": lambda line: damaged(line, path="gone"),
    "a path of letters": lambda line: damaged(line, path="12"),
    "an unknown field": lambda line: damaged(line, colour="red"),
    "an unknown status": lambda line: damaged(line, status="lost"),
    "a text that is a number": lambda line: damaged(line, text=5),
    "a value that is a text": lambda line: damaged(line, value="high"),
    "tokens that are none": lambda line: damaged(line, tokens=None),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_line_is_named(damage, traces, tmp_path):
    lines = lines_of(traces, tmp_path)
    lines[1] = DAMAGES[damage](lines[1])
    (tmp_path / "t.jsonl").write_bytes(b"\n".join(lines))
    with pytest.raises(DataError, match=r"t\.jsonl:2: this line is not of a trace \(.+\)"):
        load_trace(tmp_path / "t.jsonl")


def test_files_that_are_no_trace(traces, tmp_path):
    lines, file = lines_of(traces, tmp_path), tmp_path / "t.jsonl"
    for kept, wrong in (
        (lines[1:], r":1: this line is not of a trace \(no search stands before it\)"),
        (lines[:-1], rf":{len(lines) - 1}: the trace ends before its result; the file was cut off"),
        ([b"", b" "], ": there is no trace in this file"),
    ):
        file.write_bytes(b"\n".join(kept))
        with pytest.raises(DataError, match=wrong):
            load_trace(file)
    with pytest.raises(DataError, match="nothing: this trace cannot be read: No such file"):
        load_trace(tmp_path / "nothing")
