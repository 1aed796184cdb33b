"""A tree in the terminal: what is followed has a line, the rest is counted, and no thought moves the cursor."""

import io
from collections import Counter

import pytest
from rich.console import Console
from rich.tree import Tree

from vishwamai.reasoning import show
from vishwamai.reasoning.solution import Solution
from vishwamai.reasoning.trace import STATUSES, Thought, Trace


def thought(path, text, status, value=None) -> Thought:
    return Thought(path, text, status=status, value=value)


def game_of_24() -> Trace:
    """Three levels of 4 9 10 13: two branches gone on from, one answer."""
    return Trace(
        "Make 24 from 4 9 10 13.",
        "tree",
        [
            thought((), "", "expanded"),
            thought((0,), "10 - 4 = 6", "expanded", 0.9),
            thought((1,), "13 * 9 = 117", "pruned", 0.1),
            thought((2,), "4 + 9 = 13", "expanded", 0.4),
            thought((3,), "9 - 4 = 6", "wrong"),
            thought((4,), "9 - 4 = 3", "wrong"),
            thought((5,), "10 - 4 = 6", "repeat"),
            thought((6,), "10 - 9 = 1", "expanded", 0.3),
            thought((0, 0), "13 - 9 = 4", "kept", 0.8),
            thought((0, 1), "6 + 9 = 15", "repeat"),
            thought((0, 2), "6 + 9 = 15", "repeat"),
            thought((2, 0), "13 * 13 = 160", "wrong"),
            thought((0, 0, 0), "6 * 4 = 24", "answer", 1.0),
            thought((0, 0, 1), "6 + 4 = 10", "refuted"),
        ],
        {
            "path": (0, 0, 0),
            "answer": "(10 - 4) * (13 - 9)",
            "verified": True,
            "tokens": 1200,
            "calls": 5,
            "seconds": 3.21,
        },
    )


def printed(trace: Trace, width: int = 80, **options) -> str:
    console = Console(file=io.StringIO(), width=width, **options)
    console.print(show.terminal(trace, width))
    return console.file.getvalue()


def test_the_tree_is_drawn():
    assert [line.rstrip() for line in printed(game_of_24()).splitlines()] == [
        "Make 24 from 4 9 10 13.",
        "├── ◆ 10 - 4 = 6  0.90 ←",
        "│   ├── ● 13 - 9 = 4  0.80 ←",
        "│   │   ├── ✓ 6 * 4 = 24  1.00 ←",
        "│   │   └── +1 more: 1 refuted",
        "│   └── +2 more: 2 repeats",
        "├── ◆ 4 + 9 = 13  0.40",
        "│   └── +1 more: 1 wrong",
        "├── ◆ 10 - 9 = 1  0.30",
        "└── +4 more: 2 wrong, 1 repeat, 1 pruned",
        "",
        "answer: (10 - 4) * (13 - 9)  checked and right",
        "tree, 14 thoughts, 1,200 tokens, 5 calls, 3.2 s",
        "● kept  ◆ expanded  ✓ answer  ← the way to the answer",
    ]


def spans(trace: Trace, width: int = 80) -> list[tuple[str, bool, bool]]:
    """The pieces that are printed, with whether each is bold and whether it is dim."""
    console = Console(width=width, force_terminal=True, color_system="standard")
    return [
        (text, bool(style and style.bold), bool(style and style.dim))
        for text, style, _ in console.render(show.terminal(trace, width))
    ]


def test_the_way_to_the_answer_is_bold_and_the_rest_dim():
    pieces = spans(game_of_24())
    way = {"Make 24 from 4 9 10 13.", "10 - 4 = 6", "13 - 9 = 4", "6 * 4 = 24", "(10 - 4) * (13 - 9)", " ←"}
    assert {text for text, bold, _ in pieces if bold and text.strip()} == way
    assert [(bold, dim) for text, bold, dim in pieces if "4 + 9 = 13" in text] == [(False, False)]
    assert all(dim for text, _, dim in pieces if text.startswith("+"))


