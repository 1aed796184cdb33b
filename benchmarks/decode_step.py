"""A decoding step against the bare chain of its matrix-vector products, which is as fast as memory gives the weights.

    python benchmarks/decode_step.py [--layers 30] [--rows 1] [--steps 16] [--repeats 12]

SmolLM2-135M's shape with random weights, float32, on this machine's CPU. Both are one compiled loop and take turns; a
figure is milliseconds a step, the least and the median of the repeats. What XLA made of the loop is counted from the
optimised program: matmuls a layer, and copies or transposed forms of anything as large as a layer's smallest weight.
"""

import argparse
import math
import re
import statistics
import time
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np

from vishwamai.generation import decode
from vishwamai.generation.sampling import SamplingParams, batch_params
from vishwamai.models import transformer
from vishwamai.models.config import ModelConfig, uniform, unroll
from vishwamai.parallel.sharding import SINGLE
from vishwamai.weights import spec
from vishwamai.weights.linear import einsum

SMOLLM2 = {"vocab_size": 49152, "d_model": 576, "d_ff": 1536, "n_heads": 9, "n_kv_heads": 3, "head_dim": 64}
PROMPT, ROOM = 64, 256


def multiply_all(weights, x_BTD: jax.Array, steps: int, cfg: ModelConfig) -> jax.Array:
    """Every product of `steps` decoding steps and what keeps them in order: no norms, no attention, no cache."""

    def body(_, x):
        for w in jax.tree.map(lambda leaf: leaf[0], weights.stacks[0]):
            q, k, v = (einsum("BTD,DNH->BTNH", x, part) for part in (w.attn.q, w.attn.k, w.attn.v))
            heads = q + jnp.repeat(k + v, cfg.n_heads // cfg.n_kv_heads, axis=2)
            x = jnp.tanh(x + einsum("BTNH,NHD->BTD", heads, w.attn.o))
            gate, up = (einsum("BTD,DF->BTF", x, part) for part in (w.ffn.gate, w.ffn.up))
            x = jnp.tanh(x + einsum("BTF,FD->BTD", jax.nn.silu(gate) * up, w.ffn.down))
        return x + 1e-9 * jnp.max(transformer.compute_logits(weights, x, cfg), -1, keepdims=True)

    return jax.lax.fori_loop(0, steps, body, x_BTD)


def count_operations(text: str, cfg: ModelConfig) -> str:
    """Matmuls a layer, and large copies, in a compiled program."""
    least = cfg.d_model * cfg.n_kv_heads * cfg.head_dim
    moved = [math.prod(map(int, s.split(","))) for s in re.findall(r"= \w+\[([\d,]+)\]\S* (?:copy|transpose)\(", text)]
    matmuls = (len(re.findall(r" dot\(", text)) - 1) / cfg.n_layers
    return f"{matmuls:.0f} matmuls a layer, {sum(n >= least for n in moved)} large copies"


def main() -> None:
    parser = argparse.ArgumentParser(description="A decoding step against the bare chain of its products.")
    parser.add_argument("--layers", type=int, default=30)
    parser.add_argument("--rows", type=int, default=1)
    parser.add_argument("--steps", type=int, default=16)
    parser.add_argument("--repeats", type=int, default=12)
    args = parser.parse_args()
    jax.config.update("jax_platforms", "cpu")
    cfg = unroll(ModelConfig(**SMOLLM2, stacks=uniform(args.layers), max_length=2048, tie_embeddings=True))
    weights = jax.jit(lambda: spec.init(transformer.specs(cfg), jax.random.key(0)))()
    static = {"cfg": cfg, "dtypes": ("float32", "float32"), "sharding": SINGLE}
    asked = [SamplingParams(temperature=0.0, seed=0, ignore_eos=True)] * args.rows
    params = jax.tree.map(jnp.asarray, batch_params(asked, [ROOM] * args.rows))
    prompts = np.random.default_rng(0).integers(3, cfg.vocab_size, (args.rows, PROMPT)).astype(np.int32)
    prefill = jax.jit(partial(decode.prefill, size=ROOM, n_top=0, **static))
    begin = partial(prefill, weights, prompts, jnp.full(args.rows, PROMPT), None, params)
    steps = jnp.int32(args.steps)
    step = jax.jit(partial(decode.decode, **static), donate_argnums=(1,))
    step = step.lower(weights, begin(), params, steps).compile()
    x = jnp.ones((args.rows, 1, cfg.d_model))
    chain = jax.jit(partial(multiply_all, cfg=cfg)).lower(weights, x, steps).compile()
    times: dict[str, list[float]] = {"chain": [], "step": []}
    for _ in range(args.repeats + 1):
        state = jax.block_until_ready(begin())
        for name, run in (("chain", partial(chain, weights, x)), ("step", partial(step, weights, state, params))):
            start = time.perf_counter()
            jax.block_until_ready(run(steps))
            times[name].append((time.perf_counter() - start) / args.steps)
    for name, taken in times.items():
        print(f"{name:>6}: least {min(taken[1:]) * 1e3:.1f} ms, median {statistics.median(taken[1:]) * 1e3:.1f} ms")
    ratios = [a / b for a, b in zip(times["chain"][1:], times["step"][1:], strict=True)]
    print(f"the step reaches {statistics.median(ratios):.2f} of the chain; {count_operations(step.as_text(), cfg)}")


if __name__ == "__main__":
    main()
