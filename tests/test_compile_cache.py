"""The compiled programs on disk: found by the next process and by one beside it, harmless when damaged, cleaned, off.

What compiles here does so in this process, with JAX's options set back after each test, or in processes of its own
where the point is that there are several. JAX counts what it asks of its cache, and what it finds.
"""

import os
import resource
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

import jax
import numpy as np
import pytest
from jax.experimental.compilation_cache import compilation_cache as of_jax

from vishwamai import VishwamAI, VishwamAITokenizer, compile_cache
from vishwamai.cli import main
from vishwamai.data.packing import Batch
from vishwamai.models.config import ModelConfig, uniform
from vishwamai.training.optim import Optimizer
from vishwamai.training.step import StepConfig, compiled_step, init_state

OPTIONS = (
    "jax_compilation_cache_dir",
    "jax_compilation_cache_max_size",
    "jax_persistent_cache_min_compile_time_secs",
)
COUNTS = Counter()
IDS = np.ones((1, 4), np.int32)
BATCH = Batch(tokens=IDS, targets=IDS, weights=IDS.astype(np.float32), segments=IDS, positions=IDS)


@pytest.fixture(scope="module", autouse=True)
def counted():
    """Counts of JAX's own events, in `COUNTS`."""

    def listen(event: str, **_) -> None:
        COUNTS.update([event.rpartition("/")[2]])

    jax.monitoring.register_event_listener(listen)
    yield
    jax.monitoring.unregister_event_listener(listen)


@pytest.fixture
def kept(tmp_path, monkeypatch):
    """The folder that the variable names; JAX's options are those of a new process, before and after."""
    before = {option: getattr(jax.config, option) for option in OPTIONS}
    folder = tmp_path / "programs"
    monkeypatch.delenv(compile_cache.OF_JAX, raising=False)
    monkeypatch.setenv(compile_cache.VARIABLE, str(folder))
    renew()
    yield folder
    for option, value in before.items():
        jax.config.update(option, value)
    of_jax.reset_cache()


def renew():
    """As a new process would be."""
    for option, value in zip(OPTIONS, (None, -1, 1.0), strict=True):
        jax.config.update(option, value)
    of_jax.reset_cache()


def compiled(factor: float = 3.0) -> tuple[int, int]:
    """Compiles one and the same program ahead and when it is called; how often JAX asked its cache, and found it."""
    COUNTS.clear()
    x = np.arange(4, dtype=np.float32)
    ahead = jax.jit(lambda x: x * np.float32(factor)).lower(x).compile()
    later = jax.jit(lambda x: x * np.float32(factor) + np.float32(1))
    assert ahead(x).tolist() == (x * factor).tolist() and later(x).tolist() == (x * factor + 1).tolist()
    return COUNTS["compile_requests_use_cache"], COUNTS["cache_hits"]


def files(folder: Path) -> list[str]:
    return sorted(file.name for file in folder.iterdir() if file.name != ".lockfile")


# In which folder.


@pytest.mark.parametrize(
    ("of_jax", "ours", "want"),
    [
        (None, None, ("/home/cache/vishwamai/compiled", None)),
        (None, "on", ("/home/cache/vishwamai/compiled", None)),
        (None, "1", ("/home/cache/vishwamai/compiled", None)),
        (None, "off", (None, compile_cache.VARIABLE)),
        (None, "0", (None, compile_cache.VARIABLE)),
        (None, "/elsewhere", ("/elsewhere", compile_cache.VARIABLE)),
        ("/of/jax", "/elsewhere", ("/of/jax", compile_cache.OF_JAX)),
        ("/of/jax", "off", ("/of/jax", compile_cache.OF_JAX)),
    ],
)
def test_the_folder_is_what_the_environment_says(of_jax, ours, want, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", "/home/cache")
    for name, value in ((compile_cache.OF_JAX, of_jax), (compile_cache.VARIABLE, ours)):
        monkeypatch.delenv(name, raising=False) if value is None else monkeypatch.setenv(name, value)
    where, variable = compile_cache.folder()
    assert (where and where.as_posix(), variable) == want


def test_programs_are_kept_and_found(kept):
    compile_cache.enable()
    assert compiled() == (2, 0)
    assert len(compile_cache.entries(kept)) == 2
    assert kept.stat().st_mode & 0o777 == 0o700  # whoever can write there can have us run what they like
    renew()
    compile_cache.enable()
    assert compiled() == (2, 2)
    assert compiled(5.0) == (2, 0)
    assert jax.config.jax_compilation_cache_max_size == compile_cache.MOST_BYTES


@pytest.mark.parametrize("variable", ["off", "/dev/null/nowhere"])
def test_nothing_is_kept_where_nothing_can_or_shall_be(variable, kept, monkeypatch):
    monkeypatch.setenv(compile_cache.VARIABLE, variable)
    compile_cache.enable()
    assert jax.config.jax_compilation_cache_dir is None
    assert compiled()[1] == 0


def test_a_folder_whose_lock_cannot_be_had_is_not_used(kept, monkeypatch):
    (kept / ".lockfile").mkdir(parents=True)
    compile_cache.enable()
    assert jax.config.jax_compilation_cache_dir is None


def test_what_a_user_has_told_jax_stays(kept, tmp_path):
    """By `jax.config`; JAX reads its variables, of the same names, into the same place."""
    jax.config.update("jax_compilation_cache_dir", str(tmp_path / "own"))
    compile_cache.enable()
    assert compiled() == (2, 0)
    assert not kept.exists() and jax.config.jax_compilation_cache_max_size == -1
    renew()
    jax.config.update("jax_compilation_cache_max_size", 12345)
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 7.0)
    compile_cache.enable()
    assert jax.config.jax_compilation_cache_dir == str(kept)
    assert jax.config.jax_compilation_cache_max_size == 12345
    assert compiled() == (2, 0) and files(kept) == []


