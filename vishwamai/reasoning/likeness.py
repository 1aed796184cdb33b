"""How alike texts are: the cosine of their counts of words, pairs of words and three-letter pieces, or of embeddings.

Pieces are hashed with CRC-32 into 2^18 buckets (feature hashing: Weinberger et al., 2009), so equal texts give equal
figures in every process. Case and width do not count.
"""

import re
import unicodedata
import zlib
from collections.abc import Callable, Iterable, Sequence

import numpy as np

from vishwamai.errors import InputError

Embed = Callable[[list[str]], np.ndarray]
BUCKETS = 1 << 18
TOKEN = re.compile(r"\w+|[^\w\s]")
DIGITS = 6  # figures that differ by less are a tie: sums of floats differ in their last bits


class Likeness:
    """Compares texts, and keeps their vectors. `embed` gives an array [texts, width] in place of the counts."""

    def __init__(self, embed: Embed | None = None):
        self._embed = embed
        self._vectors: dict[str, tuple[np.ndarray, np.ndarray]] = {}  # places, and the values there; of length 1

    def of(self, text: str, others: Sequence[str]) -> np.ndarray:
        """The cosine of a text and each of the others, [others], -1 to 1. `InputError` for bad embeddings."""
        new = [text for text in dict.fromkeys([text, *others]) if text not in self._vectors]
        for name, (places, values) in zip(new, self._vectorize(new), strict=True):
            size = np.sqrt(np.sum(values * values))
            self._vectors[name] = places, (values / (size or 1)).astype(np.float32)
        if not others:
            return np.zeros(0)
        query = np.zeros(BUCKETS)
        places, values = self._vectors[text]
        query[places] = values
        places, values = zip(*(self._vectors[other] for other in others), strict=True)
        starts = np.cumsum([0, *map(len, places[:-1])])
        return np.round(np.add.reduceat(query[np.concatenate(places)] * np.concatenate(values), starts), DIGITS)

    def keep(self, texts: Sequence[str]) -> None:
        """Forgets the vectors of all other texts, once they are the greater part."""
        if len(self._vectors) > 2 * len(texts) + 64:
            self._vectors = {text: self._vectors[text] for text in set(texts) & self._vectors.keys()}

    def _vectorize(self, texts: list[str]) -> Iterable[tuple[np.ndarray, np.ndarray]]:
        if self._embed is None or not texts:
            return map(_count_pieces, texts)
        rows = np.asarray(self._embed(texts), np.float64)
        width = next((len(values) for _, values in self._vectors.values()), rows.shape[-1] if rows.ndim else 0)
        if rows.shape != (len(texts), width) or not 0 < width <= BUCKETS or not np.isfinite(rows).all():
            wanted = f"it must be finite and [{len(texts)}, {width or 'width'}]"
            raise InputError(f"embed gave an array of {list(rows.shape)} for {len(texts)} texts; {wanted}")
        return ((np.arange(width), row) for row in rows)


def _count_pieces(text: str) -> tuple[np.ndarray, np.ndarray]:
    """The buckets of a text's pieces, and how many pieces each has."""
    words = TOKEN.findall(unicodedata.normalize("NFKC", text).casefold())
    line = f" {' '.join(words)} "
    pieces = [f"w{word}" for word in words]
    pieces += [f"p{first} {second}" for first, second in zip(words, words[1:], strict=False)]
    pieces += [f"c{line[i : i + 3]}" for i in range(max(len(line) - 2, 1))]
    hashes = [zlib.crc32(piece.encode("utf-8", "surrogatepass")) % BUCKETS for piece in pieces]
    places, counts = np.unique(hashes, return_counts=True)
    return places.astype(np.int32), counts
