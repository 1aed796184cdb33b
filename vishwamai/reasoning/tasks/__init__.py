"""Kinds of problems, by name."""

from vishwamai.errors import InputError
from vishwamai.reasoning.task import Task
from vishwamai.reasoning.tasks.countdown import Countdown, Game24
from vishwamai.reasoning.tasks.crosswords import MiniCrosswords
from vishwamai.reasoning.tasks.gsm8k import GSM8K
from vishwamai.reasoning.tasks.text import FreeText
from vishwamai.reasoning.tasks.word_problems import WordProblems

TASKS: dict[str, type[Task]] = {
    "text": FreeText,
    "game24": Game24,
    "countdown": Countdown,
    "gsm8k": GSM8K,
    "word_problems": WordProblems,
    "crosswords": MiniCrosswords,
}


def task_of(task: Task | str) -> Task:
    """A task, or the one of this name with its defaults. Raises `InputError` for a name that there is not."""
    if isinstance(task, Task):
        return task
    if task not in TASKS:
        raise InputError(f"there is no task {task!r}; there are {', '.join(TASKS)}, or give a Task of your own")
    return TASKS[task]()
