"""A search tree in a terminal: the branches gone on from, the others as counts, the way to the answer in bold.

It prints nothing; it gives what rich prints. It knows no search.
"""

import collections
import dataclasses
from collections.abc import Iterable

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
WAY = " ←"
VERDICTS = {True: ("checked and right", "green"), False: ("checked and not right", "red"), None: ("not checked", "dim")}

Path = tuple[int, ...]


def terminal(trace: Trace, console_width: int = 80) -> Group:
    """A trace's tree, answer and figures for a console of so many columns: `Console().print(terminal(trace))`.

    At most 40 thoughts have a line: those on the way to the answer, then others that were kept, expanded or answers.
    """
    branches = _Branches(trace, console_width)
    found = {branches.thoughts[path].status for path in branches.shown if path}
    legend = [f"{mark} {status}" for status, (mark, _) in MARKS.items() if status in found]
    legend += [f"{WAY.strip()} the way to the answer"] if branches.way else []
    return Group(branches.tree(), "", *result(trace), Text("  ".join(legend), style="dim"))


class _Branches:
    """The thoughts of a trace by their places, and which of them have a line."""

    def __init__(self, trace: Trace, width: int):
        self.width = width
        self.thoughts: dict[Path, Thought] = {}
        for thought in trace.thoughts:
            self.thoughts.setdefault(thought.path, thought)
        self.below: dict[Path, dict[Path, None]] = collections.defaultdict(dict)
        for path in list(self.thoughts):
            self._place(path)
        root = self.thoughts.setdefault((), Thought((), ""))
        self.thoughts[()] = dataclasses.replace(root, text=root.text or trace.problem, value=None)
        found = trace.result.get("path")
        way = [tuple(found[:i]) for i in range(len(found) + 1)] if isinstance(found, list | tuple) else []
        self.way = [path for path in way if path in self.thoughts]
        self.shown = set(self._chosen()[:MOST])

    def _place(self, path: Path) -> None:
        """Notes a place under its parent, and the parent's under its own, for a trace may leave one out."""
        while path and path not in self.below[path[:-1]]:
            self.below[path[:-1]][path] = None
            path = path[:-1]
            self.thoughts.setdefault(path, Thought(path, "(not in the trace)" if path else ""))

    def _chosen(self) -> list[Path]:
        """The way to the answer, then level by level what was gone on from, so that a parent stands before a child."""
        followed = [path for path, t in self.thoughts.items() if t.status in FOLLOWED or path in self.below]
        others = sorted(followed, key=lambda path: (len(path), path))
        return list(dict.fromkeys([(), *self.way, *others]))

    def tree(self, path: Path = (), into: Tree | None = None) -> Tree:
        """The branches from a place on, under a node of rich's tree or as a new one."""
        node = Tree(self._label(path), guide_style="dim") if into is None else into.add(self._label(path))
        children = self.below.get(path, {})
        for child in children:
            if child in self.shown:
                self.tree(child, node)
        rest = collections.Counter(self.thoughts[child].status for child in children if child not in self.shown)
        if rest:
            node.add(Text(f"+{rest.total()} more: {_counted(rest)}", style="dim"))
        return node

    def _label(self, path: Path) -> Text:
        """One line: the mark, as much of the text as fits, the value, and whether it is on the way to the answer."""
        thought, won = self.thoughts[path], path in self.way
        mark, style = MARKS.get(thought.status, ("·", "dim")) if path else ("", "")
        end = "" if thought.value is None else f"  {thought.value:.2f}"
        text = Text(_printable(thought.text) or "(no words)", style="bold" if won else "", no_wrap=True)
        room = self.width - INDENT * len(path) - cell_len(mark) - len(end) - len(WAY) - 1
        text.truncate(max(room, SHORTEST), overflow="ellipsis")
        label = Text(f"{mark} " if mark else "", style=style, no_wrap=True, overflow="ellipsis").append(text)
        return label.append(end, style="dim").append(WAY if won and path else "", style="bold")


def _counted(statuses: collections.Counter[str]) -> str:
    """`3 wrong, 2 repeats`: the statuses in their order, then those that nobody knows."""
    names = [status for status in (*MARKS, *sorted(set(statuses) - {*MARKS})) if statuses[status]]
    plural = {"repeat": "repeats", "answer": "answers"}
    return ", ".join(f"{(n := statuses[s])} {plural.get(s, s) if n > 1 else s}" for s in names)


def result(trace: Trace) -> Iterable[Text]:
    """The answer with the checker's word on it, how many samples agree where nothing checked it, and what it took."""
    result = trace.result
    if result.get("answer") is None:
        yield Text("no answer", style="bold red")
    else:
        answer, verified = str(result["answer"]), result.get("verified")
        word, style = VERDICTS.get(verified, VERDICTS[None])
        yield Text("answer: ").append(_printable(answer), style="bold").append(f"  {word}", style=style)
        samples, agree = result.get("samples") or (), result.get("agreement")
        if verified is None and agree is not None and len(samples) > 1:
            few = "only " if 2 * agree < len(samples) else ""
            yield Text(f"{few}{agree} of {len(samples)} samples agree", style="bold yellow" if few else "dim")
    counts = {"thoughts": len(trace.thoughts), "tokens": result.get("tokens"), "calls": result.get("calls")}
    named = [f"{n:,} {name[:-1] if n == 1 else name}" for name, n in counts.items() if n is not None]
    took = [f"{result['seconds']:.1f} s"] if result.get("seconds") is not None else []
    stopped = [f"stopped by {result['stopped']}"] if result.get("stopped") else []
    method = str(result.get("method") or trace.method)
    yield Text(_printable(", ".join([method, *named, *took, *stopped])), style="dim")


def _printable(text: str) -> str:
    """A text on one line without what would move a terminal's cursor or turn its words around."""
    return " ".join("".join(c if c.isprintable() or c in JOINERS else " " for c in text).split())
