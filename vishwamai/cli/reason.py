"""`vishwamai reason`: solves a problem in steps, by a chain or a tree of thoughts, and shows the work."""

from __future__ import annotations

import argparse
import json
import sys
import webbrowser
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vishwamai.cli.arguments import COUNT, DTYPE, LIMIT, NOT_NEGATIVE, WHOLE, add_origin, add_verb, import_face, origin
from vishwamai.cli.status import Status
from vishwamai.cli.texts import read_text
from vishwamai.errors import InputError

if TYPE_CHECKING:
    from vishwamai.reasoning.solution import Solution
    from vishwamai.reasoning.task import Task

METHODS = ("auto", "hybrid", "cot", "tot", "direct", "self-consistency", "best-of-n")
SEARCHES = ("breadth", "depth", "beam", "best_first", "mcts")
LIMITS = ("tokens", "calls", "seconds", "nodes")
PAGE = "reason.html"
# The flags of how to solve a problem that only some methods take, and their values where they are not given.
DEFAULTS = {"search": "breadth", "branches": 3, "depth": None, "beam": 5, "rounds": 8, "memory": None}
DEFAULTS |= {"samples": 10, "temperature": 1.0}
TREE, SAMPLES = frozenset(DEFAULTS) - {"samples"}, frozenset(("samples", "temperature"))
TAKEN = {"auto": TREE, "hybrid": TREE, "tot": TREE, "self-consistency": SAMPLES, "best-of-n": SAMPLES}
MARKS = {True: "[green]✓[/]", False: "[red]✗[/]", None: "[dim]·[/]"}


def add(verbs: Any) -> None:
    """Makes the verb known."""
    verb = add_verb(verbs, "reason", reason, "Solve a problem in steps: a chain, a tree of thoughts, or both.")
    add = verb.add_argument
    add("problem", help='the problem, such as "4 9 10 13"; - reads it from standard input')
    add("--task", help="what kind of problem it is: game24, countdown, gsm8k, text, ... [the one that recognises it]")
    add("--method", choices=METHODS, help="how to solve it [auto, or cot where no task recognises the problem]")
    add("--search", choices=SEARCHES, help="how a tree is searched [breadth]")
    add("-m", "--model", help="built-in name, folder or hub id [the task's own, else vishwamai/base]")
    add("--url", help="an OpenAI-compatible endpoint in place of a local model; --model is its name there")
    add_origin(verb)
    add("--dtype", **DTYPE)
    add("--context", type=COUNT, help="tokens of a prompt and its steps together [the model's, at most 512]")
    add("--branches", type=COUNT, help="thoughts for each state [3]")
    add("--depth", type=COUNT, help="steps of a search [as many as the task has, else 3]")
    add("--beam", type=COUNT, help="states that a search goes on from at once [5]")
    add("--rounds", type=COUNT, help="passes of breadth-first search that finds no answer [8]")
    add("-n", "--samples", type=COUNT, help="chains of self-consistency and best-of-n [10]")
    add("-t", "--temperature", type=NOT_NEGATIVE, help="of what is drawn [1.0]")
    add("--seed", type=WHOLE, default=0, help="the same seed thinks the same [%(default)s]")
    for limit in LIMITS:
        add(f"--max-{limit}", type=NOT_NEGATIVE if limit == "seconds" else LIMIT, help=f"end after so many {limit}")
    add(
        "--memory",
        metavar="FILE",
        help="keep the values of states here, for the next searches (methods tot, hybrid, auto)",
    )
    add("--trace", metavar="FILE", help="write every thought here as JSON lines")
    add("--view", nargs="?", const=PAGE, metavar="FILE", help=f"write the tree as a page and open it [{PAGE}]")
    add("--json", action="store_true", help="print the solution as JSON")


def reason(args: argparse.Namespace) -> int:
    """`vishwamai reason`: the answer and the steps to it; 1 where no right answer was found."""
    if not (problem := read_text(args.problem).strip()):
        raise InputError('the problem is empty; give one, such as "4 9 10 13"')
    status = Status()
    with status("starting"):
        from vishwamai.reasoning.budget import Budget
        from vishwamai.reasoning.page import write_page

    limits = {limit: getattr(args, f"max_{limit}") for limit in LIMITS}
    Budget(**limits)  # refuses what is out of range before a model is loaded
    task, args.method = _task_and_method(args, problem)
    _fill_flags(args)
    task.read(problem)
    solve = _solver(args, problem, task, status)
    with status(f"thinking about {problem[:60]!a}"):
        found = solve(problem, budget=Budget(**limits))
    if args.json:
        print(json.dumps(found.summary() | {"steps": [vars(step) for step in found.steps]}))
    else:
        _show(found)
    if args.trace:
        found.trace.save(args.trace)
    if args.view:
        write_page(found.trace, args.view)
        page = Path(args.view).resolve()
        print(f"the tree is in {page}", file=sys.stderr)
        webbrowser.open(page.as_uri())
    return 0 if found.answer is not None and found.verified is not False else 1


