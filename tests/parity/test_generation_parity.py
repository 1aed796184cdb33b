"""Our generation against transformers' `generate`, token for token: greedy, beams, penalties; and the filters.

The end tokens are chosen among those that the model likes, so that rows and beams really end early. Ragged batches are
padded at the left there, and need no padding here.
"""

import functools

import jax.numpy as jnp
import numpy as np
import pytest

from vishwamai.generation import sampling
from vishwamai.generation.beam import BeamParams
from vishwamai.generation.generator import Generator
from vishwamai.generation.sampling import SamplingParams
from vishwamai.hf import config, weights

pytestmark = pytest.mark.parity

FAMILIES = ("llama3", "qwen3_moe", "gemma3_text")
MARGIN = 1e-4  # by which the best logit leads the next, of itself, where rounding cannot change their order
PAD, NEW = 0, 14
RNG = np.random.default_rng(3)
PROMPTS = [RNG.integers(3, 61, n).tolist() for n in (7, 3, 9)]
BY_LENGTH = ("phi4_mini", "phi3_longrope", "phi3_longrope_window", "llama_dynamic")  # a text turns by its length


@pytest.fixture(scope="module")
def pair(tiny_models):
    """`pair(case)` -> (transformers' model, our weights, our generator without end tokens)."""

    @functools.cache
    def read(case: str):
        model, folder = tiny_models(case)
        pretrained = config.read_pretrained(folder)
        model.generation_config.eos_token_id = None
        return model, weights.load_weights(folder, pretrained), Generator(cfg=pretrained.model)

    return read


@functools.cache
def likely_ends(pair, case: str) -> tuple[int, ...]:
    """Three tokens that occur early in what the model says, for it to end with."""
    model, w, generator = pair(case)
    made = generator.generate(w, PROMPTS, SamplingParams(temperature=0, max_tokens=NEW)).tokens
    return made[0][4], made[1][2], made[2][6]


def generated(model, prompts, eos, **options):
    """What transformers gives for prompts, padded at the left to one width, and the width."""
    import torch

    width = max(map(len, prompts))
    ids = torch.tensor([[PAD] * (width - len(p)) + p for p in prompts])
    mask = torch.tensor([[0] * (width - len(p)) + [1] * len(p) for p in prompts])
    settings = {"pad_token_id": PAD, "eos_token_id": list(eos) or None, "max_new_tokens": NEW, "do_sample": False}
    out = model.generate(
        ids, attention_mask=mask, return_dict_in_generate=True, output_scores=True, **(settings | options)
    )
    return out, width


def theirs(model, prompts, eos, **options):
    """What transformers makes after each prompt, up to and with the end token, and the scores of beams."""
    out, width = generated(model, prompts, eos, **options)
    rows = [until(row[width:].tolist(), eos) for row in out.sequences]
    scores = out.sequences_scores.numpy() if options.get("num_beams", 1) > 1 else None
    return rows, scores


def until(row: list[int], eos: tuple[int, ...]) -> list[int]:
    return next((row[: i + 1] for i, t in enumerate(row) if t in eos), row)


def sure(model, prompts) -> list[list[int]]:
    """What transformers makes greedily, each row as far as no second token is as good but for rounding."""
    out, width = generated(model, prompts, ())
    best_SB2 = np.stack([np.sort(scores.numpy(), -1)[:, -2:] for scores in out.scores])
    leads_BS = ((best_SB2[..., 1] - best_SB2[..., 0]) > MARGIN * np.abs(best_SB2[..., 1])).T
    lengths = [row.argmin() if not row.all() else len(row) for row in leads_BS]
    return [row[width : width + n].tolist() for row, n in zip(out.sequences, lengths, strict=True)]


def test_greedy_token_for_token(case, pair, measured):
    model, w, generator = pair(case)
    batches = [[p] for p in PROMPTS] if case in BY_LENGTH else [PROMPTS]  # where a batch has one length there
    expected = [row for batch in batches for row in sure(model, batch)]
    found = generator.generate(w, PROMPTS, SamplingParams(temperature=0, max_tokens=NEW)).tokens
    assert [row[: len(e)] for row, e in zip(found, expected, strict=True)] == expected
    n = sum(map(len, expected))
    assert n > 2 * NEW
    measured(case, "greedy", f"{n} of {n}")


@pytest.mark.parametrize("case", FAMILIES)
def test_greedy_until_an_end_token(case, pair):
    model, w, generator = pair(case)
    eos = likely_ends(pair, case)
    rows, _ = theirs(model, PROMPTS, eos)
    params = SamplingParams(temperature=0, max_tokens=NEW, stop_token_ids=eos)
    assert generator.generate(w, PROMPTS, params).tokens == rows
    assert any(len(row) < NEW for row in rows)


