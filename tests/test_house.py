"""Holds the code to the plan of the house: which room may import which, no circle, no long file, no vague name.

It reads source with `ast` and runs none of it, so an import inside a function or under TYPE_CHECKING counts like any
other. When the design changes, change `HOUSE` in the same commit. The checks are themselves tested, on made-up trees.
"""

import ast
import statistics
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PACKAGE = "vishwamai"
FRONT_DOOR = f"{PACKAGE}/__init__.py"

# room: (floor, what it may import beside errors and checks). A room stands for all its files, `room.file` for one.
HOUSE: dict[str, tuple[int, str]] = {
    "cli": (
        8,
        "api outputs planner reasoning training generation gguf hf models data checkpoint parallel "
        "weights text ops monitor hub config precision progress compile_cache host_memory",
    ),
    "__init__": (8, "api generation.sampling text.tokenizer"),
    "__main__": (9, "cli"),
    "api": (
        7,
        "outputs gguf hf generation text weights models parallel hub precision config progress compile_cache "
        "reasoning.model",
    ),
    "outputs": (6, "generation"),
    "gguf": (6, "files gguf_header hf hub models parallel.hosts text weights config precision progress"),
    "planner": (
        6,
        "training.step training.optim generation.decode data.packing hf.config models parallel weights config",
    ),
    "reasoning": (6, "files http_client generation text data config"),
    "training": (5, "files data checkpoint models monitor weights parallel ops precision progress config"),
    "generation": (5, "models parallel weights config progress"),
    "hf": (5, "files hub models parallel weights config precision progress"),
    "models": (4, "parallel weights ops config precision"),
    "data": (4, "files parallel.hosts text config progress"),
    "checkpoint": (4, "parallel weights"),
    "text": (3, "files gguf_header hub config"),
    "parallel": (3, "weights.spec weights.linear ops.moe ops.attention config"),
    "weights": (2, "ops precision"),
    "gguf_header": (2, "hub"),
    "ops": (1, ""),
    "monitor": (1, "files"),
    "hub": (1, ""),
    "config": (1, ""),
    "precision": (1, ""),
    "progress": (1, ""),
    "compile_cache": (1, ""),
    "host_memory": (1, ""),
    "http_client": (1, ""),
    "files": (0, ""),
    "checks": (0, ""),
    "errors": (0, ""),
}

MAX_FILE_LINES = 400
MAX_FUNCTION_LINES = 60
VAGUE_NAMES = ("utils", "util", "common", "misc", "helpers", "helper", "core", "lib", "base", "manager")
UNFINISHED = ("TO" + "DO", "FIX" + "ME", "XX" + "X", "NotImplemented" + "Error", "no" + "qa")
FOREIGN_FRAMEWORKS = ("torch", "transformers", "tensorflow", "flax", "equinox", "haiku")
REFERENCE = f"{PACKAGE}/hf/reference.py"  # asks a transformers that somebody installed for logits to compare with
IMPORTERS = ("import_module", "__import__")
HEAVY = ("jax", "jaxlib", "numpy", "optax", "orbax", "matplotlib", "tokenizers", "huggingface_hub", "rich", "jinja2")


# What the checks read. A tree is {path from the package's parent, with slashes: source}.


def read_tree(root: Path, *folders: str) -> dict[str, str]:
    paths = [path for folder in folders for path in sorted((root / folder).rglob("*.py"))]
    return {path.relative_to(root).as_posix(): path.read_text(encoding="utf-8") for path in paths}


def module_of(path: str) -> str:
    """`vishwamai/ops/moe.py` -> `ops.moe`; a package's `__init__.py` -> the package; the outermost -> `__init__`."""
    parts = path.removesuffix(".py").split("/")[1:]
    return ".".join(parts[:-1] if len(parts) > 1 and parts[-1] == "__init__" else parts)


def imports_of(path: str, source: str, modules: set[str]) -> set[str]:
    """The modules of this package that a file imports, lazily or for types only; dynamic imports by their text."""
    found = set()
    for name, member in imported_names(path, ast.parse(source)):
        if name.split(".")[0] != PACKAGE:
            continue
        inside = name.removeprefix(PACKAGE).removeprefix(".")
        deeper = f"{inside}.{member}".removeprefix(".")
        found.add(deeper if deeper in modules else inside or "__init__")
    return found - {module_of(path)}


