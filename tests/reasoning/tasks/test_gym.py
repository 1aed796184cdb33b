"""The adapter for reasoning-gym, with a stand-in that has the same methods, and with the package where there is one."""

import importlib.util
import sys
import types
import warnings

import pytest

from vishwamai.errors import BackendError, DataError, InputError
from vishwamai.reasoning.model import join_prompt
from vishwamai.reasoning.tasks import gym as adapter
from vishwamai.reasoning.tasks.gym import Gym, gym


class Sums:
    """Entry i asks for i + i; half a point for being one off. It notes which entries were made."""

    def __init__(self, size=5, seed=0, step=1):
        if step == 0:
            raise AssertionError("step must not be 0")
        self.size, self.seed, self.step, self.made = size, seed, step, []

    def __len__(self):
        return self.size

    def __getitem__(self, i):
        self.made.append(i)
        return {"question": f"What is {i} + {i}?\n", "answer": str(2 * i), "metadata": {"right": 2 * i}}

    def score_answer(self, answer, entry):
        off = abs(int(answer) - entry["metadata"]["right"])
        return {0: 1.0, 1: 0.5}.get(off, 0.01)


def test_the_questions_are_the_problems():
    task = Gym(Sums())
    assert task.problems(2) == ["What is 0 + 0?\n", "What is 1 + 1?\n"] and task.problems(0) == []
    assert len(task.problems(5)) == 5
    for n in (6, -1):
        with pytest.raises(InputError, match=f"{n} problems were asked for, and the data set has 5"):
            task.problems(n)


def test_answers_are_judged_by_the_data_set():
    task = Gym(Sums())
    problem = task.problems(4)[3]
    assert [task.check(problem, answer) for answer in ("6", "7", "9")] == [True, False, False]
    assert Gym(Sums(), threshold=0.5).check(problem, "7") is True
    assert task.check("What is love?", "6") is None
    assert task.check(problem, "six") is None  # the judge raises
    assert task.check(f" {problem.strip()}", "6") is True
    for score in (1.5, -0.1, 100, float("nan")):  # no scores
        data = Sums()
        data.score_answer = lambda answer, entry, score=score: score
        assert Gym(data).check(problem, "6") is None


def test_no_more_entries_are_made_than_are_needed():
    data = Sums(size=100)
    task = Gym(data)
    assert task.check("What is 3 + 3?", "6") is True and data.made == [0, 1, 2, 3]
    assert task.check("What is 2 + 2?", "4") is True and data.made == [0, 1, 2, 3]
    task.problems(2)
    assert task.check("What is 5 + 5?", "10") is True and data.made == [0, 1, 2, 3, 0, 1, 4, 5]


def test_of_equal_questions_the_first_entry_counts():
    class Same(Sums):
        def __getitem__(self, i):
            return {**super().__getitem__(i), "question": "What is it?"}

    task = Gym(Same())
    task.problems(5)
    assert task.check("What is it?", "0") is True and task.check("What is it?", "8") is False


def test_it_is_free_text_otherwise():
    task = Gym(Sums(), instruction="Add.", cue="", answer_marker="So:")
    problem = task.problems(3)[2]
    assert join_prompt(task.prompt(problem, ["Step 1: a"])) == "Add.\n\nQuestion: What is 2 + 2?\nStep 1: a\n"
    assert task.answer(problem, ["So: 4"], ()) == "4" and task.check(problem, task.extract("Hm.\nSo: 4")) is True


def test_what_is_no_data_set_is_refused():
    with pytest.raises(InputError, match="list has no score_answer; give what reasoning_gym.create_dataset returns"):
        Gym([])
    for threshold in (0, 1.5, float("nan")):
        with pytest.raises(InputError, match="threshold is"):
            Gym(Sums(), threshold=threshold)

    class Bare(Sums):
        def __getitem__(self, i):
            return {"prompt": "?"}

    with pytest.raises(DataError, match="entry 0 of the data set is .* under 'question'"):
        Gym(Bare()).problems(1)


def stand_in(monkeypatch):
    """A module in the package's place, which refuses as the package does."""

    def create_dataset(name, **config):
        if name != "sums":
            raise ValueError(f"Dataset '{name}' not registered")
        return Sums(**config)

    module = types.ModuleType("reasoning_gym")
    module.create_dataset = create_dataset
    monkeypatch.setitem(sys.modules, "reasoning_gym", module)


def test_a_data_set_by_name(monkeypatch):
    stand_in(monkeypatch)
    task = gym("sums", size=7, seed=3, step=2)
    assert (len(task.dataset), task.dataset.seed, task.dataset.step, task.threshold) == (7, 3, 2, 1.0)
    for name, config in (("sum", {}), ("sums", {"steps": 2}), ("sums", {"step": 0})):
        with pytest.raises(InputError, match=f"reasoning-gym has no data set '{name}' with these settings: .+"):
            gym(name, **config)


def test_a_missing_package_is_named_with_its_extra(monkeypatch):
    monkeypatch.setitem(sys.modules, "reasoning_gym", None)  # importing it now fails, installed or not
    with pytest.raises(BackendError, match=r'reasoning-gym cannot be imported .*pip install "vishwamai\[gym\]"'):
        gym("countdown")


def test_the_package_is_not_needed_to_import_the_adapter():
    assert not hasattr(adapter, "reasoning_gym")


@pytest.mark.skipif(importlib.util.find_spec("reasoning_gym") is None, reason="reasoning-gym is not installed")
@pytest.mark.parametrize("name", ["countdown", "chain_sum", "mini_sudoku"])
def test_the_package_itself(name):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # those of other people's modules
        task, again = gym(name, size=3, seed=1), gym(name, size=3, seed=1)
    problems = task.problems(3)
    assert problems == again.problems(3) and len(set(problems)) == 3
    for i, problem in enumerate(problems):
        assert task.check(problem, task.dataset[i]["answer"]) is True
        assert task.check(problem, "no answer at all") is False
    with pytest.raises(InputError, match="no data set 'no_such_set'"):
        gym("no_such_set")
