"""`Generator`: prompts in, new tokens out. It rounds shapes up, decodes in chunks and watches for stop strings.

Rows are lists of token ids of any lengths. Text is known only through `make_stop_checker`, and made only where stop
strings are asked for. It knows no file and no tokenizer, and holds no weights.
"""

import dataclasses
from collections.abc import Iterator, Sequence
from typing import Any

import jax
import numpy as np

from vishwamai.errors import InputError
from vishwamai.generation import decode
from vishwamai.generation.beam import BeamParams
from vishwamai.generation.beam_search import search_rows
from vishwamai.generation.decode import CHUNK_STEPS, REASONS, RUNNING, STOP, DecodeState
from vishwamai.generation.programs import Clock, Programs, prefill_chunk
from vishwamai.generation.prompt_cache import CachedRow, PromptCache
from vishwamai.generation.prompts import id_rows
from vishwamai.generation.requests import (
    DEFAULTS,
    GenerationRequest,
    check_params,
    check_rows,
    make_request,
    pad_rows,
    put_on_device,
)
from vishwamai.generation.results import Generation, HostState, MakeStopChecker, RowChunk, fetch_state, generation
from vishwamai.generation.sampling import SamplingParams
from vishwamai.generation.score import logits_rows, score_rows
from vishwamai.models.cache import enlarge
from vishwamai.models.config import ModelConfig
from vishwamai.models.fingerprint import fingerprint_model
from vishwamai.parallel.sharding import SINGLE, Sharding

TokenRows = Sequence[Sequence[int]]
Params = SamplingParams | Sequence[SamplingParams]
CHUNK_STEPS_WITH_STOPS = 16  # steps between two fetches of the state, where rows have stop strings


