"""Beam search and beam sampling: one loop on the device that keeps the W likeliest continuations of every prompt.

P prompts that are read, B that are searched, W beams, R = B * W rows of the cache, K candidates a step, N new
positions, V vocabulary, E end tokens.

The semantics are those of `generate(num_beams=W)` in transformers 5: of each prompt's W * V continuations the K =
W * max(2, 1 + E) likeliest are taken; those that end, and stand among the first W, compete with the finished ones by
`logprob / length ** length_penalty`; the W likeliest that go on are the new beams. Beam sampling draws the K without
replacement (Kool et al., 2019) from the distribution of summed, filtered logprobs. It knows no text.
"""

import dataclasses

import jax
import jax.numpy as jnp

from vishwamai.checks import check_number, check_whole
from vishwamai.errors import InputError
from vishwamai.generation import sampling
from vishwamai.generation.decode import constrain_state, find_seen_tokens, prefill_prompts
from vishwamai.generation.sampling import BatchParams
from vishwamai.models import transformer
from vishwamai.models.cache import KVCache, select_rows
from vishwamai.models.config import ModelConfig
from vishwamai.parallel.sharding import Sharding
from vishwamai.weights.spec import pytree

Array = jax.Array
MAX_BEAMS = 4096  # W * V must fit int32, and vocabularies stay under 2^19
NO_SCORE = -1e9  # the score of what is not (or no longer) in the race


@dataclasses.dataclass(frozen=True, kw_only=True)
class BeamParams:
    """How beams are kept. Raises `InputError` for values out of range.

    `early_stopping`: True ends a prompt as soon as it has `num_beams` finished texts; False when the best running beam,
    were it to end now, could not enter them; "never" when it could not at any length. `sample` draws the candidates,
    by the temperature and filters of `SamplingParams`, which plain beam search leaves aside.
    """

    num_beams: int
    num_return: int = 1
    length_penalty: float = 1.0
    early_stopping: bool | str = False
    sample: bool = False

    def __post_init__(self):
        check_whole("num_beams", self.num_beams, 1, MAX_BEAMS)
        check_whole("num_return", self.num_return, 1, MAX_BEAMS)
        if self.num_return > self.num_beams:
            raise InputError(f"num_return is {self.num_return}, more than the {self.num_beams} beams")
        check_number("length_penalty", self.length_penalty)
        if type(self.early_stopping) is not bool and self.early_stopping != "never":  # 1 is no True here
            raise InputError(f'early_stopping is {self.early_stopping!r}; it must be True, False or "never"')


@pytree
class BeamRules:
    """What does not change during a search."""

    params: BatchParams  # of the B prompts, with E end tokens each, the same for all
    length_penalty: Array  # [] float32


@pytree
class Hypotheses:
    """Sequences of new tokens and their scores, the best first."""

    tokens: Array  # [B, W, N] int32
    score: Array  # [B, W] float32
    length: Array  # [B, W] int32
    ended: Array  # [B, W] bool


@pytree
class BeamState:
    """Everything that a search changes."""

    cache: KVCache  # R rows
    running: Hypotheses
    finished: Hypotheses
    seen: Array  # [R, V] bool
    prompt_length: Array  # [B] int32
    step: Array  # [] int32 new tokens so far
    is_open: Array  # [B] bool: the prompt's finished texts may still change


