"""A local model as reasoning sees it: what it reads, what it makes and where it stops, against the plain generator and
against itself, bit for bit, at other widths, in other orders and with few prefixes kept.
"""

import dataclasses
import time
import types

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vishwamai import VishwamAI, VishwamAITokenizer
from vishwamai.errors import BackendError, InputError
from vishwamai.generation import prefix_cache
from vishwamai.generation.sampling import SamplingParams
from vishwamai.models import transformer
from vishwamai.models.config import ModelConfig, uniform
from vishwamai.parallel.mesh import make_mesh
from vishwamai.parallel.sharding import Sharding, shardings
from vishwamai.reasoning.local import Local, as_model
from vishwamai.reasoning.model import seed_of, split_prompt
from vishwamai.weights import spec

pytestmark = pytest.mark.by_turns

TEXTS = ["yes.\nno;\nyes yes no.\n", "so; it is.\n"] * 9  # from which "yes", ".\n" and ";\n" become tokens
TOKENIZER = VishwamAITokenizer.train(TEXTS, 276)
CONFIG = ModelConfig(
    vocab_size=len(TOKENIZER), d_model=16, d_ff=24, n_heads=4, n_kv_heads=2, head_dim=8, max_length=64,
    stacks=uniform(2, window=16),
)  # fmt: skip
HOW = SamplingParams(temperature=1.0, max_tokens=16, logprobs=3)
SHARED = "The sum of "
PROMPTS = [(SHARED, "4 9\n"), (SHARED, "10 13\n", "then "), (SHARED, "4 9\n", "then "), "Quite another", (SHARED,)]
N = [3, 12, 2, 1, 5]
SEEDS = [11, 12, 13, 14, 15]


def weights_of(seed: int):
    """Made in NumPy, which compiles nothing."""
    rng = np.random.default_rng(seed)
    shapes = jax.eval_shape(lambda: spec.init(transformer.specs(CONFIG), jax.random.key(0)))

    def draw(path, x):
        return jnp.asarray(rng.normal("scale" in jax.tree_util.keystr(path), 0.3, x.shape), jnp.float32)

    return jax.tree.map_with_path(draw, shapes)


@pytest.fixture(scope="module")
def face():
    return VishwamAI(CONFIG, weights_of(3), tokenizer=TOKENIZER)


@pytest.fixture(scope="module")
def model(face):
    return Local(face, rows=16)


@pytest.fixture(scope="module")
def want(model):
    return model.generate(PROMPTS, N, HOW, SEEDS)


def flat(model, prompt) -> list[int]:
    return [token for run in model.runs(prompt) for token in run]


def plain(model, how=HOW, prompts=PROMPTS, n=N, seeds=SEEDS):
    """What the plain generator makes of the same rows: prompts' ids and its `Generation`."""
    rows = [flat(model, p) for p, many in zip(prompts, n, strict=True) for _ in range(many)]
    own = [dataclasses.replace(how, seed=seed_of(s, j)) for s, many in zip(seeds, n, strict=True) for j in range(many)]
    return rows, model.model.generator.generate(model.model.weights, rows, own)


def shown(ids) -> str:
    return TOKENIZER.decode(ids, skip_special_tokens=True)


def check_against_the_plain_generator(model, made, how=HOW, **asked):
    rows, want = plain(model, how, **asked)
    found = [c for row in made for c in row]
    for c, row, tokens, logprobs, reason in zip(
        found, rows, want.tokens, want.logprobs, want.finish_reasons, strict=True
    ):
        text = shown(row + tokens)[len(shown(row)) :]
        places = [text.find(stop) for stop in how.stop if stop in text]
        assert c.text == text[: min(places, default=len(text))]
        assert (c.tokens, c.finish_reason) == (len(tokens), reason)
        assert abs(c.logprob - sum(logprobs)) < 1e-4
    return found, want


def test_completions_are_those_of_the_plain_generator(model, want):
    found, made = check_against_the_plain_generator(model, want)
    assert {c.finish_reason for c in found} == {"stop", "length"}
    for c, tops in zip(found, made.top_logprobs, strict=True):
        for told, top in zip(c.likeliest, tops, strict=True):
            assert told == pytest.approx({TOKENIZER.decode([i]): x for i, x in reversed(top.items())}, abs=1e-4)


def test_the_likeliest_completion(model):
    how = dataclasses.replace(HOW, temperature=0.0)
    made = model.generate(PROMPTS, N, how, SEEDS)
    check_against_the_plain_generator(model, made, how)


