"""One step of beam sampling against NumPy; plain beam search is held to transformers in `tests/parity`.

The candidates are those of the largest (warped logprob + the beam's score + noise), with noise by seed and position.
"""

import dataclasses

import jax.numpy as jnp
import numpy as np
import pytest

from vishwamai.generation import beam, sampling
from vishwamai.generation.beam import BeamParams, BeamRules, BeamState, Hypotheses
from vishwamai.generation.sampling import SamplingParams, batch_params

B, W, V, N = 2, 3, 11, 4
LOGITS = np.random.default_rng(0).normal(0, 2, (B * W, V)).astype(np.float32)
SCORES = np.array([[-1.0, -1.5, -2.0], [-0.5, -0.7, -3.0]], np.float32)
SEARCH = BeamParams(num_beams=W, sample=True)


def state(step: int, start: int = 5) -> BeamState:
    zero = jnp.zeros((B, W), jnp.int32)
    running = Hypotheses(
        tokens=jnp.zeros((B, W, N), jnp.int32), score=jnp.asarray(SCORES), length=zero, ended=jnp.zeros((B, W), bool)
    )
    return BeamState(
        cache=None,
        running=running,
        finished=running,
        seen=jnp.zeros((B * W, V), bool),
        prompt_length=jnp.full(B, start, jnp.int32),
        step=jnp.int32(step),
        is_open=jnp.ones(B, bool),
    )


def rules(p: SamplingParams) -> BeamRules:
    rows = batch_params([dataclasses.replace(p, seed=i) for i in range(B)], [100] * B)
    no_ends = dataclasses.replace(rows, end_ids=np.zeros((B, 0), np.int32))
    return BeamRules(params=no_ends, length_penalty=jnp.float32(1.0))


def drawn(p: SamplingParams, step: int, start: int = 5) -> tuple[list, list, np.ndarray]:
    """Beams and tokens of the candidates of each prompt, and their scores."""
    found, beams = beam._candidates(state(step, start), jnp.asarray(LOGITS), rules(p), SEARCH)
    return np.asarray(beams).tolist(), np.asarray(found.tokens[:, :, step]).tolist(), np.asarray(found.score)


def expected(p: SamplingParams, position: int) -> tuple[list, list, np.ndarray]:
    """The same in float64: temperature, then the top k of each beam, at least two."""
    logits = LOGITS.astype(np.float64)
    scores = (logits - np.log(np.exp(logits).sum(-1, keepdims=True))) / p.temperature
    least = np.sort(scores, -1)[:, [-max(p.top_k, 2)]] if p.top_k else -np.inf
    total = np.where(scores >= least, scores, -np.inf).reshape(B, W, V) + SCORES[:, :, None]
    total = total.reshape(B, W * V)
    seeds = jnp.asarray([[0, i] for i in range(B)], jnp.uint32)
    noise = sampling.gumbel_noise(sampling.sampling_keys(seeds, jnp.full(B, position, jnp.int32)), W * V)
    best = np.argsort(-(total + np.asarray(noise, np.float64)), -1)[:, : 2 * W]
    return (best // V).tolist(), (best % V).tolist(), np.take_along_axis(total, best, -1)


@pytest.mark.parametrize("step", [0, 1, 3])
@pytest.mark.parametrize("settings", [{}, {"temperature": 3.0}, {"temperature": 0.4}, {"top_k": 3}], ids=str)
def test_candidates_are_drawn_by_temperature_filters_seed_and_position(settings, step):
    p = SamplingParams(**settings)
    beams, tokens, scores = drawn(p, step)
    want_beams, want_tokens, want_scores = expected(p, 5 + step)
    assert (beams, tokens) == (want_beams, want_tokens)
    np.testing.assert_allclose(scores, want_scores, rtol=1e-5)


def test_the_noise_is_another_at_each_step_and_the_same_at_each_position():
    p = SamplingParams(temperature=3.0)
    assert drawn(p, 0)[1] != drawn(p, 1)[1]
    assert drawn(p, 2, start=5)[1] == drawn(p, 0, start=7)[1]
