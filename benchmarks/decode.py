"""Greedy decoding beside transformers and llama.cpp: the same weights, prompts and machine, in turns.

    python benchmarks/decode.py [--rows 1 8 32] [--types q8_0 q4_0] [--prompt 64] [--new 64] [--repeats 5] [--json FILE]

Models with random weights of two sizes, and SmolLM2-135M-Instruct where `make smollm` fetched it; float32, with as many
threads as each takes by itself. Ours with layers by themselves, as a model is loaded, and scanned; transformers as it
is, and by torch.compile with a static cache; llama.cpp for one row, and for GGUF files of each type. A figure is new
tokens a second, the prompt's prefill included and compiling left out.
"""

import numpy as np
from models import gguf_file, models
from side_by_side import Contender, Report, compare, parse


def main() -> None:
    args = parse(__doc__, rows=[1, 8, 32], prompt=64, new=64, types=["q8_0", "q4_0"])
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
        if 1 in args.rows:
            for kind in args.types:
                report.add(
                    f"{name}, {kind}",
                    compare(_of_file(folder, vocabulary, kind, args), args.repeats, args.python),
                    args.new,
                )
    report.close()


def _of_file(folder, vocabulary: int, kind: str, args) -> list[Contender]:
    """One row of a GGUF file in few bits, as it lies; what ours leaves as it is (the head) is in bfloat16."""
    prompts = np.random.default_rng(1).integers(3, vocabulary, (1, args.prompt)).tolist()
    asked = {"model": str(gguf_file(folder, kind)), "prompts": prompts, "new": args.new}
    ours = Contender("ours", "ours", "decode", asked | {"quantization": "keep", "dtype": "bfloat16"})
    return [ours, Contender("llama.cpp", "llama_cpp_peer", "decode", asked)]


if __name__ == "__main__":
    main()
