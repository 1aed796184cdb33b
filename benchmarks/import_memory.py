"""Host memory while a sharded checkpoint of 2 GB is imported: alone, and onto eight fake devices.

    python benchmarks/import_memory.py [--gb 2]        # some minutes; Linux only

Makes two checkpoints of random bfloat16, dense and a mixture of experts, in files of a quarter of that size, and loads
each in a process of its own. A figure is the kernel's high-water mark of resident memory (VmHWM, the files' pages
included), less what was resident once JAX had its devices. `over` is that less the arrays' own bytes, and is also told
in units of the largest stored tensor: the target is below 1.2. `first` is a process's first load, which also compiles
its programs and keeps them; `again` is its second, begun when the first's arrays were freed, with the programs part of
what was resident. `share` is the most that any one device was given of a matrix, on the way and in the end. Where the
`safetensors` package is installed, its `load_file`, each matrix turned and put as an array, stands beside.
"""

import argparse
import ctypes
import gc
import json
import math
import os
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np

CONFIGURATIONS = {  # widths and vocabularies of Llama 3.2 1B and Qwen 3 30B-A3B, with as many layers as fit the size
    "llama": {"vocab_size": 128256, "d_model": 2048, "d_ff": 8192, "n_heads": 32, "n_kv_heads": 8, "head_dim": 64}
    | {"tie_embeddings": True},
    "qwen3_moe": {"vocab_size": 151936, "d_model": 2048, "d_ff": 6144, "n_heads": 32, "n_kv_heads": 4, "head_dim": 128}
    | {"n_experts": 128, "n_experts_per_token": 8, "d_expert": 768, "qk_norm": True},
}
MESHES = {
    "llama": ({}, {"fsdp": 4, "tensor": 2}),
    "qwen3_moe": ({}, {"fsdp": 2, "expert": 4}, {"expert": 2, "fsdp": 2, "tensor": 2}),
}
TARGET = 1.2
MB = 1e6


def write_checkpoint(folder: Path, model_type: str, sizes: dict, size: float) -> None:
    """About `size` bytes of seeded random weights of a family, in bfloat16, in four files, as one stream of tensors."""
    import ml_dtypes

    from vishwamai.hf import export, safetensors
    from vishwamai.hf.families import FAMILIES
    from vishwamai.hf.generation_config import GenerationConfig
    from vishwamai.hf.pieces import tensor_pieces
    from vishwamai.models import transformer
    from vishwamai.models.config import ModelConfig, uniform
    from vishwamai.weights import spec

    def of(n_layers: int) -> ModelConfig:
        return ModelConfig(**sizes, stacks=uniform(n_layers, moe="n_experts" in sizes))

    one, two = (2 * spec.n_parameters(transformer.specs(of(n))) for n in (1, 2))
    cfg = of(max(1, 1 + round((size - one) / (two - one))))
    names = {p.name: p.shape for leaf in tensor_pieces(FAMILIES[model_type], transformer.specs(cfg), cfg) for p in leaf}
    dtype = np.dtype(ml_dtypes.bfloat16)
    block = np.random.default_rng(0).standard_normal(2**20, np.float32).astype(dtype)
    outgoing = [
        safetensors.LazyTensor(name, shape, dtype, lambda shape=shape: np.resize(block, shape))
        for name, shape in names.items()
    ]
    safetensors.write_folder(folder, outgoing, max_file_bytes=int(size / 4))
    export.write_configs(folder, cfg, model_type, GenerationConfig(), "bfloat16")


