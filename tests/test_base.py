"""The built-in model: as small as it claims, and right on a sample of what it was never asked.

`benchmarks/base_accuracy.py` asks everything that is held out. What is promised is 40% of the Game of 24's ranks
901-1000 and 90% of the word problems, by greedy decoding, and a conversation that is remembered; the bounds lie a
little above, and below what that prints.
"""

import random
import runpy
from importlib import resources
from pathlib import Path

import pytest

from vishwamai import VishwamAI
from vishwamai.data import generated

pytestmark = pytest.mark.by_turns

ROOT = Path(__file__).parent.parent
SAMPLE = 16  # the same for all, which then run the same programs


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
    assert right(model, random.Random(1).sample(ranked, SAMPLE)) >= 8


@pytest.mark.parametrize(
    ("corpus", "least"),
    [
        ("word_problems", 15),
        ("explanations", 15),
        ("word_problems_chat", 15),
        ("game24_chat", 6),
        ("conversations", 14),
    ],
)
def test_it_answers_held_out_questions(model, corpus, least):
    assert right(model, random.Random(1).sample(generated.held_out(corpus), SAMPLE)) >= least


def test_it_remembers_a_conversation_and_obeys_its_system_line(model):
    said = ["Hi, I am Alice.", "What is a token?", "In one sentence, please.", "I have 7 pears.", "I buy 5 more."]
    messages = [{"role": "system", "content": "You are called Nova."}]
    for text in [*said, "How many pears do I have?", "What is my name?", "What is your name?"]:
        messages.append({"role": "user", "content": text})
        messages.append(model.generate_chat(messages, max_new_tokens=120).message)
    replies = [message["content"] for message in messages if message["role"] == "assistant"]
    whole, short = replies[1:3]
    assert whole.startswith(short) and len(short) < len(whole) / 2
    assert replies[-3:] == ["You have 12 pears.", "Your name is Alice.", "My name is Nova."]


def test_the_guide_tells_what_ranked_puzzles_share_with_training():
    printed = runpy.run_path(str(ROOT / "benchmarks/base_accuracy.py"))["overlap"]()
    assert printed in (ROOT / "docs/06-usage-guide.md").read_text(encoding="utf-8").splitlines()
