"""What weights of fewer bits give on a CPU: tokens a second of a model in each dtype, on random weights.

    python benchmarks/cpu_dtypes.py [--rounds N] [--layers N] [--weights float32 bfloat16 int8 int4]

Prints one table: SmolLM2-135M's shape, one stream, each layer compiled by itself. The kinds of weights take turns in
one process, and medians are compared; the load of the machine stands below, for who else runs there takes time as well.
"""

import argparse
import os
import time

import numpy as np
from rich.console import Console
from rich.table import Table

from vishwamai import VishwamAI
from vishwamai.models import transformer
from vishwamai.models.config import ModelConfig, uniform, unroll
from vishwamai.weights import quantize
from vishwamai.weights.quantize import NAMED, Scheme

SIZES = {"vocab_size": 49152, "d_model": 576, "d_ff": 1536, "n_heads": 9, "n_kv_heads": 3, "head_dim": 64}
PROMPT, NEW = 256, 64


def make_model(weights: str, layers: int) -> VishwamAI:
    """The model with weights of a dtype, or quantised beside others in one: `int8+bfloat16`."""
    kind, _, rest = weights.partition("+")
    config = unroll(ModelConfig(**SIZES, stacks=uniform(layers), tie_embeddings=True, max_length=2 * PROMPT))
    if kind not in NAMED:
        return VishwamAI.from_config(config, dtype=kind)
    model = VishwamAI.from_config(config, dtype=rest or "float32")
    model.weights = quantize.quantize(model.weights, transformer.specs(config), Scheme.named(kind))
    return model


def seconds(model: VishwamAI, prompt: list[int], new: int) -> float:
    start = time.perf_counter()
    model.generate([prompt], max_new_tokens=new, eos_token_id=[]).block_until_ready()
    return time.perf_counter() - start


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--layers", type=int, default=30)
    parser.add_argument("--weights", nargs="+", default=["float32", "bfloat16", "int8", "int4"])
    args = parser.parse_args()
    models = {weights: make_model(weights, args.layers) for weights in args.weights}
    rng = np.random.default_rng(0)
    long, short = (rng.integers(0, SIZES["vocab_size"], n).tolist() for n in (PROMPT, 8))
    taken = {weights: [] for weights in models}
    for turn in range(args.rounds + 1):  # the first one compiles
        for weights, model in models.items():
            one, many = seconds(model, short, 1), seconds(model, short, NEW)
            found = seconds(model, long, 1), (many - one) / (NEW - 1)
            taken[weights] += [found] if turn else []
    table = Table("weights", "prompt tokens/s", "new tokens/s", "/ the first's", "least, most")
    first = np.median(taken[args.weights[0]], axis=0)
    for weights, found in taken.items():
        read, made = np.median(found, axis=0)
        ratios = [a[1] / b[1] for a, b in zip(taken[args.weights[0]], found, strict=True)]
        table.add_row(
            weights, f"{PROMPT / read:,.0f}", f"{1 / made:,.1f}", f"{first[0] / read:.2f}, {first[1] / made:.2f}",
            f"{min(ratios):.2f}, {max(ratios):.2f}",
        )  # fmt: skip
    console = Console(highlight=False, width=110)
    console.print(table)
    console.print(f"{os.cpu_count()} processors, load {os.getloadavg()[0]:.1f}")


if __name__ == "__main__":
    main()
