"""The two programs that a plan is about, compiled without values: a training step, and a decode step.

It knows shapes and layouts, and no files.
"""

from functools import partial

import jax
import jax.numpy as jnp

from vishwamai.data.packing import Batch
from vishwamai.models import transformer
from vishwamai.models.cache import KVCache, init_cache
from vishwamai.models.config import ModelConfig
from vishwamai.parallel.sharding import Sharding, abstract
from vishwamai.planner.aot import compile_tpu
from vishwamai.training.optim import Optimizer
from vishwamai.training.step import StepConfig, abstract_state, train_step
from vishwamai.weights import quantize, spec
from vishwamai.weights.quantize import Scheme

Array = jax.Array


def training_step(cfg: ModelConfig, s: StepConfig, sharding: Sharding, batch: int, length: int):
    """The compiled training step (AdamW) of a global batch of `batch` rows of `length` tokens."""
    o = Optimizer()
    state = abstract_state(cfg, o, 1000, sharding)
    layout = sharding.named("batch", "seq", shape=(batch, length))
    kinds = (jnp.int32, jnp.int32, jnp.float32, jnp.int32, jnp.int32)
    lines = Batch(*(jax.ShapeDtypeStruct((batch, length), kind, sharding=layout) for kind in kinds))
    step = partial(train_step, cfg=cfg, o=o, s=s, steps=1000, sharding=sharding)
    kept = jax.tree.map(lambda x: x.sharding, state)
    return compile_tpu(step, state, lines, donate=(0,), out_shardings=(kept, sharding.named()))


def decode_step(
    cfg: ModelConfig,
    sharding: Sharding,
    batch: int,
    length: int,
    dtype: str = "bfloat16",
    quantization: str | None = None,
):
    """The compiled step that reads a cache of `length` positions and gives the next token's logits for each row.

    `quantization` names the scheme of the layers' projections.
    """
    specs = spec.with_dtype(transformer.specs(cfg), dtype)
    if quantization is not None:
        specs = quantize.quantizable_specs(specs, Scheme.named(quantization))
    weights = abstract(specs, sharding)
    cache = abstract_cache(cfg, sharding, batch, length, dtype)
    tokens = jax.ShapeDtypeStruct((batch, 1), jnp.int32, sharding=sharding.named("batch", None, shape=(batch, 1)))

    def step(weights, cache, tokens):
        return transformer.forward_cached(weights, tokens, cfg, cache, sharding=sharding, dtype=dtype)

    kept = jax.tree.map(lambda x: x.sharding, cache)
    logits = sharding.named("batch", None, "vocab", shape=(batch, 1, cfg.vocab_size))
    return compile_tpu(step, weights, cache, tokens, donate=(1,), out_shardings=(logits, kept))


def abstract_cache(cfg: ModelConfig, sharding: Sharding, batch: int, length: int, dtype: str) -> KVCache:
    """A cache without values: rows and heads laid out by `sharding`."""

    def place(x: jax.ShapeDtypeStruct) -> jax.ShapeDtypeStruct:
        names = {1: ("batch",), 2: ("batch", None), 5: (None, "batch", "kv_heads", None, None)}[x.ndim]
        return jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=sharding.named(*names, shape=x.shape))

    return jax.tree.map(place, jax.eval_shape(lambda: init_cache(cfg, batch, length, dtype)))
