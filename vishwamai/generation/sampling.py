"""How the next token is chosen: the parameters people set, and the sampler as a function of logits and per-row arrays.

B rows, V vocabulary. Every row has its own temperature, filters and key, and they are arrays, so one program serves
all settings; what no row asks for is skipped when the program runs. It knows no model.

Sources: nucleus sampling (Holtzman et al., 2020), min-p (Nguyen et al., 2024), repetition penalty (Keskar et al.,
2019); sampling is by Gumbel noise (Gumbel, 1954; Kool et al., 2019). Filters apply in the order in which transformers
applies them: penalty, temperature, top-k, top-p, min-p.
"""

import dataclasses
import secrets
from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np

from vishwamai.checks import check_number, check_whole
from vishwamai.errors import InputError
from vishwamai.generation.programs import bucket
from vishwamai.weights.spec import pytree

Array = jax.Array
MAX_LOGPROBS = 20
MAX_ID = 2**31 - 1
LEAST_ENDS = 4  # end tokens of a batch, so that few programs serve all
NEVER = -jnp.inf


@dataclasses.dataclass(frozen=True, kw_only=True)
class SamplingParams:
    """What is asked for after one prompt, by vLLM's names. Raises `InputError` for values out of range.

    `n` rows continue the prompt, row j with seed + j; a `Generator` has one row of each prompt that it is given.
    `temperature` 0 takes the likeliest token; `top_k` 0 (or -1), `top_p` 1 and `min_p` 0 filter nothing. `max_tokens`
    counts new tokens (None: to the end of the context). A row ends with an end-of-text token, a token of
    `stop_token_ids`, or when one of the strings `stop` is complete; `ignore_eos` leaves out the first of these. The
    same `seed` gives the same text, alone or among other rows (None: another text each time). `logprobs` asks for that
    many likeliest tokens at each step beside the chosen one.
    """

    n: int = 1
    temperature: float = 1.0
    top_k: int = 0
    top_p: float = 1.0
    min_p: float = 0.0
    repetition_penalty: float = 1.0
    max_tokens: int | None = 256
    stop: tuple[str, ...] = ()
    stop_token_ids: tuple[int, ...] = ()
    ignore_eos: bool = False
    seed: int | None = None
    logprobs: int | None = None

    def __post_init__(self):
        object.__setattr__(self, "stop", _strings(self.stop))
        object.__setattr__(self, "stop_token_ids", _ids(self.stop_token_ids))
        check_whole("n", self.n, 1, MAX_ID)
        check_number("temperature", self.temperature, 0)
        check_whole("top_k", self.top_k, -1, 2**31 - 1)
        check_number("top_p", self.top_p, above=0, most=1)
        check_number("min_p", self.min_p, 0, 1)
        check_number("repetition_penalty", self.repetition_penalty, above=0)
        check_whole("max_tokens", self.max_tokens, 1, 2**31 - 1, optional=True)
        check_whole("seed", self.seed, -(2**63), 2**64 - 1, optional=True)
        check_whole("logprobs", self.logprobs, 0, MAX_LOGPROBS, optional=True)


def _strings(stop) -> tuple[str, ...]:
    stop = (stop,) if isinstance(stop, str) else stop
    if not isinstance(stop, list | tuple) or not all(isinstance(text, str) and text for text in stop):
        raise InputError(f"stop is {stop!r:.80}; it must be a string or a list of strings, none of them empty")
    return tuple(stop)


def _ids(ids) -> tuple[int, ...]:
    if not isinstance(ids, list | tuple):
        raise InputError(f"stop_token_ids is {ids!r:.80}; it must be a list of token ids")
    return tuple(check_whole("a stop token id", i, 0, MAX_ID) for i in ids)


@pytree
class BatchParams:
    """What each row of a batch asks for, as arrays; they do not change while the rows are decoded."""

    temperature: Array  # [B] float32, 0: greedy
    top_k: Array  # [B] int32, 0: all
    top_p: Array  # [B] float32
    min_p: Array  # [B] float32
    repetition_penalty: Array  # [B] float32
    seed: Array  # [B, 2] uint32
    end_ids: Array  # [B, E] int32 tokens that end a row, -1: none
    limit: Array  # [B] int32 the most tokens of a row, its prompt included


def batch_params(
    params: Sequence[SamplingParams], limits: Sequence[int], eos_ids: Sequence[int] = (), size: int | None = None
) -> BatchParams:
    """Returns the arrays of these rows, on the host, filled up to `size` rows that have ended before they begin.

    `limits` are the most tokens of each row, `eos_ids` the model's end tokens. A greedy row's filters change nothing,
    so they are left out.
    """
    spare = 0 if size is None else size - len(params)
    rows = [*params, *[SamplingParams(temperature=0.0, seed=0, ignore_eos=True)] * spare]
    draws = np.asarray([p.temperature > 0 for p in rows])
    ends = [(*(() if p.ignore_eos else eos_ids), *p.stop_token_ids) for p in rows]
    end_ids = np.full((len(rows), bucket(max(map(len, ends)), LEAST_ENDS)), -1, np.int32)
    for row, ids in zip(end_ids, ends, strict=True):
        row[: len(ids)] = ids
    return BatchParams(
        temperature=np.asarray([p.temperature for p in rows], np.float32),
        top_k=np.where(draws, [max(p.top_k, 0) for p in rows], 0).astype(np.int32),
        top_p=np.where(draws, [p.top_p for p in rows], 1.0).astype(np.float32),
        min_p=np.where(draws, [p.min_p for p in rows], 0.0).astype(np.float32),
        repetition_penalty=np.asarray([p.repetition_penalty for p in rows], np.float32),
        seed=np.asarray([_words(p.seed) for p in rows], np.uint32),
        end_ids=end_ids,
        limit=np.asarray([*limits, *[0] * spare], np.int32),
    )


