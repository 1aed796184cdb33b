"""The parity certificate of a converted folder, `parity.json`: its files, and how far its logits are from the source's.

It records the SHA-256 of every file, the prompts as ids, the distance in float32 between the logits of source and
target as we load them, that between ours of the target and those of an installed `transformers`, and the versions of
the packages. What could not be compared is null, with the reason. Nothing reads it to load a model. Windows and
scalings that begin beyond the prompts do not show in it. It knows no tokenizer: prompts are ids.
"""

import dataclasses
import datetime
import hashlib
import importlib.metadata
import json
import platform
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np

from vishwamai.config import load_json
from vishwamai.errors import CheckpointError, ConfigError, VishwamAIError
from vishwamai.hf import config, reference, safetensors, weights
from vishwamai.hf.families.own import OWN
from vishwamai.hf.source import CheckpointSource, as_source
from vishwamai.models import cost, transformer
from vishwamai.models.config import ModelConfig

FILE = "parity.json"
FORMAT = 1
MAX_CERTIFICATE = 16 * 2**20
TEXTS = (
    "Explain the concept of machine learning:",
    "def area(radius):\n    return 3.14159 * radius ** 2\n",
    "Zwölf Boxkämpfer jagen Viktor quer über den Sylter Deich. 日本語の文章です。",
    "17 * 23 = 391, and 391 / 17 = 23.",
)
LONGEST = 48  # ids of a prompt
SEEDED = (24, 48)  # lengths of the prompts that are drawn where there is no tokenizer
PACKAGES = ("vishwamai", "jax", "jaxlib", "numpy")
DISTANCES = ("source_to_target", "target_to_transformers")
GIB = 2**30


@dataclasses.dataclass(frozen=True)
class TokenPrompt:
    """The ids that logits are compared on, and their text."""

    tokens: tuple[int, ...]
    text: str | None = None


def choose_prompts(cfg: ModelConfig, encode: Callable[[str], Sequence[int]] | None = None) -> list[TokenPrompt]:
    """Returns the prompts for a model: `TEXTS` by its tokenizer, or ids from a fixed seed where it has none."""
    longest = min(LONGEST, cfg.max_length)
    rows = [TokenPrompt(tuple(map(int, encode(text)))[:longest], text) for text in TEXTS] if encode else []
    if rows and all(row.tokens and max(row.tokens) < cfg.vocab_size for row in rows):
        return rows
    rng = np.random.default_rng(0)
    return [TokenPrompt(tuple(rng.integers(0, cfg.vocab_size, min(n, longest)).tolist())) for n in SEEDED]


def write_certificate(
    source: Path | CheckpointSource,
    target: Path,
    asked: Sequence[TokenPrompt],
    *,
    name: str,
    compare: bool = True,
) -> dict[str, Any]:
    """Writes `parity.json` to the folder `target`, converted from `source`, called `name`; returns it.

    With `compare=False` no model is loaded. The hashes are on disk before the first model is loaded.
    """
    source, found = as_source(source), config.read_pretrained(target)
    data = load_json(target / "config.json")
    made: dict[str, Any] = {
        "format": FORMAT,
        "made": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "source": {
            "name": name,
            "model_type": source.pretrained.model_type,
            "files": hash_files((file.name, file) for file in source.model_files()),
        },
        "target": {"model_type": found.model_type, "dtype": data.get("dtype"), "files": hash_files(_all_files(target))},
        "prompts": [dataclasses.asdict(prompt) for prompt in asked],
    }
    if source.path.parent.name == "snapshots":
        made["source"]["commit"] = source.path.name
    made |= dict.fromkeys(DISTANCES, _none("it was not computed")) | {"versions": versions()}
    made["platform"] = f"{platform.platform()}, Python {platform.python_version()}, logits on the CPU"
    _write(target, made)
    if compare:
        made |= _distances(source, target, found.model, [prompt.tokens for prompt in asked])
        _write(target, made)
    return made


def _write(folder: Path, made: dict[str, Any]) -> None:
    safetensors.write_bytes(folder / FILE, [json.dumps(made, indent=2, ensure_ascii=False).encode() + b"\n"])


def versions() -> dict[str, str | None]:
    """Returns the versions of the packages that compute; None for what is not installed."""

    def of(package: str) -> str | None:
        try:
            return importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            return None

    return {"python": platform.python_version()} | {p: of(p) for p in (*PACKAGES, "transformers", "torch")}


def hash_files(files: Iterable[tuple[str, Path]]) -> dict[str, str]:
    """Returns the SHA-256 of each file by its name."""
    out = {}
    for name, path in sorted(files):
        with path.open("rb") as file:
            out[name] = hashlib.file_digest(file, "sha256").hexdigest()
    return out


def changed_files(folder: Path) -> list[str]:
    """Returns in words how a folder's files differ from its certificate. Raises `CheckpointError` without one."""
    stated, found = _read(folder), hash_files(_all_files(folder))
    gone = [f"{name} is missing" for name in stated if name not in found]
    changed = [
        f"{name} is not the file that was certified" for name in stated if found.get(name, stated[name]) != stated[name]
    ]
    return sorted(gone + changed) + [f"{name} was not there" for name in found if name not in stated]