def _task_and_method(args: argparse.Namespace, problem: str) -> tuple[Task, str]:
    """The task and the method: those that were named, or the task that recognises the problem, or a chain of text."""
    from vishwamai.reasoning.tasks import recognise, task_of

    if args.task is not None:
        return task_of(args.task), args.method or "auto"
    task = recognise(problem)
    if task is not None:
        print(f"task: {task.name}, recognised; --task names another", file=sys.stderr)
        return task, args.method or "auto"
    print("no task recognises the problem: nothing can check the answer; --task names one", file=sys.stderr)
    return task_of("text"), args.method or "cot"


def _fill_flags(args: argparse.Namespace) -> None:
    """Gives flags that were left out their values. Raises `InputError` for one that would do nothing."""
    for name, value in DEFAULTS.items():
        if getattr(args, name) is None:
            setattr(args, name, value)
        elif name not in TAKEN.get(args.method, ()):
            takers = ", ".join(method for method, taken in TAKEN.items() if name in taken)
            raise InputError(f"--{name} does nothing with the method {args.method}; leave it out, or --method {takers}")
    if args.url is not None:
        local = {"--context": args.context, "--revision": args.revision, "--dtype": args.dtype.replace("auto", "")}
        if given := [flag for flag, value in local.items() if value]:
            raise InputError(f"{' and '.join(given)} would do nothing: the model at --url is loaded; leave it out")


def _solver(args: argparse.Namespace, problem: str, task: Task, status: Status) -> Callable[..., Any]:
    """The function that solves a problem as `--method` says."""
    from vishwamai.reasoning import ChainOfThought, IntegratedReasoning, ThoughtMemory, TreeOfThoughts

    model = _model(args, task.model, status)
    memory = None if args.memory is None else ThoughtMemory(args.memory)
    shared = {"task": task, "seed": args.seed}
    widths = {"max_branches": args.branches, "beam_width": args.beam, "rounds": args.rounds, "search": args.search}
    drawn = {"temperature": args.temperature, **shared}
    match args.method:
        case "tot":
            depth = args.depth or task.depth_of(problem) or 3
            return TreeOfThoughts(model, max_depth=depth, memory=memory, **widths, **drawn).solve
        case "direct" | "cot":
            return ChainOfThought(model, direct=args.method == "direct", **shared).solve
        case "self-consistency" | "best-of-n":
            choose = "vote" if args.method == "self-consistency" else "best"
            return ChainOfThought(model, samples=args.samples, choose=choose, **drawn).solve
    solver = IntegratedReasoning(model, memory=memory, **widths, **drawn)
    return partial(solver.solve, approach=args.method, max_depth=args.depth)


def _model(args: argparse.Namespace, own: str, status: Status) -> Any:
    from vishwamai.reasoning import Local, Remote

    if args.url is not None:
        if args.model is None:
            raise InputError("--url needs --model: the name that the endpoint knows the model by")
        return Remote(args.url, args.model)
    import_face(status)
    from vishwamai.api import VishwamAI

    model = VishwamAI.from_pretrained(args.model or own, **origin(args), dtype=args.dtype, progress=status)
    return Local(model, context=args.context)


def _show(found: Solution) -> None:
    """The tree, or the steps with a mark each; the answer, how sure it is, and what it took."""
    from rich.console import Console
    from rich.text import Text

    from vishwamai.reasoning.show import result, terminal

    console, trace = Console(highlight=False), found.trace
    assert trace is not None  # every way to reason keeps one
    if found.method.startswith("tot"):
        console.print(terminal(trace, console.width))
    else:
        for step in found.steps:
            line = Text.from_markup(MARKS[step.valid] + " ")
            console.print(line.append(step.text).append(f"  {step.why}" if step.why else "", style="dim"))
        console.print(*result(trace), sep="\n")
    for note in found.notes + found.stages:
        console.print(Text(note, style="dim"))
