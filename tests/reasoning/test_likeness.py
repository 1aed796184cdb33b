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
from vishwamai.reasoning.likeness import Likeness


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
    likeness = Likeness()
    for text in texts[:10]:
        expected = [plain_cosine(text, other) for other in texts]
        np.testing.assert_allclose(likeness.of(text, texts), expected, atol=0.004)  # two pieces may share a bucket


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
    same, closer, farther = Likeness().of(text, [text, near, far])
    assert same == 1 > closer > 0.3 and closer > farther + 0.2


def test_case_width_and_composition_do_not_count():
    likeness = Likeness()
    for a, b in [("Straße É", "STRASSE e\N{COMBINING ACUTE ACCENT}"), ("\uff11\uff10 + \uff14", "10 + 4")]:
        assert likeness.of(a, [b]) == [1]


def test_any_text_can_be_compared():
    strange = ["\ud800", "\0", "\u200b", "!", "a" * 5000, "\N{DIAERESIS}"]
    found = Likeness().of("!", strange)
    assert np.isfinite(found).all() and found[3] == 1 and max(found[[0, 1, 2, 4]]) < 0.1
    assert Likeness().of("a", []).shape == (0,)


def test_embeddings_take_the_place_of_counts_and_are_asked_for_once():
    known = {"east": (2, 0), "west": (-3, 0), "north": (0, 1), "north-east": (1, 1), "nowhere": (0, 0)}
    asked = []

    def embed(texts):
        asked.append(list(texts))
        return np.array([known[text] for text in texts], np.float32)

    likeness = Likeness(embed)
    texts = ["east", "west", "north", "north-east", "nowhere", "east"]
    for _ in range(2):
        np.testing.assert_allclose(likeness.of("east", texts), [1, -1, 0, 0.5**0.5, 0, 1], atol=1e-6)
    likeness.of("north", texts)
    assert asked == [["east", "west", "north", "north-east", "nowhere"]]


@pytest.mark.parametrize("bad", [[[1.0]], [1.0, 2.0], [[1.0], [np.nan]], [[], []], 3.0])
def test_bad_embeddings_are_refused(bad):
    with pytest.raises(InputError, match=r"embed gave an array of .* for 2 texts"):
        Likeness(lambda texts: np.array(bad)).of("a", ["b"])


def test_embeddings_do_not_change_their_width():
    widths = iter([2, 3])
    likeness = Likeness(lambda texts: np.ones((len(texts), next(widths))))
    likeness.of("a", ["b"])
    with pytest.raises(InputError, match=r"\[1, 3\] for 1 texts; it must be finite and \[1, 2\]"):
        likeness.of("a", ["c"])


def test_what_is_kept_is_not_counted_again():
    asked = []

    def embed(texts):
        asked.extend(texts)
        return np.ones((len(texts), 1))

    likeness = Likeness(embed)
    texts = [str(i) for i in range(200)]
    likeness.of("0", texts)
    likeness.keep(texts[:150])  # the others are fewer, and stay
    likeness.of("0", texts)
    assert len(asked) == 200
    likeness.keep(texts[:3])
    likeness.of("0", texts[:5])
    assert asked[200:] == ["3", "4"]
