"""Why `dtype="auto"` takes float32 for bfloat16 on a CPU: tokens a CPU second in each dtype, on random weights.

    python benchmarks/cpu_dtypes.py [--rounds N]

Prints one table. The dtypes take turns in one process; of each figure the best round counts, by the process's own CPU
seconds, so that what else runs on the machine matters little.
"""

import argparse
import time

import numpy as np
from rich.console import Console
from rich.table import Table

from vishwamai import VishwamAI
from vishwamai.models.config import ModelConfig, uniform
from vishwamai.precision import DTYPES

SIZES = {"vocab_size": 8192, "d_model": 512, "d_ff": 1408, "n_heads": 8, "n_kv_heads": 4, "head_dim": 64}
PROMPT, NEW = 256, 64


def tokens_a_second(model: VishwamAI, prompt: list[int], new: int) -> float:
    start = time.process_time()
    model.generate([prompt], max_new_tokens=new, eos_token_id=[]).block_until_ready()
    return (new if new > 1 else len(prompt)) / (time.process_time() - start)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=5)
    args = parser.parse_args()
    config = ModelConfig(**SIZES, stacks=uniform(8), max_length=PROMPT + NEW)
    models = {dtype: VishwamAI.from_config(config, dtype=dtype) for dtype in DTYPES}
    rng = np.random.default_rng(0)
    long, short = (rng.integers(0, config.vocab_size, n).tolist() for n in (PROMPT, 8))
    best = {dtype: [0.0, 0.0] for dtype in DTYPES}
    for turn in range(args.rounds + 1):  # the first one compiles
        for dtype, model in models.items():
            found = tokens_a_second(model, long, 1), tokens_a_second(model, short, NEW)
            best[dtype] = [max(pair) for pair in zip(best[dtype], found, strict=True)] if turn else best[dtype]
    table = Table("dtype", "prompt tokens a CPU second", "new tokens a CPU second", "of float32's")
    for dtype, (read, made) in best.items():
        table.add_row(
            dtype, f"{read:,.0f}", f"{made:,.1f}", f"{read / best['float32'][0]:.2f}, {made / best['float32'][1]:.2f}"
        )
    Console(highlight=False, width=110).print(table)


if __name__ == "__main__":
    main()