def begin(
    weights,
    tokens_PT,
    lengths_P,
    prompt_of_row_B: Array | None,
    rules: BeamRules,
    *,
    cfg: ModelConfig,
    size: int,
    max_tokens: int,
    beam_params: BeamParams,
    dtypes,
    sharding: Sharding,
) -> BeamState:
    """Reads the prompts once each, gives every beam its copy, and takes the first step.

    The beams of search b continue prompt `prompt_of_row[b]` (None: b).
    """
    last, cache = prefill_prompts(weights, tokens_PT, lengths_P, cfg=cfg, size=size, dtypes=dtypes, sharding=sharding)
    prompt_of_row_B = jnp.arange(tokens_PT.shape[0]) if prompt_of_row_B is None else prompt_of_row_B
    tokens_BT, lengths_B, W = tokens_PT[prompt_of_row_B], lengths_P[prompt_of_row_B], beam_params.num_beams
    B, T = tokens_BT.shape
    inside = jnp.arange(T, dtype=jnp.int32)[None] < lengths_B[:, None]
    empty = Hypotheses(
        tokens=jnp.zeros((B, W, max_tokens), jnp.int32),
        score=jnp.full((B, W), NO_SCORE),
        length=jnp.zeros((B, W), jnp.int32),
        ended=jnp.zeros((B, W), bool),
    )
    state = BeamState(
        cache=select_rows(cache, jnp.repeat(prompt_of_row_B, W)),
        running=dataclasses.replace(empty, score=empty.score.at[:, 0].set(0.0)),  # the copies are equal: one counts
        finished=empty,
        seen=jnp.repeat(find_seen_tokens(tokens_BT, inside, cfg.vocab_size), W, axis=0),
        prompt_length=lengths_B,
        step=jnp.zeros((), jnp.int32),
        is_open=rules.params.limit > lengths_B,
    )
    logits_BV = transformer.compute_logits(weights, last, cfg, sharding)[prompt_of_row_B, 0]
    return _constrain_state(beam_step(state, jnp.repeat(logits_BV, W, axis=0), rules, beam_params), sharding)


def search(
    weights, state: BeamState, rules: BeamRules, steps, *, cfg: ModelConfig, beam_params: BeamParams, dtypes, sharding
) -> BeamState:
    """Up to `steps` more steps, until no prompt is open."""
    head = transformer.lm_head(weights, sharding)
    last_step = state.step + steps

    def body(state: BeamState) -> BeamState:
        last_R1 = state.running.tokens[:, :, state.step - 1].reshape(-1, 1)
        x, cache = transformer.cached_hidden_states(
            weights, last_R1, cfg, state.cache, sharding=sharding, dtype=dtypes[0]
        )
        logits_RV = transformer.apply_lm_head(head, x, cfg)[:, 0]
        return beam_step(dataclasses.replace(state, cache=cache), logits_RV, rules, beam_params)

    state = jax.lax.while_loop(lambda s: jnp.any(s.is_open) & (s.step < last_step), body, state)
    return _constrain_state(state, sharding)


def beam_step(state: BeamState, logits_RV: Array, rules: BeamRules, beam_params: BeamParams) -> BeamState:
    """One step: candidates, what of them has ended, and the beams that go on."""
    candidates, beam_BK = _candidates(state, logits_RV, rules, beam_params)
    finished = _finish(state, candidates, rules, beam_params)
    going = dataclasses.replace(candidates, score=candidates.score + jnp.where(candidates.ended, NO_SCORE, 0.0))
    running, picked_BW = _best(going, beam_params.num_beams)
    rows_R = _rows(jnp.take_along_axis(beam_BK, picked_BW, axis=1))
    last_R = running.tokens[:, :, state.step].reshape(-1)
    step = state.step + 1
    return BeamState(
        cache=select_rows(state.cache, rows_R),
        running=running,
        finished=finished,
        seen=state.seen[rows_R].at[jnp.arange(last_R.shape[0]), last_R].set(True),
        prompt_length=state.prompt_length,
        step=step,
        is_open=state.is_open & _may_improve(running, finished, state.prompt_length, step, rules, beam_params),
    )


