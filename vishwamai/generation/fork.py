"""Prefixes kept in a pool and forked: each is read once, and any number of continuations are drawn from it.

R rows of the pool, S cache positions, M jobs of a call, P or B rows of a tile, T tokens read, N new tokens, D d_model,
V vocabulary, n likeliest tokens. The pool is a value, donated to each call.

A call loops over its jobs in tiles of one shape, as many as there are. So one program serves any number of jobs, and a
row's numbers do not depend on how many others there are: XLA's matrix products differ in the last bits from shape to
shape, but not from row to row. It knows no text and no host loop.
"""

import dataclasses
from functools import partial

import jax
import jax.numpy as jnp

from vishwamai.generation import decode
from vishwamai.generation.decode import LENGTH, RUNNING, BatchParams, DecodeState, constrain_state, find_seen_tokens
from vishwamai.models import transformer
from vishwamai.models.cache import KVCache, LayerCache, crop, init_cache, select_rows
from vishwamai.models.config import ModelConfig
from vishwamai.parallel.sharding import Sharding
from vishwamai.weights.spec import pytree

Array = jax.Array


@pytree
class PrefixPool:
    """Prefixes, one a row: keys and values, tokens, and the last token's residuals, from which the next is drawn."""

    cache: KVCache  # R rows
    tokens: Array  # [R, S] int32
    last: Array  # [R, D]


@pytree
class PrefixReads:
    """What is to be read: row `dst` becomes row `src` with these tokens after its first `kept` ones."""

    src: Array  # [M] int32
    dst: Array  # [M] int32; R (out of range): the row is not kept
    kept: Array  # [M] int32, 0 for a prefix that begins here
    tokens: Array  # [M, T] int32
    lengths: Array  # [M] int32, 0 for a job that only fills the call


@pytree
class ForkedTokens:
    """New tokens of each job; places from `length` on mean nothing."""

    tokens: Array  # [M, N] int32
    logprobs: Array  # [M, N] float32
    top_ids: Array  # [M, N, n] int32
    top_logprobs: Array  # [M, N, n] float32
    length: Array  # [M] int32
    reason: Array  # [M] int32, STOP or LENGTH


def init_pool(*, cfg: ModelConfig, rows: int, size: int, dtypes, sharding: Sharding) -> PrefixPool:
    """An empty pool. `dtypes` are those of activations and cache."""
    pool = PrefixPool(
        cache=init_cache(cfg, rows, size, dtypes[1], sharding),
        tokens=jnp.zeros((rows, size), jnp.int32),
        last=jnp.zeros((rows, cfg.d_model), dtypes[0]),
    )
    return constrain_state(pool, sharding)


def read(
    weights, pool: PrefixPool, jobs: PrefixReads, tiles, *, tile: int, scored: bool, cfg: ModelConfig, dtypes, sharding
):
    """Reads the first `tiles * tile` jobs into the pool.

    Returns (pool, logprobs [M]): with `scored` the log-probability of each job's tokens after the row that it forks.
    """
    head = transformer.lm_head(weights, sharding)

    def body(i, carry):
        pool, sums = carry
        part = _tile(jobs, i, tile)
        row = crop(select_rows(pool.cache, part.src), part.kept)
        x_PTD, cache = transformer.cached_hidden_states(
            weights, part.tokens, cfg, row, lengths_B=part.lengths, sharding=sharding, dtype=dtypes[0]
        )
        if scored:
            before = jnp.concatenate([pool.last[part.src][:, None], x_PTD[:, :-1]], axis=1)
            new = _sums(transformer.apply_lm_head(head, before, cfg), part)
            sums = jax.lax.dynamic_update_slice_in_dim(sums, new, i * tile, 0)
        last_PD = jnp.take_along_axis(x_PTD, jnp.maximum(part.lengths - 1, 0)[:, None, None], axis=1)[:, 0]
        return constrain_state(_store(pool, part, cache, last_PD), sharding), sums

    return jax.lax.fori_loop(0, tiles, body, (pool, jnp.zeros(jobs.src.shape, jnp.float32)))


