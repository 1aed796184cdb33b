"""Reading a prompt to its next token, beside transformers and llama.cpp: the same weights, prompts and machine.

    python benchmarks/prefill.py [--length 512] [--repeats 5] [--python ...] [--json FILE] [--picture FILE]

Models with random weights of two sizes, and SmolLM2-135M-Instruct where `make smollm` fetched it; float32, one prompt.
"""

import numpy as np
from models import gguf_file, models
from side_by_side import Contender, Report, compare, parse


def main() -> None:
    args = parse(__doc__, length=[512])
    report = Report("prefill", args, "tokens")
    for name, folder, vocabulary in models():
        for length in args.length:
            ids = np.random.default_rng(length).integers(3, vocabulary, (1, length)).tolist()
            asked = {"model": str(folder), "prompts": ids}
            contenders = [
                Contender("ours", "ours", "prefill", asked),
                Contender("transformers", "pytorch", "prefill", asked),
                Contender("llama.cpp", "llama_cpp_peer", "prefill", asked | {"model": str(gguf_file(folder))}),
            ]
            report.add(f"{name}, {length} tokens", compare(contenders, args.repeats, args.python), length)
    report.close()


if __name__ == "__main__":
    main()