def _candidates(
    state: BeamState, logits_RV: Array, rules: BeamRules, beam_params: BeamParams
) -> tuple[Hypotheses, Array]:
    """The K likeliest (or drawn) continuations of each prompt, and the beam that each continues, `[B, K]`."""
    B, W, _ = state.running.tokens.shape
    V, E = logits_RV.shape[1], rules.params.end_ids.shape[1]
    params_R = jax.tree.map(lambda x: jnp.repeat(x, W, axis=0), rules.params)
    logprobs_RV = sampling.apply_repetition_penalty(
        jax.nn.log_softmax(logits_RV, axis=-1), state.seen, params_R.repetition_penalty
    )
    if beam_params.sample:
        logprobs_RV = sampling.warp_logits(logprobs_RV, params_R, min_tokens_to_keep=max(2, 1 + E))
    total = (logprobs_RV.reshape(B, W, V) + state.running.score[:, :, None]).reshape(B, W * V)
    order = total
    if beam_params.sample:
        order = total + sampling.gumbel_noise(
            sampling.sampling_keys(rules.params.seed, state.prompt_length + state.step), W * V
        )
    _, index = jax.lax.top_k(order, min(W * max(2, 1 + E), W * V))
    beam_BK, token_BK = index // V, (index % V).astype(jnp.int32)
    tokens = jnp.take_along_axis(state.running.tokens, beam_BK[:, :, None], axis=1)
    ended = jnp.any(token_BK[:, :, None] == rules.params.end_ids[:, None], axis=-1)
    candidates = Hypotheses(
        tokens=tokens.at[:, :, state.step].set(token_BK),
        score=jnp.take_along_axis(total, index, axis=1),
        length=jnp.full_like(token_BK, state.step + 1),
        ended=ended | (state.prompt_length + state.step + 1 >= rules.params.limit)[:, None],
    )
    return candidates, beam_BK


def _finish(state: BeamState, candidates: Hypotheses, rules: BeamRules, beam_params: BeamParams) -> Hypotheses:
    """The finished texts after those candidates have joined that ended among the first W."""
    W = beam_params.num_beams
    first = (jnp.arange(candidates.score.shape[1]) < W)[None]
    joins = candidates.ended & first
    length = (state.step + 1).astype(jnp.float32)
    score = jnp.where(joins & state.is_open[:, None], candidates.score / length**rules.length_penalty, NO_SCORE)
    new = dataclasses.replace(candidates, score=score, ended=joins)
    both = jax.tree.map(lambda a, b: jnp.concatenate([a, b], axis=1), state.finished, new)
    return _best(both, W)[0]


def _best(hypotheses: Hypotheses, n: int) -> tuple[Hypotheses, Array]:
    """The n of the highest score in order, and where they stood, `[B, n]`."""
    _, index = jax.lax.top_k(hypotheses.score, n)

    def pick(x: Array) -> Array:
        return jnp.take_along_axis(x, index.reshape(*index.shape, *[1] * (x.ndim - 2)), axis=1)

    return jax.tree.map(pick, hypotheses), index


def _may_improve(
    running: Hypotheses,
    finished: Hypotheses,
    prompt_length_B: Array,
    step: Array,
    rules: BeamRules,
    beam_params: BeamParams,
) -> Array:
    """Whether a prompt's finished texts may still change, `[B]`; `step` new tokens are made."""
    limit_B = rules.params.limit - prompt_length_B
    length_B = jnp.broadcast_to(step, limit_B.shape)
    if beam_params.early_stopping == "never":
        length_B = jnp.where(rules.length_penalty > 0, limit_B, length_B)
    best_B = running.score[:, 0] / length_B.astype(jnp.float32) ** rules.length_penalty
    worst_BW = jnp.where(finished.ended, jnp.min(finished.score, axis=1, keepdims=True), NO_SCORE)
    goes_on = (step < limit_B) & jnp.any(best_B[:, None] > worst_BW, axis=1)
    return goes_on & ~jnp.all(finished.ended, axis=1) if beam_params.early_stopping is True else goes_on


def _rows(beam_BW: Array) -> Array:
    """Beams as rows of the cache, `[R]`."""
    B, W = beam_BW.shape
    return (jnp.arange(B)[:, None] * W + beam_BW).reshape(-1)


def _constrain_state(state: BeamState, sharding: Sharding) -> BeamState:
    rest = dataclasses.replace(state, step=state.step[None])
    return dataclasses.replace(constrain_state(rest, sharding), step=state.step)
