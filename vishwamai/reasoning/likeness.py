"""How alike texts are: the cosine of embeddings, or of counts of words, pairs of words and three-letter pieces.

Pieces are hashed with CRC-32 into 2^18 buckets (feature hashing: Weinberger et al., 2009), so equal texts give equal
figures in every process. Case and width do not count.
"""

import functools
import re
import unicodedata
import zlib
from collections.abc import Callable, Sequence

import numpy as np

from vishwamai.errors import InputError

Embed = Callable[[list[str]], np.ndarray]
BUCKETS = 1 << 18
TOKEN = re.compile(r"\w+|[^\w\s]")
DIGITS = 6  # figures that differ by less are a tie: sums of floats differ in their last bits


def likeness(text: str, others: Sequence[str], embed: Embed | None = None) -> np.ndarray:
    """Returns the cosine of a text and each of the others, [others], by `embed`'s vectors [texts, width] or by counts.

    Raises `InputError` for vectors that are not finite, or not one for each text.
    """
    if not others:
        return np.zeros(0)
    if embed is not None:
        vectors = np.asarray(embed([text, *others]), np.float64)
        if vectors.ndim != 2 or len(vectors) != len(others) + 1 or not np.isfinite(vectors).all():
            n = len(others) + 1
            raise InputError(f"embed gave {list(vectors.shape)} for {n} texts; it must be finite and [{n}, width]")
        vectors /= np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), 1e-30)
        return np.round(vectors[1:] @ vectors[0], DIGITS)
    query = np.zeros(BUCKETS)
    places, values = _text_vector(text)
    query[places] = values
    places, values = zip(*map(_text_vector, others), strict=True)
    starts = np.cumsum([0, *map(len, places[:-1])])
    return np.round(np.add.reduceat(query[np.concatenate(places)] * np.concatenate(values), starts), DIGITS)


@functools.lru_cache(maxsize=1 << 15)
def _text_vector(text: str) -> tuple[np.ndarray, np.ndarray]:
    """Returns the buckets of a text's pieces, and how many pieces each has, as a vector of length 1."""
    words = TOKEN.findall(unicodedata.normalize("NFKC", text).casefold())
    line = f" {' '.join(words)} "
    pieces = [f"w{word}" for word in words]
    pieces += [f"p{first} {second}" for first, second in zip(words, words[1:], strict=False)]
    pieces += [f"c{line[i : i + 3]}" for i in range(max(len(line) - 2, 1))]
    hashes = [zlib.crc32(piece.encode("utf-8", "surrogatepass")) % BUCKETS for piece in pieces]
    places, counts = np.unique(hashes, return_counts=True)
    return places.astype(np.int32), (counts / np.sqrt(np.sum(counts * counts))).astype(np.float32)
