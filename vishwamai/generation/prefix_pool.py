"""The prefix cache's programs: prompts are prefilled into the slots of a pool, and any number of rows forked from them.

R slots of the pool, S cache positions, M requests of a call, B requests of a batch, T tokens of a prefill, N new
tokens, D d_model, V vocabulary, n likeliest tokens. The pool is a value, donated to each call that changes it.

A call loops over its requests in batches of one shape, as many as there are. So one program serves any number of
requests, and a row's numbers do not depend on how many others there are: XLA's matrix products differ in the last bits
from shape to shape, but not from row to row.
"""

import dataclasses

import jax
import jax.numpy as jnp

from vishwamai.generation import decode
from vishwamai.generation.decode import LENGTH, constrain_state, select_last
from vishwamai.generation.sampling import BatchParams, token_logprobs
from vishwamai.models import transformer
from vishwamai.models.cache import KVCache, LayerCache, crop, init_cache, select_rows
from vishwamai.models.config import ModelConfig
from vishwamai.parallel.sharding import Sharding
from vishwamai.weights.spec import pytree

Array = jax.Array


@dataclasses.dataclass(frozen=True)
class PoolSizes:
    """The shapes of a pool and of its calls."""

    slots: int  # R, prefixes that are kept
    context: int  # S
    requests: int  # M
    batch: int  # rows that are decoded at once
    batch_tokens: int = 256  # tokens of one prefill: a batch of T tokens has `batch_tokens // T` rows


@pytree
class PrefixPool:
    """Prefixes, one a slot: keys and values, tokens, and the last token's hidden states, which the next one follows."""

    cache: KVCache  # of R rows
    tokens: Array  # [R, S] int32
    last: Array  # [R, D]


@pytree
class PrefillBatch:
    """A prefill: slot `dst` becomes slot `src` with these tokens after its first `n_cached` ones."""

    src: Array  # [M] int32
    dst: Array  # [M] int32; R (out of range): what is read is not kept
    n_cached: Array  # [M] int32, 0 for a prefix that begins here
    tokens: Array  # [M, T] int32
    n_new: Array  # [M] int32, 0 for a request that only fills the call


@pytree
class NewTokens:
    """New tokens of each request; what stands at `length` and after it means nothing."""

    tokens: Array  # [M, N] int32
    logprobs: Array  # [M, N] float32
    top_ids: Array  # [M, N, n] int32
    top_logprobs: Array  # [M, N, n] float32
    length: Array  # [M] int32
    reason: Array  # [M] int32, STOP or LENGTH


def init_pool(*, cfg: ModelConfig, slots: int, size: int, dtypes, sharding: Sharding) -> PrefixPool:
    """Returns an empty pool. `dtypes` are those of activations and cache."""
    pool = PrefixPool(
        cache=init_cache(cfg, slots, size, dtypes[1], sharding),
        tokens=jnp.zeros((slots, size), jnp.int32),
        last=jnp.zeros((slots, cfg.d_model), dtypes[0]),
    )
    return constrain_state(pool, sharding)


def prefill_prefixes(
    weights,
    pool: PrefixPool,
    requests: PrefillBatch,
    n_batches,
    *,
    batch: int,
    with_logprobs: bool,
    cfg: ModelConfig,
    dtypes,
    sharding: Sharding,
) -> tuple[PrefixPool, Array]:
    """Prefills the first `n_batches * batch` requests into the pool.

    Returns (pool, `[M]`: with `with_logprobs` the log-probability of each request's tokens after the slot it forks).
    """
    head = transformer.lm_head(weights, sharding)

    def body(i, carry):
        pool, logprobs_M = carry
        part = _slice_batch(requests, i, batch)
        prefix = crop(select_rows(pool.cache, part.src), part.n_cached)
        x_BTD, cache = transformer.cached_hidden_states(
            weights, part.tokens, cfg, prefix, n_new_B=part.n_new, sharding=sharding, dtype=dtypes[0]
        )
        if with_logprobs:
            before_BTD = jnp.concatenate([pool.last[part.src][:, None], x_BTD[:, :-1]], axis=1)
            new_B = _sum_logprobs(transformer.apply_lm_head(head, before_BTD, cfg), part)
            logprobs_M = jax.lax.dynamic_update_slice_in_dim(logprobs_M, new_B, i * batch, 0)
        pool = _store(pool, part, cache, select_last(x_BTD, part.n_new)[:, 0])
        return constrain_state(pool, sharding), logprobs_M

    return jax.lax.fori_loop(0, n_batches, body, (pool, jnp.zeros(requests.src.shape, jnp.float32)))


