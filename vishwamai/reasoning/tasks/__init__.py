"""Kinds of problems, by name."""

from vishwamai.errors import InputError
from vishwamai.reasoning.task import Task
from vishwamai.reasoning.tasks.countdown import Countdown, Game24
from vishwamai.reasoning.tasks.gsm8k import GSM8K
from vishwamai.reasoning.tasks.text import FreeText
from vishwamai.reasoning.tasks.word_problems import WordProblems

TASKS: dict[str, type[Task]] = {
    "text": FreeText,
    "game24": Game24,
    "countdown": Countdown,
    "gsm8k": GSM8K,
    "word_problems": WordProblems,
}


def task_of(task: Task | str) -> Task:
    """A task, or the one of this name with its defaults. Raises `InputError` for a name that there is not."""
    if isinstance(task, Task):
        return task
    if task not in TASKS:
        raise InputError(f"there is no task {task!r}; there are {', '.join(TASKS)}, or give a Task of your own")
    return TASKS[task]()


def recognise(problem: str) -> Task | None:
    """The task that recognises a problem, of two the narrower; None where none does.

    Raises `InputError` where two do and neither is a kind of the other.
    """
    found = [task for task in (kind() for kind in TASKS.values()) if task.recognises(problem)]
    narrowest = [task for task in found if not any(type(task) in type(other).__mro__[1:] for other in found)]
    if len(narrowest) > 1:
        names = " and ".join(task.name for task in narrowest)
        raise InputError(f"{problem!r:.60} may be a problem of {names}; say which with a task's name")
    return narrowest[0] if narrowest else None
