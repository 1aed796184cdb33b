"""The examples: the README's is run word for word on the built-in model; all of them are short, and each one is named
in no list, so a new one is found by itself. (`.ci/run` runs every one of them in a process of its own.)"""

import ast
import importlib.util
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


@pytest.fixture
def demo():
    """The demo as a module, of which a test can replace parts."""
    spec = importlib.util.spec_from_file_location("demo", ROOT / "examples/demo.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_demo_asks_and_shows_only_what_was_held_out(demo, monkeypatch):
    shown, asked = {}, {}

    def measure(name, model, problems):
        asked[model] = problems
        return demo.Measured(name, 1, {kind: "" for kind in problems}, 1.0, 1)

    monkeypatch.setattr(demo.VishwamAI, "from_pretrained", lambda name: "built in")
    monkeypatch.setattr(demo, "train", lambda *args: "trained here")
    monkeypatch.setattr(demo, "measure", measure)
    monkeypatch.setattr(demo, "answer", lambda model, problem: shown.setdefault(model, []).append(problem.prompt))
    monkeypatch.setattr("sys.argv", ["demo.py", "--sample", "5"])
    demo.main()
    held_out = [{problem.prompt for problem in generated.held_out(name)} for name in demo.CORPORA]
    for model in ("built in", "trained here"):
        sampled = [{problem.prompt for problem in problems} for problems in asked[model].values()]
        assert all(len(prompts) == 5 and prompts <= kind for prompts, kind in zip(sampled, held_out, strict=True))
        assert all(prompt in kind for prompt, kind in zip(shown[model], held_out, strict=True))
