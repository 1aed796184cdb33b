"""One name, one meaning: no definition bears a name that `words.csv` replaced in its room.

`words.csv` lists them: the room (a folder of the package, or `.` for all of it), the old name, the new one, and why. It
reads source with `ast` and runs none of it.
"""

import ast
import csv
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).parent.parent
WORDS = Path(__file__).with_name("words.csv")
PACKAGE = ROOT / "vishwamai"


def words() -> list[dict[str, str]]:
    with WORDS.open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def definitions(source: str) -> Iterator[str]:
    """The names of functions, classes, methods, and what a module or a class assigns."""
    tree = ast.parse(source)
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            yield node.name
        if isinstance(node, ast.Module | ast.ClassDef):
            for statement in node.body:
                targets = getattr(statement, "targets", None) or [getattr(statement, "target", None)]
                names = (node for target in targets if target is not None for node in ast.walk(target))
                yield from (name.id for name in names if isinstance(name, ast.Name))


def defined_in(room: Path) -> set[str]:
    return {name for path in room.rglob("*.py") for name in definitions(path.read_text(encoding="utf-8"))}


def test_no_definition_bears_an_old_name():
    rooms = {word["room"] for word in words()}
    defined = {room: defined_in(PACKAGE / room) for room in rooms}
    assert [word for word in words() if word["old"] in defined[word["room"]]] == []
    assert [word for word in words() if word["new"] not in defined[word["room"]]] == []


def test_every_word_says_why():
    assert len({(word["room"], word["old"]) for word in words()}) == len(words()) > 50
    assert all(word["why"] and word["old"] != word["new"] for word in words())


def test_definitions_of_every_kind_are_seen():
    source = "A = B = 1\nC: int = 2\ndef d():\n    def e(): ...\n    f = 1\n"
    source += "k, A = 1, 2\nclass G:\n    h = 1\n    i: int\n    def j(self): ..."
    assert set(definitions(source)) == set("ABCdeGhijk")
