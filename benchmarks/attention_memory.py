"""Memory of attention, forward and gradient: every score at once against blocks, as the compiler allocates it.

    python benchmarks/attention_memory.py            # this machine's CPU: nothing is run, programs are only compiled
    python benchmarks/attention_memory.py --tpu      # one v5e chip as well, ahead of time (needs the tpu extra)
    python benchmarks/attention_memory.py --time     # and seconds on this machine, at lengths where both forms fit

One row, 16 query heads and 8 kv heads of 128; float32 on CPU, bfloat16 on TPU.
"""

import argparse
import functools
import time

import jax
import jax.numpy as jnp

from vishwamai.errors import BackendError
from vishwamai.ops.attention import attention
from vishwamai.parallel.mesh import make_mesh
from vishwamai.planner import aot

N, K, H = 16, 8, 128
LENGTHS = (2048, 8192, 32768)


def gradient(implementation):
    def loss(q, k, v):
        return jnp.sum(attention(q, k, v, implementation=implementation).astype(jnp.float32))

    return jax.grad(loss, (0, 1, 2))


def shapes(length, dtype, sharding=None):
    make = functools.partial(jax.ShapeDtypeStruct, dtype=dtype, sharding=sharding)
    return make((1, length, N, H)), make((1, length, K, H)), make((1, length, K, H))


def on_cpu(length, implementation) -> float:
    compiled = jax.jit(gradient(implementation)).lower(*shapes(length, jnp.float32)).compile()
    return compiled.memory_analysis().temp_size_in_bytes


def on_tpu(length, implementation, mesh) -> float | None:
    sharding = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec())
    try:
        compiled = aot.compile_tpu(gradient(implementation), *shapes(length, jnp.bfloat16, sharding))
    except BackendError:
        return None
    return aot.report(compiled).memory.temporaries


def table(title, forms, measure):
    print(f"\n{title}\n{'T':>8}" + "".join(f"{form:>14}" for form in forms) + "   reference / best")
    for length in LENGTHS:
        sizes = [measure(length, form) for form in forms]
        cells = "".join(f"{'does not fit' if s is None else f'{s / 1e6:,.0f} MB':>14}" for s in sizes)
        ratio = "" if None in sizes or not min(sizes) else f"{sizes[0] / min(sizes):,.0f}"
        print(f"{length:8}{cells}{ratio:>19}", flush=True)


def seconds(length, implementation) -> float:
    run = jax.jit(gradient(implementation))
    arrays = [jax.random.normal(jax.random.key(i), s.shape) for i, s in enumerate(shapes(length, jnp.float32))]
    jax.block_until_ready(run(*arrays))
    best = float("inf")
    for _ in range(3):
        start = time.perf_counter()
        jax.block_until_ready(run(*arrays))
        best = min(best, time.perf_counter() - start)
    return best


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tpu", action="store_true", help="compile for a v5e chip too")
    parser.add_argument("--time", action="store_true", help="measure seconds on this machine too")
    args = parser.parse_args()
    mesh = make_mesh(aot.slice_mesh("v5e:2x2").devices.flat[:1]) if args.tpu else None
    table("CPU, float32, temporary memory", ("reference", "blockwise"), on_cpu)
    if mesh is not None:
        on_chip = functools.partial(on_tpu, mesh=mesh)
        table("one v5e chip (16 GB), bfloat16, temporary memory", ("reference", "blockwise", "splash"), on_chip)
    if args.time:
        print("\nseconds, forward and gradient, best of three")
        for length in (64, 128, 512, 2048):
            row = {form: f"{seconds(length, form):.4f}" for form in ("reference", "blockwise")}
            print(f"{length:8}", row, flush=True)


if __name__ == "__main__":
    main()
