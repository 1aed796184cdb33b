"""The examples: the README's is run word for word on the built-in model; all of them are short, and each one is named
in no list, so a new one is found by itself. (`.ci/run` runs every one of them in a process of its own.)"""

import ast
import runpy
from pathlib import Path

import pytest

from vishwamai.data import explanations, generated

ROOT = Path(__file__).parent.parent
EXAMPLES = sorted((ROOT / "examples").glob("*.py"))


def test_the_usage_example_explains_machine_learning(capsys):
    runpy.run_path(str(ROOT / "examples/generate.py"), run_name="__main__")
    printed = capsys.readouterr().out
    prompt = "Explain the concept of machine learning:"
    assert printed.startswith(prompt)
    assert explanations.is_answer(explanations.explanations()["machine learning"], printed.removeprefix(prompt))


def test_the_usage_example_is_the_readme_s():
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    block = readme.split("```python\n")[1].split("```")[0]
    lines = [line.split("#")[0].strip() for line in block.splitlines() if line.strip()]
    example = (ROOT / "examples/generate.py").read_text(encoding="utf-8")
    assert [line for line in lines if line not in example] == []


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.stem)
def test_examples_are_short_and_say_what_they_show(path):
    source = path.read_text(encoding="utf-8")
    assert ast.get_docstring(ast.parse(source))
    assert path.stem == "demo" or len(source.splitlines()) <= 60


def test_the_demo_asks_what_was_held_out():
    demo = runpy.run_path(str(ROOT / "examples/demo.py"))
    asked = demo["questions"](5)
    for name, problems in asked.items():
        held_out = {problem.prompt for problem in generated.held_out(name)}
        assert len(problems) == 5 and {problem.prompt for problem in problems} <= held_out
    example = demo["usage_example"]()
    assert example.grade(example.answer) and not example.grade("It is a kind of cheese.")
