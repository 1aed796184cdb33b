"""Explanations of machine-learning terms and of VishwamAI, written for this project, as questions and answers.

The text is `assets/explanations.md`: each heading is a term as it stands in a sentence, the paragraph under it the
whole answer. A term is asked for in several phrasings, and one phrasing of each term is held out, so the held-out set
asks whether a known term is found from words that it was never asked with. It knows no tokens and no model.
"""

import functools
import random
import zlib
from collections import Counter
from importlib import resources

from vishwamai.data.rows import Problem, Row

PHRASINGS = (
    "Explain the concept of {term}:",
    "What is {term}?",
    "Define {term}.",
    "Explain {term}.",
    "Tell me about {term}.",
    "Can you explain {term}?",
    "Please describe {term}.",
)
ALWAYS_TRAINED = PHRASINGS[0]  # the phrasing that the documents use
MATCH = 0.8  # F1 of an answer's words against the explanation's, from which it counts as right


@functools.cache
def explanations() -> dict[str, str]:
    """Term -> its explanation."""
    text = resources.files("vishwamai").joinpath("assets/explanations.md").read_text(encoding="utf-8")
    parts = (part.split("\n", 1) for part in text.split("\n## ")[1:])
    return {term.strip(): " ".join(body.split()) for term, body in parts}


def held_out_phrasing(term: str) -> str:
    """The phrasing that is never trained on for this term."""
    others = [p for p in PHRASINGS if p != ALWAYS_TRAINED]
    return others[zlib.crc32(term.encode()) % len(others)]


def row(rng: random.Random, split: str = "train") -> Row:
    """A random term, asked in a phrasing of the split; the answer is in the loss, the question is not."""
    term = rng.choice(list(explanations()))
    kept_back = held_out_phrasing(term)
    phrasing = kept_back if split == "held_out" else rng.choice([p for p in PHRASINGS if p != kept_back])
    return Row(((phrasing.format(term=term), 0.0), (f"\n {explanations()[term]}", 1.0)))


def held_out() -> list[Problem]:
    """Every term in its held-out phrasing."""
    return [_problem(term, text) for term, text in explanations().items()]


def _problem(term: str, text: str) -> Problem:
    question = held_out_phrasing(term).format(term=term)
    return Problem(question, functools.partial(is_answer, text), "explanations", f"\n {text}")


def is_answer(text: str, answer: str) -> bool:
    """Whether an answer's words are those of the explanation, up to `MATCH` in F1 (Rajpurkar et al., 2016)."""
    want, got = Counter(text.lower().split()), Counter(answer.lower().split())
    shared = sum((want & got).values())
    return 2 * shared >= MATCH * (sum(want.values()) + sum(got.values()))