def test_special_tokens_are_not_in_the_text(model, want):
    _, made = plain(model)
    assert any(token in TOKENIZER.special_ids for tokens in made.tokens for token in tokens[:-1])
    assert not any("<|" in c.text for row in want for c in row)


# The same bits


@pytest.mark.parametrize("width", [1, 7, 64])
def test_nothing_depends_on_the_width(face, want, width):
    assert Local(face, rows=16, width=width).generate(PROMPTS, N, HOW, SEEDS) == want


def test_nothing_depends_on_other_prompts_or_their_order(face, model, want):
    for i in range(5):
        assert Local(face, rows=16).generate(PROMPTS[i : i + 1], N[i : i + 1], HOW, SEEDS[i : i + 1]) == want[i : i + 1]
    assert model.generate(PROMPTS[::-1], N[::-1], HOW, SEEDS[::-1]) == want[::-1]
    more = model.generate(["Before"] + PROMPTS, [40, *N], HOW, [1, *SEEDS])
    assert more[1:] == want
    assert [row[0] for row in model.generate(PROMPTS, [1] * 5, HOW, SEEDS)] == [row[0] for row in want]


def test_nothing_depends_on_the_rows_that_are_kept(face, model, want):
    few = Local(face, rows=3)
    assert few.generate(PROMPTS, N, HOW, SEEDS) == want
    assert few.usage.prefill_tokens > trie_size(PROMPTS)
    assert np.array_equal(few.features(PROMPTS), model.features(PROMPTS))


# What is read


def trie_size(prompts) -> int:
    """The tokens of a trie whose edges are pieces."""
    root, size = {}, 0
    for prompt in prompts:
        node = root
        for piece in split_prompt(prompt):
            if piece not in node:
                node[piece] = {}
                size += len(TOKENIZER.encode(piece))
            node = node[piece]
    return size


def test_each_prefix_is_read_once(face, want):
    model = Local(face, rows=16)
    model.generate(PROMPTS[1:], N[1:], HOW, SEEDS[1:])
    first = dataclasses.replace(model.usage)
    assert first.prefill_tokens == trie_size(PROMPTS[1:])
    model.generate(PROMPTS[1:][::-1], N[1:], HOW, SEEDS[1:])
    again = dataclasses.replace(model.usage)
    assert (again.prefill_tokens, again.calls) == (first.prefill_tokens, 2)
    model.generate(PROMPTS, N, HOW, SEEDS)
    usage = model.usage
    assert usage.prefill_tokens == trie_size(PROMPTS)
    made = sum(c.tokens for row in want for c in row)
    asked = sum(n * len(flat(model, p)) for p, n in zip(PROMPTS, N, strict=True))
    assert (usage.calls, usage.completion_tokens - again.completion_tokens) == (3, made)
    assert usage.prompt_tokens - again.prompt_tokens == asked
    assert usage.device_calls > again.device_calls and usage.seconds > again.seconds


def test_pieces_are_read_as_the_whole_text_where_that_begins_with_them(model):
    assert flat(model, (SHARED, "4 9\n")) == TOKENIZER.encode(SHARED + "4 9\n")
    assert flat(model, ("so ye", "s.\n")) == TOKENIZER.encode("so ye") + TOKENIZER.encode("s.\n")
    assert model.runs(("a", "", "b")) == model.runs(("a", "b")) and model.runs("ab") != model.runs(("a", "b"))
    assert [len(run) for run in model.runs(("x" * 600, "y"))] == [256, 256, 88, 1]


# Long continuations


def test_turns_change_no_text(face, model, monkeypatch):
    """Of more rows than the pool holds prompts: what follows a prompt is a prompt of its own at the next turn."""
    prompts, n, how = PROMPTS[:2], [26, 2], dataclasses.replace(HOW, stop=(".", "t s"))
    want = model.generate(prompts, n, how, [1, 2])
    check_against_the_plain_generator(model, want, how, prompts=prompts, n=n, seeds=[1, 2])
    monkeypatch.setattr(prefix_cache, "CHUNK_TOKENS", 5)
    turned = Local(face, rows=16)
    made = turned.generate(prompts, n, how, [1, 2])
    for row, wanted in zip(made, want, strict=True):
        for c, other in zip(row, wanted, strict=True):
            assert (c.text, c.tokens, c.finish_reason) == (other.text, other.tokens, other.finish_reason)
            assert abs(c.logprob - other.logprob) < 1e-4 and len(c.likeliest) == c.tokens
    assert {c.finish_reason for row in made for c in row} == {"stop", "length"}


