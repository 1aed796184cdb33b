"""Held-out accuracy of the built-in model (or of any folder), by greedy decoding and the corpora's own judges.

    python benchmarks/base_accuracy.py [--model FOLDER] [--at-once] [--limit N] [--show N]
    python benchmarks/base_accuracy.py --overlap

Prints one table: right answers of each kind with 95% intervals (Wilson 1927), and how fast they came. `--overlap` asks
no model: it counts what the held-out Game of 24 shares with training once the first step is made.
"""

import argparse
import math
import time
from collections.abc import Sequence

from rich.console import Console
from rich.table import Table

from vishwamai import VishwamAI
from vishwamai.data import game24, generated
from vishwamai.data.rows import Problem

MAX_NEW_TOKENS = 256
QUESTIONS = ("game24", "word_problems", "explanations")  # what the built-in model learned, as plain text and in chats
CORPORA = (*QUESTIONS, *(f"{name}_chat" for name in QUESTIONS), "conversations")


def wilson(right: int, total: int, z: float = 1.96) -> tuple[float, float]:
    """The 95% interval of a share."""
    share, spread = right / total, z * z / total
    middle = (share + spread / 2) / (1 + spread)
    half = z * math.sqrt(share * (1 - share) / total + spread / total / 4) / (1 + spread)
    return max(0.0, middle - half), min(1.0, middle + half)


def problems_of(limit: int | None, at_once: bool) -> dict[str, list[Problem]]:
    """The held-out problems by kind, each kind's first `limit`."""
    found = [problem for name in CORPORA for problem in generated.held_out(name)]
    found += game24.held_out(at_once=True) if at_once else []
    kinds: dict[str, list[Problem]] = {}
    for problem in found:
        kinds.setdefault(problem.kind, []).append(problem)
    return {kind: problems[:limit] for kind, problems in kinds.items()}


def overlap() -> str:
    """How many states of three numbers on a held-out ranked puzzle's way to 24 are on a training puzzle's too."""

    def after_one(state: game24.State) -> set[game24.State]:
        return {move.left for move in game24.good(state)}

    ranked = game24.held_out_puzzles()[0]
    trained = set().union(*map(after_one, game24.training_puzzles()))
    held_out = set().union(*map(after_one, ranked))
    covered = sum(after_one(state) <= trained for state in ranked)
    return (
        f"{len(held_out & trained)} of the {len(held_out)} good three-number states of ranks 901-1000 also occur in "
        f"training solutions; of {covered} of the {len(ranked)} puzzles all do"
    )


def completions(model: VishwamAI, problems: Sequence[Problem], batch: int) -> list[str]:
    """The model's greedy answers, in batches."""
    texts: list[str] = []
    for start in range(0, len(problems), batch):
        prompts = [problem.prompt for problem in problems[start : start + batch]]
        texts += model.complete(prompts, max_new_tokens=MAX_NEW_TOKENS)
    return texts


def main() -> None:
    parser = argparse.ArgumentParser(description="Held-out accuracy of a model on the generated corpora.")
    parser.add_argument("--model", default="vishwamai/base")
    parser.add_argument("--batch", type=int, default=50)
    parser.add_argument("--limit", type=int, help="problems of each kind")
    parser.add_argument("--at-once", action="store_true", help="ask the Game of 24 without steps too")
    parser.add_argument("--show", type=int, default=0, help="print this many wrong answers of each kind")
    parser.add_argument("--overlap", action="store_true", help="count what puzzles share with training, and stop")
    args = parser.parse_args()
    if args.overlap:
        return print(overlap())
    console, model = Console(highlight=False), VishwamAI.from_pretrained(args.model)
    table = Table("kind", "right", "of", "share", "95% interval", "seconds", title=f"held-out accuracy of {args.model}")
    totals: dict[str, list[bool]] = {}
    for kind, problems in problems_of(args.limit, args.at_once).items():
        start = time.perf_counter()
        answers = completions(model, problems, args.batch)
        marks = [problem.grade(answer) for problem, answer in zip(problems, answers, strict=True)]
        table.add_row(*row(kind, marks), f"{time.perf_counter() - start:.1f}")
        totals.setdefault(corpus_of(kind), []).extend(marks)
        wrong = [pair for *pair, mark in zip(problems, answers, marks, strict=True) if not mark]
        for problem, answer in wrong[: args.show]:
            console.print(f"[red]wrong[/] {kind}: {problem.prompt}", end="", markup=True)
            console.print(answer, markup=False)
    for name, marks in totals.items():
        table.add_row(*row(f"all of {name}", marks), "")
    console.print(table)


def corpus_of(kind: str) -> str:
    """The corpus of a kind of problem, and how it is asked: `game24.ranked_chat` -> `game24 in chats`."""
    return kind.split(".")[0] + " at once" * kind.endswith(".at_once") + " in chats" * kind.endswith("_chat")


def row(kind: str, marks: list[bool]) -> tuple[str, ...]:
    """The cells of one line of the table."""
    low, high = wilson(sum(marks), len(marks))
    return kind, str(sum(marks)), str(len(marks)), f"{sum(marks) / len(marks):.1%}", f"{low:.1%} to {high:.1%}"


if __name__ == "__main__":
    main()
