"""A submodule is used by whoever imports it by name.

`import p` gives `p.sub` only where p's own `__init__` imports it. Otherwise `p.sub` is there by luck, because something
else imported it, and is gone with the next release that loads lazily. This reads sources and imports nothing.
"""

import ast
import importlib.util
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent


@cache
def init_of(module: str) -> Path | None:
    """The `__init__.py` of a package that is installed; None for a plain module, and for what is not there."""
    top, *rest = module.split(".")
    spec = importlib.util.find_spec(top)
    if spec is None or not spec.submodule_search_locations:
        return None
    found = Path(list(spec.submodule_search_locations)[0], *rest, "__init__.py")
    return found if found.parent.is_dir() else None


def is_module(name: str) -> bool:
    """Whether a dotted name is a module: a package, or a file (of Python or compiled) in one."""
    package, _, last = name.rpartition(".")
    if not package:
        return importlib.util.find_spec(name) is not None
    init = init_of(package)
    return init_of(name) is not None or (init is not None and any(init.parent.glob(f"{last}.*")))


@cache
def bound_by(init: Path) -> frozenset[str]:
    """The names that a file binds when it is imported, and those that its `__getattr__` imports. Conditions are taken
    for true, but for those of type checkers.
    """
    found = set()
    stack: list[ast.AST] = [ast.parse(init.read_text(encoding="utf-8"))] if init.exists() else []
    while stack:
        node = stack.pop()
        match node:
            case ast.Import(names=names) | ast.ImportFrom(names=names):
                found |= {(alias.asname or alias.name).split(".")[0] for alias in names}
            case ast.Name(id=name, ctx=ast.Store()):
                found.add(name)
            case ast.FunctionDef(name=name) | ast.ClassDef(name=name) if name != "__getattr__":
                found.add(name)
            case ast.If(test=test) if "TYPE_CHECKING" in ast.unparse(test):
                stack += node.orelse
            case _:
                stack += ast.iter_child_nodes(node)
    return frozenset(found)


def dotted(node: ast.AST) -> str:
    """`a.b.c` of an expression that is only that, else nothing."""
    if isinstance(node, ast.Attribute):
        before = dotted(node.value)
        return before and f"{before}.{node.attr}"
    return node.id if isinstance(node, ast.Name) else ""


def modules_of(tree: ast.AST) -> tuple[dict[str, str], set[str]]:
    """(the module that each name of a file stands for, all modules that it imports by name)."""
    stands, imported = {}, set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            for alias in node.names:
                imported.add(alias.name)
                stands[alias.asname or alias.name.split(".")[0]] = (
                    alias.name if alias.asname else alias.name.split(".")[0]
                )
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            for alias in node.names:
                if is_module(name := f"{node.module}.{alias.name}"):
                    imported.add(name)
                    stands[alias.asname or alias.name] = name
    return stands, imported | {name.rsplit(".", n)[0] for name in imported for n in range(1, name.count(".") + 1)}


def by_luck(source: str) -> Iterator[str]:
    """The submodules that a file uses, and that neither it nor their package's `__init__` imports."""
    tree = ast.parse(source)
    stands, imported = modules_of(tree)
    for name in {dotted(node) for node in ast.walk(tree) if isinstance(node, ast.Attribute)} - {""}:
        first, *rest = name.split(".")
        module = stands.get(first)
        while module and rest and (init := init_of(module)):
            part = rest.pop(0)
            inner = f"{module}.{part}"
            if inner not in imported and part not in bound_by(init) and is_module(inner):
                yield inner
            module = inner if is_module(inner) else None


@pytest.mark.parametrize("folder", ["vishwamai", "benchmarks", "examples"])
def test_no_submodule_is_used_by_luck(folder):
    files = {path.relative_to(ROOT).as_posix(): path for path in (ROOT / folder).rglob("*.py")}
    found = {name: set(by_luck(path.read_text(encoding="utf-8"))) for name, path in files.items()}
    assert len(found) > 3
    assert {name: modules for name, modules in found.items() if modules} == {}


@pytest.mark.parametrize(
    ("source", "found"),
    [
        ("import huggingface_hub as client\nclient.constants.ENDPOINT", {"huggingface_hub.constants"}),
        ("import huggingface_hub\ndef f():\n    return huggingface_hub.errors.X", {"huggingface_hub.errors"}),
        ("from huggingface_hub import constants\nconstants.ENDPOINT", set()),
        ("import huggingface_hub as client\nimport huggingface_hub.constants\nclient.constants.ENDPOINT", set()),
        ("import huggingface_hub as client\nclient.snapshot_download", set()),  # no module, but a name that it promises
        ("import importlib\nimportlib.metadata.version('x')", {"importlib.metadata"}),
        ("import importlib.metadata\nimportlib.util.find_spec('x')", {"importlib.util"}),
        ("import importlib.metadata\nimportlib.metadata.version('x')", set()),
        ("import concurrent.futures\nconcurrent.futures.ThreadPoolExecutor", set()),
        ("import email\nemail.utils.parsedate", {"email.utils"}),
        ("import os\nos.path.join", set()),
        ("import jax\njax.random.key, jax.numpy.linalg.norm, jax.tree.map", set()),
        ("import jax\njax.experimental.pallas", {"jax.experimental", "jax.experimental.pallas"}),
        ("import jax\njax.monitoring.record_event", set()),
        ("import jax\njax.scipy.linalg.expm", {"jax.scipy.linalg"}),
        ("import numpy as np\nnp.random.default_rng, np.linalg.norm", set()),  # numpy's own `__getattr__` imports them
        ("from jax.experimental import pallas as pl\npl.triton.dot", {"jax.experimental.pallas.triton"}),
        ("import jax.numpy as jnp\njnp.linalg.norm, jnp.float32", set()),
        ("import rich\nrich.console.Console", {"rich.console"}),
    ],
)
def test_the_check_is_right(source, found):
    assert set(by_luck(source)) == found
