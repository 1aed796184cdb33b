"""A model's name -> a folder or a GGUF file on this disk: built in, local, cached, or downloaded from the hub.

What is in the standard cache is used as it lies there, without asking the network whether something newer exists; a
`revision` asks for one commit, branch or tag. It knows file names, and nothing of what stands in the files.
"""

import os
import re
import stat
from pathlib import Path

from vishwamai.errors import HubError, suggestion
from vishwamai.hub import gguf
from vishwamai.hub.cache import INDEX, WANTED, Part, check_hashes, find_cached, find_cached_gguf, has_part, is_complete
from vishwamai.hub.fetch import download, is_offline

__all__ = ["BUILT_IN", "INDEX", "WANTED", "Part", "is_complete", "member", "resolve", "stays_inside"]

ASSETS = Path(__file__).parents[1] / "assets"
BUILT_IN = {f"vishwamai/{name}": ASSETS / name for name in ("base", "countdown")}

_REPO = re.compile(r"\w[\w.-]*(/\w[\w.-]*)?", re.ASCII)
_REVISION = re.compile(r"[A-Za-z0-9][\w.-]*(/[\w.-]+)*", re.ASCII)


def resolve(
    name: str | os.PathLike[str], *, revision: str | None = None, part: Part = "model", gguf_file: str | None = None
) -> Path:
    """The folder of a model: `vishwamai/base`, a local folder, or a hub repository such as `Qwen/Qwen3-0.6B`; or the
    GGUF file of one: a local file, `gguf_file` of a folder or a repository, or the only one where there is no other
    model.

    Of a repository a `part` will do: for "tokenizer" no weights are downloaded, for "config" nothing but the
    configuration, for "adapter" nothing but an adapter's two files; a training run's folder is that of its adapter.
    What is downloaded is hashed, once. HF_HOME, HF_HUB_CACHE, HF_ENDPOINT, HF_TOKEN and HF_HUB_OFFLINE are honoured.
    Raises `HubError` that says what was tried.
    """
    text = os.fspath(name)
    if text in BUILT_IN and gguf_file is None:
        return _built_in(text, revision)
    asked = None if gguf_file is None else gguf.check_name(gguf_file)
    if not text:
        raise HubError("the name of a model is empty; give a folder or a hub repository such as Qwen/Qwen3-0.6B")
    folder = Path(os.path.expanduser(text))
    if os.path.isdir(folder):  # which is False, where Path.is_dir raises, for a name longer than a name can be
        if revision is not None:
            raise HubError(f"{text} is a local folder, which has no revision {revision!r}; leave the revision out")
        return _in_folder(folder, part, asked)
    if os.path.exists(folder):
        if text.endswith(gguf.SUFFIX) and asked is None and part != "adapter":
            return folder
        raise HubError(f"{text} is a file; name the folder that holds config.json and the weights, or a .gguf file")
    if text.endswith(gguf.SUFFIX):
        raise HubError(f"there is no file {text}; of a hub repository, give owner/model and gguf_file (--gguf-file)")
    if not _is_repo(text):
        raise HubError(f"there is no folder {text}, and it is no name of a hub repository (owner/model) either")
    if text.startswith("vishwamai/"):
        raise HubError(
            f"{text} is no folder and not built in, as {' and '.join(BUILT_IN)} are; {suggestion(text, BUILT_IN)}"
        )
    if revision is not None and (not _REVISION.fullmatch(revision) or ".." in revision):
        raise HubError(f"{revision!r} is no revision: give a commit, a branch or a tag")
    cached = None if asked else find_cached(text, revision, part=part, whole=not is_offline())
    if cached is None and part != "adapter":
        cached = find_cached_gguf(text, revision, asked, guess=bool(is_offline()))
    found = download(text, revision, part=part, gguf_file=asked) if cached is None else cached
    check_hashes(found if found.is_dir() else next(up for up in found.parents if up.parent.name == "snapshots"))
    return found


def _in_folder(folder: Path, part: Part, asked: str | None) -> Path:
    """A local folder, or what is used of it: a run's adapter, a GGUF file."""
    inner = folder / "adapter"  # where a run that trains one leaves it
    if part == "adapter":
        return inner if has_part(inner, part) and not has_part(folder, part) else folder
    names = {path.name for path in folder.glob(f"*{gguf.SUFFIX}")} | ({asked} if asked else set())
    if asked is None and (has_part(folder, "tokenizer" if part == "tokenizer" else "model") or not names):
        return folder
    found = gguf.choose_model((name for name in names if (folder / name).is_file()), str(folder), asked)
    return folder if found is None else folder / found


def member(folder: Path, name: str) -> Path:
    """The path of a file that another file names: a plain name, a regular file, inside the folder.

    A link may lead to the cache's blobs, the repository's own or those that repositories share, and nowhere else out of
    the folder. Raises `HubError`.
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
    """Whether a path leads to a file of the folder, or of a store of blobs that a cached folder's links lead to."""
    homes, target = [whole := folder.resolve()], path.resolve()
    if whole.parent.name == "snapshots":
        homes += [whole.parents[1] / "blobs", whole.parents[2] / "blobs"]
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
