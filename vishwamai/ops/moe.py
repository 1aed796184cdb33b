"""Mixture of experts: routing, sorted dispatch without drops, and matmuls over groups of rows.

M tokens, C experts per token, E experts, D width in, F width out, G = M * C rows after dispatch. It knows no weights'
kind, mesh or model. Routing: Shazeer et al. (2017); balance loss: Fedus et al. (2021), taken per row as in
DeepSeek-V3; z-loss: Zoph et al. (2022).
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from vishwamai.errors import BackendError

Array = jax.Array
IMPLEMENTATIONS = ("reference", "ragged", "blocked")


class Routing(NamedTuple):
    """Where each token goes and with what weight."""

    experts: Array  # [..., C] int32
    weights: Array  # [..., C] float32
    probs: Array  # [..., E] float32, the router's whole distribution


class RouterSums(NamedTuple):
    """What the router did, as sums over the tokens that count."""

    balance: Array  # [] load-balance loss, one per row of the batch times its tokens; 1 per token when even
    z: Array  # [] squared log-partition function of the router's logits
    load: Array  # [E] assignments that each expert received
    tokens: Array  # [] tokens that count


def route(
    logits: Array,
    n_chosen: int,
    *,
    kind: str = "softmax",
    normalize: bool,
    scale: float = 1.0,
    choice_bias_E: Array | None = None,
    n_groups: int = 1,
    n_groups_chosen: int = 1,
) -> Routing:
    """The `n_chosen` experts with the best scores, and their weights: those scores, times `scale`.

    `kind` says what a score is: `softmax` over all experts or a `sigmoid` for each, both of which `normalize` makes sum
    to one over the chosen; or `chosen`, a softmax over those with the best logits. `choice_bias_E` is added for the
    choice alone (DeepSeek-V3). Of `n_groups` only the `n_groups_chosen` best may be chosen from: those with the largest
    score (softmax, DeepSeek-V2) or the largest sum of two (sigmoid, DeepSeek-V3).
    """
    logits = logits.astype(jnp.float32)
    probs = jax.nn.sigmoid(logits) if kind == "sigmoid" else jax.nn.softmax(logits, -1)
    scores = logits if kind == "chosen" else probs
    choice = scores if choice_bias_E is None else scores + _expand_to(choice_bias_E, scores)
    if n_groups > 1:
        choice = _mask_groups(choice, n_groups, n_groups_chosen, 2 if kind == "sigmoid" else 1)
    experts = jax.lax.top_k(choice, n_chosen)[1]
    weights = jnp.take_along_axis(scores, experts, -1)
    if kind == "chosen":
        weights = jax.nn.softmax(weights, -1)
    elif normalize:
        weights = weights / (jnp.sum(weights, -1, keepdims=True) + 1e-20)
    return Routing(experts=experts.astype(jnp.int32), weights=weights * scale, probs=probs)


def _expand_to(v_E: Array, like: Array) -> Array:
    return v_E.astype(like.dtype).reshape((1,) * (like.ndim - 1) + v_E.shape)


def _mask_groups(scores: Array, n_groups: int, n_chosen: int, counted: int) -> Array:
    """The scores, -inf outside the groups whose `counted` best scores sum to most."""
    grouped = scores.reshape(*scores.shape[:-1], n_groups, -1)
    value = jnp.sum(jax.lax.top_k(grouped, counted)[0], -1)
    chosen = jax.nn.one_hot(jax.lax.top_k(value, n_chosen)[1], n_groups, dtype=jnp.bool_).any(-2)
    return jnp.where(chosen[..., None], grouped, -jnp.inf).reshape(scores.shape)


def grouped_bias(x_GF: Array, bias_EF: Array | None, sizes_E: Array) -> Array:
    """Rows of group e plus `bias[e]`, where there is one; rows after the last group stay."""
    if bias_EF is None:
        return x_GF
    end_E, row_G = jnp.cumsum(sizes_E), jnp.arange(x_GF.shape[0], dtype=jnp.int32)
    group_G = jnp.minimum(jnp.searchsorted(end_E, row_G, side="right"), bias_EF.shape[0] - 1)
    added = bias_EF.astype(x_GF.dtype)[group_G]
    return x_GF + jnp.where((row_G < end_E[-1])[:, None], added, jnp.zeros((), x_GF.dtype))


def router_sums(logits_BTE: Array, routing: Routing, counts_BT: Array) -> RouterSums:
    """The losses and the load of one layer's router; `counts_BT` is 1 where a token counts and 0 for padding."""
    n_experts, n_chosen = routing.probs.shape[-1], routing.experts.shape[-1]
    counts = counts_BT.astype(jnp.float32)
    assigned_BTE = jax.nn.one_hot(routing.experts, n_experts, dtype=jnp.float32).sum(-2) * counts[..., None]
    row_tokens_B1 = jnp.maximum(counts.sum(1), 1.0)[:, None]
    share_BE = jax.lax.stop_gradient(assigned_BTE.sum(1)) / (row_tokens_B1 * n_chosen)
    prob_BE = (routing.probs * counts[..., None]).sum(1) / row_tokens_B1
    log_z = jax.nn.logsumexp(logits_BTE.astype(jnp.float32), -1)
    return RouterSums(
        balance=jnp.sum(n_experts * jnp.sum(share_BE * prob_BE, -1) * counts.sum(1)),
        z=jnp.sum(jnp.square(log_z) * counts),
        load=assigned_BTE.sum((0, 1)),
        tokens=counts.sum(),
    )