def imported_names(path: str, tree: ast.AST) -> Iterator[tuple[str, str]]:
    """Each (module, member) that a file imports, of whatever package."""
    package = path.split("/")[:-1]
    named = [arg for call in dynamic_imports(tree) for arg in call.args]
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from ((alias.name, "") for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            above = package[: len(package) - node.level + 1] if node.level else []
            module = ".".join([*above, *([node.module] if node.module else [])])
            yield from ((module, alias.name) for alias in node.names)
        elif isinstance(node, ast.Constant) and (
            node in named or path == FRONT_DOOR and is_spelt_like_ours(node.value)
        ):
            yield str(node.value), ""


def is_spelt_like_ours(value: object) -> bool:
    """Whether a constant in the outermost `__init__.py`, which imports lazily by name, names a module of ours."""
    return isinstance(value, str) and value.startswith(f"{PACKAGE}.") and value.replace(".", "").isidentifier()


def dynamic_imports(tree: ast.AST) -> list[ast.Call]:
    calls = [node for node in ast.walk(tree) if isinstance(node, ast.Call)]
    return [call for call in calls if ast.unparse(call.func).split(".")[-1] in IMPORTERS]


def disguises(tree: ast.AST) -> list[ast.AST]:
    """Where an importer is taken under another name, or as a value, so that its calls cannot be told from others."""
    called = {call.func for call in dynamic_imports(tree)}
    found = []
    for node in ast.walk(tree):
        match node:
            case ast.alias(name=name, asname=str()) if name.split(".")[0] == "importlib" or name in IMPORTERS:
                found.append(node)
            case ast.Name(id=name) | ast.Attribute(attr=name) if name in IMPORTERS and node not in called:
                found.append(node)
            case ast.Constant(value=str(name)) if name in IMPORTERS:  # getattr(importlib, "import_module")
                found.append(node)
    return found


def graph_of(tree: dict[str, str]) -> dict[str, set[str]]:
    modules = {module_of(path) for path in tree}
    modules |= {module.split(".")[0] for module in modules}
    return {module_of(path): imports_of(path, source, modules) for path, source in tree.items()}


# The checks. Each returns what is wrong, in sentences.


def wrong_table(house: dict[str, tuple[int, str]]) -> list[str]:
    """The table itself: each row names rooms that exist, on floors below its own."""
    wrong = []
    for room, (floor, row) in house.items():
        for entry in row.split():
            below = house.get(entry.split(".")[0])
            if below is None or below[0] >= floor:
                wrong.append(f"{room} (floor {floor}) may not list {entry}: it is not on a floor below")
    return wrong


def wrong_imports(tree: dict[str, str]) -> list[str]:
    wrong = []
    for module, targets in graph_of(tree).items():
        room = module.split(".")[0]
        if room not in HOUSE:
            wrong.append(f"{module}: there is no room {room} in the plan")
            continue
        allowed = {room, "errors", "checks", *HOUSE[room][1].split()}
        for target in sorted(targets):
            if not any(target == entry or target.startswith(f"{entry}.") for entry in allowed):
                wrong.append(f"{module} imports {target}; {room} may import {HOUSE[room][1] or 'nothing of ours'}")
    return wrong


def wrong_dynamic_imports(tree: dict[str, str]) -> list[str]:
    """Imports by a computed name, for nobody can read where they lead (only the outermost `__init__.py` may), or by an
    importer under another name, for nobody would find them."""
    wrong = []
    for path, source in tree.items():
        for call in dynamic_imports(ast.parse(source)):
            if path != FRONT_DOOR and not isinstance(call.args[0], ast.Constant):
                wrong.append(f"{path}:{call.lineno}: imports by a computed name")
        wrong += [f"{path}:{node.lineno}: imports under another name" for node in disguises(ast.parse(source))]
    return wrong


def circles(graph: dict[str, set[str]]) -> list[str]:
    """The circles among modules, each once, as `a -> b -> a`."""
    found: dict[frozenset[str], str] = {}
    done: set[str] = set()

    def walk(module: str, trail: list[str]) -> None:
        if module in trail:
            circle = trail[trail.index(module) :]
            found.setdefault(frozenset(circle), " -> ".join([*circle, module]))
        elif module not in done:
            for target in sorted(graph.get(module, ())):
                walk(target, [*trail, module])
            done.add(module)

    for module in sorted(graph):
        walk(module, [])
    return list(found.values())


def long_files(tree: dict[str, str]) -> list[str]:
    lengths = {path: len(source.splitlines()) for path, source in tree.items()}
    return [f"{path} has {length} lines" for path, length in lengths.items() if length > MAX_FILE_LINES]


def vague_names(tree: dict[str, str]) -> list[str]:
    parts = {path: path.removesuffix(".py").split("/")[1:] for path in tree}
    return [path for path, names in parts.items() if any(is_vague(name.strip("_")) for name in names)]


def is_vague(name: str) -> bool:
    return name in VAGUE_NAMES or name.split("_")[-1] in VAGUE_NAMES[:6]


def undocumented(tree: dict[str, str]) -> list[str]:
    return [path for path, source in tree.items() if not ast.get_docstring(ast.parse(source))]


def unfinished(tree: dict[str, str]) -> list[str]:
    lines = [(path, i, line) for path, source in tree.items() for i, line in enumerate(source.splitlines(), 1)]
    return [f"{path}:{i}: {word}" for path, i, line in lines for word in UNFINISHED if word in line]


def function_lengths(tree: dict[str, str]) -> dict[str, int]:
    """Lines of each function, decorators and docstring left out."""
    lengths = {}
    for path, source in tree.items():
        for node in ast.walk(ast.parse(source)):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                body = node.body[1:] if ast.get_docstring(node) is not None else node.body
                head = node.body[0].lineno - node.lineno
                length = head + (node.end_lineno - body[0].lineno + 1 if body else 0)
                lengths[f"{path}:{node.lineno} {node.name}"] = length
    return lengths


def eager_imports(path: str, source: str) -> set[str]:
    """The packages that importing this file imports at once: those at its top level, not under TYPE_CHECKING."""
    body = [node for node in ast.parse(source).body if isinstance(node, ast.Import | ast.ImportFrom | ast.Try)]
    return {name.split(".")[0] for node in body for name, _ in imported_names(path, node)}


# The house as it stands

OURS = read_tree(ROOT, PACKAGE)
ALL = OURS | read_tree(ROOT, "tests", "examples", "benchmarks")


def test_the_table_has_no_arrow_up():
    assert wrong_table(HOUSE) == []


def test_imports_obey_the_table():
    assert wrong_imports(OURS) == []


def test_no_import_by_a_computed_name():
    assert wrong_dynamic_imports(OURS) == []


def test_no_circle():
    assert circles(graph_of(OURS)) == []


def test_no_long_file():
    assert long_files(ALL) == []


def test_no_vague_name():
    assert vague_names(OURS) == []


def test_every_file_says_what_it_does():
    assert undocumented({path: source for path, source in ALL.items() if source.strip()}) == []


def test_nothing_is_left_unfinished():
    assert unfinished(ALL) == []


def test_functions_are_short():
    lengths = function_lengths(OURS)
    assert [f"{name} has {length} lines" for name, length in lengths.items() if length > MAX_FUNCTION_LINES] == []
    assert statistics.quantiles(lengths.values(), n=10)[-1] < 40


def test_no_other_framework_in_the_package():
    rest = {path: source for path, source in OURS.items() if path != REFERENCE}
    names = {path: {name.split(".")[0] for name, _ in imported_names(path, ast.parse(s))} for path, s in rest.items()}
    assert {path: found & {*FOREIGN_FRAMEWORKS} for path, found in names.items() if found & {*FOREIGN_FRAMEWORKS}} == {}
    assert eager_imports(REFERENCE, OURS[REFERENCE]) & {*FOREIGN_FRAMEWORKS} == set()


def test_the_doors_import_nothing_heavy():
    doors = [f"{PACKAGE}/{name}.py" for name in ("__init__", "errors", "config", "precision")]
    doors += [path for path in OURS if path.startswith(f"{PACKAGE}/cli/")]
    assert len(doors) > 4
    assert {path: found for path in doors if (found := eager_imports(path, OURS[path]) & set(HEAVY))} == {}


def test_tests_are_plain_folders():
    assert [path for path in ALL if path.startswith("tests/") and path.endswith("/__init__.py")] == []


# The checks, checked


def house(**files: str) -> dict[str, str]:
    """A made-up package: `ops__moe="..."` is `vishwamai/ops/moe.py`."""
    modules = {"ops__attention": "", "ops__moe": "", "weights__spec": "", "weights__linear": "", "errors": ""}
    files = modules | files
    return {f"{PACKAGE}/{name.replace('__', '/') if name != '__init__' else name}.py": s for name, s in files.items()}


@pytest.mark.parametrize(
    ("module", "source", "target"),
    [
        ("ops__norms", "from vishwamai.weights.spec import Param", "weights.spec"),
        ("ops__norms", "from vishwamai.weights import spec", "weights.spec"),
        ("ops__norms", "import vishwamai.weights.spec as s", "weights.spec"),
        ("ops__norms", "from ..weights.spec import Param", "weights.spec"),
        ("ops__norms", "from .. import weights", "weights"),
        ("ops__norms", "def f():\n    from vishwamai.weights import spec", "weights.spec"),
        ("ops__norms", "if TYPE_CHECKING:\n    import vishwamai.weights.spec", "weights.spec"),
        ("ops__norms", "import_module('vishwamai.weights.spec')", "weights.spec"),
        ("ops__norms", "importlib.import_module('vishwamai.weights.spec')", "weights.spec"),
        ("ops__norms", "from vishwamai import VishwamAI", "__init__"),
        ("ops__norms", "import vishwamai", "__init__"),
        ("text__plain", "from vishwamai.weights.linear import einsum", "weights.linear"),
        ("__init__", "HOMES = {'Param': 'vishwamai.weights.spec'}", "weights.spec"),
    ],
)
def test_a_forbidden_import_is_caught(module, source, target):
    [sentence] = wrong_imports(house(**{module: source}))
    assert f"imports {target};" in sentence


def test_an_allowed_import_is_let_through():
    sources = {
        "weights__lora": "from vishwamai.ops import moe\nfrom vishwamai.weights.spec import Param",
        "parallel__mesh": "from vishwamai.weights.spec import Param\nfrom . import sharding",
        "parallel__sharding": "import jax\nfrom vishwamai.errors import ConfigError\ntext = 'vishwamai.api'",
    }
    assert wrong_imports(house(**sources)) == []


def test_a_room_outside_the_plan_is_caught():
    assert wrong_imports(house(attic__box="")) == ["attic.box: there is no room attic in the plan"]


def test_a_computed_import_is_caught():
    assert wrong_dynamic_imports(house(ops__norms="import_module(name)")) == [
        "vishwamai/ops/norms.py:1: imports by a computed name"
    ]


@pytest.mark.parametrize(
    "source",
    [
        "from importlib import import_module as load; load('vishwamai.api')",
        "import importlib as i; i.import_module('vishwamai.api')",
        "load = importlib.import_module; load('vishwamai.api')",
        "load = __import__",
        "f(import_module)",
        "getattr(importlib, 'import_module')('vishwamai.api')",
    ],
)
def test_an_importer_under_another_name_is_caught(source):
    assert "vishwamai/ops/norms.py:1: imports under another name" in wrong_dynamic_imports(house(ops__norms=source))


def test_an_arrow_up_in_the_table_is_caught():
    assert wrong_table({"ops": (1, "models"), "models": (4, "ops")}) == [
        "ops (floor 1) may not list models: it is not on a floor below"
    ]


def test_a_circle_is_caught_once():
    chain = {"ops__a": "from vishwamai.ops import b", "ops__b": "from vishwamai.ops.c import x"}
    assert circles(graph_of(house(**chain, ops__c=""))) == []
    tree = house(**chain, ops__c="def f():\n    from vishwamai.ops.a import x")
    assert circles(graph_of(tree)) == ["ops.a -> ops.b -> ops.c -> ops.a"]


def test_other_faults_are_caught():
    fake = {"vishwamai/ops/x.py": "x = 1\n" * 401, "vishwamai/ops/train_utils.py": '"""Says."""\n# ' + UNFINISHED[0]}
    assert long_files(fake) == ["vishwamai/ops/x.py has 401 lines"]
    assert undocumented(fake) == ["vishwamai/ops/x.py"]
    assert unfinished(fake) == [f"vishwamai/ops/train_utils.py:2: {UNFINISHED[0]}"]
    assert vague_names(fake | {"vishwamai/lib/a.py": ""}) == ["vishwamai/ops/train_utils.py", "vishwamai/lib/a.py"]
    assert eager_imports("a.py", "import jax.numpy\ndef f():\n    import optax") == {"jax"}
    source = 'def f(a):\n    """One.\n\n    Two.\n    """\n    x = a\n    return x\n'
    assert list(function_lengths({"a.py": source}).values()) == [3]
