"""Prefill and decoding as pure functions: a batch's state as a value, and one loop that makes many tokens on device.

P prompts, B rows, T prompt positions, S cache positions, D d_model, V vocabulary, n likeliest tokens reported. A
prefill reads prompts (`prefill_prompts`, or `prefill_cached` after what is cached), then each row has its first token
(`sample_first`) and more (`decode`); the prefix cache forks its rows by the same functions. The state is donated to
each call. The loop takes the number of steps as an argument, so that streaming, stop strings and long generations run
one program.
"""

import dataclasses

import jax
import jax.numpy as jnp

from vishwamai.generation import sampling
from vishwamai.generation.sampling import BatchParams
from vishwamai.models import transformer
from vishwamai.models.attention import attend_uncached
from vishwamai.models.cache import KVCache, LayerCache, crop, init_cache, select_rows
from vishwamai.models.config import ModelConfig
from vishwamai.parallel.sharding import Sharding
from vishwamai.weights.spec import pytree

Array = jax.Array
RUNNING, STOP, LENGTH = 0, 1, 2
REASONS = {RUNNING: None, STOP: "stop", LENGTH: "length"}
CHUNK_STEPS = 64  # steps between two fetches of the state


@pytree
class DecodeState:
    """Everything that decoding changes. Token p of a row stands at index p, those of the prompt included.

    The cache lags by one: the newest token is in `tokens`, and the next step reads it.
    """

    cache: KVCache
    tokens: Array  # [B, S] int32, 0 where nothing is yet
    logprobs: Array  # [B, S] float32, of each new token under the model's own distribution
    top_ids: Array  # [B, S, n] int32, the likeliest tokens at each new token
    top_logprobs: Array  # [B, S, n] float32
    seen: Array  # [B, V] bool, tokens of the row so far
    length: Array  # [B] int32, tokens so far
    reason: Array  # [B] int32, why the row ended (STOP, LENGTH), or RUNNING


def prefill(
    weights,
    tokens_PT: Array,
    lengths_P: Array,
    prompt_of_row_B: Array | None,
    params: BatchParams,
    *,
    cfg: ModelConfig,
    size: int,
    n_top: int,
    dtypes,
    sharding: Sharding,
) -> DecodeState:
    """Reads P prompts and chooses the first new token of each row, which continues prompt `prompt_of_row[b]` (None: b).

    `size` is at least T, `dtypes` are those of activations and cache. A row whose limit is not above its length (one
    that only fills the batch) has ended already.
    """
    last, cache = prefill_prompts(weights, tokens_PT, lengths_P, cfg=cfg, size=size, dtypes=dtypes, sharding=sharding)
    tokens, lengths = jnp.pad(tokens_PT, ((0, 0), (0, size - tokens_PT.shape[1]))), lengths_P
    if prompt_of_row_B is not None:
        last, tokens, lengths = last[prompt_of_row_B], tokens[prompt_of_row_B], lengths[prompt_of_row_B]
        cache = select_rows(cache, prompt_of_row_B)
    head = transformer.lm_head(weights, sharding)
    state = sample_first(head, last, cache, tokens, lengths, params, cfg=cfg, n_top=n_top)
    return constrain_state(state, sharding)


