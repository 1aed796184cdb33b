"""`make demo`: the main job in under three minutes on two cores, offline.

The built-in model answers held-out questions while you watch, and its answers are graded by the corpora's own judges.
A small model is trained for a minute on the same corpora and asked the same. A table of what was measured and a picture
of the loss (build/demo/loss.png) close it. It needs the `train` extra.
"""

import argparse
import random
import shutil
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console
from rich.live import Live
from rich.table import Table
from rich.text import Text

from vishwamai import VishwamAI, config
from vishwamai.data import generated
from vishwamai.data.rows import Problem
from vishwamai.models import cost
from vishwamai.training import trainer
from vishwamai.training.config import RunConfig

ROOT = Path(__file__).parent.parent
NEW_TOKENS = 160
CORPORA = ("game24", "word_problems", "explanations")  # what the built-in model learned
console = Console(highlight=False)


@dataclass(frozen=True)
class Measured:
    """What one model did."""

    name: str
    parameters: int
    shares: dict[str, str]
    tokens_per_second: float
    compiles: int


def questions(sample: int) -> dict[str, list[Problem]]:
    """For each corpus `sample` held-out problems, drawn once and for all."""
    found = {name: generated.held_out(name) for name in CORPORA}
    return {name: random.Random(0).sample(problems, sample) for name, problems in found.items()}


def answer(model: VishwamAI, problem: Problem) -> None:
    """Streams one answer, and the judge's word on it."""
    console.print(Text(problem.prompt, style="bold cyan"), end="", soft_wrap=True)
    texts = []
    for chunk in model.stream(problem.prompt, max_new_tokens=NEW_TOKENS):
        console.print(Text(chunk.text), end="", soft_wrap=True)
        texts.append(chunk.text)
    right = problem.grade("".join(texts))
    console.print(
        "\n[bold green]  right[/]" if right else "\n[bold red]  wrong[/]", "by the judge of", problem.kind, "\n"
    )


def measure(name: str, model: VishwamAI, asked: dict[str, list[Problem]]) -> Measured:
    """Accuracy on each corpus's sample, answered as one batch each."""
    shares, tokens, seconds = {}, 0, 0.0
    for corpus, problems in asked.items():
        with console.status(f"{name}: {len(problems)} questions of {corpus} at once"):
            done = model.generate([p.prompt for p in problems], max_new_tokens=NEW_TOKENS, return_dict=True)
        right = sum(p.grade(text) for p, text in zip(problems, done.texts, strict=True))
        shares[corpus] = f"{right}/{len(problems)}"
        tokens += done.stats.generated_tokens
        seconds += done.stats.prefill_seconds + done.stats.decode_seconds
    return Measured(name, model.n_parameters, shares, tokens / seconds, model.generator.programs.count)


@contextmanager
def live_loss(until: str) -> Iterator[Callable[[int, Mapping[str, float]], None]]:
    """Gives what shows the numbers of a step of training in one line that changes, with the time since its start."""
    begun = time.monotonic()
    with Live("", console=console, refresh_per_second=8) as live:

        def show(step: int, numbers: Mapping[str, float]) -> None:
            passed = f"{time.monotonic() - begun:3.0f} s, until {until}"
            pace = numbers.get("tokens_per_second")
            if "loss" in numbers:
                rest = f"   {pace:,.0f} tokens/s" if pace else ""
                live.update(f"  {passed}   step {step:,}   [bold]loss {numbers['loss']:.3f}[/]{rest}")

        yield show
    console.print()


def train(model_name: str, seconds: float, folder: Path) -> VishwamAI:
    """A small model after `seconds` of training; its loss stands in one line that changes."""
    shutil.rmtree(folder, ignore_errors=True)
    vocab_size = VishwamAI.from_pretrained(model_name).config.vocab_size
    changes = [f"training.data.tokenizer={model_name}", f"model.vocab_size={vocab_size}"]
    run, _ = config.load(RunConfig, ROOT / "configs/train/demo.json", changes)
    console.print(f"  {cost.count_parameters(run.model).total:,} parameters; the first step is compiled now")
    with live_loss(f"{seconds:.0f} s") as show:
        result = trainer.train(run, folder, max_seconds=seconds, sinks=(show,), show=False)
    return VishwamAI(run.model, result.weights, tokenizer=result.tokenizer)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", default="vishwamai/base", help="what answers first")
    parser.add_argument("--seconds", type=float, default=60, help="of training")
    parser.add_argument("--sample", type=int, default=16, help="questions of each corpus in the accuracies")
    parser.add_argument("--output", type=Path, default=ROOT / "build" / "demo")
    args = parser.parse_args()
    begun, asked = time.monotonic(), questions(args.sample)

    console.rule("1. The built-in model answers questions that it was not trained on")
    model = VishwamAI.from_pretrained(args.model)
    shown = [problems[0] for problems in asked.values()]
    for problem in shown:
        answer(model, problem)
    measured = [measure("built in", model, asked)]

    console.rule(f"2. A small model learns the same for {args.seconds:.0f} seconds, and is asked the same")
    small = train(args.model, args.seconds, args.output)
    for problem in shown:
        answer(small, problem)
    measured.append(measure("trained here", small, asked))

    console.rule("3. What was measured")
    table = Table("model", "parameters", *(name.replace("_", " ") for name in asked), "tokens/s", "compiles")
    for m in measured:
        table.add_row(m.name, f"{m.parameters:,}", *m.shares.values(), f"{m.tokens_per_second:,.0f}", str(m.compiles))
    console.print(table)
    console.print(f"picture of the loss: {args.output / 'loss.png'}")
    console.print(f"all of it took {time.monotonic() - begun:.0f} seconds")


if __name__ == "__main__":
    main()
