"""Hand-made answers as we read them, and as Math-Verify does: tests/reasoning/answers.jsonl, by kind.

python benchmarks/answers.py [--write]

Each row has a text, the right answer, whether the text gives it, and Math-Verify's verdict. Where the package
math-verify is installed it is asked anew, and `--write` notes what it says. It reads formulas between dollar signs, so
a right answer that is more than a number or words is given to it so.
"""

import importlib.util
import json
import logging
import re
import sys
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from vishwamai.reasoning.answers import equal, extract

ROWS = Path(__file__).parents[1] / "tests" / "reasoning" / "answers.jsonl"
BARE = re.compile(r"-?[0-9.,/]+%?|[A-Za-z .]+")


def main() -> None:
    rows = [json.loads(line) for line in ROWS.read_text(encoding="utf-8").splitlines()]
    if importlib.util.find_spec("math_verify"):
        verdicts = ask_math_verify(rows)
        changed = sum(row["math_verify"] != verdict for row, verdict in zip(rows, verdicts, strict=True))
        print(f"Math-Verify says something else of {changed} rows than when the file was written\n")
        rows = [row | {"math_verify": verdict} for row, verdict in zip(rows, verdicts, strict=True)]
    if "--write" in sys.argv:
        ROWS.write_text("".join(f"{json.dumps(row, ensure_ascii=False)}\n" for row in rows), encoding="utf-8")
    total, ours, theirs = Counter(), Counter(), Counter()
    for row in rows:
        for kind in (row["kind"], "all"):
            total[kind] += 1
            ours[kind] += equal(extract(row["text"]) or "", row["gold"]) == row["right"]
            theirs[kind] += row["math_verify"] == row["right"]
    print(f"{'right verdicts':<20} {'of':>4} {'ours':>5} {'Math-Verify':>12}")
    for kind in [*sorted(total.keys() - {"all"}), "all"]:
        print(f"{kind:<20} {total[kind]:>4} {ours[kind]:>5} {theirs[kind]:>12}")


def ask_math_verify(rows: Sequence[dict]) -> list[bool]:
    """Whether Math-Verify finds the right answer in each row's text."""
    import math_verify

    logging.disable(logging.CRITICAL)  # it logs what it cannot parse
    names = "LatexExtractionConfig", "ExprExtractionConfig", "StringExtractionConfig"
    how = [getattr(math_verify, name)() for name in names]
    verdicts = []
    for row in rows:
        gold = row["gold"] if BARE.fullmatch(row["gold"]) else f"${row['gold']}$"
        gold, answer = (math_verify.parse(text, extraction_config=how) for text in (gold, row["text"]))
        verdicts.append(math_verify.verify(gold, answer))
    return verdicts


if __name__ == "__main__":
    main()
