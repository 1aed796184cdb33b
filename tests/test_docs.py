"""The documents tell the truth: their code blocks run, their links lead somewhere, their tables list every field.

Each document is one Python process in an empty folder with links to the repository's configurations beside it, and its
blocks run in the order of the page: Python in one namespace, shell commands with `bash -e`. A block whose info string
says `no-run: reason` is left out; one that says `output` must equal what the block before it printed.
"""

import dataclasses
import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

import pytest

from vishwamai import config
from vishwamai.data.corpus import Data, Source
from vishwamai.data.forms import Columns, RowFormat
from vishwamai.generation.options import ARGUMENTS
from vishwamai.models.config import Latent, Layer, ModelConfig, Rope, Stack
from vishwamai.precision import Precision
from vishwamai.text.chat import ChatOptions
from vishwamai.training.adapter import Adapter
from vishwamai.training.config import About, Logging, Optimization, RunConfig, Tpu, Training
from vishwamai.training.optim import Group, Optimizer

ROOT = Path(__file__).parent.parent
DOCUMENTS = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]
TABLED = (About, ModelConfig, Stack, Layer, Rope, Latent, Training, Data, Source, RowFormat, Columns, Adapter)
TABLED += (Optimizer, Group, Tpu, Optimization, Logging)
CLASSES = {cls.__name__: cls for cls in (RunConfig, *TABLED)}
SHELL = ("bash", "sh", "console")
KNOWN = (*SHELL, "python", "json", "text")
SECONDS = 600  # a page takes seconds on idle cores; a machine that others use may be ten times slower

RUNNER = """
import contextlib, io, json, subprocess, sys, traceback
document, blocks = sys.argv[1], json.load(open(sys.argv[2]))
names, before, faults = {"__name__": "__main__"}, "", []
for kind, line, source in blocks:
    where = f"{document}:{line}"
    if kind == "output":
        if before.rstrip() != source.rstrip():
            faults.append(f"{where}: the block before printed\\n{before}\\nand the document says\\n{source}")
        continue
    printed = io.StringIO()
    if kind == "python":
        try:
            with contextlib.redirect_stdout(printed):
                exec(compile("\\n" * line + source, document, "exec"), names)
        except BaseException:
            traceback.print_exc()
            sys.exit(f"{where}: the block failed")
        before = printed.getvalue()
    else:
        command = ["bash", "-euo", "pipefail", "-c", source]
        done = subprocess.run(command, capture_output=True, text=True, stdin=subprocess.DEVNULL)
        if done.returncode:
            sys.exit(f"{where}: the block ended with {done.returncode}\\n{done.stdout}{done.stderr}")
        before = done.stdout
sys.exit("\\n".join(faults) or None)
"""


class Block(NamedTuple):
    """A fenced block: its language, the rest of its info string, the line of its fence, its text."""

    language: str
    info: str
    line: int
    text: str


def blocks_of(document: Path) -> list[Block]:
    """The fenced blocks of a document in its order."""
    found, opened = [], None
    for number, line in enumerate(document.read_text(encoding="utf-8").splitlines(), 1):
        if opened is None and line.startswith("```"):
            language, _, info = line[3:].partition(" ")
            opened = (language, info.strip(), number, [])
        elif opened is not None and line == "```":
            found.append(Block(*opened[:3], "".join(f"{text}\n" for text in opened[3])))
            opened = None
        elif opened is not None:
            opened[3].append(line)
    assert opened is None, f"{document}: the block at line {opened[2]} does not end"
    return found


def runnable(document: Path) -> list[tuple[str, int, str]]:
    """(kind, line, source) of the blocks that the runner takes; of a console block the lines after `$ `."""
    chosen = []
    for block in blocks_of(document):
        if block.info.startswith("no-run"):
            continue
        if block.info == "output":
            chosen.append(("output", block.line, block.text))
        elif block.language == "python":
            chosen.append(("python", block.line, block.text))
        elif block.language == "console":
            commands = [line[2:] for line in block.text.splitlines() if line.startswith("$ ")]
            chosen.append(("bash", block.line, "\n".join(commands)))
        elif block.language in SHELL:
            chosen.append(("bash", block.line, block.text))
    return chosen


def tables_of(document: Path) -> dict[str, list[tuple[str, str]]]:
    """(field, default) of each table under a heading that names a class in brackets: `## training (Training)`."""
    found: dict[str, list[tuple[str, str]]] = {}
    rows: list[tuple[str, str]] | None = None
    for line in document.read_text(encoding="utf-8").splitlines():
        if line.startswith("#"):
            named = re.search(r"\(`(\w+)`\)$", line)
            rows = found.setdefault(named[1], []) if named else None
        elif rows is not None and (cells := re.match(r"\| `(\w+)` \| (?:`([^`]*)`|(required)) \|", line)):
            rows.append((cells[1], cells[2] or cells[3]))
    return found


def defaults_of(cls) -> list[tuple[str, str]]:
    """(field, default as JSON) of a dataclass; a section that is a dataclass itself has `{}`."""

    def shown(field: dataclasses.Field) -> str:
        if field.default is dataclasses.MISSING:
            return "required"
        return "{}" if dataclasses.is_dataclass(field.default) else json.dumps(config.to_dict(field.default))

    return [(field.name, shown(field)) for field in dataclasses.fields(cls)]


