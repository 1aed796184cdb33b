"""This library's tasks, in the environment of `make setup`."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from vishwamai import VishwamAI
from vishwamai.host_memory import keep_freed_memory
from vishwamai.training.optim import Optimizer
from vishwamai.training.step import StepConfig, compiled_step, make_state

jax.config.update("jax_platforms", "cpu")
keep_freed_memory()  # as `vishwamai train` does
VERSION = f"vishwamai, jax {jax.__version__}"


def decode(model: str, prompts: list[list[int]], new: int, **options: Any) -> Callable[[], list[list[int]]]:
    """Returns the greedy continuation of each prompt."""
    loaded = VishwamAI.from_pretrained(model, **options)
    rows = np.asarray(prompts)
    settings = {"max_new_tokens": new, "eos_token_id": []}
    return lambda: np.asarray(loaded.generate(rows, **settings))[:, rows.shape[1] :].tolist()


def prefill(model: str, prompts: list[list[int]], **options: Any) -> Callable[[], list[int]]:
    """Returns the likeliest token after each prompt."""
    continued = decode(model, prompts, 1, **options)
    return lambda: [row[0] for row in continued()]


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
