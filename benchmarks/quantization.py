"""What fewer bits cost the built-in model (or any that answers its corpora): bytes, likelihood and right answers.

    python benchmarks/quantization.py [--model FOLDER] [--limit N] [--schemes int8 int4 ...]

Prints one table, a line a scheme, the unquantised weights first: all in one run and on the same problems. `same text`
is how often greedy answers equal those of the unquantised model, `nats lost` by how much the log-likelihood of a
token of its answers falls.
"""

import argparse

import jax
import numpy as np
from base_accuracy import completions, problems_of
from rich.console import Console
from rich.table import Table

from vishwamai import VishwamAI
from vishwamai.models import cost

SCHEMES = ("int8", "fp8", "int8:32", "int4:16", "int4", "int4:128")


def layer_bytes(model: VishwamAI) -> int:
    """What the layers' weights take, 4-bit values counted as half bytes."""
    leaves = jax.tree.leaves(model.weights.stacks)
    return sum(x.size // 2 if x.dtype.name.startswith(("int4", "float4")) else x.nbytes for x in leaves)


def likelihood(model: VishwamAI, texts: list[str]) -> float:
    """Mean log-likelihood of a token, in nats."""
    return float(np.mean(np.concatenate([np.asarray(score.logprobs) for score in model.score(texts)])))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", default="vishwamai/base")
    parser.add_argument("--schemes", nargs="+", default=SCHEMES)
    parser.add_argument("--limit", type=int, default=100, help="problems of each kind [%(default)s]")
    parser.add_argument("--batch", type=int, default=50)
    args = parser.parse_args()
    problems = [p for kind in problems_of(args.limit, at_once=False).values() for p in kind]
    table = Table("weights", "MB of layers", "bits a weight", "right", "of", "same text", "nats lost")
    first: tuple[list[str], float] | None = None
    for scheme in (None, *args.schemes):
        model = VishwamAI.from_pretrained(args.model, quantization=scheme)
        answers = completions(model, problems, args.batch)
        right = sum(problem.grade(answer) for problem, answer in zip(problems, answers, strict=True))
        first = first or (answers, 0.0)
        texts = [problem.prompt + answer for problem, answer in zip(problems, first[0], strict=True)][:200]
        nats = likelihood(model, texts)
        first = first if first[1] else (answers, nats)
        size = layer_bytes(model)
        same = sum(a == b for a, b in zip(answers, first[0], strict=True)) / len(answers)
        weights = cost.count_parameters(model.config).total - model.config.vocab_size * model.config.d_model
        bits = f"{8 * size / weights:.2f}"
        table.add_row(
            scheme or "float32", f"{size / 1e6:.2f}", bits, str(right), str(len(problems)), f"{same:.1%}",
            f"{first[1] - nats:.4f}",
        )  # fmt: skip
    Console(highlight=False, width=110).print(table)


if __name__ == "__main__":
    main()
