"""Search trees as one HTML file that needs no network: written once, sent to anybody, read in any browser.

The traces stand in the page as JSON that the page's own script draws, and nothing that a model wrote is ever markup.
The policy in the page's head lets a browser run that script and no other. It knows no search.
"""

import base64
import dataclasses
import hashlib
import json
import math
import re
from collections.abc import Sequence
from importlib import resources
from pathlib import Path
from typing import Any

from vishwamai.errors import InputError
from vishwamai.reasoning.trace import Thought, Trace

SCRIPTS = ("tree.js", "tree_summary.js")
# What could end the element that the JSON stands in or a line of a script, and halves of characters, which no file has.
UNSAFE = re.compile("[<>&\u2028\u2029\ud800-\udfff]")
DEFAULTS = {f.name: f.default for f in dataclasses.fields(Thought) if f.default is not dataclasses.MISSING}


def write(traces: Sequence[Trace] | Trace, path: str | Path) -> None:
    """Writes one page that shows these searches, each a choice of a list. Raises `InputError` where there is none."""
    traces = [traces] if isinstance(traces, Trace) else list(traces)
    if not traces:
        raise InputError("there is no trace to show; give at least one")
    script = "".join(_asset(name) for name in SCRIPTS)
    page = _asset("tree.html").replace("__SCRIPT__", script)
    page = page.replace("__POLICY__", _policy(page), 1)
    before, after = page.split("__DATA__")
    text = before + _embedded([_entry(trace) for trace in traces]) + after
    Path(path).write_text(text, encoding="utf-8", newline="\n")


def _asset(name: str) -> str:
    return resources.files("vishwamai").joinpath("assets", name).read_text(encoding="utf-8")


def _policy(page: str) -> str:
    """A content security policy: nothing is loaded, and only the page's own style and script are used."""
    allowed = {}
    for tag in ("style", "script"):
        own = page.split(f"<{tag}>")[1].split(f"</{tag}>")[0]
        allowed[tag] = base64.b64encode(hashlib.sha256(own.encode()).digest()).decode()
    rules = [f"{tag}-src 'sha256-{digest}'" for tag, digest in allowed.items()]
    return "; ".join(["default-src 'none'", *rules, "base-uri 'none'", "form-action 'none'"])


def _entry(trace: Trace) -> dict[str, Any]:
    """A trace as plain values; what a thought has by default is left out."""
    thoughts = []
    for thought in trace.thoughts:
        entry = {k: v for k, v in vars(thought).items() if k not in DEFAULTS or v != DEFAULTS[k]}
        thoughts.append(entry | ({"state": str(thought.state)} if "state" in entry else {}))
    return {"problem": trace.problem, "method": trace.method, "thoughts": thoughts, "result": trace.result}


def _embedded(entries: list[dict[str, Any]]) -> str:
    """JSON that ends no element around it. A number that JSON has not, such as -inf, becomes its name."""
    text = json.dumps(_plain(entries), ensure_ascii=False, allow_nan=False, separators=(",", ":"), default=str)
    return UNSAFE.sub(lambda found: f"\\u{ord(found[0]):04x}", text)


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {str(k): _plain(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(v) for v in value]
    return str(value) if isinstance(value, float) and not math.isfinite(value) else value
