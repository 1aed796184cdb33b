"""The tasks by llama.cpp, through llama-cpp-python; a model is a GGUF file."""

import os
from collections.abc import Callable
from typing import Any

import llama_cpp
from llama_cpp.llama_chat_format import Jinja2ChatFormatter

VERSION = f"llama-cpp-python {llama_cpp.__version__}"


def _load(model: str, context: int, **options: Any) -> llama_cpp.Llama:
    threads = os.cpu_count()
    sizes = {"n_ctx": context, "n_batch": context, "n_ubatch": context}
    return llama_cpp.Llama(
        model, **{"n_threads": threads, "n_threads_batch": threads, "verbose": False} | sizes | options
    )


def decode(model: str, prompts: list[list[int]], new: int, **options: Any) -> Callable[[], list[list[int]]]:
    """Returns the greedy continuation of each prompt; one prompt at a time."""
    loaded = _load(model, max(map(len, prompts)) + new + 1, **options)

    def one(prompt: list[int]) -> list[int]:
        loaded.reset()
        tokens = loaded.generate(prompt, temp=0.0, repeat_penalty=1.0, reset=True)
        return [int(token) for token, _ in zip(tokens, range(new), strict=False)]

    return lambda: [one(prompt) for prompt in prompts]


def prefill(model: str, prompts: list[list[int]]) -> Callable[[], list[int]]:
    """Returns the likeliest token after each prompt."""
    continued = decode(model, prompts, 1)
    return lambda: [row[0] for row in continued()]


def encode(model: str, prompts: list) -> Callable[[], list[list[int]]]:
    """Returns the ids of texts, and of the prompts of chats by the file's own template."""
    loaded = _load(model, 64, vocab_only=True)
    render = Jinja2ChatFormatter(loaded.metadata["tokenizer.chat_template"], eos_token="", bos_token="")
    texts = [prompt if isinstance(prompt, str) else render(messages=prompt).prompt for prompt in prompts]
    return lambda: [loaded.tokenize(text.encode(), special=True) for text in texts]


def logits(model: str, prompts: list[list[int]], made: list[list[int]], **options: Any) -> Callable[[], list]:
    """Returns the logits after each prompt and what was made of it, read as in generating: one token at a time."""
    longest = max(len(a + b) for a, b in zip(prompts, made, strict=True))
    loaded = _load(model, longest, logits_all=True, **options)

    def one(prompt: list[int], made: list[int]) -> list[float]:
        loaded.reset()
        loaded.eval(prompt)
        for token in made:
            loaded.eval([token])
        return loaded.scores[len(prompt + made) - 1].tolist()

    return lambda: [one(*pair) for pair in zip(prompts, made, strict=True)]
