"""How likely given texts are: the logprob of each token after those before it, or all of the logits.

B rows, T positions, D d_model, V vocabulary. It makes no token. To score, rows of like length are read together, and
logits are made for a few positions at a time, never for a whole text.
"""

from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np

from vishwamai.checks import check_whole
from vishwamai.generation.programs import Programs, bucket
from vishwamai.generation.requests import LEAST_PROMPT, pad_rows, put_on_device
from vishwamai.generation.sampling import token_logprobs
from vishwamai.models import transformer
from vishwamai.models.config import ModelConfig
from vishwamai.parallel.sharding import Sharding

Array = jax.Array
SPAN = 128  # positions whose logits are in memory at once


def score_rows(
    programs: Programs,
    weights,
    rows: Sequence[Sequence[int]],
    batch: int,
    *,
    cfg: ModelConfig,
    dtype: str,
    sharding: Sharding,
) -> list[np.ndarray]:
    """The logprobs of each row's tokens but the first, float32, `batch` rows at a time."""
    batch = check_whole("batch", batch, 1)
    order = sorted(range(len(rows)), key=lambda i: len(rows[i]))
    out: list[np.ndarray] = [np.zeros(0, np.float32)] * len(rows)
    for start in range(0, len(order), batch):
        group = order[start : start + batch]
        length = bucket(max(len(rows[i]) for i in group), LEAST_PROMPT, cfg.max_length)
        tokens = pad_rows([rows[i] for i in group], bucket(min(batch, len(rows))), length)
        lengths = np.asarray([len(rows[i]) for i in group] + [1] * (len(tokens) - len(group)), np.int32)
        args = (put_on_device(x, sharding) for x in (tokens, lengths))
        found = np.asarray(programs.run(score_tokens, weights, *args, cfg=cfg, dtype=dtype, sharding=sharding))
        for place, i in enumerate(group):
            out[i] = found[place, : len(rows[i]) - 1]
    return out


def score_tokens(weights, tokens_BT: Array, lengths_B: Array, *, cfg: ModelConfig, dtype, sharding: Sharding) -> Array:
    """`[B, T]` float32: at place t the logprob of token t + 1; the last place means nothing."""
    x_BTD, _ = transformer.hidden_states(weights, tokens_BT, cfg, lengths_B=lengths_B, sharding=sharding, dtype=dtype)
    head = transformer.lm_head(weights, sharding)
    next_BT = jnp.roll(tokens_BT, -1, axis=1)
    B, T, D = x_BTD.shape
    n = -(-T // SPAN)
    pad = n * SPAN - T if n > 1 else 0
    spans = jnp.pad(x_BTD, ((0, 0), (0, pad), (0, 0))).reshape(B, n, -1, D).swapaxes(0, 1)
    targets = jnp.pad(next_BT, ((0, 0), (0, pad))).reshape(B, n, -1).swapaxes(0, 1)

    def one(span):
        return token_logprobs(transformer.apply_lm_head(head, span[0], cfg), span[1])

    return jax.lax.map(one, (spans, targets)).swapaxes(0, 1).reshape(B, -1)[:, :T]


def logits_rows(
    programs: Programs, weights, tokens_BT: np.ndarray, mask_BT: np.ndarray, *, cfg: ModelConfig, dtype: str, sharding
) -> Array:
    """Logits `[B, T, V]`, float32, of rows that are padded where the mask is 0."""
    B, T = tokens_BT.shape
    width, length = bucket(B), bucket(T, LEAST_PROMPT, cfg.max_length)
    arrays = tuple(np.pad(x, ((0, width - B), (0, length - T))).astype(np.int32) for x in (tokens_BT, mask_BT))
    fixed = {"cfg": cfg, "dtype": dtype, "sharding": sharding}
    return programs.run(all_logits, weights, *put_on_device(arrays, sharding), **fixed)[:B, :T]


def all_logits(weights, tokens_BT: Array, mask_BT: Array, *, cfg: ModelConfig, dtype, sharding: Sharding) -> Array:
    """`[B, T, V]` float32; the first token that is not masked is at position 0."""
    positions_BT = jnp.maximum(jnp.cumsum(mask_BT, axis=1) - 1, 0)
    rows = {"positions_BT": positions_BT, "segments_BT": mask_BT}
    return transformer.forward(weights, tokens_BT, cfg, **rows, sharding=sharding, dtype=dtype)[0]