def test_models_keep_their_programs(kept, monkeypatch):
    cfg = ModelConfig(vocab_size=263, d_model=8, d_ff=8, n_heads=1, n_kv_heads=1, head_dim=8, stacks=uniform(1))
    VishwamAI.from_config(cfg)
    assert jax.config.jax_compilation_cache_dir == str(kept)
    renew()
    VishwamAI.from_pretrained("vishwamai/base")
    assert jax.config.jax_compilation_cache_dir == str(kept)


def test_of_two_models_of_one_shape_the_second_compiles_nothing(kept):
    """Nor does a second run of training, though each asks for programs of its own."""
    cfg = ModelConfig(vocab_size=263, d_model=8, d_ff=8, n_heads=1, n_kv_heads=1, head_dim=8, stacks=uniform(1))
    compile_cache.enable()
    asked = []
    for seed in (0, 1):
        COUNTS.clear()
        model = VishwamAI.from_config(cfg, seed=seed)
        model.generate([1, 2], max_new_tokens=2)
        state = init_state(cfg, Optimizer(), 9, jax.random.key(seed))
        compiled_step(cfg, Optimizer(), StepConfig(), 9)(state, BATCH)
        asked.append(COUNTS["compile_requests_use_cache"])
        assert model.generator.programs.count == 2
    assert asked[0] > 2 and asked[1] == 0


# What is damaged. Warnings are errors here, so none of it warns.


