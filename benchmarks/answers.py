"""Says what Math-Verify makes of the answers in tests/reasoning/answers.jsonl, and notes it there.

pip install math-verify
python benchmarks/answers.py [--write]

Each row has a text, the right answer, and whether the text gives it. Math-Verify reads formulas between dollar signs:
an answer that is more than a number or words is given to it so.
"""

import json
import logging
import re
import sys
from collections import Counter
from pathlib import Path

ROWS = Path(__file__).parents[1] / "tests" / "reasoning" / "answers.jsonl"
BARE = re.compile(r"-?[0-9.,/]+%?|[A-Za-z .]+")


def main() -> None:
    import math_verify

    logging.disable(logging.CRITICAL)  # it logs what it cannot parse
    names = "LatexExtractionConfig", "ExprExtractionConfig", "StringExtractionConfig"
    kinds = [getattr(math_verify, name)() for name in names]
    rows = [json.loads(line) for line in ROWS.read_text(encoding="utf-8").splitlines()]
    right, changed = Counter(), 0
    for row in rows:
        gold = row["gold"] if BARE.fullmatch(row["gold"]) else f"${row['gold']}$"
        gold, given = (math_verify.parse(text, extraction_config=kinds) for text in (gold, row["text"]))
        verdict = math_verify.verify(gold, given)
        changed += verdict != row["math_verify"]
        row["math_verify"] = verdict
        right[row["kind"]] += verdict == row["right"]
    for kind, n in Counter(row["kind"] for row in rows).items():
        print(f"{kind:<20} {right[kind]:>3} of {n:>3}")
    print(f"{'all':<20} {right.total():>3} of {len(rows):>3}; {changed} verdicts differ from those of the file")
    if "--write" in sys.argv:
        lines = (json.dumps(row, ensure_ascii=False) for row in rows)
        ROWS.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")


if __name__ == "__main__":
    main()