def test_every_status_has_a_mark_of_its_own():
    assert tuple(show.MARKS) == STATUSES
    assert len({mark for mark, _ in show.MARKS.values()}) == len(STATUSES)


@pytest.mark.parametrize(
    ("result", "expected"),
    [
        ({}, ["no answer", "tree, 14 thoughts"]),
        (
            {"answer": "7", "verified": False, "method": "beam", "stopped": "tokens"},
            ["answer: 7  checked and not right"],
        ),
        (
            {"answer": "7", "calls": 2, "stopped": "calls"},
            ["not checked", "tree, 14 thoughts, 2 calls, stopped by calls"],
        ),
        ({"tokens": 1, "calls": 1}, ["tree, 14 thoughts, 1 token, 1 call\n"]),
        ({"answer": "7", "path": [0, 7]}, ["◆ 10 - 4 = 6  0.90 ←"]),
        ({"path": None}, ["◆ 10 - 4 = 6  0.90\n"]),
    ],
)
def test_anything_of_a_result_may_be_missing(result, expected):
    trace = game_of_24()
    trace.result = result
    text = "\n".join(line.rstrip() for line in printed(trace).splitlines())
    assert [part for part in expected if part not in text] == []


def test_a_trace_may_be_empty_or_have_gaps():
    assert printed(Trace("p", "direct")).startswith("p\n")
    lines = printed(Trace("p", "m", [thought((2, 1), "child", "kept"), thought((0,), "", "new")])).splitlines()
    assert [line.rstrip() for line in lines[:4]] == [
        "p",
        "├── ○ (not in the trace)",
        "│   └── ● child",
        "└── +1 more: 1 new",
    ]


def test_a_line_is_as_long_as_the_console_and_keeps_its_value():
    trace = Trace("p", "m", [thought((0,), "many words " * 40, "kept", 0.25)], {"path": (0,)})
    line = printed(trace, 50).splitlines()[1]
    assert line.startswith("└── ● many words") and line.rstrip().endswith("…  0.25 ←") and len(line.rstrip()) == 50


def test_what_a_model_wrote_moves_no_cursor_and_is_no_markup():
    hostile = "\x1b[2J\x1b]0;x\x07[bold red]a[/] \u202eb\nc\r\x9b1A \u0915\u094d\u200d\u0937"
    trace = Trace(hostile, hostile, [thought((0,), hostile, "kept")], {"answer": hostile, "path": (0,)})
    text = printed(trace)
    assert not {c for c in text if c != "\n" and not c.isprintable()} - {"\u200d"}
    assert text.count("[bold red]a[/] b c 1A \u0915\u094d\u200d\u0937") == 4


def labels(node: Tree) -> list[str]:
    return [str(node.label), *(label for child in node.children for label in labels(child))]


def test_a_large_tree_has_few_lines_and_loses_no_count():
    trace = Trace("p", "best", [thought((i,), f"answer {i}", "answer") for i in range(10_000)], {"path": (9_876,)})
    found = labels(show.terminal(trace).renderables[0])
    assert found[-2:] == ["✓ answer 9876 ←", "+9961 more: 9961 answers"]
    assert len(found) == show.MOST + 1
    assert Counter(line.split()[0] for line in found) == {"✓": show.MOST - 1, "p": 1, "+9961": 1}


@pytest.mark.parametrize(
    "samples, verified, words, style",
    [
        (["48", "42", "48.0", None, "7"], None, "only 2 of 5 samples agree", "bold yellow"),
        (["48", "42"], None, "1 of 2 samples agree", "dim"),
        (["$48", "48", "48"], None, "3 of 3 samples agree", "dim"),
        (["48"], None, None, None),
        ([], None, None, None),
        (["48", "42", "41"], True, None, None),
    ],
)
def test_how_many_samples_agree_is_said_where_nothing_checked_the_answer(samples, verified, words, style):
    result = Solution(problem="p", method="m", answer="48", verified=verified, samples=tuple(samples)).summary()
    lines = [(line.plain, line.style) for line in show.result(Trace("p", "m", [], result))][1:-1]
    assert lines == ([] if words is None else [(words, style)])
