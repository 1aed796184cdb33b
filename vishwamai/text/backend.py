"""The seam to the Rust library `tokenizers`: how it is loaded, and how its failures become ours.

A panic in Rust arrives as `PanicException`, which is no `Exception`; here it turns into a `TokenizerError` like the
rest. It knows nothing of folders, special tokens or chat.
"""

import json
import math
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tokenizers import Tokenizer

from vishwamai.errors import TokenizerError, VishwamAIError

# The library warns when a process that has tokenised in threads forks; who wants the threads sets this to "true".
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")

MAX_FILE_BYTES = 256_000_000
MAX_ID = 1 << 24
MAX_GROWTH = 64
MAX_CHARACTERS = 1 << 23


@contextmanager
def backend_errors(what: str, kind: type[VishwamAIError] = TokenizerError) -> Iterator[None]:
    """Raises `kind`, saying `what` and the library's own reason, for whatever the library throws within."""
    try:
        yield
    except (VishwamAIError, KeyboardInterrupt, SystemExit, GeneratorExit):
        raise
    except BaseException as error:
        raise kind(f"{what}: {str(error).strip() or type(error).__name__}") from None


def load_backend(path: Path) -> Tokenizer:
    """The tokenizer in a `tokenizer.json`.

    Raises `TokenizerError` for a file that is missing, over 256 MB, not UTF-8 or damaged, and for ids out of range.
    """
    raw = read_bounded(path, MAX_FILE_BYTES)
    with backend_errors(f"{path}: is not a tokenizer that the tokenizers library reads; is the file damaged?"):
        backend = Tokenizer.from_str(raw.decode("utf-8"))
    check_backend(backend, str(path))
    return backend


def check_text(text: str, where: str = "the text") -> None:
    """Raises `TokenizerError` for a text that is too long, or not UTF-8 (lone surrogates)."""
    if len(text) > MAX_CHARACTERS:
        raise TokenizerError(f"{where} has {len(text):,} characters, over {MAX_CHARACTERS:,}; encode it in parts")
    try:
        text.encode("utf-8")
    except UnicodeEncodeError as error:
        raise TokenizerError(f"{where} has a lone surrogate at character {error.start}: it is not UTF-8") from None


def read_bounded(path: Path, max_bytes: int) -> bytes:
    """A regular file's bytes. Raises `TokenizerError` where it cannot be read or has more than `max_bytes`."""
    if path.exists() and not path.is_file():
        raise TokenizerError(f"{path}: is not a regular file")
    try:
        with path.open("rb") as file:
            raw = file.read(max_bytes + 1)
    except OSError as error:
        raise TokenizerError(f"{path}: cannot be read ({error.strerror}); check the path") from None
    if len(raw) > max_bytes:
        raise TokenizerError(f"{path}: is over {max_bytes:,} bytes, too large for what it should be")
    return raw


def check_backend(backend: Tokenizer, where: str) -> dict[str, int]:
    """Every token and its id, once the tokenizer is known to have tokens and sensible ids."""
    vocab = backend.get_vocab(with_added_tokens=True)
    ids = vocab.values()
    if not ids:
        raise TokenizerError(f"{where}: has an empty vocabulary")
    if max(ids) >= MAX_ID:
        raise TokenizerError(f"{where}: has the id {max(ids)}; ids from {MAX_ID} up are refused as damage")
    if (growth := _growth(backend)) > MAX_GROWTH:
        raise TokenizerError(f"{where}: its normalizer can make a text {growth:,.0f} times as long; refused as hostile")
    return vocab


def _growth(backend: Tokenizer) -> float:
    """How many times longer its `Replace` normalizers, one after the other, can make a text."""
    if backend.normalizer is None:
        return 1.0
    pending, growth = [json.loads(backend.normalizer.__getstate__())], 1.0
    while pending:
        step = pending.pop()
        pending += step.get("normalizers", [])
        if step.get("type") == "Replace":
            # A regular expression may match at every character, before it and after it.
            pattern = step["pattern"].get("String", "")
            growth *= max(1.0, len(step["content"]) / max(1, len(pattern)) + (not pattern and len(step["content"]) > 1))
    return math.inf if growth > 1e9 else growth