def draw(
    weights,
    pool: PrefixPool,
    src_M,
    batch_params: BatchParams,
    tiles,
    *,
    tile: int,
    room: int,
    top: int,
    cfg: ModelConfig,
    dtypes,
    sharding,
) -> ForkedTokens:
    """Continues row `src[m]` for each of the first `tiles * tile` jobs, at most `room` tokens; the pool stays as it is.

    A job whose limit is not above its row's length makes nothing.
    """
    head = transformer.lm_head(weights, sharding)
    M = src_M.shape[0]
    empty = ForkedTokens(
        tokens=jnp.zeros((M, room), jnp.int32),
        logprobs=jnp.zeros((M, room), jnp.float32),
        top_ids=jnp.zeros((M, room, top), jnp.int32),
        top_logprobs=jnp.zeros((M, room, top), jnp.float32),
        length=jnp.zeros((M,), jnp.int32),
        reason=jnp.full((M,), LENGTH, jnp.int32),
    )
    step = partial(decode.decode_step, cfg=cfg, dtypes=dtypes, sharding=sharding)

    def body(i, out: ForkedTokens) -> ForkedTokens:
        src_B, own = _tile((src_M, batch_params), i, tile)
        state = _initial_state(pool, src_B, own, top, cfg)
        start_B = state.length
        logits_BV = transformer.apply_lm_head(head, pool.last[src_B][:, None], cfg)[:, 0]
        state = decode.sample_and_append(state, logits_BV, own)
        state = jax.lax.while_loop(lambda s: jnp.any(s.reason == RUNNING), lambda s: step(weights, head, s, own), state)
        new = _new_tokens(state, start_B, room)
        return jax.tree.map(lambda a, b: jax.lax.dynamic_update_slice_in_dim(a, b, i * tile, 0), out, new)

    return jax.lax.fori_loop(0, tiles, body, empty)


def _tile(jobs, i, tile: int):
    """Part number i of everything, `tile` jobs."""
    return jax.tree.map(lambda x: jax.lax.dynamic_slice_in_dim(x, i * tile, tile), jobs)


def _store(pool: PrefixPool, part: PrefixReads, cache: KVCache, last_PD: Array) -> PrefixPool:
    """The pool with the tile's rows in their places."""
    dst_P = jnp.where(part.lengths > 0, part.dst, pool.tokens.shape[0])
    offsets_1T = jnp.arange(part.tokens.shape[1])[None]
    places_PT = jnp.where(offsets_1T < part.lengths[:, None], part.kept[:, None] + offsets_1T, pool.tokens.shape[1])
    tokens = pool.tokens[part.src].at[jnp.arange(dst_P.shape[0])[:, None], places_PT].set(part.tokens, mode="drop")

    def put(old: LayerCache, new: LayerCache) -> LayerCache:
        return LayerCache(
            k=old.k.at[:, dst_P].set(new.k, mode="drop"),
            v=old.v.at[:, dst_P].set(new.v, mode="drop"),
            positions=old.positions.at[dst_P].set(new.positions, mode="drop"),
        )

    pairs = zip(pool.cache.stacks, cache.stacks, strict=True)
    stacks = tuple(tuple(put(a, b) for a, b in zip(old, new, strict=True)) for old, new in pairs)
    whole, part_of = ({"length": c.length, "rope_switch": c.rope_switch} for c in (pool.cache, cache))
    rest = jax.tree.map(lambda old, new: old.at[dst_P].set(new, mode="drop"), whole, part_of)
    return PrefixPool(
        cache=KVCache(stacks=stacks, **rest),
        tokens=pool.tokens.at[dst_P].set(tokens, mode="drop"),
        last=pool.last.at[dst_P].set(last_PD.astype(pool.last.dtype), mode="drop"),
    )


