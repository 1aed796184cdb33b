"""What stands between a checkpoint and its use. Readers yield these; whoever needs the checkpoint raises the first."""

import dataclasses


@dataclasses.dataclass(frozen=True)
class Problem:
    """An attribute of config.json or a tensor that is not supported: its value as text, and why it is not.

    `why` goes on where the name ends: of an attribute "must be a number, not 'x'", of a tensor, after "is" or "are",
    "missing from the weights".
    """

    name: str
    value: str
    why: str
    where: str = "config.json"


def short(value: object) -> str:
    """A value as a sentence quotes it."""
    text = repr(value)
    return text if len(text) <= 60 else text[:57] + "..."
