"""The tasks by llama.cpp, through llama-cpp-python; a model is a GGUF file."""

import os
from collections.abc import Callable

import llama_cpp

VERSION = f"llama-cpp-python {llama_cpp.__version__}"


def _load(model: str, context: int) -> llama_cpp.Llama:
    threads = os.cpu_count()
    sizes = {"n_ctx": context, "n_batch": context, "n_ubatch": context}
    return llama_cpp.Llama(model, n_threads=threads, n_threads_batch=threads, verbose=False, **sizes)


def decode(model: str, prompts: list[list[int]], new: int) -> Callable[[], list[list[int]]]:
    """Returns the greedy continuation of each prompt; one prompt at a time."""
    loaded = _load(model, max(map(len, prompts)) + new + 1)

    def one(prompt: list[int]) -> list[int]:
        loaded.reset()
        tokens = loaded.generate(prompt, temp=0.0, repeat_penalty=1.0, reset=True)
        return [int(token) for token, _ in zip(tokens, range(new), strict=False)]

    return lambda: [one(prompt) for prompt in prompts]


def prefill(model: str, prompts: list[list[int]]) -> Callable[[], list[int]]:
    """Returns the likeliest token after each prompt."""
    continued = decode(model, prompts, 1)
    return lambda: [row[0] for row in continued()]