def prefill_cached(
    weights,
    cache: KVCache,
    n_cached_B: Array,
    tokens_BS: Array,
    lengths_B: Array,
    params: BatchParams,
    *,
    cfg: ModelConfig,
    chunk: int,
    n_top: int,
    dtypes,
    sharding: Sharding,
) -> DecodeState:
    """`prefill` of prompts whose first `n_cached` tokens are cached; the others, at least one, `chunk` at a time.

    The cache may hold more than that, and has room for S positions.
    """
    offsets_1T = jnp.arange(chunk, dtype=jnp.int32)[None]

    def is_unread(carry):
        return jnp.any(carry[1].length < lengths_B)

    def body(carry):
        last_B1D, cache = carry
        index_BT = jnp.minimum(cache.length[:, None] + offsets_1T, tokens_BS.shape[1] - 1)
        new_BT = jnp.take_along_axis(tokens_BS, index_BT, axis=1)
        n_B = jnp.clip(lengths_B - cache.length, 0, chunk)
        x_BTD, cache = transformer.cached_hidden_states(
            weights, new_BT, cfg, cache, n_new_B=n_B, sharding=sharding, dtype=dtypes[0]
        )
        return jnp.where(n_B[:, None, None] > 0, select_last(x_BTD, n_B), last_B1D), cache

    nothing = jnp.zeros((lengths_B.shape[0], 1, cfg.d_model), dtypes[0])
    last_B1D, cache = jax.lax.while_loop(is_unread, body, (nothing, crop(cache, n_cached_B)))
    head = transformer.lm_head(weights, sharding)
    state = sample_first(head, last_B1D, cache, tokens_BS, lengths_B, params, cfg=cfg, n_top=n_top)
    return constrain_state(state, sharding)


def prefill_prompts(
    weights, tokens_BT: Array, lengths_B: Array, *, cfg: ModelConfig, size: int, dtypes, sharding: Sharding
) -> tuple[Array, KVCache]:
    """Reads whole prompts into a new cache of `size` positions.

    Returns (the hidden states of each last token `[B, 1, D]`, the cache).
    """
    cache = init_cache(cfg, tokens_BT.shape[0], size, dtypes[1], sharding)
    options = {"attend": attend_uncached, "n_new_B": lengths_B, "sharding": sharding, "dtype": dtypes[0]}
    x_BTD, cache = transformer.cached_hidden_states(weights, tokens_BT, cfg, cache, **options)
    return select_last(x_BTD, lengths_B), cache


def select_last(x_BTD: Array, lengths_B: Array) -> Array:
    """Returns the hidden states of each row's last token, `[B, 1, D]`; of an empty row those of its first place."""
    return jnp.take_along_axis(x_BTD, jnp.maximum(lengths_B - 1, 0)[:, None, None], axis=1)


def sample_first(
    head,
    last_B1D: Array,
    cache: KVCache,
    tokens_BS: Array,
    lengths_B: Array,
    params: BatchParams,
    *,
    cfg: ModelConfig,
    n_top: int,
) -> DecodeState:
    """Returns the state after each row's first new token, which follows its prompt's last hidden states.

    `head` is `transformer.lm_head(weights)`.
    """
    B, S = tokens_BS.shape
    inside_BS = jnp.arange(S, dtype=jnp.int32)[None] < lengths_B[:, None]
    state = DecodeState(
        cache=cache,
        tokens=jnp.where(inside_BS, tokens_BS, 0),
        logprobs=jnp.zeros((B, S), jnp.float32),
        top_ids=jnp.zeros((B, S, n_top), jnp.int32),
        top_logprobs=jnp.zeros((B, S, n_top), jnp.float32),
        seen=find_seen_tokens(tokens_BS, inside_BS, cfg.vocab_size),
        length=lengths_B,
        reason=jnp.where(lengths_B < params.limit, RUNNING, LENGTH),
    )
    return sample_and_append(state, transformer.apply_lm_head(head, last_B1D, cfg)[:, 0], params)


def decode(
    weights, state: DecodeState, params: BatchParams, steps, *, cfg: ModelConfig, dtypes, sharding: Sharding
) -> DecodeState:
    """Decodes up to `steps` more tokens of every row that has not ended, in one loop on the device."""
    head = transformer.lm_head(weights, sharding)
    state = decode_steps(weights, head, state, params, steps, cfg=cfg, dtypes=dtypes, sharding=sharding)
    return constrain_state(state, sharding)


