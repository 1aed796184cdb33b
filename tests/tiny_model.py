"""A tiny model of bytes with random weights, and what it must say: the likeliest token after a full forward pass."""

import jax
import jax.numpy as jnp
import numpy as np

from vishwamai import VishwamAI, VishwamAITokenizer
from vishwamai.models.config import ModelConfig, uniform
from vishwamai.models.transformer import forward

EOS, PAD = 257, 258
SIZES = {"vocab_size": 263, "d_model": 16, "d_ff": 24, "n_heads": 4, "n_kv_heads": 2, "head_dim": 8}
EXPERTS = {"n_experts": 4, "n_experts_per_token": 2, "d_expert": 16, "qk_norm": True}
CONFIG = ModelConfig(**SIZES, **EXPERTS, stacks=uniform(2, moe=True), max_length=64, tie_embeddings=True)
WHOLE = jax.jit(forward, static_argnames="cfg")


def tiny_model() -> VishwamAI:
    return VishwamAI.from_config(CONFIG, tokenizer=VishwamAITokenizer.bytes())


def greedy(model, prompt: list[int], n: int) -> list[int]:
    """The likeliest next token, n times, each from a forward pass over everything before it; EOS ends it."""
    tokens = list(prompt)
    for _ in range(n):
        tokens.append(int(logits_of(model, tokens)[-1].argmax()))
        if tokens[-1] == EOS:
            break
    return tokens


def logits_of(model, tokens: list[int]) -> np.ndarray:
    """Logits `[T, V]` of a row. It is padded, which no earlier position sees, so that one program serves all rows."""
    padded = jnp.asarray([tokens + [0] * (CONFIG.max_length - len(tokens))])
    return np.asarray(WHOLE(model.weights, padded, cfg=model.config)[0][0], np.float64)[: len(tokens)]