def fork_rows(
    weights,
    pool: PrefixPool,
    src_M: Array,
    params: BatchParams,
    n_batches,
    *,
    batch: int,
    max_tokens: int,
    n_top: int,
    cfg: ModelConfig,
    dtypes,
    sharding: Sharding,
) -> NewTokens:
    """Continues slot `src[m]` for each of the first `n_batches * batch` requests, at most `max_tokens` tokens.

    The pool stays as it is. A request whose limit is not above its slot's length makes nothing.
    """
    head = transformer.lm_head(weights, sharding)
    M = src_M.shape[0]
    empty = NewTokens(
        tokens=jnp.zeros((M, max_tokens), jnp.int32),
        logprobs=jnp.zeros((M, max_tokens), jnp.float32),
        top_ids=jnp.zeros((M, max_tokens, n_top), jnp.int32),
        top_logprobs=jnp.zeros((M, max_tokens, n_top), jnp.float32),
        length=jnp.zeros((M,), jnp.int32),
        reason=jnp.full((M,), LENGTH, jnp.int32),
    )

    def body(i, out: NewTokens) -> NewTokens:
        src_B, own = _slice_batch((src_M, params), i, batch)
        last_B1D, cache, start_B = pool.last[src_B][:, None], select_rows(pool.cache, src_B), pool.cache.length[src_B]
        state = decode.sample_first(head, last_B1D, cache, pool.tokens[src_B], start_B, own, cfg=cfg, n_top=n_top)
        state = decode.decode_steps(
            weights, head, state, own, max_tokens - 1, cfg=cfg, dtypes=dtypes, sharding=sharding
        )
        index_BN = jnp.minimum(start_B[:, None] + jnp.arange(max_tokens)[None], state.tokens.shape[1] - 1)

        def select_new(x: Array) -> Array:
            return jnp.take_along_axis(x, index_BN.reshape(*index_BN.shape, *[1] * (x.ndim - 2)), axis=1)

        names = ("tokens", "logprobs", "top_ids", "top_logprobs")
        fields = {name: select_new(getattr(state, name)) for name in names}
        new = NewTokens(**fields, length=state.length - start_B, reason=state.reason)
        return jax.tree.map(lambda a, b: jax.lax.dynamic_update_slice_in_dim(a, b, i * batch, 0), out, new)

    return jax.lax.fori_loop(0, n_batches, body, empty)


def _slice_batch(requests, i, batch: int):
    """Returns part number i of all arrays, `batch` requests."""
    return jax.tree.map(lambda x: jax.lax.dynamic_slice_in_dim(x, i * batch, batch), requests)


def _store(pool: PrefixPool, part: PrefillBatch, cache: KVCache, last_BD: Array) -> PrefixPool:
    """Returns the pool with what a batch has prefilled in its slots."""
    R, S = pool.tokens.shape
    dst_B = jnp.where(part.n_new > 0, part.dst, R)
    offsets_1T = jnp.arange(part.tokens.shape[1])[None]
    index_BT = jnp.where(offsets_1T < part.n_new[:, None], part.n_cached[:, None] + offsets_1T, S)
    rows_B1 = jnp.arange(dst_B.shape[0])[:, None]
    tokens_BS = pool.tokens[part.src].at[rows_B1, index_BT].set(part.tokens, mode="drop")

    def put(old: LayerCache, new: LayerCache) -> LayerCache:
        return LayerCache(
            k=old.k.at[:, dst_B].set(new.k, mode="drop"),
            v=old.v.at[:, dst_B].set(new.v, mode="drop"),
        )

    pairs = zip(pool.cache.stacks, cache.stacks, strict=True)
    stacks = tuple(tuple(put(a, b) for a, b in zip(old, new, strict=True)) for old, new in pairs)
    old, new = ({"length": c.length, "rope_switch": c.rope_switch} for c in (pool.cache, cache))
    rest = jax.tree.map(lambda a, b: a.at[dst_B].set(b, mode="drop"), old, new)
    return PrefixPool(
        cache=KVCache(stacks=stacks, **rest),
        tokens=pool.tokens.at[dst_B].set(tokens_BS, mode="drop"),
        last=pool.last.at[dst_B].set(last_BD.astype(pool.last.dtype), mode="drop"),
    )


def _sum_logprobs(logits_BTV: Array, part: PrefillBatch) -> Array:
    """Returns the log-probability of each request's tokens, `[B]`, from the logits before each of them."""
    inside_BT = jnp.arange(part.tokens.shape[1])[None] < part.n_new[:, None]
    return jnp.where(inside_BT, token_logprobs(logits_BTV, part.tokens), 0.0).sum(axis=1)