def test_a_turn_reads_what_is_new_alone(face, monkeypatch):
    monkeypatch.setattr(prefix_cache, "CHUNK_TOKENS", 5)
    model = Local(face, rows=16)
    made = model.generate(["So: "], [3], dataclasses.replace(HOW, ignore_eos=True), [5])
    assert [c.tokens for c in made[0]] == [16] * 3
    assert model.usage.prefill_tokens == 4 + 3 * 15


# Where a row ends


@pytest.mark.parametrize("stop", [(".",), ("\n",), ("es", "yes."), ("|",)])
def test_stop_texts(model, stop):
    """Tokens of this tokenizer hold one, and more: "yes", ".\\n". Special tokens have no text that could."""
    how, n = dataclasses.replace(HOW, stop=stop), [16, 16]
    made = model.generate(PROMPTS[:2], n, how, [1, 2])
    found, _ = check_against_the_plain_generator(model, made, how, prompts=PROMPTS[:2], n=n, seeds=[1, 2])
    assert {c.finish_reason for c in found} == {"stop", "length"}
    assert not any(text in c.text for c in found for text in stop)


def test_a_stop_text_over_several_tokens(model, want):
    """It ends a row where it is complete, and what was made after it is not there."""
    texts = [c.text for row in want for c in row]
    threes = [(i, text[at : at + 3]) for i, text in enumerate(texts) for at in range(2, len(text) - 6)]
    i, stop = next((i, three) for i, three in threes if three.isascii() and three.isalnum() and three not in ("yes",))
    how = dataclasses.replace(HOW, stop=(stop,))
    found, _ = check_against_the_plain_generator(model, model.generate(PROMPTS, N, how, SEEDS), how)
    assert found[i].finish_reason == "stop" and found[i].text == texts[i][: texts[i].index(stop)]
    assert found[i].tokens == len(found[i].likeliest) < 16


def test_a_full_context_ends_a_row(face, model):
    prompts, n, how = (
        [("x" * 16,) * 3 + ("y" * 10,), ("y" * 16,) * 4],
        [17, 1],
        dataclasses.replace(HOW, ignore_eos=True),
    )
    [made, full] = Local(face, rows=16).generate(prompts, n, how, [1, 2])
    assert [(c.tokens, c.finish_reason) for c in made] == [(6, "length")] * 17
    assert [(c.text, c.tokens, c.finish_reason) for c in full] == [("", 0, "length")]
    short = Local(face, rows=16, context=62).generate(prompts[:1], n[:1], how, [1])
    assert [c.tokens for c in short[0]] == [4] * 17


def test_prompts_that_do_not_fit_are_refused(face):
    model = Local(face, rows=16)
    for prompt, words in (("", "prompt is empty"), (("", ""), "prompt is empty"), ("x" * 65, "6[56] tokens.*holds 64")):
        with pytest.raises(InputError, match=words):
            model.generate([PROMPTS[0], prompt], [1, 1], HOW, [1, 1])
        with pytest.raises(InputError, match=words):
            model.score([prompt], [["yes"]])
    assert model.usage.calls == 0


def test_a_deadline_ends_rows_where_they_are(face, model, want, monkeypatch):
    late = model.generate(PROMPTS, N, HOW, SEEDS, deadline=time.monotonic() - 1)
    assert [len(row) for row in late] == N
    assert {(c.text, c.tokens, c.logprob, c.finish_reason) for row in late for c in row} == {("", 0, 0.0, "length")}
    assert model.generate(PROMPTS, N, HOW, SEEDS, deadline=time.monotonic() + 1000) == want
    monkeypatch.setattr(prefix_cache, "CHUNK_TOKENS", 5)
    times = iter([0.0, 1.0, 2.0])
    clock = types.SimpleNamespace(monotonic=lambda: next(times), perf_counter=time.perf_counter)
    monkeypatch.setattr(prefix_cache, "time", clock)
    made = model.generate(PROMPTS[2:], N[2:], HOW, SEEDS[2:], deadline=2.0)
    assert next(times, None) is None
    for row, wanted in zip(made, want[2:], strict=True):
        for c, other in zip(row, wanted, strict=True):
            assert c.tokens == min(10, other.tokens) and other.text.startswith(c.text.rstrip("\ufffd"))
            assert c.finish_reason == (other.finish_reason if other.tokens <= 10 else "length")


