"""What the face gives back: the results of `generate`, `stream`, `generate_chat` and `score`, as plain values."""

from __future__ import annotations

import dataclasses

import jax
import numpy as np

from vishwamai.generation.programs import Stats


@dataclasses.dataclass(frozen=True)
class Generated:
    """What `generate(…, return_dict=True)` gives. Lists have an entry for each row of `sequences`.

    `logprobs` are those of the new tokens under the model's own distribution, in nats; `finish_reasons` are "stop" or
    "length"; `texts` hold the new text without special tokens and stop texts, None for a model without a tokenizer.
    Beams have `scores` and no logprobs. Where `logprobs` were asked for, `top_logprobs` hold the likeliest tokens of
    each step, {id: logprob}, the likeliest first.
    """

    sequences: jax.Array  # [B, T] int32
    logprobs: list[list[float]]
    finish_reasons: list[str]
    texts: list[str] | None
    stats: Stats
    scores: list[float] | None = None
    top_logprobs: list[list[dict[int, float]]] | None = None


@dataclasses.dataclass(frozen=True)
class Chunk:
    """What `stream` yields: text that is complete, the new tokens and their logprobs; at the end reason and stats.

    `top_logprobs` are as in `Generated`, for these tokens.
    """

    text: str
    tokens: list[int]
    logprobs: list[float]
    finish_reason: str | None = None
    stats: Stats | None = None
    top_logprobs: list[dict[int, float]] | None = None


@dataclasses.dataclass(frozen=True)
class Reply:
    """An assistant's message; `str()` of it is its content, and `message` goes back into the conversation."""

    content: str
    finish_reason: str
    usage: dict[str, int]
    stats: Stats
    role: str = "assistant"

    @property
    def message(self) -> dict[str, str]:
        """The reply as a message of a conversation."""
        return {"role": self.role, "content": self.content}

    def __str__(self) -> str:
        return self.content


@dataclasses.dataclass(frozen=True)
class Score:
    """How likely a text is: `logprobs[i]` in nats of `tokens[i]` after those before it; the first token has none."""

    tokens: list[int]
    logprobs: list[float]  # one shorter than tokens

    @property
    def sum(self) -> float:
        """The log-probability of the text after its first token."""
        return float(np.sum(self.logprobs))

    @property
    def per_token(self) -> float | None:
        """The mean log-probability; None where there is one token, which has nothing before it."""
        return self.sum / len(self.logprobs) if self.logprobs else None

    @property
    def perplexity(self) -> float | None:
        """Among how many tokens the model hesitates in the mean: e to the negative mean log-probability."""
        return None if self.per_token is None else float(np.exp(-self.per_token))
