"""How alike texts are, against cosines over unhashed counts in plain Python."""

import itertools
import math
import random
import re
import unicodedata
from collections import Counter

import numpy as np
import pytest

from vishwamai.errors import InputError
from vishwamai.reasoning.likeness import likeness


def plain_cosine(a: str, b: str) -> float:
    def counts(text: str) -> Counter:
        words = re.findall(r"\w+|[^\w\s]", unicodedata.normalize("NFKC", text).casefold())
        line = f" {' '.join(words)} "
        threes = [line[i : i + 3] for i in range(len(line) - 2)]
        return Counter([("word", w) for w in words] + list(itertools.pairwise(words)) + threes)

    one, two = counts(a), counts(b)
    norms = math.sqrt(sum(v * v for v in one.values()) * sum(v * v for v in two.values()))
    return sum(n * two[piece] for piece, n in one.items()) / norms


def test_it_is_the_cosine_of_counts():
    rng = random.Random(0)
    words = ["try", "add", "halve", "double", "10", "4", "+", "-", "(", ")", "six", "twenty-four", "so", "Naïve"]
    texts = [" ".join(rng.choices(words, k=rng.randint(1, 30))) for _ in range(60)]
    for text in texts[:10]:
        expected = [plain_cosine(text, other) for other in texts]
        np.testing.assert_allclose(likeness(text, texts), expected, atol=0.004)  # two pieces may share a bucket


@pytest.mark.parametrize(
    ("text", "near", "far"),
    [
        ("10 - 4 = 6 (left: 4 6 9)", "10 - 4 = 6 (left: 6 9 4)", "13 + 2 = 15 (left: 1 15 7)"),
        ("a triangle has three sides", "triangles have three sides", "water boils at one hundred degrees"),
        ("दस में से चार घटाओ", "दस में से पाँच घटाओ", "त्रिभुज की तीन भुजाएँ हैं"),
        ("三角形有三条边", "三角形有三个角", "水在一百度沸腾"),
        ("🙂🙃", "🙃🙂 x", "🚀"),
    ],
)
def test_near_texts_come_before_far_ones(text, near, far):
    same, closer, farther = likeness(text, [text, near, far])
    assert same == 1 > closer > 0.3 and closer > farther + 0.2


def test_case_width_and_composition_do_not_count():
    for a, b in [("Straße É", "STRASSE e\N{COMBINING ACUTE ACCENT}"), ("\uff11\uff10 + \uff14", "10 + 4")]:
        assert likeness(a, [b]) == [1]


def test_any_text_can_be_compared():
    strange = ["\ud800", "\0", "\u200b", "!", "a" * 5000, "\N{DIAERESIS}"]
    found = likeness("!", strange)
    assert np.isfinite(found).all() and found[3] == 1 and max(found[[0, 1, 2, 4]]) < 0.1
    assert likeness("a", []).shape == (0,)


def test_embeddings_stand_in_the_place_of_counts():
    vectors = {
        "sum": [2.0, 0.0],
        "plus": [3.0, 0.3],
        "triangle": [0.0, 1.0],
        "minus": [-1.0, 0.0],
        "nothing": [0.0, 0.0],
    }
    others = ["plus", "triangle", "minus", "nothing"]
    found = likeness("sum", others, lambda texts: np.array([vectors[text] for text in texts]))
    np.testing.assert_allclose(found, [3 / math.hypot(3, 0.3), 0, -1, 0], atol=1e-6)


@pytest.mark.parametrize("wrong", [np.zeros(3), np.zeros((2, 4)), np.full((3, 4), np.nan)])
def test_embeddings_are_one_vector_for_each_text(wrong):
    with pytest.raises(InputError, match="embed gave .* for 3 texts; it must be finite"):
        likeness("a", ["b", "c"], lambda texts: wrong)
