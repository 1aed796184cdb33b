"""Small tokenizers, trained here, and text that has broken others."""

import pytest
from tokenizers import AddedToken

from vishwamai.text.tokenizer import VishwamAITokenizer

CORPUS = [
    "The cat sat on the mat, and the dog sat on the log. It's what they're doing: sitting!",
    "12 + 34 = 46; 1234567 * 2 = 2469134\n\n\tdef f(x):\n    return x ** 2\r\n",
    "Grüße aus Köln; привет, мир; 你好世界; नमस्ते दुनिया; 🙂🙃 👩‍👩‍👧‍👦",
] * 8

HARD_TEXTS = [
    "",
    " ",
    "  two  spaces  ",
    "a\0b\0\0",
    "line\nline\r\nline\r",
    "👩‍👩‍👧‍👦 e\u0301\u0301 \u200d\u200d\ufeff",
    "\ufffd \ufffe \U0010ffff \U000f0000",
    "नमस्ते 你好 שלום\u202e",
    "<|eos|> <|eos <|<|user|>|>",
    "x" * 3000,
    "".join(map(chr, range(1, 0x250))),
]


@pytest.fixture(scope="session")
def trained() -> VishwamAITokenizer:
    return VishwamAITokenizer.train(CORPUS, 400)


@pytest.fixture(scope="session")
def chatty() -> VishwamAITokenizer:
    """Like Qwen's: control tokens of ChatML, and `<think>` and tool tokens that are added but not special."""
    special = ("<|endoftext|>", "<|im_start|>", "<|im_end|>")
    tokenizer = VishwamAITokenizer.train(CORPUS, 400, special_tokens=special)
    words = ["<think>", "</think>", "<tool_call>", "</tool_call>", "<tool_response>", "</tool_response>", "<h1>"]
    tokenizer.backend.add_tokens([AddedToken(word, normalized=False) for word in words])
    return tokenizer.with_tokens(eos_token="<|im_end|>", pad_token="<|endoftext|>")