def test_greedy_with_a_repetition_penalty(pair):
    model, w, generator = pair("llama3")
    params = SamplingParams(temperature=0, max_tokens=NEW, repetition_penalty=1.7)
    for prompt in PROMPTS:  # alone: in a ragged batch they penalise the padding token too
        rows, _ = theirs(model, [prompt], (), repetition_penalty=1.7)
        assert generator.generate(w, [prompt], params).tokens == rows


# (transformers' arguments, how many end tokens)
BEAMS = [
    ({"num_beams": 3}, 1),
    ({"num_beams": 4, "num_return_sequences": 4, "early_stopping": True, "length_penalty": 0.3}, 3),
    ({"num_beams": 3, "num_return_sequences": 2, "early_stopping": "never", "length_penalty": 1.5}, 1),
    ({"num_beams": 2, "num_return_sequences": 2, "length_penalty": -0.7}, 2),
    ({"num_beams": 5, "num_return_sequences": 5, "length_penalty": 0.0, "early_stopping": "never"}, 0),
]
CASES = [("llama3", *b) for b in BEAMS] + [("qwen3_moe", *BEAMS[1]), ("gemma3_text", *BEAMS[2])]


@pytest.mark.parametrize(("case", "options", "n_eos"), CASES, ids=lambda x: str(x) if isinstance(x, str | int) else "")
def test_beams(case, options, n_eos, pair):
    model, w, generator = pair(case)
    free, _ = theirs(model, PROMPTS, (), **options)
    eos = tuple(dict.fromkeys(row[2] for row in free))[:n_eos]  # the best beams would go through these
    rows, scores = theirs(model, PROMPTS, eos, **options)
    beams = BeamParams(**{"num_return" if k == "num_return_sequences" else k: v for k, v in options.items()})
    found = generator.search(w, PROMPTS, beams, SamplingParams(max_tokens=NEW, stop_token_ids=eos))
    assert found.tokens == rows
    np.testing.assert_allclose(found.scores, scores, rtol=2e-5)
    assert (rows == free) == (n_eos == 0)


def test_beams_with_a_repetition_penalty(pair):
    model, w, generator = pair("llama3")
    rows, scores = theirs(model, PROMPTS[:1], (), num_beams=3, num_return_sequences=3, repetition_penalty=1.5)
    params = SamplingParams(max_tokens=NEW, repetition_penalty=1.5)
    found = generator.search(w, PROMPTS[:1], BeamParams(num_beams=3, num_return=3), params)
    assert found.tokens == rows
    np.testing.assert_allclose(found.scores, scores, rtol=2e-5)


@pytest.mark.parametrize("keep", [1, 3])
@pytest.mark.parametrize(
    "settings",
    [
        {"temperature": 0.6},
        {"top_k": 9},
        {"top_p": 0.8},
        {"min_p": 0.2},
        {"temperature": 1.7, "top_k": 30, "top_p": 0.7, "min_p": 0.05, "repetition_penalty": 1.3},
    ],
    ids=lambda s: "-".join(s),
)
def test_filters_equal_the_logits_processors(settings, keep):
    import torch
    from transformers.generation import logits_process as theirs

    logits = np.random.default_rng(0).normal(0, 3, (4, 61)).astype(np.float32)
    ids = np.random.default_rng(1).integers(0, 61, (4, 12))
    kept = {"min_tokens_to_keep": keep}
    makers = {
        "repetition_penalty": lambda x: theirs.RepetitionPenaltyLogitsProcessor(x),
        "temperature": lambda x: theirs.TemperatureLogitsWarper(x),
        "top_k": lambda x: theirs.TopKLogitsWarper(x, **kept),
        "top_p": lambda x: theirs.TopPLogitsWarper(x, **kept),
        "min_p": lambda x: theirs.MinPLogitsWarper(x, **kept),
    }
    expected = torch.tensor(logits)
    for name, make in makers.items():
        if name in settings:
            expected = make(settings[name])(torch.tensor(ids), expected)
    c = sampling.batch_params([SamplingParams(**settings)] * 4, [100] * 4)
    seen = np.zeros((4, 61), bool)
    seen[np.arange(4)[:, None], ids] = True
    mine = sampling.warp_logits(
        sampling.apply_repetition_penalty(jnp.asarray(logits), jnp.asarray(seen), c.repetition_penalty),
        c,
        min_tokens_to_keep=keep,
    )
    np.testing.assert_allclose(mine, expected.numpy(), rtol=1e-6)
