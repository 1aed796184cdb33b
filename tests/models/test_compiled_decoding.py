"""What XLA makes of a decoding step on a CPU: one matmul for each weight, and no copy of a weight or of the cache."""

import math
import re
from functools import partial

import jax
import jax.numpy as jnp
import pytest

from vishwamai.generation import decode
from vishwamai.models import transformer
from vishwamai.models.config import ModelConfig, uniform, unroll
from vishwamai.parallel.sharding import SINGLE, abstract

SIZES = {"vocab_size": 1024, "d_model": 64, "d_ff": 160, "n_heads": 8, "n_kv_heads": 4, "head_dim": 16}
ROOM = 128  # positions in the cache
MATMULS = 7 + 2  # of a layer: its weights, and attention's two
LEAST = 64 * 64  # the numbers in the smallest weight that a layer multiplies


def compiled_step(n_layers: int, rows: int, **sizes) -> str:
    """The optimised program that decodes many tokens, as text."""
    cfg = unroll(ModelConfig(**SIZES | sizes, stacks=uniform(n_layers), max_length=ROOM))
    weights = abstract(transformer.specs(cfg))
    static = {"cfg": cfg, "dtypes": ("float32", "float32"), "sharding": SINGLE}
    params = jax.eval_shape(partial(params_of, rows))
    tokens, lengths = jnp.zeros((rows, 8), jnp.int32), jnp.full(rows, 8)
    prefill = partial(decode.prefill, size=ROOM, n_top=0, **static)
    state = jax.eval_shape(prefill, weights, tokens, lengths, None, params)
    step = jax.jit(partial(decode.decode, **static), donate_argnums=(1,))
    return step.lower(weights, state, params, jnp.int32(4)).compile().as_text()


def params_of(rows: int):
    params = decode.sampling.batch_params([decode.sampling.SamplingParams(seed=0)] * rows, [ROOM] * rows)
    return jax.tree.map(jnp.asarray, params)


@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize("rows", [1, 2])
def test_nothing_large_is_moved(optimised, rows, tied):
    text = compiled_step(1, rows, tie_embeddings=tied)
    moved = re.findall(r"= \w+\[([\d,]+)\]\S* (copy|transpose)\(", text)
    sizes = [math.prod(map(int, shape.split(","))) for shape, _ in moved]
    assert not [n for n in sizes if n >= LEAST], moved


def test_a_layer_has_a_matmul_for_each_weight(optimised):
    one, two = (len(re.findall(r" dot\(", compiled_step(n, 1))) for n in (1, 2))
    assert two - one == MATMULS
