"""A mixture of experts beside a dense model of as many active parameters: a training step, and decoding, float32.

    python benchmarks/moe.py [--repeats 5] [--json FILE] [--picture FILE]

Six layers of 384; the dense one has a feed-forward of 1,024, the mixture eight experts of 512 of which each token meets
two. Each implementation of experts is timed. The ratio says how many times as fast as the other the dense one is.
"""

import numpy as np
from models import TRAINED, random_model
from side_by_side import Contender, Report, compare, parse

MIXTURE = TRAINED | {"n_experts": 8, "n_experts_per_token": 2, "d_expert": TRAINED["d_ff"] // 2}
EXPERTS = ("ragged", "blocked")


def main() -> None:
    args = parse(__doc__, rows=8, length=256, new=64)
    dense, mixture = random_model("trained", **TRAINED), random_model("mixture", **MIXTURE)
    rng = np.random.default_rng(0)
    rows = rng.integers(3, TRAINED["vocab_size"], (args.rows, args.length + 1)).tolist()
    trained = {"rows": rows, "scan_layers": False}
    report = Report("mixture of experts", args, "tokens")
    contenders = [Contender("dense", "ours", "train", {"model": str(dense)} | trained)]
    contenders += [
        Contender(f"mixture, {how}", "ours", "train", {"model": str(mixture), "experts": how} | trained)
        for how in EXPERTS
    ]
    measured = compare(contenders, args.repeats, args.python)
    report.add(f"training, {args.rows} x {args.length}", measured, args.rows * args.length)
    prompts = {"prompts": rng.integers(3, TRAINED["vocab_size"], (1, 64)).tolist(), "new": args.new}
    contenders = [
        Contender("dense", "ours", "decode", {"model": str(dense)} | prompts),
        Contender("mixture, blocked", "ours", "decode", {"model": str(mixture)} | prompts),
    ]
    report.add("decoding, 1 row", compare(contenders, args.repeats, args.python), args.new)
    report.close()


if __name__ == "__main__":
    main()