def _sums(logits_PTV: Array, part: PrefixReads) -> Array:
    """The log-probability of each job's tokens, `[P]`, from the logits before each of them."""
    chosen_PT = jnp.take_along_axis(logits_PTV, part.tokens[..., None], axis=-1)[..., 0]
    logprobs_PT = chosen_PT - jax.nn.logsumexp(logits_PTV, axis=-1)
    inside_PT = jnp.arange(part.tokens.shape[1])[None] < part.lengths[:, None]
    return jnp.where(inside_PT, logprobs_PT, 0.0).sum(axis=1)


def _initial_state(
    pool: PrefixPool, src_B: Array, batch_params: BatchParams, top: int, cfg: ModelConfig
) -> DecodeState:
    """The state of decoding with nothing made yet."""
    tokens_BS, length_B = pool.tokens[src_B], pool.cache.length[src_B]
    B, S = tokens_BS.shape
    return DecodeState(
        cache=select_rows(pool.cache, src_B),
        tokens=tokens_BS,
        logprobs=jnp.zeros((B, S), jnp.float32),
        top_ids=jnp.zeros((B, S, top), jnp.int32),
        top_logprobs=jnp.zeros((B, S, top), jnp.float32),
        seen=find_seen_tokens(tokens_BS, jnp.arange(S)[None] < length_B[:, None], cfg.vocab_size),
        length=length_B,
        reason=jnp.where(length_B < batch_params.limit, RUNNING, LENGTH),
    )


def _new_tokens(state: DecodeState, start_B: Array, room: int) -> ForkedTokens:
    """What a tile made, its first new tokens at place 0."""
    S = state.tokens.shape[1]
    places_BN = jnp.minimum(start_B[:, None] + jnp.arange(room)[None], S - 1)

    def cut(x: Array) -> Array:
        index = places_BN.reshape(*places_BN.shape, *[1] * (x.ndim - 2))
        return jnp.take_along_axis(x, index, axis=1)

    names = ("tokens", "logprobs", "top_ids", "top_logprobs")
    made = {name: cut(getattr(state, name)) for name in names}
    return ForkedTokens(**made, length=state.length - start_B, reason=state.reason)


def fingerprint(weights) -> Array:
    """`[2]` uint32 that different weights are unlikely to share, and no layout changes: a sum of hashes of all numbers.

    Each number's hash mixes its bits with its index, so that swapping two layers or experts changes the sum.
    """
    total = jnp.zeros((2,), jnp.uint32)
    for leaf in jax.tree.leaves(weights):
        place = jnp.zeros(leaf.shape, jnp.uint32)
        for axis, n in enumerate(leaf.shape):
            place = place * jnp.uint32(n) + jax.lax.broadcasted_iota(jnp.uint32, leaf.shape, axis)
        if jnp.issubdtype(leaf.dtype, jnp.floating):
            leaf = jax.lax.bitcast_convert_type(leaf, f"uint{jnp.finfo(leaf.dtype).bits}")
        one = _mix(leaf.astype(jnp.uint32) ^ _mix(place))
        total = total * jnp.uint32(40503) + jnp.stack([one.sum(), _mix(one + place).sum()])
    return total


def fingerprint_model(weights, *, cfg: ModelConfig) -> Array:
    """Returns the `fingerprint` of a model's weights, the same for stacked layers and for layers one by one."""
    stacks = cfg.stacked.stacks
    return fingerprint(weights if stacks == cfg.stacks else transformer.restack(weights, cfg, stacks))


def _mix(x: Array) -> Array:
    """Each uint32 as another one, in which all bits of the first have a part."""
    for shift in (16, 13, 15):
        x = (x ^ (x >> shift)) * jnp.uint32(2654435761)
    return x ^ (x >> 16)


@dataclasses.dataclass(frozen=True)
class PoolSizes:
    """The shapes of a pool and of its calls."""

    rows: int  # R
    context: int  # S
    jobs: int  # M
    tile: int  # rows that are decoded at once
    read: int = 256  # tokens that are read at once: a tile of T tokens has `read // T` rows