def test_a_damaged_program_is_compiled_anew(kept):
    compile_cache.enable()
    compiled()
    for file in kept.glob("*-cache"):
        raw = file.read_bytes()
        file.write_bytes(raw[: len(raw) // 2] + bytes(8) + raw[len(raw) // 2 + 8 :])
    renew()
    compile_cache.enable()
    assert compiled() == (2, 0)


def test_a_half_written_program_is_removed_and_kept_the_next_time(kept):
    """A process writes the program first, and then when it was used: without that, JAX 0.10 could add no other."""
    compile_cache.enable()
    compiled()
    one, other = sorted(kept.glob("*-cache"))
    one.write_bytes(one.read_bytes()[:100])
    one.with_name(one.name.removesuffix("cache") + "atime").unlink()
    other.write_bytes(b"")
    (kept / f"jit_f-{'0' * 64}-atime").write_bytes(bytes(8))
    for hits in (0, 2):
        renew()
        compile_cache.enable()
        assert compiled() == (2, hits)
    assert len(files(kept)) == 4


def test_a_disk_that_is_full_is_no_error(kept):
    compile_cache.enable()
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (500, hard))  # a write beyond it fails, and what fitted is there
    try:
        assert compiled() == (2, 0)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    for hits in (0, 2):
        renew()
        compile_cache.enable()
        assert compiled() == (2, hits)


# What is thrown away.


def keep(folder: Path, name: int, *, age: float = 0.0, size: int = 10) -> None:
    """A program that was used so many seconds ago."""
    folder.mkdir(exist_ok=True)
    for kind, raw in (("cache", bytes(size)), ("atime", bytes(8))):
        file = folder / f"jit_f-{name:064x}-{kind}"
        file.write_bytes(raw)
        os.utime(file, (time.time() - age,) * 2)


def numbers(folder: Path) -> list[int]:
    return [int(entry.files[0].name.split("-")[1], 16) for entry in compile_cache.entries(folder)]


def test_programs_that_nobody_used_for_a_month_are_removed(kept):
    day = 24 * 3600.0
    for name, age in enumerate((31 * day, 29 * day, 100 * day, 0.0)):
        keep(kept, name, age=age)
    others = ["notes-cache", "jit_f-0123-cache", "README"]
    for name in others:
        (kept / name).write_bytes(b"")
    compile_cache.sweep(kept)
    assert numbers(kept) == [1, 3]
    assert set(others) <= set(files(kept))


def test_the_longest_unused_are_removed_beyond_a_number(kept, monkeypatch):
    monkeypatch.setattr(compile_cache, "MOST_ENTRIES", 3)
    for name in range(5):
        keep(kept, name, age=100.0 * (name + 1) if name != 4 else 0.0)
    compile_cache.sweep(kept)
    assert numbers(kept) == [1, 0, 4]


def test_jax_throws_out_the_longest_unused_beyond_the_size(kept, monkeypatch):
    compile_cache.enable()
    compiled()
    size = sum(entry.size for entry in compile_cache.entries(kept))
    renew()
    monkeypatch.setattr(compile_cache, "MOST_BYTES", size + size // 4)
    compile_cache.enable()
    assert compiled() == (2, 2)
    assert compiled(5.0) == (2, 0)
    assert sum(entry.size for entry in compile_cache.entries(kept)) <= size + size // 4
    assert compiled(5.0) == (2, 2)


# The verb.


def told(capsys, *words: str) -> str:
    assert main(["cache", *words]) == 0
    return capsys.readouterr().out


def test_the_verb_shows_and_clears(kept, capsys, monkeypatch):
    named = f"{kept} ({compile_cache.VARIABLE}): "
    assert told(capsys) == f"{named}0 compiled programs, 0.0 of at most 1,024 MiB\n"
    for name in range(3):
        keep(kept, name, size=2**20)
    assert told(capsys) == told(capsys, "show") == f"{named}3 compiled programs, 3.0 of at most 1,024 MiB\n"
    (kept / "README").write_text("mine")
    assert told(capsys, "clear") == f"{named}removed 3 compiled programs, 3.0 MiB\n"
    assert files(kept) == ["README"]
    monkeypatch.setenv(compile_cache.VARIABLE, "off")
    assert told(capsys) == f"compiled programs are not kept: {compile_cache.VARIABLE} is off\n"


def test_the_verb_leaves_a_folder_of_jax_alone(tmp_path, capsys, monkeypatch):
    keep(tmp_path, 1)
    monkeypatch.setenv(compile_cache.OF_JAX, str(tmp_path))
    assert told(capsys) == f"{tmp_path} ({compile_cache.OF_JAX}): 1 compiled programs, 0.0 MiB\n"
    assert main(["cache", "clear"]) == 2
    assert f"{compile_cache.OF_JAX} names {tmp_path}" in capsys.readouterr().err
    assert numbers(tmp_path) == [1]


# Several processes.

COMMAND = (
    "import sys, jax\nfrom collections import Counter\nfrom vishwamai.cli import main\ncounts = Counter()\n"
    "jax.monitoring.register_event_listener(lambda event, **_: counts.update([event.rpartition('/')[2]]))\n"
    "code = main(sys.argv[1:])\n"
    "print(counts['compile_requests_use_cache'], counts['cache_hits'], file=sys.stderr)\nsys.exit(code)"
)


@pytest.mark.by_turns
def test_of_two_processes_at_once_both_succeed_and_the_next_compiles_nothing(kept, tmp_path):
    sizes = {"vocab_size": 263, "d_model": 8, "d_ff": 8, "n_heads": 2, "n_kv_heads": 1, "head_dim": 8}
    cfg = ModelConfig(**sizes, stacks=uniform(1), max_length=64)
    VishwamAI.from_config(cfg, tokenizer=VishwamAITokenizer.bytes()).save_pretrained(tmp_path / "model")
    compile_cache.clear(kept)
    arguments = ["generate", "hi", "-m", str(tmp_path / "model"), "-n", "3"]

    def start(seed: int) -> subprocess.Popen:
        pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
        environment = os.environ | {"PYTHONHASHSEED": str(seed)}
        return subprocess.Popen([sys.executable, "-W", "error", "-c", COMMAND, *arguments], env=environment, **pipes)

    two = [process.communicate(timeout=280) for process in [start(1), start(2)]]
    [(text, counts)] = {start(3).communicate(timeout=280)}
    asked, found = map(int, counts.split())
    assert asked == found > 0
    assert {out for out, _ in two} == {text} != {""}
    assert all(len(err.splitlines()) == 1 for _, err in two)  # the counts, and no warning
