"""Rows as they grow: what is new comes once, and a row ends at the token that completes a stop string.

The token is found by brute force: the whole text after each token, decoded with the prompt before it.
"""

import random
from types import SimpleNamespace

import numpy as np
import pytest
from tokenizers import Tokenizer, decoders, models

from vishwamai.generation.results import GeneratedRow, generation
from vishwamai.generation.sampling import SamplingParams
from vishwamai.text.continuation import Continuation
from vishwamai.text.tokenizer import VishwamAITokenizer

WORDS = ["▁a", "▁b", "c", "▁", ".", "<0x0A>", "<0xC3>", "<0xA9>"]
N, N_WORDS = 12, 5  # the words, then the bytes
LLAMA = decoders.Sequence(
    [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
)


def tokenizer_with(decoder) -> VishwamAITokenizer:
    """Eight tokens; the decoder drops a space where a text begins, and may read `<0x0A>` as a byte."""
    backend = Tokenizer(models.WordLevel({word: i for i, word in enumerate(WORDS)}, unk_token="."))
    backend.decoder = decoder
    return VishwamAITokenizer(backend)


METASPACE, BYTES = tokenizer_with(decoders.Metaspace()), tokenizer_with(LLAMA)


def grown(tokenizer, prompt: list[int], new: list[int], stop: list[str], turns: list[int]) -> tuple[GeneratedRow, list]:
    """The row after the device has made `new`, looked at after so many tokens each time; and its chunks."""
    row = GeneratedRow(index=0, prompt_length=len(prompt), params=SamplingParams(stop=stop, logprobs=2))
    row.stop_checker = Continuation(tokenizer, prompt, stop) if stop else None
    size = len(prompt) + len(new)
    pairs = np.arange(2 * size).reshape(1, size, 2)
    arrays = {"tokens": np.array([prompt + new]), "logprobs": -np.arange(size, dtype=np.float32)[None]}
    view = SimpleNamespace(**arrays, top_ids=pairs, top_logprobs=-pairs.astype(np.float32))
    chunks = []
    for made in [*turns, len(new)]:
        gained = slice(row.prompt_length + len(row.tokens), len(prompt) + made)
        chunks.append(row.append(view, 0, gained, "length" if made == len(new) else None))
    return row, [chunk for chunk in chunks if chunk is not None]


def needed(tokenizer, prompt: list[int], new: list[int], stop: list[str]) -> int | None:
    """How many tokens it takes to complete a stop string."""
    before = len(tokenizer.decode(prompt))
    texts = [tokenizer.decode(prompt + new[:n])[before:] for n in range(1, len(new) + 1)]
    return next((n for n, text in enumerate(texts, 1) if any(s in text for s in stop)), None)


@pytest.mark.parametrize(("tokenizer", "n_tokens"), [(METASPACE, N_WORDS), (BYTES, len(WORDS))])
def test_a_row_ends_at_the_token_that_completes_a_stop_string(tokenizer, n_tokens):
    choose, cut_short = random.Random(5), 0
    for _ in range(400):
        prompt = choose.choices(range(N_WORDS), k=choose.randrange(1, 4))
        new = choose.choices(range(n_tokens), k=choose.randrange(1, N))
        stop = ["".join(choose.choices(" abcé.\n", k=choose.randrange(1, 3))) for _ in range(2)]
        turns = sorted(choose.choices(range(1, len(new) + 1), k=2))
        row, chunks = grown(tokenizer, prompt, new, stop, turns)
        n = needed(tokenizer, prompt, new, stop)
        assert row.tokens == new[:n], (prompt, new, stop)
        assert row.reason == ("length" if n is None else "stop")
        assert [t for chunk in chunks for t in chunk.tokens] == row.tokens
        assert [chunk.finish_reason for chunk in chunks] == [None] * (len(chunks) - 1) + [row.reason]
        cut_short += n is not None and n < len(new)
    assert cut_short > 100


def test_a_space_before_the_first_new_word_counts():
    row, _ = grown(METASPACE, [0], [1, 2, 0], [" b"], [])
    assert row.tokens == [1] and row.reason == "stop"


def test_a_stop_string_of_a_byte_token_ends_the_row_at_once():
    row, _ = grown(BYTES, [0], [1, 5, 5, 0], ["\n"], [2])
    assert row.tokens == [1, 5] and row.reason == "stop"


def test_what_comes_with_the_tokens_is_cut_with_them():
    row, chunks = grown(METASPACE, [0], [1, 4, 2], ["."], [1])
    assert row.logprobs == [-1.0, -2.0] and row.top_logprobs == [{2: -2.0, 3: -3.0}, {4: -4.0, 5: -5.0}]
    assert [chunk.logprobs for chunk in chunks] == [[-1.0], [-2.0]]
    made = generation([row], stats=None)
    assert (made.tokens, made.finish_reasons, made.logprobs) == ([[1, 4]], ["stop"], [row.logprobs])


def test_without_stop_strings_no_text_is_made():
    row, chunks = grown(None, [0], [1, 4, 2], [], [2, 2])
    assert row.tokens == [1, 4, 2] and row.reason == "length"
    assert [chunk.tokens for chunk in chunks] == [[1, 4], [2]]