def _read(folder: Path) -> dict[str, str]:
    """The hashes that a folder's certificate states."""
    path = folder / FILE
    try:
        files = load_json(path, max_bytes=MAX_CERTIFICATE)["target"]["files"]
        if not all(isinstance(name, str) and isinstance(value, str) for name, value in files.items()):
            raise TypeError
    except ConfigError as error:
        raise CheckpointError(f"{error}; the folder has no certificate that can be compared with") from None
    except (KeyError, TypeError, AttributeError):
        raise CheckpointError(f"{path}: states no hashes of the target's files; it is no certificate") from None
    return files


def _all_files(folder: Path) -> list[tuple[str, Path]]:
    found = [path for path in folder.rglob("*") if path.is_file() and path != folder / FILE]
    return [(path.relative_to(folder).as_posix(), path) for path in found]


# Distances


def source_distance(source: CheckpointSource, target: CheckpointSource, asked: Sequence[TokenPrompt]) -> dict[str, Any]:
    """Returns the distance between the logits of two checkpoints, or None with the reason."""
    found = _both_logits(source, target, source.pretrained.model, [prompt.tokens for prompt in asked])
    return _none(found) if isinstance(found, str) else logit_distance(found[1], found[0])


def _both_logits(
    source: CheckpointSource, target: Path | CheckpointSource, cfg: ModelConfig, rows: list[tuple[int, ...]]
) -> tuple[list[np.ndarray], list[np.ndarray]] | str:
    """The logits of both, or why they could not be computed."""
    needed, free = needed_memory(cfg, rows), free_memory()
    if free is not None and needed > free:
        return f"skipped: it needs {needed / GIB:,.1f} GiB of memory, and {free / GIB:,.1f} GiB are free"
    try:
        return checkpoint_logits(source, rows), checkpoint_logits(target, rows)
    except (VishwamAIError, RuntimeError, MemoryError) as error:  # a lack of memory, a tied matrix that is not
        return f"our logits could not be computed: {_sentence(error)}"


def _distances(source: CheckpointSource, target: Path, cfg: ModelConfig, rows: list[tuple[int, ...]]) -> dict[str, Any]:
    found = _both_logits(source, target, cfg, rows)
    if isinstance(found, str):
        return dict.fromkeys(DISTANCES, _none(found))
    before, after = found
    return dict(zip(DISTANCES, (logit_distance(after, before), _to_reference(target, after, rows)), strict=True))


def _to_reference(target: Path, mine: list[np.ndarray], rows: list[tuple[int, ...]]) -> dict[str, Any]:
    if config.read_pretrained(target).model_type == OWN:
        return _none("transformers does not read VishwamAI's own format")
    try:
        return logit_distance(mine, reference.logits(target, rows))
    except ModuleNotFoundError as error:
        return _none(f"transformers cannot be asked: {error.name} is not installed")
    except Exception as error:  # of a folder that it does not load, another package raises what it likes
        return _none(f"transformers gave no logits: {type(error).__name__}: {_sentence(error)}")


def _none(reason: str) -> dict[str, Any]:
    return {"distance": None, "reason": reason}


def _sentence(error: BaseException) -> str:
    return (str(error).strip() or type(error).__name__).partition("\n")[0]


_forward = jax.jit(transformer.forward, static_argnames="cfg")


def checkpoint_logits(folder: Path | CheckpointSource, rows: Sequence[Sequence[int]]) -> list[np.ndarray]:
    """Returns the logits `[T, V]` of each row of ids by a checkpoint's model, float32, on the CPU."""
    source = as_source(folder)
    found = source.pretrained
    longest = max(map(len, rows))
    tokens = np.asarray([[*row, *[0] * (longest - len(row))] for row in rows], np.int32)  # what follows changes nothing
    with jax.default_device(jax.local_devices(backend="cpu")[0]), jax.default_matmul_precision("highest"):
        w = weights.load_weights(source, found)
        made = np.asarray(_forward(w, tokens, cfg=found.model)[0])
    return [made[i, : len(row)] for i, row in enumerate(rows)]


def logit_distance(mine: list[np.ndarray], theirs: list[np.ndarray]) -> dict[str, Any]:
    """max|mine - theirs| / max|theirs| over all rows' logits [T, V], and how often the likeliest token is one."""
    a, b = np.concatenate(mine), np.concatenate(theirs)
    if a.shape != b.shape:
        return _none(f"there are logits of {list(a.shape)} and of {list(b.shape)}")
    if not (np.isfinite(a).all() and np.isfinite(b).all()):
        return _none("some logits are not finite")
    largest, difference = float(np.abs(b).max()), float(np.abs(a - b).max())
    return {
        "distance": difference / largest if largest else difference,
        "largest_difference": difference,
        "largest_logit": largest,
        "same_greedy_token": float((a.argmax(-1) == b.argmax(-1)).mean()),
        "positions": len(a),
    }


def needed_memory(cfg: ModelConfig, rows: Sequence[Sequence[int]]) -> int:
    """Returns the bytes of one model in float32 and three sets of logits, and a quarter more."""
    logits = 3 * len(rows) * max(map(len, rows)) * cfg.vocab_size
    return 4 * (cost.count_parameters(cfg).total + logits) * 5 // 4


def free_memory() -> int | None:
    """Returns the free bytes of main memory, within the container's limit; None where the system does not say."""
    try:
        lines = dict(line.split(":") for line in Path("/proc/meminfo").read_text().splitlines())
        free = 1024 * int(lines["MemAvailable"].split()[0])
        limit = Path("/sys/fs/cgroup/memory.max")
        text = limit.read_text().strip() if limit.exists() else "max"
        return free if text == "max" else min(free, int(text))
    except (OSError, KeyError, ValueError):
        return None
