"""Memory and start of training data from a JSONL file of any size, which this makes itself.

    python benchmarks/data_memory.py --gigabytes 5

Tokenises the file into a cache, and then, in a new process each, opens it cold and warm: seconds to the first batch and
how much the process's memory grew by while it drew batches (resident memory, files that are mapped among it). Figures
depend on the machine and on what else it does; the growth does not.
"""

import argparse
import json
import random
import resource
import subprocess
import sys
import time
from pathlib import Path

PARTS = 64  # texts are made of so many paragraphs, in turns
BATCHES = 200


def write_rows(path: Path, size: int) -> None:
    """A JSONL file of about `size` bytes: paragraphs of made-up words, numbered."""
    rng = random.Random(0)
    words = ["".join(rng.choices("abcdefghijklmnopqrstuvwxyz", k=rng.randint(2, 9))) for _ in range(5000)]
    paragraphs = [" ".join(rng.choices(words, k=rng.randint(20, 300))) for _ in range(PARTS)]
    written = number = 0
    with path.open("w", encoding="utf-8") as file:
        while written < size:
            line = json.dumps({"id": number, "text": f"{number} {paragraphs[number % PARTS]}"}) + "\n"
            written, number = written + len(line), number + 1
            file.write(line)


def draw(path: Path, cache: Path) -> None:
    """Prints what one start takes."""
    from vishwamai.data.corpus import Corpus, Data, Source
    from vishwamai.data.loader import PackedBatches
    from vishwamai.text.tokenizer import VishwamAITokenizer

    tokenizer = VishwamAITokenizer.from_pretrained("vishwamai/base")
    before, begun = _resident(), time.monotonic()
    source = Source(kind="jsonl", name=str(path))
    corpus = Corpus(Data(sources=(source,), tokenizer="bytes", cache=str(cache)), tokenizer)
    batches = PackedBatches(corpus.samples(), batch=32, length=1024)
    next(batches)
    first = time.monotonic() - begun
    for _ in range(BATCHES):
        next(batches)
    grown = (_resident() - before) / 1e6
    print(f"first batch {first:.1f} s; memory grew by {grown:.0f} MB at most; {corpus.rows[source].facts}", flush=True)


def _resident() -> int:
    """The most bytes that the process has had resident."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--gigabytes", type=float, default=5.0)
    parser.add_argument("--folder", type=Path, default=Path("build/data_memory"), help="for the file and the cache")
    parser.add_argument("--draw", action="store_true", help=argparse.SUPPRESS)
    args = parser.parse_args()
    path, cache = args.folder / f"{args.gigabytes:g}.jsonl", args.folder / "cache"
    if args.draw:
        return draw(path, cache)
    args.folder.mkdir(parents=True, exist_ok=True)
    if not path.exists():
        write_rows(path, int(args.gigabytes * 1e9))
    for state in ("the first start" if not cache.exists() else "a start", "a warm start"):
        print(f"{path.stat().st_size / 1e9:.2f} GB, {state}:", end=" ", flush=True)
        again = [sys.executable, __file__, "--draw", "--gigabytes", f"{args.gigabytes:g}", "--folder", str(args.folder)]
        subprocess.run(again, check=True)


if __name__ == "__main__":
    main()
