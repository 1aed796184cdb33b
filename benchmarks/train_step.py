"""A training step in float32 on this machine, beside PyTorch: the same weights, tokens and optimiser (AdamW).

    python benchmarks/train_step.py [--repeats 5] [--python pytorch=...] [--json FILE] [--picture FILE]

Six layers of 384 and a context of 256, eight rows, a vocabulary of 8,192; PyTorch as it is and by `torch.compile`.
"""

import numpy as np
from models import TRAINED, random_model
from side_by_side import Contender, Report, compare, parse


def main() -> None:
    args = parse(__doc__, rows=8, length=256)
    report = Report("a training step", args, "tokens")
    folder = random_model("trained", **TRAINED)
    rows = np.random.default_rng(0).integers(3, TRAINED["vocab_size"], (args.rows, args.length + 1)).tolist()
    asked = {"model": str(folder), "rows": rows}
    contenders = [
        Contender("ours", "ours", "train", asked | {"scan_layers": False}),
        Contender("ours, layers scanned", "ours", "train", asked),
        Contender("PyTorch", "pytorch", "train", asked),
        Contender("torch.compile", "pytorch", "train", asked | {"compile_model": True}),
    ]
    measured = compare(contenders, args.repeats, args.python)
    report.add(f"{args.rows} x {args.length}", measured, args.rows * args.length)
    report.close()


if __name__ == "__main__":
    main()
