"""Texts that grow over the border of a longrope model: every way to make or score tokens gives what they give whole."""

import functools

import jax
import jax.numpy as jnp
import numpy as np

from vishwamai.generation.beam import BeamParams
from vishwamai.generation.generator import Generator
from vishwamai.generation.prefix_cache import PrefixCache
from vishwamai.generation.prefix_pool import PoolSizes
from vishwamai.generation.sampling import SamplingParams
from vishwamai.models import transformer
from vishwamai.models.config import Layer, ModelConfig, Rope, group_layers
from vishwamai.weights import spec

LONG = Rope(
    theta=50.0, scaling="longrope", short_factors=(1.0, 1.5, 2.0, 1.2), long_factors=(2.0, 4.0, 6.0, 3.0),
    original_max_length=8,
)  # fmt: skip
CFG = ModelConfig(
    vocab_size=31, d_model=16, d_ff=24, n_heads=2, n_kv_heads=1, head_dim=8, max_length=32,
    stacks=group_layers((Layer(rope=LONG),)),
)  # fmt: skip
PROMPTS = [np.random.default_rng(i).integers(0, 31, n).tolist() for i, n in enumerate((5, 8, 11))]
GREEDY = SamplingParams(temperature=0.0, max_tokens=6)
WHOLE = jax.jit(functools.partial(transformer.forward, cfg=CFG))


@functools.cache
def weights():
    """Made in NumPy, which compiles nothing."""
    shapes, rng = jax.eval_shape(lambda: spec.init(transformer.specs(CFG), jax.random.key(0))), np.random.default_rng(3)

    def draw(path, x):
        return jnp.asarray(rng.normal("scale" in jax.tree_util.keystr(path), 0.5, x.shape), jnp.float32)

    return jax.tree.map_with_path(draw, shapes)


@functools.cache
def logprobs_of(text: tuple[int, ...]) -> np.ndarray:
    """`[T, V]`, after each token of a text that is read at once; every text fills the same shape, for one program."""
    padded = np.zeros((1, CFG.max_length), np.int32)
    padded[0, : len(text)] = text
    logits = np.asarray(WHOLE(weights(), padded, lengths_B=np.asarray([len(text)], np.int32))[0][0], np.float64)
    return (logits - np.log(np.exp(logits).sum(-1, keepdims=True)))[: len(text)]


def logprobs(text: tuple[int, ...]) -> np.ndarray:
    """Of the token after this text."""
    return logprobs_of(text)[-1]


def whole(prompt: list[int], n: int) -> tuple[list[int], list[float]]:
    """The likeliest tokens after a prompt, each from the whole text before it."""
    row, found = list(prompt), []
    for _ in range(n):
        found.append(float(logprobs(tuple(row)).max()))
        row.append(int(logprobs(tuple(row)).argmax()))
    return row[len(prompt) :], found


def test_greedy_rows_cross_one_after_another():
    made = Generator(cfg=CFG).generate(weights(), PROMPTS, GREEDY)
    for prompt, tokens, found in zip(PROMPTS, made.tokens, made.logprobs, strict=True):
        want, values = whole(prompt, 6)
        assert tokens == want
        np.testing.assert_allclose(found, values, atol=2e-4)


def test_a_beam_has_the_logprob_of_its_text():
    made = Generator(cfg=CFG).search(weights(), PROMPTS[:2], BeamParams(num_beams=3, length_penalty=0.0), GREEDY)
    for prompt, tokens, score in zip(PROMPTS, made.tokens, made.scores, strict=False):
        sums = sum(logprobs(tuple(prompt + tokens[:i]))[token] for i, token in enumerate(tokens))
        np.testing.assert_allclose(score, sums, atol=1e-3)


def test_prompts_in_runs_that_cross_in_their_midst():
    cache = PrefixCache(Generator(cfg=CFG), PoolSizes(slots=8, context=32, requests=4, batch=2))
    prompts = [tuple(map(tuple, (PROMPTS[0], PROMPTS[0][:n]))) for n in (2, 3, 4)]
    rows = cache.generate(weights(), prompts, [GREEDY] * 3)
    for prompt, row in zip(prompts, rows, strict=True):
        want, values = whole([*prompt[0], *prompt[1]], 6)
        assert row.tokens == want
        np.testing.assert_allclose(row.logprobs, values, atol=2e-4)
    scores = cache.score(weights(), prompts, [(1, 2, 3)] * 3)
    for prompt, score in zip(prompts, scores, strict=True):
        text = [*prompt[0], *prompt[1]]
        whole_text = logprobs_of((*text, 1, 2, 3))  # the first of them is from the text before it, which is read
        want = logprobs(tuple(text))[1] + whole_text[-3, 2] + whole_text[-2, 3]
        np.testing.assert_allclose(score, want, atol=2e-4)


def test_scores_of_texts_on_both_sides():
    texts = [PROMPTS[0], PROMPTS[1], PROMPTS[2], PROMPTS[2] + PROMPTS[1]]
    for text, found in zip(texts, Generator(cfg=CFG).score(weights(), texts), strict=True):
        want = logprobs_of(tuple(text))[np.arange(len(text) - 1), text[1:]]
        np.testing.assert_allclose(found, want, atol=2e-4)
