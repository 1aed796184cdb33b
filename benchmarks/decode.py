"""Greedy decoding, with layers by themselves and scanned, against transformers: the same weights, prompts and machine.

    python benchmarks/decode.py [--batches 1 8] [--prompt 64] [--new 128] [--repeats 3]

Needs the `parity` extra; without it there is no column of transformers. All run in float32 on this machine's CPU, with
as many threads as each takes by itself, in turns. Each answers once before it is timed, so compiling is left out; a
figure is new tokens a second, the prompt's prefill included, in the median of the repeats. The first ratio is that of
layers by themselves, as a model is loaded, to scanned ones, the second that to transformers; the last column says what
share of the tokens is equal in all.
"""

import argparse
import importlib.util
import os
import statistics
import tempfile
import time
from collections.abc import Callable

os.environ["HF_HUB_OFFLINE"] = "1"

import jax
import numpy as np

from vishwamai import VishwamAI
from vishwamai.models.config import ModelConfig, uniform

COMMON = {"n_kv_heads": 4, "head_dim": 64, "max_length": 1024}
SMALL = {"vocab_size": 8192, "d_model": 512, "d_ff": 1408, "n_heads": 8, "stacks": uniform(6)}
LARGE = {"vocab_size": 16384, "d_model": 768, "d_ff": 2048, "n_heads": 12, "stacks": uniform(12)}


def seconds(calls: list[Callable[[], np.ndarray]], repeats: int) -> tuple[list[np.ndarray], list[float]]:
    """What each call gives, and the median of its seconds after a first call; they take turns."""
    made, taken = [call() for call in calls], [[] for _ in calls]
    for _ in range(repeats):
        for call, times in zip(calls, taken, strict=True):
            begun = time.perf_counter()
            call()
            times.append(time.perf_counter() - begun)
    return made, [statistics.median(times) for times in taken]


def ours(model: VishwamAI, prompts: np.ndarray, new: int) -> Callable[[], np.ndarray]:
    return lambda: np.asarray(model.generate(prompts, max_new_tokens=new))


def theirs(folder: str, prompts: np.ndarray, new: int) -> Callable[[], np.ndarray]:
    import torch
    import transformers

    model = transformers.AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    ids = torch.tensor(prompts)
    settings = {"max_new_tokens": new, "min_new_tokens": new, "do_sample": False, "pad_token_id": 0}

    def call():
        with torch.inference_mode():
            return model.generate(ids, attention_mask=torch.ones_like(ids), **settings).numpy()

    return call


def main() -> None:
    parser = argparse.ArgumentParser(description="Greedy decoding against transformers.")
    parser.add_argument("--batches", type=int, nargs="+", default=[1, 8])
    parser.add_argument("--prompt", type=int, default=64, help="tokens of each prompt")
    parser.add_argument("--new", type=int, default=128, help="new tokens of each row")
    parser.add_argument("--repeats", type=int, default=3)
    args = parser.parse_args()
    jax.config.update("jax_platforms", "cpu")
    has_peer = importlib.util.find_spec("transformers") is not None
    print(f"{'model':>8}{'rows':>6}{'tokens/s':>10}{'/ scanned':>11}{'/ transformers':>16}   same tokens")
    for sizes in (SMALL, LARGE):
        config = ModelConfig(**COMMON, **sizes)
        model = VishwamAI.from_config(config)
        name = f"{model.n_parameters / 1e6:.0f}M"
        with tempfile.TemporaryDirectory() as folder:
            model.save_pretrained(folder)
            models = [VishwamAI.from_pretrained(folder), VishwamAI.from_pretrained(folder, scan_layers=True)]
            for rows in args.batches:
                prompts = np.random.default_rng(rows).integers(3, config.vocab_size, (rows, args.prompt))
                calls = [ours(model, prompts, args.new) for model in models]
                calls += [theirs(folder, prompts, args.new)] if has_peer else []
                made, (own, *others) = seconds(calls, args.repeats)
                ratios = [f"{other / own:.2f}" for other in others] + ["-"] * (2 - len(others))
                same = np.mean([tokens == made[0] for tokens in made[1:]])
                pace = f"{rows * args.new / own:,.0f}"
                print(f"{name:>8}{rows:6}{pace:>10}{ratios[0]:>11}{ratios[1]:>16}   {same:.1%}", flush=True)


if __name__ == "__main__":
    main()
