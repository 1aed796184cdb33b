"""The key/value cache as a value: made, written and read by pure functions; whoever owns it donates it.

L layers of one place in a stack's pattern, B batch, S slots, T new positions, K kv heads, H head_dim. Position p of a
row lies in slot `p % S`: a layer with a sliding window keeps only `window` slots, a ring. So a row's length says what
its slots hold. A head's keys lie together, as attention reads them. It knows no attention.
"""

import dataclasses

import jax
import jax.numpy as jnp

from vishwamai.models.config import ModelConfig
from vishwamai.parallel.sharding import SINGLE, Sharding
from vishwamai.weights.spec import pytree

Array = jax.Array


@pytree
class LayerCache:
    """Keys and values of the layers at one place in a pattern."""

    k: Array  # [L, B, K, S, H]
    v: Array  # [L, B, K, S, H]

    @property
    def n_slots(self) -> int:
        """How many positions of a row it has room for."""
        return self.k.shape[3]


@pytree
class RopeSwitch:
    """What it takes to read rows again, of a model whose positions all rotate otherwise in longer texts (longrope)."""

    tokens: Array  # [B, the switch] int32, the first tokens of each row
    longest: Array  # [B] int32, the length of the text that each row's keys are rotated for


@pytree
class KVCache:
    """The whole model's cache: one `LayerCache` for each place in each stack's pattern; see `RopeSwitch`."""

    stacks: tuple[tuple[LayerCache, ...], ...]
    length: Array  # [B] int32, positions written so far
    rope_switch: RopeSwitch | None


def init_cache(cfg: ModelConfig, batch: int, max_length: int, dtype="float32", sharding: Sharding = SINGLE) -> KVCache:
    """An empty cache for `batch` rows of up to `max_length` positions."""

    def empty(repeats: int, window: int | None) -> LayerCache:
        S = max_length if window is None else min(window, max_length)
        shape = (repeats, batch, cfg.n_kv_heads, S, cfg.d_cache)
        zeros = sharding.constrain(jnp.zeros(shape, dtype), None, "batch", "kv_heads", None, None)
        return LayerCache(k=zeros, v=jnp.copy(zeros))

    stacks = tuple(tuple(empty(s.repeats, layer.window) for layer in s.pattern) for s in cfg.stacks)
    length, rope_switch = jnp.zeros((batch,), jnp.int32), None
    if cfg.rope_switch is not None:
        rope_switch = RopeSwitch(tokens=jnp.zeros((batch, cfg.rope_switch), jnp.int32), longest=jnp.copy(length))
    return KVCache(stacks=stacks, length=length, rope_switch=rope_switch)


def slots(cache: LayerCache, positions_BT: Array, end_B: Array) -> Array:
    """Where each new position is written, `[B, T]`; S (out of range, so dropped) where it is not kept.

    Positions from `end` on are padding; of the others a ring keeps the last S.
    """
    S = cache.n_slots
    kept = (positions_BT < end_B[:, None]) & (positions_BT >= end_B[:, None] - S)
    return jnp.where(kept, positions_BT % S, S)


def slot_positions(cache: LayerCache, length_B: Array) -> Array:
    """Which position each slot of rows with `length` positions holds, `[B, S]`; -1 where nothing is written."""
    S, last_B1 = cache.n_slots, length_B[:, None] - 1
    return jnp.maximum(last_B1 - (last_B1 - jnp.arange(S, dtype=jnp.int32)[None]) % S, -1)


def write_layer(cache: LayerCache, layer: Array, slots_BT: Array, k_BTKH: Array, v_BTKH: Array) -> LayerCache:
    """The cache with layer number `layer`'s new keys and values written."""
    B, _, K, _ = k_BTKH.shape
    where = layer, jnp.arange(B)[:, None, None], jnp.arange(K)[:, None], slots_BT[:, None]

    def put(old: Array, new_BTKH: Array) -> Array:
        return old.at[where].set(new_BTKH.swapaxes(1, 2).astype(old.dtype), mode="drop")

    return LayerCache(k=put(cache.k, k_BTKH), v=put(cache.v, v_BTKH))


def crop(cache: KVCache, length_B: Array) -> KVCache:
    """The cache with each row cut back to its first `length` positions, of as many at least; see `can_crop`."""
    return dataclasses.replace(cache, length=length_B)


def can_crop(cache: KVCache, written: int, length: int) -> bool:
    """Whether rows of `written` positions still hold all that a token at position `length` sees.

    A ring has given up what its latest positions lie upon.
    """
    smallest = min(c.n_slots for s in cache.stacks for c in s)
    return written <= max(smallest, length + 1)


def enlarge(cache: KVCache, cfg: ModelConfig, max_length: int, sharding: Sharding = SINGLE) -> KVCache:
    """The cache with room for `max_length` positions, at least as many as it has."""
    dtype, batch = cache.stacks[0][0].k.dtype, cache.length.shape[0]
    empty = init_cache(cfg, batch, max_length, dtype, sharding)
    return jax.tree.map(lambda new, old: jax.lax.dynamic_update_slice(new, old, (0,) * new.ndim), empty, cache)


def can_cross_rope_switch(cache: KVCache, cfg: ModelConfig) -> bool:
    """Whether a row may get longer than the model's rope switch; a ring does not say how long."""
    places = (pair for s, of in zip(cache.stacks, cfg.stacks, strict=True) for pair in zip(s, of.pattern, strict=True))
    rooms = [c.n_slots for c, layer in places if layer.window is None]
    return cache.rope_switch is not None and (not rooms or rooms[0] > cache.rope_switch.tokens.shape[1])


def note_tokens(rope_switch: RopeSwitch, tokens_BT: Array, positions_BT: Array, end_B: Array) -> RopeSwitch:
    """Returns the switch after these tokens, of which those at positions from `end` on are padding."""
    rows_B1 = jnp.arange(tokens_BT.shape[0])[:, None]
    place_BT = jnp.where(positions_BT < end_B[:, None], positions_BT, rope_switch.tokens.shape[1])
    longest_B = jnp.where(end_B > positions_BT[:, 0], end_B, rope_switch.longest)
    return RopeSwitch(tokens=rope_switch.tokens.at[rows_B1, place_BT].set(tokens_BT, mode="drop"), longest=longest_B)


def select_rows(cache: KVCache, rows_B: Array) -> KVCache:
    """The cache whose row b is the old row `rows[b]`: beams reordered, or one prefix forked into many."""

    def select(c: LayerCache) -> LayerCache:
        return LayerCache(k=c.k[:, rows_B], v=c.v[:, rows_B])

    stacks = tuple(tuple(select(c) for c in s) for s in cache.stacks)
    return KVCache(
        stacks=stacks, **jax.tree.map(lambda x: x[rows_B], {"length": cache.length, "rope_switch": cache.rope_switch})
    )
