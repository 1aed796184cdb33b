"""The protocol of a language model that reasoning needs: continue prompts, and score continuations.

A prompt is a text, or its pieces: what prompts have in common as pieces is read once. `local`, `remote` and `scripted`
implement the protocol. Every completion is sampled with a seed of its own, made by `seed_of` from its place in a
search, so that it does not depend on what is asked at the same time.
"""

import dataclasses
import hashlib
from collections.abc import Sequence
from typing import Protocol

from vishwamai.generation.sampling import SamplingParams

Prompt = str | tuple[str, ...]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Completion:
    """One continuation of a prompt.

    `text` is without stop texts and special tokens; `tokens` counts what was made, a stop token too. `logprob` is the
    sum over the tokens in nats, under the model's own distribution. `likeliest` has {text of a token: logprob} at each
    step, the stop token's too, where `logprobs` were asked for.
    """

    text: str
    tokens: int
    logprob: float = 0.0
    finish_reason: str = "stop"  # or "length"
    likeliest: tuple[dict[str, float], ...] = ()


@dataclasses.dataclass
class Usage:
    """What a model was asked for so far, and what that took."""

    calls: int = 0  # of `generate` and `score`
    device_calls: int = 0  # programs run, or requests sent
    prompt_tokens: int = 0  # of all rows, as if no row shared anything
    prefill_tokens: int = 0  # prompt tokens that were really read
    completion_tokens: int = 0
    seconds: float = 0.0


class Model(Protocol):
    """A language model as reasoning sees it. Both methods raise `BackendError` for what it cannot do."""

    @property
    def identity(self) -> str:
        """The same for the same weights; values in a memory are kept under it."""
        ...

    @property
    def usage(self) -> Usage:
        """What the model was asked for so far."""
        ...

    def generate(
        self,
        prompts: Sequence[Prompt],
        n: Sequence[int],
        sampling: SamplingParams,
        seeds: Sequence[int],
        *,
        deadline: float | None = None,
    ) -> list[list[Completion]]:
        """Returns `n[i]` continuations of prompt i; number j of them is sampled with `seed_of(seeds[i], j)`.

        `sampling.seed` is ignored. At `deadline` (of `time.monotonic`) completions end where they are, with the finish
        reason "length".
        """
        ...

    def score(
        self, prompts: Sequence[Prompt], continuations: Sequence[Sequence[str]], *, deadline: float | None = None
    ) -> list[list[float]]:
        """Returns the log-probability in nats of each of prompt i's continuations, 0 for an empty one."""
        ...


def seed_of(seed: int, *path: int | str) -> int:
    """Returns the seed of a place in a search, 63 bits: a hash of the search's seed and the path to the place."""
    return int.from_bytes(hashlib.blake2b(repr((seed, *path)).encode(), digest_size=8).digest()) >> 1


def split_prompt(prompt: Prompt) -> tuple[str, ...]:
    """Returns the pieces of a prompt, none of them empty."""
    return tuple(piece for piece in ((prompt,) if isinstance(prompt, str) else prompt) if piece)


def join_prompt(prompt: Prompt) -> str:
    """Returns a prompt as one text."""
    return prompt if isinstance(prompt, str) else "".join(prompt)