def environment(folder: Path, programs: dict[str, str]) -> dict[str, str]:
    """What a reader has: the installation's commands first, no network, and JAX's own defaults.

    `programs` says where compiled programs are kept: the documents run the same few in many processes.
    """
    strange = ("XLA_FLAGS", "PYTEST_CURRENT_TEST", "JAX_COMPILATION_CACHE_DIR", "VISHWAMAI_COMPILE_CACHE")
    kept = {name: value for name, value in os.environ.items() if name not in strange}
    bin_folder = str(Path(sys.executable).parent)
    return kept | {
        "PATH": f"{bin_folder}{os.pathsep}{os.environ['PATH']}",
        "HF_HOME": str(folder / "hf"),
        "HF_HUB_OFFLINE": "1",
        "JAX_PLATFORMS": "cpu",
        "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
        "COLUMNS": "100",
        **programs,
    }


@pytest.mark.docs
@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)
def test_every_block_runs(document, tmp_path, tmp_path_factory):
    blocks, work = runnable(document), tmp_path / "work"
    if not blocks:
        pytest.skip("this document has no block that runs")
    work.mkdir()
    for name in ("configs", "benchmarks", "examples"):
        (work / name).symlink_to(ROOT / name)
    plan = tmp_path / "blocks.json"
    plan.write_text(json.dumps(blocks), encoding="utf-8")
    command = [sys.executable, "-c", RUNNER, document.name, str(plan)]
    shared = os.environ.get("JAX_COMPILATION_CACHE_DIR") or str(tmp_path_factory.getbasetemp() / "programs")
    programs = {"JAX_COMPILATION_CACHE_DIR": shared}
    if "vishwamai cache clear" in plan.read_text(encoding="utf-8"):  # which takes ours alone
        programs = {"VISHWAMAI_COMPILE_CACHE": str(tmp_path / "programs")}
    env = environment(tmp_path, programs)
    done = subprocess.run(command, cwd=work, env=env, capture_output=True, text=True, timeout=SECONDS, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)
def test_blocks_say_what_they_are(document):
    for block in blocks_of(document):
        where = f"{document.name}:{block.line}"
        assert block.language in KNOWN, f"{where}: {block.language!r} is not one of {KNOWN}"
        if block.info.startswith("no-run"):
            assert re.match(r"no-run: \w", block.info), f"{where}: say why it is not run"
        if block.language == "python":
            compile(block.text, where, "exec")
        if block.language == "json":
            data = config.parse_json(block.text, where)
            if block.info:
                config.from_dict(CLASSES[block.info], data, where)


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)
def test_links_and_paths_lead_somewhere(document):
    text = re.sub(r"```.*?\n```", "", document.read_text(encoding="utf-8"), flags=re.DOTALL)
    for target in re.findall(r"\]\(([^)#]+)(?:#[^)]*)?\)", text):
        if not re.match(r"https?:", target):
            assert (document.parent / target).exists(), f"{document.name}: no {target}"
    for path in re.findall(r"`((?:vishwamai|benchmarks|configs|docs|examples|tests)/[\w./-]+)`", text):
        if path not in ("vishwamai/base", "vishwamai/countdown"):
            assert (ROOT / path).exists(), f"{document.name}: no {path}"


@pytest.mark.parametrize("cls", TABLED, ids=lambda cls: cls.__name__)
def test_the_configuration_guide_lists_every_field(cls):
    assert tables_of(ROOT / "docs" / "03-configuration-guide.md").get(cls.__name__) == defaults_of(cls)


@pytest.mark.parametrize("cls", [Precision, ChatOptions], ids=lambda cls: cls.__name__)
def test_other_tables_list_every_field(cls):
    tables = {name: rows for path in DOCUMENTS for name, rows in tables_of(path).items()}
    assert tables.get(cls.__name__) == defaults_of(cls)


def test_the_table_of_generation_lists_every_argument():
    rows = tables_of(ROOT / "docs" / "03-configuration-guide.md").get("ARGUMENTS")
    assert rows == [(name, json.dumps(default)) for name, default in ARGUMENTS.items()]


def test_the_usage_example_stands_in_the_readme_and_the_guide_word_for_word():
    lines = (ROOT / "examples" / "generate.py").read_text(encoding="utf-8").splitlines()
    example = [" ".join(line.split()) for line in lines if line and not line.startswith(('"""', "print"))]
    for name in ("README.md", "docs/06-usage-guide.md"):
        blocks = [block.text for block in blocks_of(ROOT / name) if block.language == "python"]
        shown = [[" ".join(line.split()) for line in text.splitlines() if line] for text in blocks]
        assert example in shown, name


def test_a_wrong_block_is_found(tmp_path):
    page = tmp_path / "page.md"
    page.write_text("```python\nx = 1\n```\n```python\nprint(x)\n```\n```text output\n2\n```\n", encoding="utf-8")
    plan = tmp_path / "blocks.json"
    plan.write_text(json.dumps(runnable(page)), encoding="utf-8")
    command = [sys.executable, "-c", RUNNER, page.name, str(plan)]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 1 and "page.md:7" in done.stderr


def test_the_table_of_variables_has_every_one_that_is_read():
    """Of files that read the environment, every string in capitals; `planner/aot.py` sets variables and reads none."""
    page = (ROOT / "docs/03-configuration-guide.md").read_text(encoding="utf-8")
    named = set(re.findall(r"`([A-Z]+(?:_[A-Z]+)+)`", page))
    sources = {path: path.read_text(encoding="utf-8") for path in (ROOT / "vishwamai").rglob("*.py")}
    reading = [text for path, text in sources.items() if "os.environ" in text and path.name != "aot.py"]
    read = {name for text in reading for name in re.findall(r'"([A-Z]+(?:_[A-Z]+)+)"', text)}
    assert len(read) > 10 and read - named == set()
