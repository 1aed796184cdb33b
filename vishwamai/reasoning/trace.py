"""The trace of a search: each thought with its value, tokens and time, as JSON lines that can be read back."""

import dataclasses
import json
from pathlib import Path
from typing import Any

from vishwamai.errors import DataError
from vishwamai.files import write_atomic

STATUSES = ("open", "wrong", "repeat", "pruned", "kept", "expanded", "answer", "refuted")


@dataclasses.dataclass
class Thought:
    """One node of a tree. `path` is its place: thought number `path[-1]` of the thought at `path[:-1]`; () is the root.

    `status`: "open" (not looked at), "wrong" (the checker refused it), "repeat" (its state stands elsewhere in the
    tree), "pruned" (others were better), "kept" (chosen to be expanded), "expanded", "answer", "refuted" (an answer
    that is not right). `tokens` are those of its text, and those in which the model said what it is worth.
    """

    path: tuple[int, ...]
    text: str
    state: Any = None
    value: float | None = None
    tokens: int = 0
    logprob: float = 0.0
    status: str = "open"
    why: str = ""
    seconds: float = 0.0  # since the search began


# What the fields of a thought are in a file; `state` is whatever it is.
FIELD_TYPES: dict[str, Any] = {"path": list, "text": str, "value": int | float | None, "status": str, "why": str}
FIELD_TYPES |= dict.fromkeys(("tokens", "logprob", "seconds"), int | float)


@dataclasses.dataclass
class Trace:
    """A search's thoughts in the order in which they were made, its problem and method, and in the end its result."""

    problem: str
    method: str
    thoughts: list[Thought] = dataclasses.field(default_factory=list)
    result: dict[str, Any] = dataclasses.field(default_factory=dict)

    def add(self, thought: Thought) -> Thought:
        """Notes a thought and returns it."""
        self.thoughts.append(thought)
        return thought

    def save(self, path: str | Path) -> None:
        """Writes JSON lines: a header, a line for each thought, the result."""
        lines: list[dict[str, Any]] = [{"kind": "search", "problem": self.problem, "method": self.method}]
        for thought in self.thoughts:
            state = None if thought.state is None else str(thought.state)
            lines.append({"kind": "thought", **dataclasses.asdict(thought), "state": state})
        lines.append({"kind": "result", **self.result})
        text = "".join(json.dumps(line, ensure_ascii=False) + "\n" for line in lines)
        # Half a surrogate pair, which a server may send, has no UTF-8; so written it is JSON's own escape.
        write_atomic(path, [text.encode("utf-8", "backslashreplace")])


def load_trace(path: str | Path) -> Trace:
    """A saved trace; its states are texts. Raises `DataError` for a file that is none, naming the line."""
    trace, kind, number = None, "", 0
    try:
        lines = Path(path).read_bytes().split(b"\n")
    except OSError as error:
        raise DataError(f"{path}: this trace cannot be read: {error.strerror}") from None
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        try:
            entry = json.loads(line.decode("utf-8"))
            kind = entry.pop("kind")
            if trace is None and kind == "search":
                trace = Trace(_checked(entry["problem"], str), _checked(entry["method"], str))
            elif trace is None:
                raise ValueError("no search stands before it")
            elif kind == "thought":
                trace.add(_parse_thought(entry))
            elif kind == "result":
                trace.result = entry
            else:
                raise ValueError("a second search begins" if kind == "search" else f"there is no kind {kind!r}")
        except (ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
            raise DataError(f"{path}:{number}: this line is not of a trace ({error})") from None
    if trace is None:
        raise DataError(f"{path}: there is no trace in this file")
    if kind != "result":
        raise DataError(f"{path}:{number}: the trace ends before its result; the file was cut off")
    return trace


def _parse_thought(entry: dict[str, Any]) -> Thought:
    thought = Thought(**entry)
    for name, kind in FIELD_TYPES.items():
        _checked(getattr(thought, name), kind)
    thought.path = tuple(_checked(number, int) for number in thought.path)
    if thought.status not in STATUSES:
        raise ValueError(f"there is no status {thought.status!r}")
    return thought


def _checked(value: Any, kind: Any) -> Any:
    if not isinstance(value, kind):
        raise TypeError(f"{value!r:.40} stands where {getattr(kind, '__name__', kind)} should")
    return value
