"""The host's part of a beam search: a request to arrays, the search in chunks, and its best texts back to lists.

It knows no arithmetic of beams; that is in `beam.py`.
"""

import dataclasses

import jax
import numpy as np

from vishwamai.errors import InputError
from vishwamai.generation import beam
from vishwamai.generation.beam import BeamParams, BeamRules, BeamState
from vishwamai.generation.decode import CHUNK_STEPS
from vishwamai.generation.programs import Clock, Programs, bucket
from vishwamai.generation.requests import LEAST_NEW_TOKENS, GenerationRequest, put_on_device
from vishwamai.generation.results import Generation


def search_rows(
    programs: Programs, weights, request: GenerationRequest, beam_params: BeamParams, clock: Clock, **static
) -> Generation:
    """The best texts of each of the request's prompts."""
    ends = _find_end_ids(request, beam_params)
    limits = np.asarray(request.params.limit)
    most = max(int(limits[row.index]) - row.prompt_length for row in request.rows)
    every_row = np.tile(ends.astype(np.int32), (len(limits), 1))
    rules = BeamRules(
        params=dataclasses.replace(request.params, end_ids=put_on_device(every_row, static["sharding"])),
        length_penalty=jax.device_put(np.float32(beam_params.length_penalty)),
    )
    # Without what needs no program of its own: the length penalty is an array, and rows are left out on the host.
    names = ("num_beams", "early_stopping", "sample")
    static["beam_params"] = BeamParams(**{name: getattr(beam_params, name) for name in names})
    sizes = {"size": request.size, "max_tokens": bucket(most, LEAST_NEW_TOKENS)}
    args = request.tokens, request.lengths, request.prompt_index, rules
    state = programs.run(beam.begin, weights, *args, **sizes, **static)
    is_open = np.asarray(state.is_open).any()
    clock.lap("prefill")
    n_steps = jax.device_put(np.int32(CHUNK_STEPS))
    while is_open:
        state = programs.run(beam.search, weights, state, rules, n_steps, donate=(1,), **static)
        is_open = np.asarray(state.is_open).any()
    clock.lap("decode")
    return _generation(state, request, beam_params, ends, clock)


def _find_end_ids(request: GenerationRequest, beam_params: BeamParams) -> np.ndarray:
    """Returns the end tokens `[E]` that all rows have. Raises `InputError` for what beams cannot do."""
    ends = np.asarray(request.params.end_ids)[: len(request.rows)]
    if np.any(ends != ends[:1]):
        raise InputError("the rows have different end tokens; a beam search needs the same for all of its rows")
    if any(row.params.stop for row in request.rows):
        raise InputError("stop strings cannot end a beam; use stop_token_ids, or cut the text afterwards")
    if any(row.params.logprobs is not None for row in request.rows):
        raise InputError("a beam search reports scores and no logprobs; leave logprobs out and score the texts after")
    if beam_params.sample and any(row.params.temperature == 0 for row in request.rows):
        raise InputError("beam sampling needs a temperature above 0; for plain beam search leave sampling off")
    return np.unique(ends[0][ends[0] >= 0])


def _generation(
    state: BeamState, request: GenerationRequest, beam_params: BeamParams, ends: np.ndarray, clock: Clock
) -> Generation:
    best = jax.device_get(state.finished)
    found = [(i, j) for i in range(len(request.rows)) for j in range(beam_params.num_return)]
    tokens = [best.tokens[i, j, : best.length[i, j]].tolist() for i, j in found]
    return Generation(
        tokens=tokens,
        logprobs=[[] for _ in tokens],
        top_logprobs=[[] for _ in tokens],
        finish_reasons=["stop" if row and row[-1] in ends else "length" for row in tokens],
        stats=clock.stats(sum(row.prompt_length for row in request.rows), sum(map(len, tokens))),
        scores=[float(best.score[i, j]) for i, j in found],
    )
