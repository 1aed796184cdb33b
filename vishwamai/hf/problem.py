"""What keeps a checkpoint from being used. Checks yield these; who needs the checkpoint raises the first."""

import dataclasses


@dataclasses.dataclass(frozen=True)
class CheckpointProblem:
    """An attribute of config.json or a tensor that is not supported: its value as text, and why it is not.

    `why` continues a sentence that begins with the name: "must be a number, not 'x'" of an attribute, and of a tensor,
    after "is" or "are", "missing from the weights".
    """

    name: str
    value: str
    why: str
    where: str = "config.json"


def shorten(value: object) -> str:
    """A value as a sentence quotes it."""
    text = repr(value)
    return text if len(text) <= 60 else text[:57] + "..."
