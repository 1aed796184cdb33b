"""The built-in model: as small as it claims, and right on a sample of what it was never asked.

`benchmarks/base_accuracy.py` asks everything that is held out. What is promised is 40% of the Game of 24's ranks
901-1000 and 90% of the word problems, by greedy decoding; the bounds lie a little above, and below what that prints.
"""

import random
import runpy
from importlib import resources
from pathlib import Path

import pytest

from vishwamai import VishwamAI
from vishwamai.data import generated

ROOT = Path(__file__).parent.parent


@pytest.fixture(scope="module")
def model():
    return VishwamAI.from_pretrained("vishwamai/base")


def test_it_is_small(model):
    assert model.n_parameters <= 4_000_000
    asset = resources.files("vishwamai") / "assets/base/model.safetensors"
    with resources.as_file(asset) as path:
        assert path.stat().st_size <= 8_000_000


def right(model, problems):
    texts = model.complete([p.prompt for p in problems], max_new_tokens=256)
    return sum(p.grade(text) for p, text in zip(problems, texts, strict=True))


def test_it_solves_the_ranked_puzzles(model):
    ranked = [p for p in generated.held_out("game24") if p.kind == "game24.ranked"]
    assert len(ranked) == 100
    assert right(model, ranked) >= 45


@pytest.mark.parametrize(("corpus", "sample", "least"), [("word_problems", 100, 93), ("explanations", 40, 36)])
def test_it_answers_held_out_questions(model, corpus, sample, least):
    assert right(model, random.Random(1).sample(generated.held_out(corpus), sample)) >= least


def test_the_guide_tells_what_ranked_puzzles_share_with_training():
    printed = runpy.run_path(str(ROOT / "benchmarks/base_accuracy.py"))["overlap"]()
    assert printed in (ROOT / "docs/06-usage-guide.md").read_text(encoding="utf-8").splitlines()
