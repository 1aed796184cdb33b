"""Ways of reasoning side by side, each with the accuracy of the answer that it submits and with what it costs.

    python benchmarks/reason.py [--only game24|countdown|forking] [--limit N]

The Game of 24 on the hundred puzzles of the Tree of Thoughts paper and on 200 others, and Countdown with five numbers,
all held out, by the built-in models; what sharing prefixes saves; and for comparison the published figures of GPT-4.
Beside every search stands what best-of-n reaches with as many tokens, from chains of the same model that end, as the
searches do, with the first right answer. Intervals are 95% (Wilson 1927).
"""

import argparse
import dataclasses
import functools
import math
import random
import time
from collections.abc import Callable, Sequence
from typing import Any

from base_accuracy import overlap, wilson
from rich.console import Console
from rich.table import Table

from vishwamai import VishwamAI
from vishwamai.data import countdown, game24
from vishwamai.generation.prefix_cache import PrefixCache
from vishwamai.generation.results import GeneratedRow
from vishwamai.generation.sampling import SamplingParams
from vishwamai.reasoning import Budget, ChainOfThought, IntegratedReasoning, Local, TreeOfThoughts
from vishwamai.reasoning.drive import Search, ask, run
from vishwamai.reasoning.model import Prompt, seed_of
from vishwamai.reasoning.task import Task
from vishwamai.reasoning.tasks import task_of
from vishwamai.reasoning.tasks.countdown import Game24

CHAINS = 20  # of each puzzle, from which best-of-n is computed for any number of tokens
ROLLOUTS = {"game24": 48, "countdown": 128}
PUBLISHED = (
    ("GPT-4 answers at once, mean of 100 samples", "7.3", "Yao et al. 2023, and its published log scored again"),
    ("GPT-4 chain of thought, mean of 100 samples", "4.0", "Yao et al. 2023, and its published log scored again"),
    ("GPT-4 tree of thoughts, b=5, as the paper has it", "74", "Yao et al. 2023, arXiv:2305.10601, table 2"),
    ("the log published with it: any of the five leaves", "69", "princeton-nlp/tree-of-thought-llm, log scored again"),
    ("the log published with it: the leaf ranked first", "62", "princeton-nlp/tree-of-thought-llm, log scored again"),
)
console = Console(highlight=False, width=180)

NewLocal = Callable[[], Local]
Maker = Callable[[Local], Any]  # makes a solver
Way = tuple[bool, Maker]  # whether it is a search


@dataclasses.dataclass(frozen=True)
class Bank:
    """Chains of each puzzle: whether they are right, and their tokens."""

    right: list[list[bool]]
    tokens: list[list[int]]

    def best_of(self, n: int) -> tuple[float, float]:
        """(accuracy, tokens of a puzzle) of drawing up to n chains and ending with a right one.

        The mean over all orders of a puzzle's chains; a wrong chain costs the mean of the wrong ones.
        """
        found, cost = 0.0, 0.0
        for right, tokens in zip(self.right, self.tokens, strict=True):
            N, c = len(right), sum(right)
            missing = [math.comb(N - c, j) / math.comb(N, j) for j in range(n + 1)]
            ends = [sum(t for t, r in zip(tokens, right, strict=True) if r is kind) for kind in (True, False)]
            mean_right, mean_wrong = ends[0] / max(c, 1), ends[1] / max(N - c, 1)
            found += 1 - missing[n]
            cost += (1 - missing[n]) * mean_right + sum(missing[1:]) * mean_wrong
        return found / len(self.right), cost / len(self.right)

    def at(self, tokens: float) -> str:
        """The accuracy of best-of-n at as many tokens, on a line between two numbers of chains."""
        most = len(self.right[0])
        points = [(0.0, 0.0), *((cost, share) for share, cost in map(self.best_of, range(1, most + 1)))]
        for (x0, y0), (x1, y1) in zip(points, points[1:], strict=False):
            if tokens <= x1:
                return f"{y0 + (y1 - y0) * (tokens - x0) / max(x1 - x0, 1e-9):.1%}"
        return f"{points[-1][1]:.1%} (all {most}, {points[-1][0]:.0f} tokens)"


def bank_of(model: Local, task: Task, puzzles: Sequence[str], temperature: float) -> Bank:
    """Chains drawn for best-of-n."""
    solver = ChainOfThought(model, task=task, samples=CHAINS, choose="best", temperature=temperature, seed=1)
    traces = [found.trace.thoughts for found in solver.solve_all(puzzles) if found.trace is not None]
    return Bank(
        [[thought.status == "answer" for thought in thoughts] for thoughts in traces],
        [[thought.tokens for thought in thoughts] for thoughts in traces],
    )


