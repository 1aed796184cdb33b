"""How many tokens Muon needs to reach AdamW's held-out loss, on the built-in corpus.

    python benchmarks/optimizers.py [--steps 400] [--seeds 3]

A small model (that of `configs/train/demo.json`) is trained from random weights. Each of the two has the best of the
same learning rates, found with one seed: AdamW with all steps, Muon with 80% of them. AdamW's mean loss over the seeds
is the one to reach, and Muon tries to with 80%, 60% and 40% of the steps. Each run has a cosine schedule of its own
length to its end, so a shorter run is not a long one that was cut. Both are measured on the same held-out rows. Time is
not compared, and a step of Muon's takes longer.
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
RATES = (0.0025, 0.005, 0.01, 0.02, 0.04)
SHARES = (0.8, 0.6, 0.4)
WARMUP = 0.1  # of the steps


def losses(optimizer: str, rate: float, steps: int, seeds: range) -> list[float]:
    """The held-out loss at the end of a run, for each seed."""
    changes = [
        f"training.optimizer.optimizer={optimizer}", f"training.optimizer.learning_rate={rate}",
        "training.optimizer.schedule=cosine", f"training.optimizer.warmup_steps={round(WARMUP * steps)}",
        f"training.steps={steps}", f"logging.eval_every={steps}", "logging.eval_batches=16",
    ]  # fmt: skip
    found = []
    for seed in seeds:
        run = config.override(DEMO, *changes, f"training.seed={seed}", f"training.data.seed={seed}")
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

    def measure(optimizer: str, rate: float, steps: int, seeds: range) -> float:
        found = losses(optimizer, rate, steps, seeds)
        mean = statistics.mean(found)
        spread = f"{min(found):.4f} to {max(found):.4f}" if len(found) > 1 else "one seed"
        table.add_row(optimizer, f"{rate:g}", f"{steps * tokens:,}", f"{mean:.4f}", spread)
        return mean

    def find_rate(optimizer: str, steps: int) -> float:
        return min(RATES, key=lambda rate: measure(optimizer, rate, steps, range(1)))

    seeds, share_of = range(args.seeds), {share: round(share * args.steps) for share in SHARES}
    goal = measure("adamw", find_rate("adamw", args.steps), args.steps, seeds)
    rate = find_rate("muon", share_of[SHARES[0]])
    reached = [share for share, steps in share_of.items() if measure("muon", rate, steps, seeds) <= goal]
    console.print(table)
    if reached:
        console.print(f"Muon reaches AdamW's {goal:.4f} with {min(reached):.0%} of its tokens")
    else:
        console.print(f"Muon does not reach AdamW's {goal:.4f} with {max(SHARES):.0%} of its tokens")


if __name__ == "__main__":
    main()
