"""`vishwamai reason`: answers, exit codes, traces and pages, and what is refused."""

import functools
import json
import sqlite3
import webbrowser

import pytest

from vishwamai import VishwamAI
from vishwamai.cli import main
from vishwamai.data import game24
from vishwamai.reasoning import trace
from vishwamai.reasoning.scripted import Scripted

from .conftest import refused

pytestmark = pytest.mark.by_turns

PUZZLE = "4 9 10 13"
EASY = "4 7 8 8"  # for one chain
SMALL = ["--task", "game24", "--context", "128"]


@pytest.fixture(autouse=True, scope="module")
def loaded_once():
    """A model keeps what was compiled for it, which most of a command's time goes to."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(VishwamAI, "from_pretrained", functools.cache(VishwamAI.from_pretrained))
        yield


@pytest.fixture
def opened(monkeypatch):
    """The addresses that a browser was asked to open."""
    found = []
    monkeypatch.setattr(webbrowser, "open", lambda address: found.append(address) or True)
    return found


def test_a_tree_is_searched_shown_traced_and_viewed(capsys, tmp_path, opened):
    files = {"trace": tmp_path / "thoughts.jsonl", "view": tmp_path / "tree.html"}
    argv = ["reason", PUZZLE, *SMALL, "--method", "tot", "--rounds", "4"]
    assert main([*argv, "--trace", str(files["trace"]), "--view", str(files["view"])]) == 0
    out = capsys.readouterr()
    answer = trace.load_trace(files["trace"]).result["answer"]
    assert f"answer: {answer}" in out.out and "checked and right" in out.out
    assert game24.grade((4, 9, 10, 13), f"Answer: {answer} = 24", at_once=True)
    assert opened == [files["view"].as_uri()] and "<script" in files["view"].read_text(encoding="utf-8")
    assert str(files["view"]) in out.err


def test_json_has_the_figures_and_the_steps(capsys):
    assert main(["reason", EASY, *SMALL, "--method", "cot", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["verified"] is True and found["method"] == "cot" and found["tokens"] > 20
    assert [step["valid"] for step in found["steps"]] == [True] * 3


def test_the_same_seed_thinks_the_same(capsys):
    argv = ["reason", PUZZLE, *SMALL, "--method", "tot", "--seed", "3"]
    shown = []
    for _ in range(2):
        main(argv)
        shown.append([line for line in capsys.readouterr().out.splitlines() if "calls" not in line])
    assert shown[0] == shown[1] and len(shown[0]) > 5


def test_a_search_is_as_deep_as_its_problem(capsys):
    argv = ["reason", "24 from 2 2 3 8 20", "--task", "countdown", "--context", "128", "--method", "tot", "-t", "1.4"]
    assert main(argv) == 0
    assert "checked and right" in capsys.readouterr().out


def test_a_memory_is_used_again(capsys, tmp_path):
    argv = ["reason", PUZZLE, *SMALL, "--method", "tot", "--memory", str(tmp_path / "thoughts.db"), "--json"]
    assert main(argv) == 0 and main(argv) == 0
    first, again = (json.loads(line) for line in capsys.readouterr().out.splitlines())
    assert first["answer"] == again["answer"] and (tmp_path / "thoughts.db").stat().st_size > 0
    with sqlite3.connect(tmp_path / "thoughts.db") as file:
        tables = [name for (name,) in file.execute("SELECT name FROM sqlite_master WHERE type = 'table'")]
        assert any(
            file.execute(f"SELECT count(*) FROM {name}").fetchone()[0] > 3 for name in tables
        )  # values of states
    file.close()


@pytest.mark.parametrize("method, name", [("self-consistency", "self-consistency"), ("best-of-n", "best-of-n")])
def test_several_chains(capsys, method, name):
    main(["reason", PUZZLE, *SMALL, "--method", method, "-n", "3", "--max-tokens", "400", "--json"])
    assert json.loads(capsys.readouterr().out)["method"] == name


def test_no_answer_inside_the_budget_is_exit_code_1(capsys):
    assert main(["reason", PUZZLE, *SMALL, "--method", "tot", "--max-tokens", "0"]) == 1
    assert "no answer" in capsys.readouterr().out
    assert main(["reason", PUZZLE, *SMALL, "--max-nodes", "0", "--max-calls", "1", "--method", "direct"]) in (0, 1)
    assert "direct" in capsys.readouterr().out


def test_an_answer_is_shown_before_a_trace_that_cannot_be_written(capsys):
    argv = ["reason", EASY, *SMALL, "--method", "cot", "--trace", "/nowhere/at/all.jsonl"]
    assert main(argv) == 2
    out, err = capsys.readouterr()
    assert "checked and right" in out and "/nowhere/at/all.jsonl" in err and err.count("\n") == 1


def test_a_problem_that_a_task_recognises_is_asked_of_it_and_checked(capsys):
    assert main(["reason", "12 + 30", "--context", "128", "--method", "cot"]) == 0
    out, err = capsys.readouterr()
    assert "12 + 30 = 42" in out and "answer: 42  checked and right" in out
    assert err.startswith("task: word_problems, recognised; --task names another\n")


def test_a_problem_that_no_task_recognises_is_thought_of_once_and_nothing_checks_it(capsys, monkeypatch):
    model = Scripted(lambda prompt, n: [f"Answer: {i}" for i in range(n)])
    monkeypatch.setattr("vishwamai.cli.reason._model", lambda args, own, status: model)
    assert main(["reason", "How high is up?", "--json"]) == 0
    out, err = capsys.readouterr()
    found = json.loads(out)
    assert (found["method"], found["verified"], found["samples"]) == ("cot", None, ["0"]) and model.n == [[1]]
    assert err.startswith("no task recognises the problem: nothing can check the answer; --task names one\n")
    assert main(["reason", "How high is up?", "--method", "self-consistency", "-n", "5"]) == 0
    assert "answer: 0  not checked\nonly 1 of 5 samples agree\n" in capsys.readouterr().out
    assert main(["reason", "How high is up?", "--task", "text", "--method", "cot"]) == 0
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize(
    "argv, sentence",
    [
        ([PUZZLE, "--task", "chess"], "there is no task 'chess'"),
        (["4 9 10", "--task", "game24"], "the Game of 24 has four"),
        ([" "], "error: the problem is empty; give one"),
        (["x", "--task", "game24"], "write four numbers"),
        ([PUZZLE, "--task", "game24", "--method", "tot", "--depth", "0"], "--depth is 0"),
        (
            [PUZZLE, "--task", "game24", "--method", "tot", "--branches", "0"],
            "--branches is 0; it must be a whole number, 1 or more",
        ),
        ([PUZZLE, "--task", "game24", "--max-tokens", "-1"], "0 or more"),
        ([PUZZLE, "--task", "game24", "--url", "http://127.0.0.1:1/v1"], "--url needs --model"),
        ([PUZZLE, "--task", "game24", "--context", "100000"], "context is 100000"),
        (
            ["hi", "--task", "text", "--method", "direct", "-n", "5"],
            "--samples does nothing with the method direct; leave it out, or",
        ),
        (["How?", "--task", "text", "--method", "cot", "-t", "0"], "--temperature does nothing with the method cot"),
        (["How?", "--task", "text", "--method", "best-of-n", "--search", "beam"], "or --method auto, hybrid, tot"),
        ([PUZZLE, "--task", "game24", "--method", "auto", "--samples", "5"], "or --method self-consistency, best-of-n"),
        (
            ["x", "--task", "text", "--url", "http://127.0.0.1:1", "-m", "m", "--dtype", "float32"],
            "--dtype would do nothing: the model",
        ),
    ],
)
def test_what_cannot_be_done_is_one_sentence(capsys, argv, sentence):
    assert sentence in refused(capsys, "reason", *argv)