def _words(seed: int | None) -> tuple[int, int]:
    """A seed as two 32-bit words; a new one where none is given."""
    seed = secrets.randbits(64) if seed is None else int(seed) % 2**64
    return seed >> 32, seed & 0xFFFFFFFF


def sampling_keys(seed_B2: Array, position_B: Array) -> Array:
    """A key for each row, which depends on its seed and the position of the token that is drawn, and nothing else."""

    def one(words, position):
        return jax.random.fold_in(jax.random.wrap_key_data(words, impl="threefry2x32"), position)

    return jax.vmap(one)(seed_B2, position_B)


def apply_repetition_penalty(logits_BV: Array, seen_BV: Array, penalty_B: Array) -> Array:
    """Logits (or log-probabilities) with those of the tokens seen so far made less likely, where a penalty is set."""

    def apply():
        p = penalty_B[:, None]
        return jnp.where(seen_BV, jnp.where(logits_BV < 0, logits_BV * p, logits_BV / p), logits_BV)

    return jax.lax.cond(jnp.any(penalty_B != 1), apply, lambda: logits_BV)


def warp_logits(logits_BV: Array, params: BatchParams, *, min_tokens_to_keep: int = 1) -> Array:
    """Logits divided by the temperature, and -inf where a filter drops them; `min_tokens_to_keep` are never dropped.

    A row with temperature 0 is left as it is.
    """
    scores = logits_BV / jnp.where(params.temperature > 0, params.temperature, 1.0)[:, None]
    ranked = jnp.any((params.top_k > 0) | (params.top_p < 1)) | (min_tokens_to_keep > 1)
    least = jax.lax.cond(
        ranked,
        lambda: _least_kept(scores, params, min_tokens_to_keep),
        lambda: _min_p_bound(scores.max(-1), params.min_p),
    )
    return jnp.where(scores >= least[:, None], scores, NEVER)


def _least_kept(scores_BV: Array, params: BatchParams, min_tokens_to_keep: int) -> Array:
    """The lowest score that all filters keep, `[B]`, by one sort."""
    V = scores_BV.shape[1]
    min_tokens_to_keep = min(min_tokens_to_keep, V)
    down = jnp.sort(scores_BV, axis=-1, descending=True)
    first = (jnp.arange(V) < min_tokens_to_keep)[None]
    k = jnp.where(params.top_k > 0, jnp.clip(params.top_k, min_tokens_to_keep, V), V)
    kept = down >= jnp.take_along_axis(down, k[:, None] - 1, axis=-1)
    p = jax.nn.softmax(jnp.where(kept, down, NEVER), axis=-1)
    likelier = jnp.cumsum(p, axis=-1) - p
    kept &= first | (likelier < params.top_p[:, None]) | (params.top_p == 1)[:, None]
    kept &= first | (down >= _min_p_bound(down[:, 0], params.min_p)[:, None])
    return jnp.min(jnp.where(kept, down, jnp.inf), axis=-1)


def _min_p_bound(top_B: Array, min_p_B: Array) -> Array:
    """The score of a token that is `min_p` times as likely as the likeliest."""
    return top_B + jnp.log(min_p_B)


def token_logprobs(logits: Array, tokens: Array) -> Array:
    """Returns the log-probability of each token `[...]` under its logits `[..., V]`."""
    chosen = jnp.take_along_axis(logits, tokens[..., None], axis=-1)[..., 0]
    return chosen - jax.nn.logsumexp(logits, axis=-1)


def gumbel_noise(key_B: Array, n: int) -> Array:
    """Noise `[B, n]`: a row's largest (score + noise) is a draw from the softmax of its scores."""
    return jax.vmap(lambda k: jax.random.gumbel(k, (n,), jnp.float32))(key_B)


def sample_tokens(logits_BV: Array, params: BatchParams, seen_BV: Array, position_B: Array) -> Array:
    """The next token of each row, `[B]` int32, at position `position`; `seen` marks the tokens of the row so far."""
    logits_BV = apply_repetition_penalty(logits_BV, seen_BV, params.repetition_penalty)
    best_B = jnp.argmax(logits_BV, axis=-1).astype(jnp.int32)

    def draw():
        noisy = warp_logits(logits_BV, params) + gumbel_noise(
            sampling_keys(params.seed, position_B), logits_BV.shape[1]
        )
        return jnp.where(params.temperature > 0, jnp.argmax(noisy, axis=-1).astype(jnp.int32), best_B)

    return jax.lax.cond(jnp.any(params.temperature > 0), draw, lambda: best_B)
