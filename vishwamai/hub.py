"""A model's name -> a folder on this disk: built in, local, cached, or downloaded from the Hugging Face hub.

It knows file names, and nothing of what stands in the files. What is in the standard cache is used as it lies there,
without asking the network whether something newer exists; a `revision` asks for one commit, branch or tag.
"""

import json
import os
import re
import stat
from pathlib import Path
from typing import Literal

from vishwamai.errors import HubError

BUILT_IN = {"vishwamai/base": Path(__file__).parent / "assets" / "base"}
Part = Literal["model", "tokenizer", "config", "adapter"]
WANTED: dict[Part, tuple[str, ...]] = {  # what is fetched
    "model": ("*.json", "*.model", "*.jinja", "*.safetensors"),
    "tokenizer": ("*.json", "*.model", "*.jinja"),
    "config": ("config.json", "generation_config.json"),
    "adapter": ("adapter_config.json", "adapter_model.safetensors"),
}
TOKENIZERS = ("tokenizer.json", "tokenizer.model", "tokenizer_config.json")
UNWANTED = ("consolidated*", "original/*", "onnx/*", "openvino/*", "*/*.safetensors")
INDEX = "model.safetensors.index.json"

_REPO = re.compile(r"[A-Za-z0-9][\w.-]*(/[A-Za-z0-9][\w.-]*)?", re.ASCII)
_REVISION = re.compile(r"[A-Za-z0-9][\w.-]*(/[\w.-]+)*", re.ASCII)
_COMMIT = re.compile(r"[0-9a-f]{40}")


def resolve(name: str | os.PathLike[str], *, revision: str | None = None, part: Part = "model") -> Path:
    """The folder of a model: `vishwamai/base`, a local folder, or a hub repository such as `Qwen/Qwen3-0.6B`.

    Of a repository a `part` will do: for "tokenizer" no weights are downloaded, for "config" nothing but the
    configuration, for "adapter" nothing but an adapter's two files. HF_HOME, HF_HUB_CACHE, HF_ENDPOINT and
    HF_HUB_OFFLINE are honoured. Raises `HubError` that says what was tried.
    """
    text = os.fspath(name)
    if text in BUILT_IN:
        return _built_in(text, revision)
    if not text:
        raise HubError("the name of a model is empty; give a folder or a hub repository such as Qwen/Qwen3-0.6B")
    folder = Path(os.path.expanduser(text))
    if os.path.isdir(folder):  # which is False, where Path.is_dir raises, for a name longer than a name can be
        if revision is not None:
            raise HubError(f"{text} is a local folder, which has no revision {revision!r}; leave the revision out")
        return folder
    if os.path.exists(folder):
        raise HubError(f"{text} is a file; name the folder that holds config.json and the weights")
    if not _is_repo(text):
        raise HubError(f"there is no folder {text}, and it is no name of a hub repository (owner/model) either")
    if revision is not None and (not _REVISION.fullmatch(revision) or ".." in revision):
        raise HubError(f"{revision!r} is no revision: give a commit, a branch or a tag")
    cached = find_cached(text, revision, part=part)
    return download(text, revision, part=part) if cached is None else cached


def cache_folder() -> Path:
    """Where the hub's files are kept on this machine, by the hub's own environment variables."""
    home = os.environ.get("HF_HOME") or Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache") / "huggingface"
    return Path(os.environ.get("HF_HUB_CACHE") or Path(home) / "hub").expanduser()


def find_cached(repo: str, revision: str | None = None, *, part: Part = "model") -> Path | None:
    """The snapshot of a repository in the cache; None where there is none, or one that lacks this part."""
    root = cache_folder() / f"models--{repo.replace('/', '--')}"
    commit = revision or "main"
    if not _COMMIT.fullmatch(commit):
        try:
            commit = (root / "refs" / commit).read_text(encoding="ascii").strip()
        except (OSError, ValueError):
            return None
    folder = root / "snapshots" / commit
    return folder if _COMMIT.fullmatch(commit) and _has(folder, part) else None


def _has(folder: Path, part: Part) -> bool:
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


def download(repo: str, revision: str | None = None, *, part: Part = "model") -> Path:
    """Fetches a part of a repository into the cache; never code."""
    tried = f"tried: a local folder {repo}, the cache {cache_folder()}"
    if os.environ.get("HF_HUB_OFFLINE", "").upper() in ("1", "ON", "YES", "TRUE"):
        raise HubError(f"{_at(repo, revision)} is not on this machine and HF_HUB_OFFLINE is set ({tried})")
    try:
        from huggingface_hub import snapshot_download
    except ImportError:
        raise HubError(f"{repo} has to be downloaded, which needs the package huggingface_hub ({tried})") from None
    patterns = {"allow_patterns": list(WANTED[part]), "ignore_patterns": list(UNWANTED)}
    endpoint = os.environ.get("HF_ENDPOINT")
    try:
        found = snapshot_download(repo, revision=revision, cache_dir=cache_folder(), endpoint=endpoint, **patterns)
    except Exception as error:  # the client's errors share no base class with those of the network below it
        reason = str(error).strip().partition("\n")[0] or type(error).__name__
        raise HubError(f"{_at(repo, revision)} could not be downloaded: {reason} ({tried}, the hub)") from error
    return Path(found)


def member(folder: Path, name: str) -> Path:
    """The path of a file that another file names: a plain name, a regular file, inside the folder.

    A link may lead to the cache's store of blobs and nowhere else out of the folder. Raises `HubError`.
    """
    if name in ("", ".", "..") or not name.isprintable() or "/" in name or "\\" in name:
        raise HubError(f"{folder}: {name!r} is not a plain file name")
    path = folder / name
    try:
        target, mode = path.resolve(strict=True), path.stat().st_mode
    except (OSError, RuntimeError):
        raise HubError(f"{folder}: there is no file {name}; the folder is not complete") from None
    if not stat.S_ISREG(mode):
        raise HubError(f"{path} is not a regular file")
    if not stays_inside(folder, path):
        raise HubError(f"{path} is a link that leads out of its folder, to {target}")
    return path


def stays_inside(folder: Path, path: Path) -> bool:
    """Whether a path leads to a file of the folder, or of the store of blobs that a cached folder's links lead to."""
    whole, target = folder.resolve(), path.resolve()
    homes = [whole, whole.parent.parent / "blobs"] if whole.parent.name == "snapshots" else [whole]
    return any(target.is_relative_to(home) for home in homes)


def _built_in(name: str, revision: str | None) -> Path:
    folder = BUILT_IN[name]
    if revision is not None:
        raise HubError(f"{name} is built in and has one revision only; leave {revision!r} out")
    if not folder.is_dir():
        raise HubError(f"{name} is missing from this installation (no folder {folder}); install the package again")
    return folder


def _is_repo(text: str) -> bool:
    return len(text) <= 96 and bool(_REPO.fullmatch(text)) and ".." not in text and "--" not in text


def _at(repo: str, revision: str | None) -> str:
    return repo if revision is None else f"{repo} at {revision}"