def rollouts_of(model: Local, task: Task, puzzles: Sequence[str]) -> Bank:
    """Chains that never take a step back and write no expression, a wrong step ending one: the cheapest best-of-n."""

    def walk(problem: str, i: int) -> Search[tuple[bool, int]]:
        steps, state, tokens, how = (), task.read(problem), 0, SamplingParams(max_tokens=24, stop=task.stop)
        for level in range(len(state) - 1):
            [[made]] = yield from ask(Budget(), [task.prompt(problem, steps)], [1], how, [seed_of(i, problem, level)])
            tokens, state = tokens + made.tokens, task.step(state, made.text)
            if state is None:
                return False, tokens
            steps = (*steps, made.text)
        answer = task.answer(problem, steps, state)
        return answer is not None and bool(task.check(problem, answer)), tokens

    n = ROLLOUTS[task.name]
    found = run(model, [walk(problem, i) for problem in puzzles for i in range(n)])
    rows = [found[at : at + n] for at in range(0, len(found), n)]
    return Bank([[right for right, _ in row] for row in rows], [[tokens for _, tokens in row] for row in rows])


def row(new: NewLocal, task: Task, puzzles: Sequence[str], make: Maker, banks: Sequence[Bank]) -> list[str]:
    """One line of a table: accuracy, its interval, pass@n, tokens, device calls, seconds, best-of-n at equal tokens."""
    make(new()).solve_all(puzzles[:1])  # what has to be compiled is, and the row itself begins with nothing read
    model = new()
    begun = time.perf_counter()
    found = make(model).solve_all(puzzles)
    seconds, n = time.perf_counter() - begun, len(found)
    right = sum(s.verified is True for s in found)
    any_right = sum(any(task.check(s.problem, a) for a in s.candidates) for s in found)
    tokens = sum(s.tokens for s in found) / n
    low, high = wilson(right, n)
    cells = [f"{right / n:.1%}", f"{low:.0%} to {high:.0%}", f"{any_right / n:.1%}", f"{tokens:.0f}"]
    return [*cells, str(model.usage.device_calls), f"{seconds:.1f}", *(bank.at(tokens) for bank in banks)]


def compare(title: str, task: Task, puzzles: Sequence[str], model: VishwamAI, rows: dict[str, Way]) -> None:
    """Prints a table of methods. Trees have a context for a few steps, and chains one for many."""
    small = functools.partial(Local, model, context=128, rows=4096)
    large = functools.partial(Local, model, context=320, rows=1024)
    with console.status(f"{title}: chains of each puzzle to compare with"):
        banks = [bank_of(large(), task, puzzles, 1.0), rollouts_of(small(), task, puzzles)]
    heads = ["method", "submitted", "95%", "pass@n", "tokens", "device calls", "seconds"]
    heads += ["best-of-n at as many tokens", "of chains without taking back"]
    about = "tokens are new ones, of each puzzle; calls and seconds are of all puzzles together"
    table = Table(*heads, title=f"{title}: {len(puzzles)} puzzles; {about}")
    for name, (is_search, make) in rows.items():
        with console.status(f"{title}: {name}"):
            new = small if is_search else large
            table.add_row(name, *row(new, task, puzzles, make, banks if is_search else []))
    console.print(table)


def methods(task: Task, depth: int) -> dict[str, Way]:
    """Ways of solving, by name."""

    def chain(**how):
        return lambda model: ChainOfThought(model, task=task, **how)

    def tree(**how):
        return lambda model: TreeOfThoughts(model, task=task, max_depth=depth, **how)

    return {
        "chain of thought, greedy": (False, chain()),
        "self-consistency, 10 chains, T=0.7": (False, chain(samples=10)),
        "best-of-5 with the checker, T=1": (False, chain(samples=5, choose="best", temperature=1.0, wave=1)),
        "best-of-20 with the checker, T=1": (False, chain(samples=20, choose="best", temperature=1.0, wave=1)),
        "tree, 3 thoughts a state, b=5, T=0.7": (True, tree(even=False)),
        "tree, 15 thoughts a level, b=5, T=1": (True, tree(temperature=1.0)),
        "the same, T=1.4, at most 12 rounds": (True, tree(temperature=1.4, rounds=12)),
        "tree, 4 a level, b=1, T=1, 24 rounds": (True, tree(temperature=1.0, max_branches=4, beam_width=1, rounds=24)),
        "integrated, auto": (False, lambda model: IntegratedReasoning(model, task=task)),
    }


