"""The examples: the README's is run word for word on the built-in model; all of them are short, and each one is named
in no list, so a new one is found by itself. (`.ci/run` runs every one of them in a process of its own.)"""

import ast
import importlib.util
import os
import runpy
import subprocess
import sys
import types
from pathlib import Path

import pytest

from vishwamai.data import explanations, generated, word_problems
from vishwamai.data.rows import Problem
from vishwamai.errors import InputError
from vishwamai.reasoning import ChainOfThought, Scripted
from vishwamai.reasoning.model import Completion

ROOT = Path(__file__).parent.parent
SMOLLM = ROOT / ".smollm" / "SmolLM2-135M-Instruct.Q4_1.gguf"
EXAMPLES = sorted((ROOT / "examples").glob("*.py"))


def load_example(name):
    """An example as a module, of which a test can replace parts."""
    spec = importlib.util.spec_from_file_location(name, ROOT / f"examples/{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


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
    assert path.stem in ("demo", "demo_real") or len(source.splitlines()) <= (90 if path.stem == "crosswords" else 60)


@pytest.fixture
def demo():
    return load_example("demo")


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


@pytest.fixture
def demo_real(monkeypatch):
    monkeypatch.syspath_prepend(ROOT / "examples")  # where Python looks first when the example is run
    return load_example("demo_real")


STORY = "Ken owns 47 beads. He buys 25 more. He puts them into 8 equal piles. How many beads are in each pile?"
STORY_STEPS = ["He buys 25 more. 47 + 25", "He puts them into 8 equal piles. 72 / 8"]


def test_the_real_demo_writes_the_steps_that_the_library_solves_a_problem_with(demo_real):
    written = demo_real.write(STORY, word_problems.steps_of(STORY))
    assert written == f"{STORY_STEPS[0]} = 72\n{STORY_STEPS[1]} = 9\nAnswer: 9"
    task = demo_real.Stories()
    assert task.holds(STORY, written) and task.extract(written) == "9"
    for wrong in (written.replace("72\n", "73\n"), written.replace("Answer: 9", "Answer: 8"), STORY_STEPS[0] + " = 72"):
        assert not task.holds(STORY, wrong), wrong
    assert [len(steps) for _, steps in demo_real.worked_problems()] == [2, 3]


def test_the_real_demo_s_calculator_takes_each_number_once_and_knows_no_answer(demo_real):
    task = demo_real.Calculated()
    start = task.read(STORY)
    first = task.step(start, STORY_STEPS[0])
    assert (start, first) == (((8, 25, 47), None), ((8,), 72)) and task.answer(STORY, (), first) is None
    assert task.step(start, "25 + 47") == first, "whatever the order, it is the same state"
    assert task.answer(STORY, (), task.step(first, STORY_STEPS[1])) == "9" and task.depth_of(STORY) == 2
    assert task.prompt(STORY, STORY_STEPS)[-1] == f"{STORY_STEPS[1]} = 9\n"
    for wrong in ("47 + 26", "47 + 47", "25 - 47", "47 / 25", "47 / 0", "He buys 25 more.", "47 + 25 = 72"):
        assert task.step(start, wrong) is None, wrong
    for wrong in ("47 + 8", "8 + 25", "72 + 25", "72 / 7"):
        assert task.step(first, wrong) is None, wrong
    assert task.check(STORY, "9") is None and demo_real.Stories().check(STORY, "8") is None


def test_the_real_demo_counts_the_chains_that_compute_and_grades_by_the_corpus(demo_real):
    [problem] = [one for one in generated.held_out("word_problems") if one.prompt == STORY]
    wrong = "He buys 25 more. 47 + 25 = 62\nAnswer: 62"
    right = demo_real.write(STORY, word_problems.steps_of(STORY))
    model = Scripted(lambda prompt, n: ([wrong, wrong, right] * n)[:n])
    task = demo_real.Stories(demo_real.worked_problems())
    found = ChainOfThought(model, task=task, samples=3).solve(STORY)
    assert found.answer == "62" and demo_real.checked_vote(task, found) == "9"
    asked = demo_real.Reasoner("scripted", model, (), [problem], [])
    asked.note("vote", [found], ["62"], 1.0)
    asked.note("checked", [found], ["9"], 1.0)
    assert [(way.right, way.tokens) for way in asked.ways] == [(0, found.tokens), (1, found.tokens)]
    times = Problem(
        "Rosa has 25 pens. Lily has 4 times as many as Rosa. How many are there?", bool, "", "\n Answer: 100"
    )
    assert abs(demo_real.right_at_random([times]) - 1 / 3) < 0.1, "29, 100 or 21"


def test_the_real_demo_says_how_to_fetch_its_model(demo_real, monkeypatch, capsys, tmp_path):
    monkeypatch.setattr("sys.argv", ["demo_real.py", "--model", str(tmp_path / "none.gguf")])
    demo_real.main()
    assert "make smollm" in capsys.readouterr().out


@pytest.mark.by_turns
@pytest.mark.skipif(not SMOLLM.exists(), reason="SmolLM2 is not here; make smollm fetches it")
def test_the_real_demo_shows_each_way_of_reasoning_before_and_after_tuning(tmp_path):
    environment = {name: value for name, value in os.environ.items() if name != "JAX_DISABLE_MOST_OPTIMIZATIONS"}
    asked = [sys.executable, "examples/demo_real.py", "--sample", "1", "--steps", "2", "--output", str(tmp_path)]
    done = subprocess.run(asked, cwd=ROOT, env=environment | {"COLUMNS": "120"}, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "Paris" in done.stdout and "loss of new rows" in done.stdout
    rows = [line.split("│")[1].strip() for line in done.stdout.splitlines() if line.startswith("│")]
    assert rows == ["none"] + ["published"] * 6 + ["tuned"] * 5
    assert (tmp_path / "adapter" / "adapter_config.json").exists()


CROSSWORDS = load_example("crosswords")
CLUES, ROWS = CROSSWORDS.CLUES, CROSSWORDS.ROWS
WORDS = "h1. SCARF, h2. POLAR, h3. ALONE, h4. ROUGE, h5. ENDED, v1. SPARE, v2. COLON, v3. ALOUD, v4. RANGE, v5. FREED"
STEPS = [f"{word} (high)" for word in WORDS.split(", ")]


def fill(task, steps):
    board = task.read(CLUES)
    for step in steps:
        board = task.step(board, step)
        assert board is not None, step
    return board


def test_a_crossword_is_filled_by_rows_and_by_columns():
    task = CROSSWORDS.MiniCrosswords({CLUES: ROWS})
    across, down = fill(task, STEPS[:5]), fill(task, STEPS[5:])
    assert across == down == fill(task, reversed(STEPS[:5])) == ROWS.replace("\n", "")
    assert task.answer(CLUES, STEPS[:5], across) == ROWS and task.answer(CLUES, [], "_" + across[1:]) is None
    assert task.check(CLUES, ROWS) is True and task.check(CLUES, ROWS.replace("U", "S")) is False
    assert task.check("other clues", ROWS) is None


def test_a_crossword_s_words_agree_with_the_letters_and_add_one():
    task = CROSSWORDS.MiniCrosswords({})
    board = fill(task, STEPS[:2])
    assert task.step(board, "v1. SPARE (low)") is not None
    for wrong in ("v1. STARE (low)", STEPS[0], "v6. SPARE (low)", "v1. SPAR (low)", "v1. SPARE (perhaps)", "SPARE", ""):
        assert task.step(board, wrong) is None, wrong
    assert [task.value(Completion(text=f"v1. SPARE ({word})", tokens=4)) for word in ("low", "certain")] == [0.25, 1.0]
    assert task.value(Completion(text="SPARE", tokens=1)) is None
    with pytest.raises(InputError, match="ten clues.*there is no v5"):
        task.read(CLUES.replace("v5.", "v4."))


def test_the_crosswords_example_finds_the_board(capsys):
    CROSSWORDS.main()
    printed = capsys.readouterr().out
    assert "SHAWL" in printed and "checked and right" in printed and printed.endswith(f"{ROWS}\n")


def test_the_gym_example_asks_a_data_set_s_questions_and_its_judge(monkeypatch, capsys):
    class Sums(list):
        def score_answer(self, answer, entry):
            return {0: 1.0, 1: 0.5}.get(abs(int(answer) - int(entry["answer"])), 0.01)

    def create_dataset(name, size, seed):
        assert (name, seed) == ("chain_sum", 0)
        return Sums({"question": f"What is {i} + {i}?", "answer": str(2 * i)} for i in range(size))

    package = types.ModuleType("reasoning_gym")
    package.create_dataset = create_dataset
    monkeypatch.setitem(sys.modules, "reasoning_gym", package)
    example = load_example("gym_tasks")
    task, questions = example.gym("chain_sum", size=4)
    assert questions[3] == "What is 3 + 3?" and len(questions) == 4
    assert [task.check(questions[3], answer) for answer in ("6", "7", "9", "six")] == [True, False, False, None]
    assert task.check("What is love?", "6") is None
    example.main()
    printed = capsys.readouterr().out.splitlines()
    assert len(printed) == 10 and printed[5] == "What is 5 + 5? 10 True" and printed[4] == "What is 4 + 4? 10 False"


def test_the_gym_example_says_which_package_is_missing(monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "reasoning_gym", None)  # importing it now fails, installed or not
    load_example("gym_tasks").main()
    assert 'pip install "vishwamai[gym]"' in capsys.readouterr().out


@pytest.mark.skipif(importlib.util.find_spec("reasoning_gym") is None, reason="reasoning-gym is not installed")
@pytest.mark.filterwarnings("ignore")  # those of other people's modules
@pytest.mark.parametrize("name", ["countdown", "chain_sum", "mini_sudoku"])
def test_the_gym_example_with_the_package_itself(name):
    import reasoning_gym

    task, questions = load_example("gym_tasks").gym(name, size=3, seed=1)
    entries = list(reasoning_gym.create_dataset(name, size=3, seed=1))
    assert questions == [entry["question"] for entry in entries]
    for entry in entries:
        assert task.check(entry["question"], entry["answer"]) is True
        assert task.check(entry["question"], "no answer at all") is False