@dataclasses.dataclass(frozen=True, kw_only=True)
class Generator:
    """How one model generates: its end tokens, layout and dtypes. It keeps the programs that it compiles.

    `compute_dtype` is that of activations, `cache_dtype` of keys and values. `make_stop_checker` makes what looks for a
    row's stop strings, and is needed for these alone.
    """

    cfg: ModelConfig
    eos_ids: tuple[int, ...] = ()
    sharding: Sharding = SINGLE
    compute_dtype: str = "float32"
    cache_dtype: str = "float32"
    make_stop_checker: MakeStopChecker | None = None
    programs: Programs = dataclasses.field(default_factory=Programs, repr=False)

    def generate(
        self, weights, prompts: TokenRows, params: Params = DEFAULTS, *, cache: PromptCache | None = None
    ) -> Generation:
        """Continues every prompt; `params` are for all of them, or one for each. Raises `InputError` for bad input.

        A `cache` is for one prompt: the beginning that both have is not read again, and afterwards the cache holds
        the prompt and the new tokens.
        """
        request, clock = self._request(prompts, params), Clock(self.programs)
        n_steps = CHUNK_STEPS_WITH_STOPS if any(row.params.stop for row in request.rows) else CHUNK_STEPS
        with self.programs.progress("generating"):
            for _ in self._decode_chunks(weights, request, n_steps, clock, _checked(cache, request)):
                pass
        made, cached = sum(len(row.tokens) for row in request.rows), 0 if cache is None else cache.cached_tokens
        return generation(request.rows, clock.stats(sum(row.prompt_length for row in request.rows), made, cached))

    def stream(
        self,
        weights,
        prompts: TokenRows,
        params: Params = DEFAULTS,
        *,
        cache: PromptCache | None = None,
    ) -> Iterator[RowChunk]:
        """`generate`, giving each row's new tokens as they come.

        A stream that is closed before its end leaves what it made in the cache.
        """
        request = self._request(prompts, params)
        chunks = self._decode_chunks(weights, request, 1, Clock(self.programs), _checked(cache, request))
        return (chunk for gained in chunks for chunk in gained)

    def search(self, weights, prompts: TokenRows, beam_params: BeamParams, params: Params = DEFAULTS) -> Generation:
        """Beam search or beam sampling; `num_return` texts of each prompt in turn, the best first, with `scores`.

        A row's `max_tokens`, `seed`, `repetition_penalty` and end tokens count (the last must be the same for all
        rows), and with `beam_params.sample` its temperature and filters. Stop strings and logprobs are refused.
        """
        request, clock = self._request(prompts, params), Clock(self.programs)
        with self.programs.progress("searching"):
            return search_rows(self.programs, weights, request, beam_params, clock, **self.static_arguments())

    def score(self, weights, texts: TokenRows, *, batch: int = 8) -> list[np.ndarray]:
        """The logprob of each token given those before it, float32: row i has `len(texts[i]) - 1` of them."""
        rows = check_rows(texts, self.cfg, "text")
        static = {"cfg": self.cfg, "dtype": self.compute_dtype, "sharding": self.sharding}
        with self.programs.progress("scoring"):
            return score_rows(self.programs, weights, rows, batch, **static)

    def logits(self, weights, input_ids: Any, mask: Any = None) -> jax.Array:
        """Logits `[B, T, V]`, float32, of rows of one length; `mask` is 0 where a row is padded."""
        rows = id_rows(input_ids)
        masks = [np.ones(len(row), np.int32) for row in rows] if mask is None else id_rows(mask, "attention_mask")
        if len({len(row) for row in rows}) > 1 or list(map(len, masks)) != list(map(len, rows)):
            raise InputError("logits [B, T, V] need rows of one length, and a mask of the same shape: pad the rows")
        check_rows(rows, self.cfg)
        static = {"cfg": self.cfg, "dtype": self.compute_dtype, "sharding": self.sharding}
        with self.programs.progress("reading the prompt"):
            return logits_rows(self.programs, weights, np.stack(rows), np.stack(masks) != 0, **static)

    def fingerprint(self, weights) -> list[int]:
        """Returns two numbers that other weights are unlikely to have, and the same weights always have."""
        return np.asarray(self.programs.run(fingerprint_model, weights, cfg=self.cfg)).tolist()

    def _request(self, prompts: TokenRows, params: Params) -> GenerationRequest:
        prompts = check_rows(prompts, self.cfg)
        params = check_params(params, len(prompts))
        return make_request(prompts, params, self.cfg, self.eos_ids, self.sharding, self.make_stop_checker)

    def static_arguments(self) -> dict[str, Any]:
        """Returns what the programs of `decode` are compiled for, beside the arguments of each."""
        return {"cfg": self.cfg, "dtypes": (self.compute_dtype, self.cache_dtype), "sharding": self.sharding}

    def _decode_chunks(
        self, weights, request: GenerationRequest, n_steps: int, clock: Clock, cache: PromptCache | None
    ) -> Iterator[list[RowChunk]]:
        """Gives what the rows gained in the prefill, and in each chunk of steps after it, until all have ended."""
        static = self.static_arguments()
        args = (request.params, jax.device_put(np.int32(n_steps)))
        with self.programs.progress("reading the prompt"):
            state = self._prefill(weights, request, cache)
            host_state = fetch_state(state)
        clock.lap("prefill")
        chunks = self._update_rows(request, host_state)
        if any(row.reason is None for row in request.rows):  # while the caller shows the first token
            self.programs.prepare(decode.decode, weights, state, *args, donate=(1,), **static)
        while True:
            try:
                yield chunks
            finally:  # here an abandoned stream ends; the state is donated only after this
                if cache is not None:
                    cache.put(weights, static, _cached_row(state, host_state))
            if all(row.reason is not None for row in request.rows):
                return
            if cache is not None:
                cache.clear()
            state = dataclasses.replace(state, reason=_mark_stopped(state, request))
            clock.lap(None)
            state = self.programs.run(decode.decode, weights, state, *args, donate=(1,), **static)
            host_state = fetch_state(state)
            clock.lap("decode")
            chunks = self._update_rows(request, host_state)

    def _prefill(self, weights, request: GenerationRequest, cache: PromptCache | None) -> DecodeState:
        """Returns the state after the prefill, which reuses a cached prefix."""
        static = {"n_top": request.n_top, **self.static_arguments()}
        row = None if cache is None else cache.take(weights, self.static_arguments(), request.unique_prompts[0])
        if row is None:
            args = request.tokens, request.lengths, request.prompt_index, request.params
            return self.programs.run(decode.prefill, weights, *args, size=request.size, **static)
        n_cached, size, kv = len(row.tokens), max(row.size, request.size), row.cache
        if size > row.size:
            kv = self.programs.run(enlarge, kv, cfg=self.cfg, max_length=size, sharding=self.sharding)
        host = np.asarray([n_cached], np.int32), pad_rows(request.unique_prompts, 1, size)
        args = kv, *put_on_device(host, self.sharding), request.lengths, request.params
        static["chunk"] = prefill_chunk(len(request.unique_prompts[0]) - n_cached)
        return self.programs.run(decode.prefill_cached, weights, *args, donate=(1,), **static)

    def _update_rows(self, request: GenerationRequest, state: HostState) -> list[RowChunk]:
        """Returns what each row has gained since the last look at it."""
        chunks = []
        for row in request.rows:
            new = slice(row.prompt_length + len(row.tokens), int(state.length[row.index]))
            chunks.append(row.append(state, row.index, new, REASONS[int(state.reason[row.index])]))
        return [chunk for chunk in chunks if chunk is not None]


def _checked(cache: PromptCache | None, request: GenerationRequest) -> PromptCache | None:
    """Returns the cache. Raises `InputError` where there is more than one prompt for it."""
    if cache is not None and len(request.rows) != 1:
        raise InputError(
            f"a PromptCache is of one prompt, and there are {len(request.rows)}; leave it out, or give one"
        )
    return cache


def _cached_row(state: DecodeState, host_state: HostState) -> CachedRow:
    """What the cache of a state with one row holds: all but the last token."""
    return CachedRow(state.cache, state.tokens.shape[1], host_state.tokens[0, : int(host_state.length[0]) - 1])


def _mark_stopped(state: DecodeState, request: GenerationRequest) -> jax.Array:
    """The state's reasons with the rows that the host has ended marked as stopped."""
    stopped = [row.index for row in request.rows if row.reason == "stop"]
    reason = np.array(state.reason)
    if np.all(reason[stopped] != RUNNING):
        return state.reason
    reason[stopped] = STOP
    return jax.device_put(reason, state.reason.sharding)
