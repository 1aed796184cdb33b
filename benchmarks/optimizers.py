"""How many tokens Muon needs to reach AdamW's held-out loss, on the built-in corpus.

    python benchmarks/optimizers.py [--steps 400] [--seeds 3]

A small model (that of `configs/train/demo.json`) is trained from random weights by AdamW at three learning rates; the
best of them is the loss to reach. Then by Muon, also at three rates, with 80%, 60% and 40% of the steps. Each run has a
cosine schedule of its own length to its end, so a shorter run is not a long one that was cut. What is compared is the
loss of each on the same held-out rows, mean and range over seeds; time is not, and a step of Muon's costs more.
"""

import argparse
import statistics
import tempfile
from pathlib import Path

from rich.console import Console
from rich.table import Table

from vishwamai import config
from vishwamai.models import transformer
from vishwamai.training.config import RunConfig
from vishwamai.training.trainer import train
from vishwamai.weights import spec

ROOT = Path(__file__).parent.parent
RATES = (0.003, 0.006, 0.012)
SHARES = (0.8, 0.6, 0.4)
WARMUP = 0.1  # of the steps


def losses(optimizer: str, rate: float, steps: int, seeds: int) -> list[float]:
    """The held-out loss at the end of a run, for each seed."""
    changes = [
        f"training.optimizer.optimizer={optimizer}", f"training.optimizer.learning_rate={rate}",
        "training.optimizer.schedule=cosine", f"training.optimizer.warmup_steps={round(WARMUP * steps)}",
        f"training.steps={steps}", f"logging.eval_every={steps}", "logging.eval_batches=16",
    ]  # fmt: skip
    found = []
    for seed in range(seeds):
        run = config.override(DEMO, *changes, f"training.seed={seed}")
        with tempfile.TemporaryDirectory() as folder:
            found.append(train(run, folder, show=False).eval_loss)
    return found


DEMO, _ = config.load(RunConfig, ROOT / "configs/train/demo.json")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--steps", type=int, default=400)
    parser.add_argument("--seeds", type=int, default=3)
    args = parser.parse_args()
    console, tokens = Console(), DEMO.training.batch * DEMO.training.length
    table = Table("optimiser", "learning rate", "tokens", "held-out loss", "range")
    size = spec.n_parameters(transformer.specs(DEMO.model))
    console.print(f"{size:,} parameters, {args.steps} steps of {tokens:,} tokens, {args.seeds} seeds")

    def measure(optimizer: str, rate: float, steps: int) -> float:
        found = losses(optimizer, rate, steps, args.seeds)
        mean = statistics.mean(found)
        spread = f"{min(found):.4f} to {max(found):.4f}"
        table.add_row(optimizer, f"{rate:g}", f"{steps * tokens:,}", f"{mean:.4f}", spread)
        return mean

    goal = min(measure("adamw", rate, args.steps) for rate in RATES)
    reached = []
    for share in SHARES:
        best = min(measure("muon", rate, round(share * args.steps)) for rate in RATES)
        reached += [share] if best <= goal else []
    console.print(table)
    if reached:
        console.print(f"Muon reaches AdamW's {goal:.4f} with {min(reached):.0%} of its tokens")
    else:
        console.print(f"Muon does not reach AdamW's {goal:.4f} with {max(SHARES):.0%} of its tokens")


if __name__ == "__main__":
    main()
