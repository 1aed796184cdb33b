"""What callers ask for, checked, and as arrays of rounded shapes. It knows the model's sizes and no weights.

B rows, P prompts, T prompt positions.
"""

import dataclasses
import warnings
from collections.abc import Sequence

import jax
import numpy as np

from vishwamai.checks import check_whole
from vishwamai.errors import InputError
from vishwamai.generation.programs import bucket
from vishwamai.generation.results import GeneratedRow, MakeStopChecker, make_rows
from vishwamai.generation.sampling import MAX_LOGPROBS, BatchParams, SamplingParams, batch_params
from vishwamai.models.config import ModelConfig
from vishwamai.parallel.sharding import Sharding

LEAST_PROMPT, LEAST_CACHE, LEAST_NEW_TOKENS, FEW_LOGPROBS = 16, 64, 16, 5
DEFAULTS = SamplingParams()


def count_new_tokens(
    prompt_length: int, *, max_length: int | None = None, max_new_tokens: int | None = None
) -> int | None:
    """How many tokens to make: `max_length` counts the prompt, `max_new_tokens` does not and wins, with a warning.

    None where neither is given. Raises `InputError` where that leaves nothing to make.
    """
    for name, value in (("max_length", max_length), ("max_new_tokens", max_new_tokens)):
        check_whole(name, value, 1, optional=True)
    if max_new_tokens is not None:
        if max_length is not None:
            warnings.warn(f"both are given: max_new_tokens={max_new_tokens} wins over {max_length=}", stacklevel=3)
        return int(max_new_tokens)
    if max_length is None:
        return None
    if prompt_length >= max_length:
        raise InputError(
            f"max_length is {max_length} and counts the prompt, which has {prompt_length} tokens; "
            "use a larger max_length, or max_new_tokens"
        )
    return int(max_length) - prompt_length


def check_rows(rows: Sequence[Sequence[int]], cfg: ModelConfig, what: str = "prompt") -> list[list[int]]:
    """The rows as lists of ids. Raises `InputError` for an empty one, an id out of range, or one too long."""
    rows = [np.asarray(row).tolist() for row in rows]
    if not rows:
        raise InputError(f"there is no {what}; give at least one row of token ids")
    for i, row in enumerate(rows):
        if not row:
            raise InputError(f"{what} {i} is empty; give at least one token, for instance the beginning-of-text token")
        wrong = [t for t in row if isinstance(t, bool) or not isinstance(t, int) or not 0 <= t < cfg.vocab_size]
        if wrong:
            raise InputError(f"{what} {i} holds {wrong[0]!r}; token ids are numbers from 0 to {cfg.vocab_size - 1}")
        if len(row) > cfg.max_length:
            raise InputError(
                f"{what} {i} has {len(row)} tokens; the model's context is {cfg.max_length}: shorten it, or take a "
                "model with a longer context"
            )
    return rows


def check_params(params, n_rows: int) -> list[SamplingParams]:
    """One `SamplingParams` for each row."""
    params = [params] * n_rows if isinstance(params, SamplingParams) else list(params)
    if len(params) != n_rows or not all(isinstance(p, SamplingParams) for p in params):
        raise InputError(f"params has {len(params)} entries for {n_rows} rows; give one SamplingParams, or one a row")
    if any(p.n > 1 for p in params):
        raise InputError("params ask for n > 1 rows of a prompt; give the prompt as often, with a seed for each row")
    return params


def row_limits(rows: list[list[int]], params: list[SamplingParams], cfg: ModelConfig) -> list[int]:
    """The most tokens that each row may have, its prompt included; the context bounds all of them."""
    for i, row in enumerate(rows):
        if len(row) >= cfg.max_length:
            raise InputError(
                f"prompt {i} has {len(row)} tokens; a context of {cfg.max_length} leaves no room for a new one: "
                "shorten the prompt, or take a model with a longer context"
            )
    asked = [p.max_tokens or cfg.max_length for p in params]
    return [min(len(row) + n, cfg.max_length) for row, n in zip(rows, asked, strict=True)]


def pad_rows(rows: list[list[int]], n_rows: int, length: int, pad_id: int = 0) -> np.ndarray:
    """The rows padded at the right and below, `[n_rows, length]` int32."""
    out = np.full((n_rows, length), pad_id, np.int32)
    for i, row in enumerate(rows):
        out[i, : len(row)] = row
    return out


@dataclasses.dataclass(frozen=True)
class GenerationRequest:
    """One call's rows, and its arrays on the devices. Equal prompts are one, which is read once."""

    rows: list[GeneratedRow]
    unique_prompts: list[list[int]]
    tokens: jax.Array  # [P, T] int32
    lengths: jax.Array  # [P] int32
    prompt_index: jax.Array | None  # [B] int32, the prompt that each row continues; None where no two have the same
    params: BatchParams
    size: int  # positions of the cache
    n_top: int  # likeliest tokens reported


def make_request(
    prompts: list[list[int]],
    params: list[SamplingParams],
    cfg: ModelConfig,
    eos_ids: tuple[int, ...],
    sharding: Sharding,
    make_stop_checker: MakeStopChecker | None,
) -> GenerationRequest:
    """Returns checked prompts, one a row, as a request, its shapes rounded up: rows, prompts, cache, end tokens."""
    limits = row_limits(prompts, params, cfg)
    numbers = {prompt: i for i, prompt in enumerate(dict.fromkeys(map(tuple, prompts)))}
    unique = [list(prompt) for prompt in numbers]
    n_prompts, n_rows = bucket(len(unique)), bucket(len(prompts))
    T = bucket(max(map(len, prompts)), LEAST_PROMPT, cfg.max_length)
    lengths = np.asarray([len(p) for p in unique] + [1] * (n_prompts - len(unique)), np.int32)
    index = None
    if len(unique) < len(prompts):
        index = np.zeros(n_rows, np.int32)
        index[: len(prompts)] = [numbers[tuple(p)] for p in prompts]
    arrays = pad_rows(unique, n_prompts, T), lengths, index, batch_params(params, limits, eos_ids, n_rows)
    tokens, lengths, index, own = put_on_device(arrays, sharding)
    return GenerationRequest(
        rows=make_rows(prompts, params, make_stop_checker),
        unique_prompts=unique,
        tokens=tokens,
        lengths=lengths,
        prompt_index=index,
        params=own,
        size=max(T, bucket(max(limits), LEAST_CACHE, cfg.max_length)),
        n_top=n_top_logprobs(params, cfg),
    )


def n_top_logprobs(params: Sequence[SamplingParams], cfg: ModelConfig) -> int:
    """Returns how many likeliest tokens the program reports: none, a few, or as many as may be asked for."""
    asked = max(p.logprobs or 0 for p in params)
    return min(0 if asked == 0 else FEW_LOGPROBS if asked <= FEW_LOGPROBS else MAX_LOGPROBS, cfg.vocab_size)


def put_on_device(tree, sharding: Sharding):
    """Puts host arrays whose first axis is the batch on the devices, laid out by rows."""

    def put(x: np.ndarray) -> jax.Array:
        return jax.device_put(x, sharding.named("batch", *[None] * (x.ndim - 1), shape=x.shape))

    return jax.tree.map(put, tree)
