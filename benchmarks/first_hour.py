"""A newcomer's first steps, one after the other, each with its seconds: `python benchmarks/first_hour.py`.

Every step is a command of the README or the usage guide, in a process of its own, with an empty home, so that nothing
is cached and no variable is set that a user would not set. The hub is the tests' own over loopback, and holds the
built-in model under another name. The saved folder is loaded by `transformers` where an environment has it (`--parity
PYTHON`, by default that of `make parity`). Exit code 1 if a step fails or does not show what it should.
"""

import argparse
import json
import os
import runpy
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console
from rich.table import Table

ROOT = Path(__file__).parent.parent
REPO = "someone/small-model"
CONCEPT = "Explain the concept of machine learning:"
TURNS = ["Hi, I am Alice.", "What is a token?", "Shorter, please.", "I have 7 pears.", "What is my name?"]
PEER = """
import sys, torch
from transformers import AutoModelForCausalLM, AutoTokenizer
tokenizer, model = (kind.from_pretrained(sys.argv[1]) for kind in (AutoTokenizer, AutoModelForCausalLM))
ids = tokenizer(sys.argv[2], return_tensors="pt", add_special_tokens=False).input_ids
print(tokenizer.decode(model.float().generate(ids, max_new_tokens=40, do_sample=False)[0, ids.shape[1] :]))
"""


@dataclass(frozen=True)
class Step:
    """What is done, the arguments of Python that do it, what is typed, and a word that must be printed."""

    name: str
    command: list[str]
    word: str
    typed: str = ""


def vishwamai(*arguments: str) -> list[str]:
    """The command, as `python -m`."""
    return [sys.executable, "-m", "vishwamai", *arguments]


def steps(lead: str, folder: Path) -> list[Step]:
    """The steps in their order; `lead` is what a process that asks the fake hub runs first."""
    chats = folder / "chats.jsonl"
    messages = [{"role": "user", "content": "Who wrote you?"}, {"role": "assistant", "content": "You did."}]
    chats.write_text(json.dumps({"messages": messages}) + "\n", encoding="utf-8")
    train = ["training.steps=30", "training.optimizer.learning_rate=0.01", "logging.eval_batches=0"]
    source = f'training.data.sources=[{{"kind": "jsonl", "name": {json.dumps(str(chats))}}}]'
    tuned, saved = str(folder / "tuned"), str(folder / "saved")
    from_hub = f"{lead}\nimport sys\nfrom vishwamai.cli import main\nsys.exit(main(sys.argv[1:]))"
    return [
        Step("first answer", vishwamai("generate", CONCEPT, "-n", "40"), "examples"),
        Step("the same again", vishwamai("generate", CONCEPT, "-n", "40"), "examples"),
        Step("a chat of five turns", vishwamai("chat"), "Your name is Alice.", "\n".join(TURNS)),
        Step("a model from the hub", [sys.executable, "-c", from_hub, "generate", CONCEPT, "-m", REPO], "examples"),
        Step(
            "LoRA on a file of chats",
            vishwamai("train", str(ROOT / "configs/train/adapter.json"), *train, source, "-o", tuned),
            "the adapter is in",
        ),
        Step("a chat with it", vishwamai("chat", "--adapter", f"{tuned}/adapter"), "You did.", "Who wrote you?"),
        Step("reason", vishwamai("reason", "What is 12 + 30?"), "42"),
        Step("convert", vishwamai("convert", "vishwamai/base", saved, "--dtype", "float32"), "saved"),
    ]


def run(step: Step, environment: dict[str, str], folder: Path) -> tuple[str, float, float]:
    """(what it printed, its seconds, its CPU seconds)."""
    before, start = os.times(), time.perf_counter()
    done = subprocess.run(step.command, input=step.typed, capture_output=True, text=True, env=environment, cwd=folder)
    after = os.times()
    cpu = after.children_user + after.children_system - before.children_user - before.children_system
    out = done.stdout if done.returncode == 0 else f"exit code {done.returncode}: {done.stderr}"
    return out, time.perf_counter() - start, cpu


def serve_base(hub_file: dict) -> tuple[str, Callable[[], None]]:
    """The fake hub's address, with the built-in model in it, and what ends it."""
    hub = hub_file["Hub"]()
    hub.repos[REPO] = hub_file["Repo"]()
    files = (ROOT / "vishwamai/assets/base").iterdir()
    hub.repos[REPO].commit({path.name: path.read_bytes() for path in files})
    for server in (hub.main, hub.storage):
        threading.Thread(target=server.serve_forever, daemon=True).start()
    return hub.url(), lambda: [server.shutdown() for server in (hub.main, hub.storage)]


def main() -> int:
    parser = argparse.ArgumentParser(description="A newcomer's first steps, with their seconds.")
    parser.add_argument("--parity", default=str(ROOT / ".venv-parity/bin/python"), help="a Python with transformers")
    args = parser.parse_args()
    hub_file = runpy.run_path(str(ROOT / "tests/hub/conftest.py"))
    url, stop = serve_base(hub_file)
    table = Table("step", "seconds", "CPU seconds", "its last words", title="a newcomer's first steps")
    failed = False
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        kept = {key: os.environ[key] for key in ("PATH", "LANG", "PYTHONUTF8") if key in os.environ}
        environment = {**kept, "HOME": name, "FAKE_HUB": url, "PYTHONPATH": str(ROOT)}
        todo = steps(hub_file["LEAD"], folder)
        if Path(args.parity).exists():
            peer = [args.parity, "-c", PEER, str(folder / "saved"), CONCEPT]
            todo.append(Step("transformers loads the saved folder", peer, "examples"))
        for step in todo:
            out, seconds, cpu = run(step, environment, folder)
            shown = step.word in out
            failed |= not shown
            last = out.strip().split("\n")[-1][-44:]
            table.add_row(step.name, f"{seconds:.1f}", f"{cpu:.1f}", last if shown else f"[red]{last}[/]")
    stop()
    Console().print(table)
    if not Path(args.parity).exists():
        print(f"transformers was not asked: there is no {args.parity} (make .venv-parity/peers, or --parity PYTHON)")
    return int(failed)


if __name__ == "__main__":
    sys.exit(main())
