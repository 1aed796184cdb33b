"""The built-in model: as small as it claims, and right on a sample of what it was never asked.

`benchmarks/base_accuracy.py` asks everything that is held out. The bounds here lie three standard deviations below what
it prints, so they show a broken model or a broken path to it, and not the chance of a sample.
"""

import random
from importlib import resources

import pytest

from vishwamai import VishwamAI
from vishwamai.data import generated

SAMPLE = 40
LEAST = {"game24": 15, "word_problems": 37, "explanations": 36}


@pytest.fixture(scope="module")
def model():
    return VishwamAI.from_pretrained("vishwamai/base")


def test_it_is_small(model):
    assert model.n_parameters <= 4_000_000
    asset = resources.files("vishwamai") / "assets/base/model.safetensors"
    with resources.as_file(asset) as path:
        assert path.stat().st_size <= 8_000_000


@pytest.mark.parametrize("corpus", LEAST)
def test_it_answers_held_out_questions(model, corpus):
    problems = random.Random(1).sample(generated.held_out(corpus), SAMPLE)
    texts = model.complete([p.prompt for p in problems], max_new_tokens=256)
    right = sum(p.grade(text) for p, text in zip(problems, texts, strict=True))
    assert right >= LEAST[corpus], f"{right} of {SAMPLE}"
