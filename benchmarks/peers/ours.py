"""This library's tasks, in the environment of `make setup`."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from vishwamai import VishwamAI, VishwamAITokenizer
from vishwamai.host_memory import keep_freed_memory
from vishwamai.text.chat import encode_chat
from vishwamai.training.optim import Optimizer
from vishwamai.training.step import StepConfig, compiled_step, make_state
from vishwamai.weights import linear

jax.config.update("jax_platforms", "cpu")
keep_freed_memory()  # as `vishwamai train` does
VERSION = f"vishwamai, jax {jax.__version__}"


def decode(model: str, prompts: list[list[int]], new: int, **options: Any) -> Callable[[], list[list[int]]]:
    """Returns the greedy continuation of each prompt."""
    loaded = VishwamAI.from_pretrained(model, **options)
    settings = {"max_new_tokens": new, "eos_token_id": []}

    def call() -> list[list[int]]:
        rows = np.asarray(loaded.generate(prompts, **settings)).tolist()
        return [row[len(prompt) :][:new] for prompt, row in zip(prompts, rows, strict=True)]

    return call


def prefill(model: str, prompts: list[list[int]], **options: Any) -> Callable[[], list[int]]:
    """Returns the likeliest token after each prompt."""
    continued = decode(model, prompts, 1, **options)
    return lambda: [row[0] for row in continued()]


def encode(model: str, prompts: list) -> Callable[[], list[list[int]]]:
    """Returns the ids of texts, and of the prompts of chats by the model's own template."""
    tokenizer = VishwamAITokenizer.from_pretrained(model)
    return lambda: [
        tokenizer.encode(prompt) if isinstance(prompt, str) else encode_chat(tokenizer, prompt) for prompt in prompts
    ]


def decode_tokens(model: str, rows: list[list[int]]) -> Callable[[], list[list[str]]]:
    """Returns the text of each token."""
    tokenizer = VishwamAITokenizer.from_pretrained(model)
    return lambda: [[tokenizer.decode([token]) for token in row] for row in rows]


def logits(
    model: str, prompts: list[list[int]], made: list[list[int]], *, round_activations: bool = False, **options: Any
) -> Callable[[], list[list[float]]]:
    """Returns the logits after each prompt and what was made of it."""
    if round_activations:
        contract = linear.contract
        linear.contract = lambda w, eqn, x, dtype: contract(w, eqn, round_to_8_bits(x), dtype)
    loaded, rows = VishwamAI.from_pretrained(model, **options), [a + b for a, b in zip(prompts, made, strict=True)]
    longest = max(map(len, rows))
    filled = [row + [0] * (longest - len(row)) for row in rows]  # one shape: later tokens do not change earlier ones
    return lambda: [loaded(ids)[0, len(row) - 1].tolist() for ids, row in zip(filled, rows, strict=True)]


def round_to_8_bits(x: jax.Array) -> jax.Array:
    """Returns activations rounded in blocks of 32 as GGUF's Q8_0 rounds weights, and llama.cpp what Q8_0 multiplies."""
    blocks = x.reshape(*x.shape[:-1], -1, 32)
    step = jnp.abs(blocks).max(-1, keepdims=True) / 127
    whole = jnp.round(blocks / jnp.where(step == 0, 1, step))
    return (whole * step.astype(jnp.float16).astype(x.dtype)).reshape(x.shape)


def train(model: str, rows: list[list[int]], **options: Any) -> Callable[[], float]:
    """Takes a step of AdamW on the rows and returns the loss before it."""
    loaded = VishwamAI.from_pretrained(model, scan_layers=options.pop("scan_layers", True))
    tokens = jnp.asarray(rows, jnp.int32)
    inputs, targets = tokens[:, :-1], tokens[:, 1:]
    segments = jnp.ones_like(inputs)
    positions = jnp.broadcast_to(jnp.arange(inputs.shape[1], dtype=jnp.int32), inputs.shape)
    batch = (inputs, targets, jnp.ones(inputs.shape, jnp.float32), segments, positions)
    optimizer = Optimizer(learning_rate=1e-4, warmup_steps=0)
    state = make_state(loaded.weights, loaded.config, optimizer, 1000)
    step = compiled_step(loaded.config, optimizer, StepConfig(balance_loss=0.0, **options), 1000)

    def call() -> float:
        nonlocal state
        state, metrics = step(state, batch)
        return float(metrics["loss"])

    return call


def make_model(folder: str, **sizes: Any) -> None:
    """Writes a model with random weights."""
    from vishwamai.models.config import ModelConfig, uniform

    layers, moe = sizes.pop("n_layers"), sizes.get("n_experts", 0) > 0
    if not Path(folder, "config.json").exists():
        VishwamAI.from_config(ModelConfig(**sizes, stacks=uniform(layers, moe=moe))).save_pretrained(folder)