def resident(field: str) -> float:
    """VmRSS or VmHWM of this process, in bytes."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(field):
            return float(line.split()[1]) * 1024
    raise RuntimeError(f"/proc/self/status has no {field}")


def settle() -> float:
    """Frees what is garbage, starts the high-water mark anew, and returns what is resident, in bytes."""
    gc.collect()
    ctypes.CDLL(None).malloc_trim(0)
    Path("/proc/self/clear_refs").write_text("5")
    return resident("VmRSS")


def device_bytes(tree) -> int:
    """Bytes of the arrays of a tree, copies on several devices counted each."""
    import jax

    return sum(shard.data.nbytes for leaf in jax.tree.leaves(tree) for shard in leaf.addressable_shards)


def ours(folder: Path, mesh: dict[str, int], dtype: str, shares: list[float]):
    """Loads with this library; appends to `shares` what part of each matrix its fullest device was given."""
    import jax

    from vishwamai.hf import config, filling, weights
    from vishwamai.parallel.mesh import make_mesh
    from vishwamai.parallel.sharding import Sharding

    def watched(values, layout, put=filling._put):
        stored = put(values, layout)
        if stored.ndim > 2:
            shares.append(largest_share(stored))
        return stored

    kept, filling._put = filling._put, watched
    try:
        sharding = Sharding(make_mesh(**mesh)) if mesh else Sharding()
        loaded = weights.load_weights(folder, config.read_pretrained(folder), sharding=sharding, dtype=dtype)
    finally:
        filling._put = kept
    shares += [largest_share(leaf) for leaf in jax.tree.leaves(loaded) if leaf.ndim > 2]
    return jax.block_until_ready(loaded)


def largest_share(array) -> float:
    """The part of an array that its fullest device holds."""
    held: dict = {}
    for shard in array.addressable_shards:
        held[shard.device] = held.get(shard.device, 0) + shard.data.nbytes
    return max(held.values()) / array.nbytes


def plain(folder: Path, mesh: dict[str, int], dtype: str, shares: list[float]):
    """The usual way: each file read whole, each matrix turned, put as an array."""
    import jax
    import jax.numpy as jnp
    from safetensors.numpy import load_file

    found = {}
    for path in sorted(folder.glob("*.safetensors")):
        for name, values in load_file(path).items():
            found[name] = jnp.asarray(values.T if values.ndim > 1 else values, dtype=dtype)
    shares.append(1.0)
    return jax.block_until_ready(found)


def measure(loader: str, folder: str, mesh: dict[str, int], dtype: str) -> None:
    """Loads twice in this process and prints the figures as JSON."""
    import jax

    load, shares, excess = {"ours": ours, "plain": plain}[loader], [], []
    jax.block_until_ready(jax.numpy.zeros(8, device=jax.devices()[-1]))
    for _ in range(2):
        before = settle()
        loaded = load(Path(folder), mesh, dtype, shares)
        peak, arrays = resident("VmHWM"), device_bytes(loaded)
        excess.append(peak - before - arrays)
        del loaded
    print(json.dumps({"arrays": arrays, "excess": excess, "share": max(shares), "before": before}))


def in_a_process(*arguments, devices: int, **environment: str) -> dict:
    """`measure` in a fresh process with so many fake devices."""
    environment = os.environ | {"JAX_PLATFORMS": "cpu", "HF_HUB_OFFLINE": "1"} | environment
    environment["XLA_FLAGS"] = f"--xla_force_host_platform_device_count={devices}"
    command = [sys.executable, __file__, "--measure", json.dumps(arguments)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError(done.stderr)
    return json.loads(done.stdout.splitlines()[-1])


def largest_tensor(folder: Path) -> int:
    from vishwamai.hf import safetensors

    return max(tensor.end - tensor.start for tensor in safetensors.read_folder(folder).values())


def row(name: str, mesh: dict[str, int], dtype: str, largest: int, found: dict) -> str:
    first, again = (f"{over / MB:7.0f} = {over / largest:5.2f} x" for over in found["excess"])
    where = " ".join(f"{axis}={n}" for axis, n in mesh.items()) or "one device"
    return f"{name:<10} {where:<27} {dtype:<9}{found['arrays'] / MB:7.0f}  {first}  {again}  {found['share']:6.3f}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--gb", type=float, default=2.0, help="size of each checkpoint [%(default)s]")
    parser.add_argument("--measure", help=argparse.SUPPRESS)
    chosen = parser.parse_args()
    if chosen.measure:
        return measure(*json.loads(chosen.measure))
    has_peer = subprocess.run([sys.executable, "-c", "import safetensors.numpy"], capture_output=True).returncode == 0
    for model_type, meshes in MESHES.items():
        with tempfile.TemporaryDirectory() as folder:
            write_checkpoint(Path(folder), model_type, CONFIGURATIONS[model_type], chosen.gb * 1e9)
            stored = sum(path.stat().st_size for path in Path(folder).glob("*.safetensors"))
            largest = largest_tensor(Path(folder))
            print(f"{model_type}: {stored / MB:,.0f} MB of bfloat16, the largest tensor {largest / MB:,.0f} MB")
            print(f"{'':<10} {'':<27} {'':<9}{'arrays':>7}  {'over, first':>17}  {'over, again':>17}  {'share':>6}")
            for dtype in ("bfloat16", "float32"):
                for mesh in meshes:
                    found = in_a_process("ours", folder, mesh, dtype, devices=math.prod(mesh.values()))
                    print(row("vishwamai", mesh, dtype, largest, found), flush=True)
                if has_peer:
                    found = in_a_process("plain", folder, {}, dtype, devices=1)
                    print(row("load_file", {}, dtype, largest, found), flush=True)


if __name__ == "__main__":
    main()
