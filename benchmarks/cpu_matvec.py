"""Forms of a vector times matrices on a CPU: those that XLA was asked for, and the kernel that is used.

    python benchmarks/cpu_matvec.py [--layers N] [--rounds N]

Prints one table, for the matrices of SmolLM2-135M's layers one after another in one program: milliseconds of CPU time
and of the clock, medians of rounds in which all forms take turns, and float32's time over each form's.
"""

import argparse
import time

import jax
import jax.numpy as jnp
import numpy as np
from rich.console import Console
from rich.table import Table

from vishwamai.ops.few_rows import multiply_few_rows

D, SHAPES = 576, ((576, 960), (576, 576), (576, 3072), (1536, 576))  # q, k and v; o; gate and up; down
BLOCK = 96


def to_int8(w: np.ndarray) -> tuple[jax.Array, jax.Array]:
    scale = np.abs(w).max(0, keepdims=True) / 127
    return jnp.asarray(np.round(w / scale), "int8"), jnp.asarray(scale)


def to_int4(w: np.ndarray) -> tuple[jax.Array, jax.Array]:
    groups = w.reshape(-1, 32, w.shape[1])
    scale = np.abs(groups).max(1, keepdims=True) / 7
    return jnp.asarray(np.round(groups / scale).reshape(w.shape), "int4"), jnp.asarray(scale[:, 0], "bfloat16")


def turned(w: np.ndarray) -> tuple[jax.Array, jax.Array]:
    values, scale = to_int8(w)
    return values.T, scale


def in_integers(x, values, scale):
    step = jnp.max(jnp.abs(x)) / 127
    codes = jnp.round(x / step).astype("int8")
    return jnp.dot(codes, values, preferred_element_type=jnp.int32) * (step * scale)


def in_blocks(x, values, scale):
    """The widened rows of a turned matrix, so many outputs at a time that they stay in the cache."""

    def block(i, out):
        wide = jax.lax.dynamic_slice_in_dim(values, i * BLOCK, BLOCK).astype("float32")
        return jax.lax.dynamic_update_slice(out, x @ wide.T, (0, i * BLOCK))

    return jax.lax.fori_loop(0, len(values) // BLOCK, block, jnp.zeros((1, len(values)))) * scale


FORMS = {  # name: (what is stored of a matrix, its product with x [1, inputs])
    "float32, dot": (lambda w: (jnp.asarray(w),), lambda x, w: x @ w),
    "float32, kernel": (lambda w: (jnp.asarray(w),), multiply_few_rows),
    "bfloat16, widened, dot": (lambda w: (jnp.asarray(w, "bfloat16"),), lambda x, w: x @ w.astype("float32")),
    "bfloat16, sum of products": (
        lambda w: (jnp.asarray(w.T, "bfloat16"),), lambda x, w: jnp.sum(x * w.astype("float32"), 1)[None],
    ),
    "bfloat16, kernel": (lambda w: (jnp.asarray(w, "bfloat16"),), multiply_few_rows),
    "int8, widened, dot": (to_int8, lambda x, w, scale: x @ w.astype("float32") * scale),
    "int8, dot of int8 and int8": (to_int8, in_integers),
    "int8, sum of products": (turned, lambda x, w, scale: jnp.sum(x * w.astype("float32"), 1)[None] * scale),
    "int8, widened in blocks": (turned, in_blocks),
    "int8, kernel": (to_int8, multiply_few_rows),
    "int4 in groups, kernel": (to_int4, multiply_few_rows),
}  # fmt: skip


def chain(product):
    def run(x, matrices):
        for qkv, o, gate_up, down in matrices:
            x = x + product(product(x, *qkv)[:, :D], *o)
            gate, up = jnp.split(product(x, *gate_up), 2, axis=1)
            x = (x + product(gate * up, *down)) * 0.5
        return x

    return jax.jit(run)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--layers", type=int, default=30)
    parser.add_argument("--rounds", type=int, default=15)
    args = parser.parse_args()
    rng = np.random.default_rng(0)
    dense = [[rng.standard_normal(s, np.float32) / s[0] ** 0.5 for s in SHAPES] for _ in range(args.layers)]
    x, runs = jnp.full((1, D), 0.1), {}
    for name, (store, product) in FORMS.items():
        matrices = [[store(w) for w in layer] for layer in dense]
        runs[name] = chain(product), matrices
        runs[name][0](x, matrices).block_until_ready()
    taken = {name: [] for name in FORMS}
    for _ in range(args.rounds):
        for name, (run, matrices) in runs.items():
            cpu, clock = time.process_time(), time.perf_counter()
            run(x, matrices).block_until_ready()
            taken[name].append((time.process_time() - cpu, time.perf_counter() - clock))
    table = Table("weights and form", "ms of CPU", "ms by the clock", "float32's CPU / its own")
    medians = {name: np.median(found, axis=0) * 1e3 for name, found in taken.items()}
    for name, (cpu, clock) in medians.items():
        table.add_row(name, f"{cpu:.1f}", f"{clock:.1f}", f"{medians['float32, dot'][0] / cpu:.2f}")
    Console(highlight=False, width=110).print(table)


if __name__ == "__main__":
    main()
