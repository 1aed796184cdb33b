"""The hub's cache on this disk, as its own client lays it out: which snapshots lie there, whether whole, whether sound.

`models--owner--name/` holds `refs/` (a branch or tag's commit), `snapshots/COMMIT/` (links by file name), `blobs/` (the
files, each named by its hash) and `trees/` (a commit's listing). `checked/` is ours: its presence says that files were
downloaded by us, and it has an empty file for each whose hash was found right. It knows no network.
"""

import contextlib
import hashlib
import json
import os
import re
from concurrent.futures import ThreadPoolExecutor
from fnmatch import fnmatch
from pathlib import Path
from typing import Literal

from vishwamai.errors import HubError
from vishwamai.hub import gguf

Part = Literal["model", "tokenizer", "config", "adapter"]
WANTED: dict[Part, tuple[str, ...]] = {  # what is fetched
    "model": ("*.json", "*.model", "*.jinja", "*.safetensors"),
    "tokenizer": ("*.json", "*.model", "*.jinja"),
    "config": ("config.json", "generation_config.json"),
    "adapter": ("adapter_config.json", "adapter_model.safetensors"),
}
UNWANTED = ("consolidated*", "original/*", "onnx/*", "openvino/*", "*/*.safetensors")
TOKENIZERS = ("tokenizer.json", "tokenizer.model", "tokenizer_config.json")
INDEX = "model.safetensors.index.json"
CHECKED = "checked"

_COMMIT = re.compile(r"[0-9a-f]{40}")
_HASH = re.compile(r"[0-9a-f]{40}|[0-9a-f]{64}")


def cache_folder() -> Path:
    """Where the hub's files are kept on this machine, by the hub's own environment variables."""
    home = os.environ.get("HF_HOME") or Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache") / "huggingface"
    return Path(os.environ.get("HF_HUB_CACHE") or Path(home) / "hub").expanduser()


def repo_folder(repo: str) -> Path:
    """Where a repository's files are kept."""
    return cache_folder() / f"models--{repo.replace('/', '--')}"


def find_cached(repo: str, revision: str | None = None, *, part: Part = "model", whole: bool = False) -> Path | None:
    """The snapshot of a repository in the cache; None where there is none, or one that lacks this part.

    A config.json will not do where a model is there in GGUF alone, whose configuration is in its file. `whole` also
    asks for every file that the commit's listing has, where there is a listing; without it weights and config.json
    will do.
    """
    folder = _snapshot(repo, revision)
    if folder is None or not has_part(folder, part) or (whole and _lacks_listed(folder, part)):
        return None
    return None if part == "config" and gguf.is_only_form(names_in(folder)) else folder


def find_cached_gguf(repo: str, revision: str | None, asked: str | None, *, guess: bool) -> Path | None:
    """A GGUF file of a repository in the cache: the one that is asked for, or the only one by the commit's listing.

    `guess` takes the only one that lies there where there is no listing. Raises `HubError` where there are several.
    """
    folder = _snapshot(repo, revision)
    if folder is None:
        return None
    names = [asked] if asked else listed(folder)
    if names is None and guess:
        names = names_in(folder)
    found = gguf.choose_model(names or (), repo, asked)
    return folder / found if found is not None and gguf.has_model(folder, found) else None


def _snapshot(repo: str, revision: str | None) -> Path | None:
    """Where a commit's files are, if they are."""
    root, commit = repo_folder(repo), revision or "main"
    if not _COMMIT.fullmatch(commit):
        try:
            commit = (root / "refs" / commit).read_text(encoding="ascii").strip()
        except (OSError, ValueError):
            return None
    return root / "snapshots" / commit if _COMMIT.fullmatch(commit) else None


def has_part(folder: Path, part: Part) -> bool:
    """Whether a folder holds enough of a part to be used."""
    if part == "model":
        return is_complete(folder)
    if part == "adapter":
        return all((folder / file).is_file() for file in WANTED["adapter"])
    return any((folder / file).is_file() for file in (TOKENIZERS if part == "tokenizer" else ("config.json",)))


