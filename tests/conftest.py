"""What every test stands on: eight fake CPU devices, no network, and a JAX that refuses to guess.

Rank promotion, implicit dtype promotion and warnings are errors (the last in pyproject.toml), so a shape or a dtype
that came out right by luck fails here. It knows nothing of the package: the strictness holds for JAX alone.
"""

import atexit
import os
import shutil
import tempfile
from importlib.metadata import version

# Before jax is imported for the first time, in each worker of a parallel run too.
os.environ["JAX_PLATFORMS"] = "cpu"
# One thread for matrix products: with two workers on two cores more are no faster, and others report that a program may
# wait for them for ever (PyAutoFit's issues 1528 and 1530).
os.environ["XLA_FLAGS"] = " ".join(
    [
        os.environ.get("XLA_FLAGS", ""),
        "--xla_force_host_platform_device_count=8",
        "--xla_cpu_multi_thread_eigen=false",
        # Fake devices that others keep waiting: after 40 seconds in a collective XLA would end the process.
        "--xla_cpu_collective_call_warn_stuck_timeout_seconds=120",
        "--xla_cpu_collective_call_terminate_timeout_seconds=600",
        "--xla_cpu_collective_timeout_seconds=600",
        "--xla_cpu_parallel_codegen_split_count=1",  # a program is compiled in one piece, which costs less in all
    ]
)
# It saves a third of the compiling, and later versions have no such flag.
if os.environ.get("JAX_DISABLE_MOST_OPTIMIZATIONS") == "1" and version("jaxlib").startswith("0.10."):
    os.environ["XLA_FLAGS"] += " --xla_cpu_use_fusion_emitters=false"
os.environ.setdefault("OMP_NUM_THREADS", "1")  # torch's too
os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["TOKENIZERS_PARALLELISM"] = "false"
os.environ["VISHWAMAI_COMPILE_CACHE"] = "off"  # in the user's own folder
if "VISHWAMAI_ROWS_CACHE" not in os.environ:
    os.environ["VISHWAMAI_ROWS_CACHE"] = rows_cache = tempfile.mkdtemp(prefix="rows-")
    atexit.register(shutil.rmtree, rows_cache, ignore_errors=True)
# One folder of compiled programs for the workers of a run and the processes that they start, which none outlives.
if "JAX_COMPILATION_CACHE_DIR" not in os.environ:
    os.environ["JAX_COMPILATION_CACHE_DIR"] = programs = tempfile.mkdtemp(prefix="programs-")
    os.environ["JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"] = "0"
    os.environ["JAX_PERSISTENT_CACHE_ENABLE_XLA_CACHES"] = "none"
    atexit.register(shutil.rmtree, programs, ignore_errors=True)

import jax
import pytest

jax.config.update("jax_numpy_rank_promotion", "raise")
jax.config.update("jax_numpy_dtype_promotion", "strict")

pytest_plugins = ["cpu_seconds", "rotation"]


@pytest.fixture
def optimised():
    """Programs as people run them: XLA optimises them, whatever the run's default is."""
    before = jax.config.values["jax_disable_most_optimizations"]
    jax.config.update("jax_disable_most_optimizations", False)
    yield
    jax.config.update("jax_disable_most_optimizations", before)
