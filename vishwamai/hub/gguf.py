"""Which GGUF files there are in a folder or a repository, and which of them are one model. It knows their names alone.

A large model is split into files that end in -00001-of-00003.gguf and so on; mmproj-*.gguf and imatrix*.gguf are no
models.
"""

import re
from collections.abc import Iterable
from pathlib import Path, PurePosixPath

from vishwamai.errors import HubError

SUFFIX = ".gguf"
PART = re.compile(r"(?P<stem>.+)-(?P<number>\d{5})-of-(?P<count>\d{5})\.gguf")
NO_MODELS = ("mmproj", "imatrix")
MAX_FILES = 10_000
SHOWN = 40  # names in a message


def model_files(name: str) -> list[str]:
    """The files of the model that a file belongs to, itself among them."""
    match = PART.fullmatch(name)
    if match is None or not 1 <= int(match["count"]) <= MAX_FILES:
        return [name]
    return [f"{match['stem']}-{i + 1:05d}-of-{match['count']}.gguf" for i in range(int(match["count"]))]


def choose_model(names: Iterable[str], where: str, asked: str | None = None) -> str | None:
    """The first file of a model among these names: the one that is asked for, or the only one; None without any.

    Raises `HubError` that lists them, where there are several or not the one.
    """
    files = sorted(name for name in names if name.endswith(SUFFIX))
    models = sorted({model_files(name)[0] for name in files if not _base(name).startswith(NO_MODELS)})
    listed = f"{', '.join(models[:SHOWN])}{' and others' if len(models) > SHOWN else ''}"
    if asked is not None:
        if asked not in files:
            raise HubError(f"{where}: there is no file {asked}; GGUF files of models are: {listed or 'none'}")
        return model_files(asked)[0]
    if len(models) > 1:
        raise HubError(f"{where} has several models in GGUF: {listed}; name one of them (gguf_file=, --gguf-file)")
    return next(iter(models), None)


def is_only_form(names: Iterable[str]) -> bool:
    """Whether there are GGUF files among these names, and no weights in safetensors beside them."""
    names = list(names)
    return any(name.endswith(SUFFIX) for name in names) and not any(
        name.endswith(".safetensors") and "/" not in name for name in names
    )


def check_name(name: str) -> str:
    """A file's name in a folder or a repository, which may be in a folder there. Raises `HubError` for another."""
    parts = PurePosixPath(name).parts
    plain = name.isprintable() and "\\" not in name and ".." not in parts and not name.startswith("/")
    if not plain or not name.endswith(SUFFIX) or len(name) > 512:
        raise HubError(f"{name!r:.99} is no name of a GGUF file; gguf_file is one like model.gguf, inside its folder")
    return str(PurePosixPath(name))


def has_model(folder: Path, name: str) -> bool:
    """Whether all files of a model are in a folder."""
    return all((folder / file).is_file() for file in model_files(name))


def _base(name: str) -> str:
    return PurePosixPath(name).name.lower()