def decode_steps(
    weights, head, state: DecodeState, params: BatchParams, steps, *, cfg: ModelConfig, dtypes, sharding: Sharding
) -> DecodeState:
    """`decode` as a part of another program; `head` is `transformer.lm_head(weights)`."""

    def is_running(carry):
        step, state = carry
        return (step < steps) & jnp.any(state.reason == RUNNING)

    def body(carry):
        step, state = carry
        last_B1 = jnp.take_along_axis(state.tokens, state.length[:, None] - 1, axis=1)
        active_B = (state.reason == RUNNING).astype(jnp.int32)
        x_B1D, cache = transformer.cached_hidden_states(
            weights, last_B1, cfg, state.cache, n_new_B=active_B, sharding=sharding, dtype=dtypes[0]
        )
        logits_BV = transformer.apply_lm_head(head, x_B1D, cfg)[:, 0]
        return step + 1, sample_and_append(dataclasses.replace(state, cache=cache), logits_BV, params)

    return jax.lax.while_loop(is_running, body, (jnp.zeros((), jnp.int32), state))[1]


def sample_and_append(state: DecodeState, logits_BV: Array, params: BatchParams) -> DecodeState:
    """Chooses the next token of each running row and appends it to the state."""
    token_B = sampling.sample_tokens(logits_BV, params, state.seen, state.length)
    total_B1 = jax.nn.logsumexp(logits_BV, axis=-1, keepdims=True)
    logprob_B = (jnp.take_along_axis(logits_BV, token_B[:, None], axis=1) - total_B1)[:, 0]
    rows_B = jnp.arange(token_B.shape[0])
    running_B = state.reason == RUNNING
    write_at_B = jnp.where(running_B, state.length, state.tokens.shape[1])  # out of range: dropped
    length_B = state.length + running_B.astype(jnp.int32)
    ended_B = jnp.any(token_B[:, None] == params.end_ids, axis=1)
    reason_B = jnp.where(ended_B, STOP, jnp.where(length_B >= params.limit, LENGTH, RUNNING))
    return dataclasses.replace(
        state,
        **_top_logprobs(state, logits_BV - total_B1, rows_B, write_at_B),
        tokens=state.tokens.at[rows_B, write_at_B].set(token_B, mode="drop"),
        logprobs=state.logprobs.at[rows_B, write_at_B].set(logprob_B, mode="drop"),
        seen=state.seen.at[rows_B, token_B].max(running_B),
        length=length_B,
        reason=jnp.where(running_B, reason_B, state.reason),
    )


def _top_logprobs(state: DecodeState, logprobs_BV: Array, rows_B: Array, write_at_B: Array) -> dict[str, Array]:
    """The fields of the n likeliest tokens, with this step's noted."""
    n = state.top_ids.shape[2]
    if n == 0:
        return {}
    values, ids = jax.lax.top_k(logprobs_BV, n)
    return {
        "top_ids": state.top_ids.at[rows_B, write_at_B].set(ids.astype(jnp.int32), mode="drop"),
        "top_logprobs": state.top_logprobs.at[rows_B, write_at_B].set(values, mode="drop"),
    }


def find_seen_tokens(tokens_BT: Array, inside_BT: Array, vocab_size: int) -> Array:
    """Returns which tokens stand in each row's prompt, `[B, V]` bool."""
    rows_B1 = jnp.arange(tokens_BT.shape[0])[:, None]
    return jnp.zeros((tokens_BT.shape[0], vocab_size), bool).at[rows_B1, tokens_BT].max(inside_BT)


def constrain_state(state, sharding: Sharding):
    """Lays a state's rows, and the cache's heads, out by `sharding`, so that every program gives the same layout."""

    def cache(c: LayerCache) -> LayerCache:
        keys, values = (sharding.constrain(x, None, "batch", "kv_heads", None, None) for x in (c.k, c.v))
        return LayerCache(k=keys, v=values)

    def part(x):
        if isinstance(x, LayerCache):
            return cache(x)
        return sharding.constrain(x, "batch", *[None] * (x.ndim - 1))

    return jax.tree.map(part, state, is_leaf=lambda x: isinstance(x, LayerCache))
