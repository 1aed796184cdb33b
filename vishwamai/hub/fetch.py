"""Downloads a part of a repository into the cache with the hub's own client, and says in a sentence why it could not.

The client finds the token (HF_TOKEN, HF_TOKEN_PATH, HUGGING_FACE_HUB_TOKEN), resumes a cut transfer, waits its turn
where two processes want one file, and shows its progress on a terminal. It knows no names but those of the hub.
"""

import errno
import glob
import os
import sys
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

from vishwamai.errors import HubError
from vishwamai.hub import gguf
from vishwamai.hub.cache import CHECKED, UNWANTED, WANTED, Part, cache_folder, has_part, listed, repo_folder

DISK_FULL = (errno.ENOSPC, errno.EDQUOT)
NOT_WRITABLE = (errno.EACCES, errno.EPERM, errno.EROFS)


def is_offline() -> str | None:
    """The variable of the environment that forbids the network, if one does."""
    known = ("HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE")
    return next((name for name in known if os.environ.get(name, "").upper() in ("1", "ON", "YES", "TRUE")), None)


def download(repo: str, revision: str | None = None, *, part: Part = "model", gguf_file: str | None = None) -> Path:
    """Fetches a part of a repository into the cache; never code. Raises `HubError` that says what was tried.

    Returns its folder, or the GGUF file that was asked for, or that is its only model.
    """
    tried = f"tried: a local folder {repo}, the cache {cache_folder()}"
    at = repo if revision is None else f"{repo} at {revision}"
    if by := is_offline():
        raise HubError(f"{at} is not on this machine and {by} is set ({tried})")
    try:
        from huggingface_hub import HfApi, constants, get_token, snapshot_download
    except ImportError:
        raise HubError(f"{repo} has to be downloaded, which needs the package huggingface_hub ({tried})") from None
    endpoint = (os.environ.get("HF_ENDPOINT") or constants.ENDPOINT).rstrip("/")
    options: dict[str, Any] = {"endpoint": endpoint, "cache_dir": cache_folder(), "tqdm_class": _progress()}

    def fetch(patterns: Iterable[str], ignored: Iterable[str] = (), commit: str | None = revision) -> Path:
        some = {"allow_patterns": list(patterns), "ignore_patterns": list(ignored)}
        return Path(snapshot_download(repo, revision=commit, **some, **options))

    _check_token(get_token)
    try:
        (repo_folder(repo) / CHECKED).mkdir(parents=True, exist_ok=True)
        if gguf_file is None:
            found = fetch(WANTED[part], UNWANTED)
        else:
            found = fetch(map(glob.escape, gguf.model_files(gguf_file)))
        if part != "adapter" and (gguf_file or part == "config" or not has_part(found, part)):
            names = listed(found) or HfApi(endpoint=endpoint).list_repo_files(repo, revision=found.name)
            is_needed = gguf_file or not has_part(found, part) or gguf.is_only_form(names)
            if is_needed and (model := gguf.choose_model(names, at, gguf_file)) is not None:
                return fetch(map(glob.escape, gguf.model_files(model)), commit=found.name) / model
    except HubError:
        raise
    except Exception as error:  # the client's errors share no base class with those of the network below it
        reason = _reason(error, f"{endpoint}/{repo}", revision)
        raise HubError(f"{at} could not be downloaded: {reason} ({tried}, the hub {endpoint})") from error
    if not has_part(found, part):
        needs: dict[Part, str] = {
            "model": "config.json with weights in safetensors, and no GGUF",
            "adapter": "adapter of PEFT",
        }
        needs |= {"tokenizer": "tokenizer", "config": "config.json"}
        raise HubError(f"{at}: the repository has no {needs[part]}; what it has of them is in {found}")
    return found


def _check_token(get_token: Callable[[], str | None]) -> None:
    """A token that is no header's value would be quoted by the error of whoever tries to send it."""
    try:
        token = get_token()
    except (OSError, ValueError) as error:
        raise HubError(f"the hub's token cannot be read ({type(error).__name__}); see HF_TOKEN_PATH") from None
    if token and not (token.isascii() and token.isprintable() and " " not in token):
        raise HubError("the hub's token (HF_TOKEN, or the file of HF_TOKEN_PATH) has characters that no token has")


def _progress() -> type | None:
    """The client's bars where someone can see them; else bars that are not shown."""
    if sys.stderr is not None and sys.stderr.isatty():
        return None
    from huggingface_hub.utils import tqdm

    class Hidden(tqdm):
        def __init__(self, *args, **options):
            super().__init__(*args, **options | {"disable": True})

    return Hidden


def _reason(error: Exception, address: str, revision: str | None) -> str:
    """What stood in the way, and what to do about it."""
    from huggingface_hub import errors as client
    from huggingface_hub import get_token

    chain = list(_chain(error))
    known: dict[type, str] = {
        client.GatedRepoError: f"its owner asks you to accept terms: do so at {address}, then set HF_TOKEN",
        client.RepositoryNotFoundError: "the hub has no such repository, or it is private: "
        + ("the token that is set may not read it" if get_token() else "set HF_TOKEN to a token that may read it"),
        client.RevisionNotFoundError: f"it has no branch, tag or commit {revision or 'main'!r}",
    }
    for kind, sentence in known.items():
        if any(isinstance(e, kind) for e in chain):
            return sentence
    for e in chain:
        response = getattr(e, "response", None)
        if isinstance(e, client.HfHubHTTPError) and response is not None:
            return _answer(response.status_code, response.headers.get("Retry-After"))
        if isinstance(e, OSError) and e.errno in DISK_FULL:
            return f"the disk is full ({cache_folder()}); make room, or set HF_HOME to a folder on another disk"
        if isinstance(e, OSError) and e.errno in NOT_WRITABLE:
            return f"the cache cannot be written ({e.strerror}); set HF_HOME to a folder that can"
    if isinstance(error, client.LocalEntryNotFoundError):
        return (
            f"the hub cannot be reached ({_first_line(chain[-1])}): check the name and the connection; "
            "the path of a folder needs no hub"
        )
    return f"{_first_line(error)}; try again"


def _answer(status: int, retry_after: str | None) -> str:
    """What the hub's refusal means."""
    if status == 401:
        return "the hub does not know the token that is set (HF_TOKEN)"
    if status == 403:
        return "the token that is set may not read it (HF_TOKEN)"
    if status == 429:
        when = f"in {retry_after} s" if retry_after and retry_after.isdigit() else "later"
        return f"too many requests were made; try again {when}, or set HF_TOKEN, which allows more"
    return f"the hub answered {status}; try again later"


def _chain(error: BaseException | None) -> Iterator[BaseException]:
    while error is not None:
        yield error
        error = error.__cause__ or error.__context__


def _first_line(error: BaseException) -> str:
    return str(error).strip().partition("\n")[0] or type(error).__name__
