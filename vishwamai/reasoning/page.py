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
# What could end the element that holds the JSON, or a line of a script, and halves of characters, which UTF-8 has not.
UNSAFE = re.compile("[<>&\u2028\u2029\ud800-\udfff]")
DEFAULTS = {f.name: f.default for f in dataclasses.fields(Thought) if f.default is not dataclasses.MISSING}


def write_page(traces: Sequence[Trace] | Trace, path: str | Path) -> None:
    """Writes one page that shows these searches, each a choice of a list. Raises `InputError` where there is none."""
    traces = [traces] if isinstance(traces, Trace) else list(traces)
    if not traces:
        raise InputError("there is no trace to show; give at least one")
    entries = _plain([_entry(trace) for trace in traces])
    data = json.dumps(entries, ensure_ascii=False, allow_nan=False, separators=(",", ":"), default=str)
    data = UNSAFE.sub(lambda found: f"\\u{ord(found[0]):04x}", data)
    page = _asset("tree.html").replace("__SCRIPT__", "".join(map(_asset, SCRIPTS)))
    policy = (
        f"default-src 'none'; {_allow(page, 'style')}; {_allow(page, 'script')}; base-uri 'none'; form-action 'none'"
    )
    before, after = page.replace("__POLICY__", policy, 1).split("__DATA__")
    Path(path).write_text(before + data + after, encoding="utf-8", newline="\n")


def _asset(name: str) -> str:
    return resources.files("vishwamai").joinpath("assets", name).read_text(encoding="utf-8")


def _allow(page: str, tag: str) -> str:
    """Returns the rule of a content security policy that allows the page's own style or script and no other."""
    source = page.split(f"<{tag}>")[1].split(f"</{tag}>")[0]
    digest = base64.b64encode(hashlib.sha256(source.encode()).digest()).decode()
    return f"{tag}-src 'sha256-{digest}'"


def _entry(trace: Trace) -> dict[str, Any]:
    """Returns a trace for JSON, without what a thought has by default."""
    thoughts = []
    for thought in trace.thoughts:
        entry = {k: v for k, v in vars(thought).items() if k not in DEFAULTS or v != DEFAULTS[k]}
        thoughts.append(entry | ({"state": str(thought.state)} if "state" in entry else {}))
    return {"problem": trace.problem, "method": trace.method, "thoughts": thoughts, "result": trace.result}


def _plain(value: Any) -> Any:
    """Returns a value with the numbers that JSON has not, such as -inf, as their names."""
    if isinstance(value, dict):
        return {str(k): _plain(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(v) for v in value]
    return str(value) if isinstance(value, float) and not math.isfinite(value) else value
