"""The errors that VishwamAI raises. Each message says what was wrong, where, and what to do.

Every one of them is a `VishwamAIError`, so a caller (the command line among them) can tell bad input from a bug.
"""

import difflib
from collections.abc import Iterable


class VishwamAIError(Exception):
    """Something that the user can put right: the base of every error below."""


class ConfigError(VishwamAIError, ValueError):
    """A configuration has an unknown, missing, malformed or contradictory value."""


class CheckpointError(VishwamAIError):
    """A checkpoint is missing, damaged, or does not fit the model."""


class TokenizerError(VishwamAIError, ValueError):
    """A tokenizer is missing or damaged, or a text or an id cannot be encoded or decoded."""


class HubError(VishwamAIError):
    """A model's name does not lead to a folder."""


class DataError(VishwamAIError, ValueError):
    """A data file or a row of it cannot be used."""


class InputError(VishwamAIError, ValueError):
    """An argument of a public call is out of range or unknown."""


class BackendError(VishwamAIError):
    """A named implementation cannot run on this platform or with these shapes."""


def suggestion(name: str, known: Iterable[str]) -> str:
    """What was likely meant by a name that there is not, or what there is."""
    names = sorted(known)
    close = difflib.get_close_matches(name, names, n=1)
    return f"did you mean {close[0]}?" if close else f"there are {', '.join(names)}"