def is_complete(folder: Path) -> bool:
    """Whether a folder holds config.json and every file of weights that its index names."""
    if not (folder / "config.json").is_file():
        return False
    if (folder / "model.safetensors").is_file():
        return True
    try:
        files = set(json.loads((folder / INDEX).read_text(encoding="utf-8"))["weight_map"].values())
    except (OSError, ValueError, TypeError, KeyError, AttributeError, RecursionError):
        return False
    return all(isinstance(file, str) and (folder / file).is_file() for file in files)


def _lacks_listed(folder: Path, part: Part) -> bool:
    wanted = [n for n in listed(folder) or () if _matches(n, WANTED[part]) and not _matches(n, UNWANTED)]
    return not all((folder / name).is_file() for name in wanted)


def names_in(folder: Path) -> list[str]:
    """The files of a snapshot's commit, or where there is no listing of it those that lie there."""
    there = (path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())
    return list(there) if (names := listed(folder)) is None else names


def listed(folder: Path) -> list[str] | None:
    """The files of a snapshot's commit by its listing; None where there is none."""
    listing = folder.parents[1] / "trees" / f"{folder.name}.json"
    try:
        return [str(name) for name in json.loads(listing.read_text(encoding="utf-8"))["files"]]
    except (OSError, ValueError, TypeError, KeyError, RecursionError):
        return None


def _matches(name: str, patterns: tuple[str, ...]) -> bool:
    return any(fnmatch(name, pattern) for pattern in patterns)


def check_hashes(folder: Path) -> None:
    """Hashes the files of a snapshot that we downloaded and that were not hashed before.

    A blob is named by its SHA-256, or by the SHA-1 that git gives it; one whose name is neither is let through. What
    does not match is removed and named in a `HubError`, and the snapshot is taken apart (its blobs stay), so that the
    next download fetches what is missing and no more: without a listing nobody would know that anything is.
    """
    if folder.parent.name != "snapshots" or not ((root := folder.parents[1]) / CHECKED).is_dir():
        return
    links = {path: Path(os.readlink(path)).name for path in sorted(folder.rglob("*")) if path.is_symlink()}
    fresh = {p: name for p, name in links.items() if _HASH.fullmatch(name) and not (root / CHECKED / name).exists()}
    try:
        with ThreadPoolExecutor() as pool:
            sums = list(pool.map(_digest, fresh, fresh.values()))
    except OSError as error:
        raise HubError(f"{folder}: cannot be read ({error.strerror})") from None
    wrong = [path for (path, name), found in zip(fresh.items(), sums, strict=True) if found != name]
    for path in wrong:
        for damaged in (path.resolve(), root / "blobs" / fresh[path]):  # a blob may be a link too
            damaged.unlink(missing_ok=True)
    for path in links if wrong else ():
        path.unlink(missing_ok=True)
    for name in {name for path, name in fresh.items() if path not in wrong}:
        with contextlib.suppress(OSError):  # a cache that cannot be written is hashed again
            (root / CHECKED / name).touch()
    if wrong:
        names = ", ".join(path.relative_to(folder).as_posix() for path in wrong)
        repo = root.name.removeprefix("models--").replace("--", "/")
        raise HubError(f"{repo}: {names} arrived damaged (the hub gives another hash) and was removed; try again")


def _digest(path: Path, name: str) -> str:
    """The hash of a file, of the kind that `name` is."""
    with path.open("rb") as file:
        if len(name) == 64:
            return hashlib.file_digest(file, "sha256").hexdigest()
        head = f"blob {os.fstat(file.fileno()).st_size}\0".encode()
        return hashlib.file_digest(file, lambda: hashlib.sha1(head, usedforsecurity=False)).hexdigest()