def test_a_deadline_ends_scoring(face):
    model, pairs = Local(face, rows=16, width=2), (["so "], [["yes", "no", "maybe"]])
    with pytest.raises(BackendError, match="0 of 3 continuations were scored before the deadline: allow more time"):
        model.score(*pairs, deadline=time.monotonic() - 1)
    assert model.score(*pairs, deadline=time.monotonic() + 1000) == model.score(*pairs)


# Scores and residuals


def test_scores_are_those_of_whole_texts(model):
    prompts = [*PROMPTS, "so ye"]  # of which the end would be one token with "s"
    continuations = [["yes", " no", "x"], [], ["yes.\nno;\n"], ["a"], ["b"], ["s"]]
    found = model.score(prompts, continuations)
    pairs = [(p, c) for p, own in zip(prompts, continuations, strict=True) for c in own]
    rows = [flat(model, (*split_prompt(p), c)) for p, c in pairs]
    sums = [
        x[len(flat(model, p)) - 1 :].sum()
        for (p, _), x in zip(pairs, model.model.generator.score(model.model.weights, rows, batch=8), strict=True)
    ]
    assert [len(row) for row in found] == [3, 0, 1, 1, 1, 1]
    np.testing.assert_allclose([x for row in found for x in row], sums, atol=1e-4)
    assert model.score([], []) == []
    yes, nothing = model.score(["Is it?"], [["yes", ""]])[0]
    assert yes < 0 and nothing == 0


def test_features_are_the_last_residuals(model):
    found = model.features(PROMPTS)
    rows = [flat(model, p) for p in PROMPTS]
    padded = jnp.asarray([row + [0] * (32 - len(row)) for row in rows])
    x, _ = jax.jit(lambda w, tokens: transformer.hidden_states(w, tokens, CONFIG))(model.model.weights, padded)
    np.testing.assert_allclose(found, [x[i, len(row) - 1] for i, row in enumerate(rows)], atol=1e-4)
    assert found.dtype == np.float32 and model.features([]).shape == (0, 16)


# Which model it is


def another(face, seed: int) -> VishwamAI:
    """A model with weights of its own, and the other's programs."""
    made = VishwamAI(CONFIG, weights_of(seed), tokenizer=TOKENIZER)
    made.generator = face.generator
    return made


def test_identity_is_that_of_the_weights(face, model):
    same, other = Local(another(face, 3), rows=2), Local(another(face, 4), rows=2)
    assert model.identity == model.identity == same.identity != other.identity
    assert model.identity.startswith("local-")


def test_other_weights_are_another_model(face, want):
    """As after `set_adapter`."""
    changed = another(face, 4)
    model = Local(changed, rows=16)
    before = model.identity, model.generate(PROMPTS, N, HOW, SEEDS), model.features(PROMPTS)
    changed.weights = weights_of(3)
    assert model.generate(PROMPTS, N, HOW, SEEDS) == want != before[1]
    assert model.identity == Local(face).identity != before[0]
    assert not np.allclose(model.features(PROMPTS), before[2])


def test_a_mesh_gives_the_same_texts(face, want):
    sharding = Sharding(make_mesh(tensor=2, data=4))
    weights = jax.device_put(face.weights, shardings(transformer.specs(CONFIG), sharding))
    model = Local(VishwamAI(CONFIG, weights, tokenizer=TOKENIZER, sharding=sharding), rows=16)
    for prompts, n, seeds, wanted in ((PROMPTS[:1], N[:1], SEEDS[:1], want[:1]), (PROMPTS, N, SEEDS, want)):
        made = model.generate(prompts, n, HOW, seeds)
        assert [[c.text for c in row] for row in made] == [[c.text for c in row] for row in wanted]
    assert model.model.generator.programs.count == 4  # the pool's layout is the same after each call
    assert model.identity == Local(face).identity


@pytest.mark.parametrize(
    ("name", "value"), [("context", 65), ("context", 1), ("rows", 1), ("width", 1025), ("width", 0), ("tile", 2.0)]
)
def test_arguments_out_of_range_are_refused(face, name, value):
    with pytest.raises(InputError, match=f"{name} is {value}; it must be a whole number"):
        Local(face, **{name: value})


def test_what_is_a_model(face, model):
    assert as_model(model) is model and as_model(face).model is face
    with pytest.raises(InputError, match="a str is no model"):
        as_model("vishwamai/base")
