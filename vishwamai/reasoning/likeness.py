"""How alike texts are: the cosine of their counts of words, pairs of words and three-letter pieces, or of embeddings.

Needs no model. Pieces are hashed with CRC-32 into 2^18 buckets (feature hashing: Weinberger et al., 2009), so equal
texts give equal figures in every process. Case and width do not count. It knows no memory.
"""

import re
import unicodedata
import zlib
from collections import Counter
from collections.abc import Callable, Sequence

import numpy as np

from vishwamai.errors import InputError

Embed = Callable[[list[str]], np.ndarray]
Vector = tuple[np.ndarray, np.ndarray]  # places, and the values there; of length 1

BUCKETS = 1 << 18
TOKEN = re.compile(r"\w+|[^\w\s]")
DIGITS = 6  # figures that differ by less are a tie: sums of floats differ in their last bits


class Likeness:
    """Compares texts, and keeps what it knows of them. `embed` gives an array [texts, width] in place of the counts."""

    def __init__(self, embed: Embed | None = None):
        self._embed = embed
        self._known: dict[str, Vector] = {}

    def of(self, text: str, others: Sequence[str]) -> np.ndarray:
        """The cosine of a text and each of the others, [others], -1 to 1. `InputError` for bad embeddings."""
        self._learn([text, *others])
        if not others:
            return np.zeros(0)
        places, values = self._known[text]
        vectors = [self._known[other] for other in others]
        width = max(int(at[-1]) for at, _ in [(places, values), *vectors]) + 1
        dense = np.zeros(width)
        dense[places] = values
        at, there = (np.concatenate(parts) for parts in zip(*vectors, strict=True))
        starts = np.cumsum([0, *(len(part) for part, _ in vectors[:-1])])
        return np.round(np.add.reduceat(dense[at] * there, starts), DIGITS)

    def keep(self, texts: Sequence[str]) -> None:
        """Forgets all other texts, once they are the greater part."""
        if len(self._known) > 2 * len(texts) + 64:
            self._known = {text: self._known[text] for text in set(texts) & self._known.keys()}

    def _learn(self, texts: Sequence[str]) -> None:
        new = [text for text in dict.fromkeys(texts) if text not in self._known]
        if not new:
            return
        if self._embed is None:
            self._known.update((text, _unit(*_counts(text))) for text in new)
            return
        rows = np.asarray(self._embed(new), np.float64)
        width = next((len(values) for _, values in self._known.values()), rows.shape[-1] if rows.ndim else 0)
        if rows.shape != (len(new), width) or not width or not np.isfinite(rows).all():
            wanted = f"it must be finite and [{len(new)}, {width or 'width'}]"
            raise InputError(f"embed gave an array of {list(rows.shape)} for {len(new)} texts; {wanted}")
        places = np.arange(width)
        self._known.update((text, _unit(places, row)) for text, row in zip(new, rows, strict=True))


def _unit(places: np.ndarray, values: np.ndarray) -> Vector:
    size = np.sqrt(np.sum(values * values))
    return places, (values / size if size else values).astype(np.float32)


def _counts(text: str) -> tuple[np.ndarray, np.ndarray]:
    """The buckets of a text's pieces, in order, and how many pieces each has."""
    words = TOKEN.findall(unicodedata.normalize("NFKC", text).casefold())
    line = " ".join(["", *words, ""])
    pieces = [f"w{word}" for word in words]
    pieces += [f"p{first} {second}" for first, second in zip(words, words[1:], strict=False)]
    pieces += [f"c{line[i : i + 3]}" for i in range(max(len(line) - 2, 1))]
    hashed = Counter(zlib.crc32(piece.encode("utf-8", "surrogatepass")) % BUCKETS for piece in pieces)
    places = np.array(sorted(hashed), np.int32)
    return places, np.array([hashed[place] for place in places.tolist()], np.float64)