def dispatch(x_MD: Array, experts_MC: Array, n_experts: int) -> tuple[Array, Array, Array]:
    """`(rows_GD, order_G, sizes_E)`: every token once per expert it goes to, sorted by expert.

    A token whose expert is `n_experts` goes nowhere: its row stands after all groups.
    """
    flat_G = experts_MC.reshape(-1)
    order_G = jnp.argsort(flat_G, stable=True)
    sizes_E = jnp.bincount(flat_G, length=n_experts + 1)[:n_experts].astype(jnp.int32)
    return x_MD[order_G // experts_MC.shape[1]], order_G, sizes_E


def combine(rows_GD: Array, order_G: Array, weights_MC: Array) -> Array:
    """Each token's weighted sum `[M, D]` of the rows that `dispatch` made of it."""
    M, C = weights_MC.shape
    back_MCD = rows_GD[jnp.argsort(order_G)].reshape(M, C, -1)
    return jnp.einsum("MCD,MC->MD", back_MCD.astype(jnp.float32), weights_MC).astype(rows_GD.dtype)


def grouped_matmul(x_GD: Array, w_EDF: Array, sizes_E: Array, *, implementation: str | None = None) -> Array:
    """Rows of group e times `w[e]`: `[G, F]` in `x`'s dtype. Rows after the last group give 0.

    implementation: `reference` (every group against every row), `ragged` (`jax.lax.ragged_dot`, a kernel on TPU and
    GPU), `blocked` (blocks of one group each, what XLA:CPU is fast at); None chooses by the platform that the program
    is lowered for.
    """
    check_implementation(implementation)
    match implementation:
        case None:
            return jax.lax.platform_dependent(x_GD, w_EDF, sizes_E, cpu=_blocked, default=_ragged)
        case "reference":
            return _reference(x_GD, w_EDF, sizes_E)
        case "ragged":
            return _ragged(x_GD, w_EDF, sizes_E)
        case _:
            return _blocked(x_GD, w_EDF, sizes_E)


def check_implementation(name: str | None) -> None:
    """Raises `BackendError` for a name that is none of `IMPLEMENTATIONS`; a model without experts asks too."""
    if name not in (None, *IMPLEMENTATIONS):
        raise BackendError(f"grouped_matmul has no implementation {name!r}; use {', '.join(IMPLEMENTATIONS)}")


def _reference(x_GD, w_EDF, sizes_E):
    end_E = jnp.cumsum(sizes_E)
    row_G1 = jnp.arange(x_GD.shape[0], dtype=end_E.dtype)[:, None]
    mine_GE = (row_G1 < end_E[None]) & (row_G1 >= (end_E - sizes_E)[None])
    return jnp.einsum("GD,GE,EDF->GF", x_GD, mine_GE.astype(x_GD.dtype), w_EDF)


def _ragged(x_GD, w_EDF, sizes_E):
    out = jax.lax.ragged_dot(x_GD, w_EDF, sizes_E)
    inside_G = jnp.arange(x_GD.shape[0], dtype=jnp.int32) < jnp.sum(sizes_E)
    return jnp.where(inside_G[:, None], out, jnp.zeros((), out.dtype))


def _blocked(x_GD, w_EDF, sizes_E):
    """Each group padded to whole blocks, one plain matmul a block (after Gale et al., MegaBlocks, 2022)."""
    G, E = x_GD.shape[0], w_EDF.shape[0]
    size = min(128, max(8, 1 << (max(G // E, 1) - 1).bit_length()))
    n_blocks = min(G, -(-G // size) + E - 1)
    end_E = jnp.cumsum(sizes_E)
    start_E = end_E - sizes_E
    last_block_E = jnp.cumsum(-(-sizes_E // size))
    first_block_E = last_block_E - (-(-sizes_E // size))

    block = jnp.arange(n_blocks, dtype=jnp.int32)
    group = jnp.minimum(jnp.searchsorted(last_block_E, block, side="right").astype(jnp.int32), E - 1)
    row = (start_E[group] + (block - first_block_E[group]) * size)[:, None] + jnp.arange(size, dtype=jnp.int32)[None]
    inside = row < end_E[group][:, None]
    blocks = jnp.where(inside[..., None], x_GD[jnp.minimum(row, G - 1)], jnp.zeros((), x_GD.dtype))
    out = jax.lax.map(lambda part: part[0] @ w_EDF[part[1]], (blocks, group)).reshape(n_blocks * size, -1)

    g = jnp.arange(G, dtype=jnp.int32)
    mine = jnp.minimum(jnp.searchsorted(end_E, g, side="right").astype(jnp.int32), E - 1)
    place = first_block_E[mine] * size + g - start_E[mine]
    return jnp.where((g < end_E[-1])[:, None], out[jnp.minimum(place, n_blocks * size - 1)], jnp.zeros((), out.dtype))