def game_of_24(limit: int | None) -> None:
    """The two tables of the Game of 24."""
    task, model = task_of("game24"), VishwamAI.from_pretrained("vishwamai/base")
    at_once = {"answer at once, greedy": (False, lambda model: ChainOfThought(model, task=task, direct=True))}
    titles = "Game of 24, ranks 901-1000", "Game of 24, 200 more"
    for title, states in zip(titles, game24.held_out_puzzles(), strict=True):
        puzzles = [" ".join(map(str, state)) for state in states][:limit]
        compare(title, task, puzzles, model, at_once | methods(task, 3))
    console.print(overlap())
    table = Table("published, ranks 901-1000", "% right", "source")
    for line in PUBLISHED:
        table.add_row(*line)
    console.print(table)


def countdown_of_five(limit: int | None) -> None:
    """Countdown with five numbers. Chains take long here, so several are drawn once, for the last columns."""
    task, model = task_of("countdown"), VishwamAI.from_pretrained("vishwamai/countdown")
    puzzles = [f"{target} from {' '.join(map(str, state))}" for state, target in countdown.held_out_puzzles()]
    rows = {name: way for name, way in methods(task, 4).items() if "best-of" not in name and "self-" not in name}
    compare("Countdown, five numbers", task, puzzles[: limit or 100], model, rows)


class FewShot(Game24):
    """The Game of 24 after worked examples, as a model that was not trained on it would be asked."""

    name = "game24-few-shot"

    def __init__(self):
        solved = zip(game24.training_puzzles(), map(random.Random, range(3)), strict=False)
        self.prefix = "".join(countdown.steps_row(state, 24, rng).text + "\n\n" for state, rng in solved)

    def prompt(self, problem: str, steps: Sequence[str] = ()) -> Prompt:
        return (self.prefix, *super().prompt(problem, steps))


class ReadWhole(PrefixCache):
    """Reads every prompt of a call whole, equal ones once, and keeps nothing."""

    def generate(self, weights, prompts, params, **_) -> list[GeneratedRow]:
        rows = [[token for run in prompt for token in run] for prompt in prompts]
        made = self.generator.generate(weights, rows, params)
        self.counts.prefill_tokens += sum(map(len, set(map(tuple, rows))))
        fields = zip(made.tokens, made.logprobs, made.top_logprobs, made.finish_reasons, strict=True)
        pairs = zip(rows, params, strict=True)
        return [GeneratedRow(i, len(row), p, *new) for i, ((row, p), new) in enumerate(zip(pairs, fields, strict=True))]


def forking(limit: int | None) -> None:
    """The same search with prefixes shared and with every prompt read whole."""
    model = VishwamAI.from_pretrained("vishwamai/base")
    puzzles = [" ".join(map(str, state)) for state in game24.held_out_puzzles()[0]][: limit or 20]
    table = Table(
        "prefixes",
        "prompt tokens read",
        "new tokens",
        "seconds",
        title=f"a tree after three worked examples, {len(puzzles)} puzzles",
    )
    used = {}
    for name, share in (("read once and forked", True), ("read whole in every call", False)):
        for _ in range(2):  # the first time everything is compiled
            local = Local(model, context=448, rows=512)
            if not share:
                local._cache = ReadWhole(model.generator, local._cache.sizes)
            TreeOfThoughts(local, task=FewShot(), temperature=1.0, stop_early=False).solve_all(puzzles)
        used[share] = u = local.usage
        table.add_row(name, f"{u.prefill_tokens:,}", f"{u.completion_tokens:,}", f"{u.seconds:.1f}")
    console.print(table)
    fewer, faster = (getattr(used[False], x) / getattr(used[True], x) for x in ("prefill_tokens", "seconds"))
    console.print(f"{fewer:.1f} times fewer prompt tokens are read, and the search is {faster:.1f} times faster")


SECTIONS = {"forking": forking, "game24": game_of_24, "countdown": countdown_of_five}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", choices=SECTIONS, help="one part")
    parser.add_argument("--limit", type=int, help="puzzles of each kind")
    args = parser.parse_args()
    begun = time.perf_counter()
    for name in [args.only] if args.only else SECTIONS:
        SECTIONS[name](args.limit)
    console.print(f"all of it took {time.perf_counter() - begun:.0f} seconds")


if __name__ == "__main__":
    main()
