"""A search tree for a terminal: the branches that were followed, counts of the others, the way to the answer in bold.

It prints nothing; it returns what rich prints.
"""

import collections
import dataclasses
from collections.abc import Iterator

from rich.cells import cell_len
from rich.console import Group
from rich.text import Text
from rich.tree import Tree

from vishwamai.reasoning.trace import Thought, Trace

# status: (mark, style). The shape tells them apart where there is no colour.
MARKS = {
    "open": ("○", "dim"),
    "wrong": ("×", "red"),
    "repeat": ("↺", "dim"),
    "pruned": ("−", "dim"),
    "kept": ("●", ""),
    "expanded": ("◆", ""),
    "answer": ("✓", "green"),
    "refuted": ("≠", "red"),
}
FOLLOWED = ("kept", "expanded", "answer")
MOST = 40  # thoughts that are shown
JOINERS = "\u200c\u200d"  # they are not printable, and many scripts are misspelt without them
INDENT = 4  # columns that rich's guides take for each level
SHORTEST = 12  # columns that a text has at any level
WAY_MARK = " ←"
VERDICTS = {True: ("checked and right", "green"), False: ("checked and not right", "red"), None: ("not checked", "dim")}

Path = tuple[int, ...]


def terminal(trace: Trace, console_width: int = 80) -> Group:
    """Returns a trace's tree, answer and figures for `Console().print`, on a console of so many columns.

    At most 40 thoughts have a line: those on the way to the answer, then others that were kept, expanded or answers.
    """
    thoughts, children = _index(trace)
    end = trace.result.get("path")
    way = [tuple(end[:i]) for i in range(len(end) + 1)] if isinstance(end, list | tuple) else []
    way = [path for path in way if path in thoughts]
    followed = [path for path, thought in thoughts.items() if thought.status in FOLLOWED or path in children]
    followed.sort(key=lambda path: (len(path), path))  # parents before children
    shown = set(list(dict.fromkeys([(), *way, *followed]))[:MOST])

    def add(path: Path, parent: Tree | None = None) -> Tree:
        label = _label(thoughts[path], console_width, path in way)
        node = Tree(label, guide_style="dim") if parent is None else parent.add(label)
        hidden = collections.Counter()
        for child in children.get(path, {}):
            if child in shown:
                add(child, node)
            else:
                hidden[thoughts[child].status] += 1
        if hidden:
            node.add(Text(f"+{hidden.total()} more: {_describe_counts(hidden)}", style="dim"))
        return node

    statuses = {thoughts[path].status for path in shown if path}
    legend = [f"{mark} {status}" for status, (mark, _) in MARKS.items() if status in statuses]
    legend += [f"{WAY_MARK.strip()} the way to the answer"] if way else []
    return Group(add(()), "", *result(trace), Text("  ".join(legend), style="dim"))


def _index(trace: Trace) -> tuple[dict[Path, Thought], dict[Path, dict[Path, None]]]:
    """Returns the thoughts by path, and the paths of each one's children. A trace may leave parents out."""
    thoughts: dict[Path, Thought] = {}
    for thought in trace.thoughts:
        thoughts.setdefault(thought.path, thought)
    children: dict[Path, dict[Path, None]] = {}
    for path in list(thoughts):
        while path and path not in children.setdefault(path[:-1], {}):
            children[path[:-1]][path] = None
            path = path[:-1]
            thoughts.setdefault(path, Thought(path, "(not in the trace)" if path else ""))
    root = thoughts.setdefault((), Thought((), ""))
    thoughts[()] = dataclasses.replace(root, text=root.text or trace.problem, value=None)
    return thoughts, children


def _label(thought: Thought, console_width: int, on_way: bool) -> Text:
    """Returns one line: the mark, as much of the text as fits, the value, and the mark of the way to the answer."""
    mark, style = MARKS.get(thought.status, ("·", "dim")) if thought.path else ("", "")
    value = "" if thought.value is None else f"  {thought.value:.2f}"
    text = Text(_printable(thought.text) or "(no words)", style="bold" if on_way else "", no_wrap=True)
    width = console_width - INDENT * len(thought.path) - cell_len(mark) - len(value) - len(WAY_MARK) - 1
    text.truncate(max(width, SHORTEST), overflow="ellipsis")
    label = Text(f"{mark} " if mark else "", style=style, no_wrap=True, overflow="ellipsis").append(text)
    return label.append(value, style="dim").append(WAY_MARK if on_way and thought.path else "", style="bold")


def _describe_counts(statuses: collections.Counter[str]) -> str:
    """Returns `3 wrong, 2 repeats`: the statuses in the order of `MARKS`, then unknown ones."""
    plural = {"repeat": "repeats", "answer": "answers"}
    names = [*MARKS, *sorted(set(statuses) - {*MARKS})]
    return ", ".join(f"{n} {plural.get(name, name) if n > 1 else name}" for name in names if (n := statuses[name]))


def result(trace: Trace) -> Iterator[Text]:
    """Gives lines: the answer and the checker's verdict, how many samples agree where there is none, and the cost."""
    result = trace.result
    verified = result.get("verified")
    if result.get("answer") is None:
        yield Text("no answer", style="bold red")
    else:
        verdict, style = VERDICTS.get(verified, VERDICTS[None])
        answer = Text("answer: ").append(_printable(str(result["answer"])), style="bold")
        yield answer.append(f"  {verdict}", style=style)
        samples, agree = result.get("samples") or (), result.get("agreement")
        if verified is None and agree is not None and len(samples) > 1:
            few = 2 * agree < len(samples)
            text = f"{'only ' if few else ''}{agree} of {len(samples)} samples agree"
            yield Text(text, style="bold yellow" if few else "dim")
    counts = {"thoughts": len(trace.thoughts), "tokens": result.get("tokens"), "calls": result.get("calls")}
    parts = [str(result.get("method") or trace.method)]
    parts += [f"{n:,} {name[:-1] if n == 1 else name}" for name, n in counts.items() if n is not None]
    parts += [f"{result['seconds']:.1f} s"] if result.get("seconds") is not None else []
    parts += [f"stopped by {result['stopped']}"] if result.get("stopped") else []
    yield Text(_printable(", ".join(parts)), style="dim")


def _printable(text: str) -> str:
    """Returns a text on one line, without what would move a terminal's cursor or turn its words around."""
    return " ".join("".join(c if c.isprintable() or c in JOINERS else " " for c in text).split())
