"""Greedy decoding beside transformers and llama.cpp: the same weights, prompts and machine, in turns.

    python benchmarks/decode.py [--rows 1 8 32] [--prompt 64] [--new 64] [--repeats 5] [--python ...] [--json FILE]

Models with random weights of two sizes, and SmolLM2-135M-Instruct where `make smollm` fetched it; float32, with as many
threads as each takes by itself. Ours with layers by themselves, as a model is loaded, and scanned; transformers as it
is, and by torch.compile with a static cache; llama.cpp for one row. A figure is new tokens a second, the prompt's
prefill included and compiling left out.
"""

import numpy as np
from models import gguf_file, models
from side_by_side import Contender, Report, compare, parse


def main() -> None:
    args = parse(__doc__, rows=[1, 8, 32], prompt=64, new=64)
    report = Report("decoding", args, "tokens")
    for name, folder, vocabulary in models():
        for rows in args.rows:
            prompts = np.random.default_rng(rows).integers(3, vocabulary, (rows, args.prompt)).tolist()
            asked = {"model": str(folder), "prompts": prompts, "new": args.new}
            contenders = [
                Contender("ours", "ours", "decode", asked),
                Contender("ours, layers scanned", "ours", "decode", asked | {"scan_layers": True}),
                Contender("transformers", "pytorch", "decode", asked),
                Contender("transformers, static", "pytorch", "decode", asked | {"cache_implementation": "static"}),
            ]
            if rows == 1:
                file = str(gguf_file(folder))
                contenders.append(Contender("llama.cpp", "llama_cpp_peer", "decode", asked | {"model": file}))
            measured = compare(contenders, args.repeats, args.python)
            report.add(f"{name}, {rows} row{'s' * (rows > 1)}", measured, rows * args.new)
    report.close()


if __name__ == "__main__":
    main()
