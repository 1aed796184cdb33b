"""A task from nothing, as the documents show it, and what a task has without asking for it."""

from collections import deque

import pytest

from vishwamai.errors import InputError
from vishwamai.generation.sampling import SamplingParams
from vishwamai.reasoning import drive, tasks
from vishwamai.reasoning.budget import Budget
from vishwamai.reasoning.model import Completion, join_prompt
from vishwamai.reasoning.scripted import Scripted
from vishwamai.reasoning.task import Task, Verdict, call_safely


class Doubling(Task):
    """The fewest steps from 1 to a number, where each step doubles or adds one."""

    name = "doubling"

    def read(self, problem):
        if not problem.isdigit() or int(problem) < 1:
            raise InputError(f"{problem!r} is no whole number above 0")
        return 1

    def prompt(self, problem, steps=()):
        return ("Double, or add one. Start at 1.\n", f"Reach {problem}:\n", *(f"{step}\n" for step in steps))

    def step(self, state, text):
        after = {str(state + 1): state + 1, str(2 * state): 2 * state}
        return after.get(text.strip())

    def answer(self, problem, steps, state):
        return f"{len(steps)} steps" if state == int(problem) else None

    def check(self, problem, answer):
        number = int(problem)
        return answer == f"{number.bit_length() + number.bit_count() - 2} steps"


TASK = Doubling()


def first_found(problem):
    """A search, the plainest: level by level, three thoughts from each place."""
    level, budget = [((), TASK.read(problem))], Budget(calls=20)
    sampling = SamplingParams(max_tokens=TASK.step_tokens, stop=TASK.stop)
    while level:
        for steps, state in level:
            if found := TASK.answer(problem, steps, state):
                return found
        prompts = [TASK.prompt(problem, steps) for steps, _ in level]
        replies = yield from drive.ask(budget, prompts, [3] * len(level), sampling, range(len(level)))
        level = [
            ((*steps, made.text), after)
            for (steps, state), row in zip(level, replies, strict=True)
            for made in row
            if (after := TASK.step(state, made.text)) is not None
        ]


def says(prompt, n):
    """A model that knows both ways to go on, and some nonsense."""
    *_, last = [1, *map(int, (line for line in prompt.split("\n") if line.strip().isdigit()))]
    return ([str(2 * last), f" {last + 1}\n{last + 2}"] + ["seven"] * n)[:n]


def fewest(number):
    """By search over the numbers, without a formula."""
    seen, waiting = {1: 0}, deque([1])
    while number not in seen:
        at = waiting.popleft()
        for after in (at + 1, 2 * at):
            if after not in seen:
                seen[after] = seen[at] + 1
                waiting.append(after)
    return seen[number]


@pytest.mark.parametrize("number", [1, 2, 10, 13, 21])
def test_a_task_is_solved_by_a_search_that_knows_nothing_of_it(number):
    model = Scripted(says)
    [found] = drive.run(model, [first_found(str(number))])
    assert found == f"{fewest(number)} steps" and TASK.check(str(number), found)
    assert model.usage.calls == fewest(number)


def test_the_judge_agrees_with_a_search_over_the_numbers():
    for number in range(1, 200):
        right = fewest(number)
        assert [n for n in range(20) if TASK.check(str(number), f"{n} steps")] == [right]


def test_what_is_no_problem_and_what_is_no_step():
    with pytest.raises(InputError, match="'ten' is no whole number"):
        TASK.read("ten")
    assert [TASK.step(5, text) for text in ("6", " 10 ", "5", "11", "", "six")] == [6, 10, None, None, None, None]


def test_a_task_has_the_rest_without_asking():
    assert TASK.split("2\n\n4\n  \n5\n") == ["2", "4", "5"] and TASK.split(" \n") == []
    assert TASK.extract("2\n4\n2 steps\n\n") == "2 steps" and TASK.extract(" \n") is None
    assert TASK.value(Completion(text="2", tokens=1)) is None
    assert TASK.direct_prompt("5") == TASK.prompt("5") == ("Double, or add one. Start at 1.\n", "Reach 5:\n")
    assert join_prompt(TASK.prompt("5", ["2", "4"])).endswith("Reach 5:\n2\n4\n")
    assert (TASK.stop, TASK.depth) == (("\n",), None)


def test_a_task_without_its_five_methods_is_none():
    class Half(Task):
        def read(self, problem):
            return 0

    with pytest.raises(TypeError, match="answer.*check.*prompt.*step"):
        Half()


def test_a_checker_that_raises_cannot_tell():
    assert call_safely(lambda a, b: Verdict(a == b, "seen"), 1, 1) == (Verdict(True, "seen"), "")
    assert call_safely(lambda text: int(text) > 0, "x") == (
        None,
        "the checker raised ValueError: invalid literal for int() with base 10: 'x'",
    )
    with pytest.raises(KeyboardInterrupt):
        call_safely(_interrupted)


def _interrupted():
    raise KeyboardInterrupt


RECOGNISED = {
    "4 9 10 13": "game24",
    "Make 24 from 1, 2, 3, 4.": "game24",  # countdown too, which is the wider of the two
    "24 from 2 2 3 8 20": "countdown",
    "make 24 from 20 30 40 50": "countdown",
    "What is 12 + 30?": "word_problems",
}
NOT_RECOGNISED = ["", "42", "1 2 3", "20 30 40 50", "Who is 4 9 10 13?", "24 from 24", "How many days has a week?"]


def test_a_task_recognises_its_problems_and_the_narrower_one_is_taken():
    assert {problem: tasks.recognise(problem).name for problem in RECOGNISED} == RECOGNISED
    assert [tasks.recognise(problem) for problem in NOT_RECOGNISED] == [None] * len(NOT_RECOGNISED)
    assert not Doubling().recognises("7")


def test_a_problem_of_two_tasks_is_refused(monkeypatch):
    class Numbers(Doubling):
        name = "numbers"

    class Others(Task):
        name, read, prompt, step, answer, check = "others", *[lambda *args: None] * 5
        recognises = Numbers.recognises = lambda self, problem: problem.isdigit()

    monkeypatch.setattr(tasks, "TASKS", {"numbers": Numbers, "others": Others})
    with pytest.raises(InputError, match="'7' may be a problem of numbers and others; say which"):
        tasks.recognise("7")
    assert tasks.recognise("x") is None
