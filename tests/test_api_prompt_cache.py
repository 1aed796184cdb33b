"""Conversations of messages with a `PromptCache`: the same replies as without one, whole or streamed.

The model's output bias leaves only small letters, so that a reply's text has its tokens again in the next prompt.
"""

import dataclasses

import jax.numpy as jnp
import numpy as np
import pytest

from vishwamai import PromptCache, VishwamAI, VishwamAITokenizer
from vishwamai.errors import InputError
from vishwamai.models import transformer
from vishwamai.models.config import Layer, ModelConfig, Stack
from vishwamai.text.chat import encode_chat
from vishwamai.weights import lora, spec

CONFIG = ModelConfig(
    vocab_size=263, d_model=16, d_ff=24, n_heads=4, n_kv_heads=2, head_dim=8, max_length=64, head_bias=True,
    stacks=(Stack(pattern=(Layer(window=16), Layer()), repeats=1),),
)  # fmt: skip
LETTERS = range(ord("a"), ord("z") + 1)
ASKED = {"max_new_tokens": 3}
TYPED = ["hi", "who?", "why", "so", "bye"]


@pytest.fixture(scope="module")
def model():
    model = VishwamAI.from_config(CONFIG, tokenizer=VishwamAITokenizer.bytes())
    model.weights = speaking(model, LETTERS)
    return model


def speaking(model: VishwamAI, tokens):
    """The model's weights with an output bias that leaves it these tokens."""
    bias = np.full(CONFIG.vocab_size, -1e4, np.float32)
    bias[tokens] = 0
    return dataclasses.replace(model.weights, head_bias=jnp.asarray(bias))


def talk(messages: list, typed: str) -> list:
    return [*messages, {"role": "user", "content": typed}]


@pytest.mark.by_turns
def test_five_turns_of_messages(model):
    cache, messages, total = PromptCache(), [{"role": "system", "content": "ok"}], 1
    for typed in TYPED:
        messages = talk(messages, typed)
        reply = model.generate_chat(messages, cache=cache, **ASKED)
        assert reply.content == model.generate_chat(messages, **ASKED).content
        assert reply.stats.cached_tokens == total - 1
        total = reply.usage["total_tokens"]
        messages.append(reply.message)
    assert 2 * CONFIG.stacks[0].pattern[0].window < total < CONFIG.max_length


def test_a_stream_shares_the_cache_with_whole_replies(model):
    cache, messages = PromptCache(), talk([], "hello")
    whole = model.generate_chat(messages, cache=cache, **ASKED)
    messages = talk([*messages, whole.message], "and then")
    chunks = list(model.stream(messages, cache=cache, **ASKED))
    assert "".join(chunk.text for chunk in chunks) == model.generate_chat(messages, **ASKED).content
    assert chunks[-1].stats.cached_tokens == whole.usage["total_tokens"] - 1
    assert chunks[-1].stats.prompt_tokens > whole.usage["total_tokens"]


def test_a_reply_that_is_left_in_its_midst_is_not_read_again(model):
    cache, messages = PromptCache(), talk([], "hello")
    stream = model.stream(messages, cache=cache, **ASKED)
    n_prompt, said = len(encode_chat(model.tokenizer, messages)), next(stream).text + next(stream).text
    stream.close()
    messages = talk([*messages, {"role": "assistant", "content": said}], "why")
    reply = model.generate_chat(messages, cache=cache, **ASKED)
    assert reply.stats.cached_tokens == n_prompt + len(said) - 1
    assert reply.content == model.generate_chat(messages, **ASKED).content


def test_a_streamed_reply_has_no_white_space_around_it(model, monkeypatch):
    monkeypatch.setattr(model, "weights", speaking(model, [ord(c) for c in " \nab"]))
    messages, raw = talk([], "hello"), []
    for seed in range(8):
        how = {"do_sample": True, "temperature": 9.0, "seed": seed, **ASKED}
        chunks = list(model.stream(messages, **how))
        raw.append(bytes(t for chunk in chunks for t in chunk.tokens).decode())
        said = "".join(chunk.text for chunk in chunks)
        assert said == raw[-1].strip() == model.generate_chat(messages, **how).content
    assert any(text[0].isspace() for text in raw) and any(text[-1].isspace() for text in raw)


def test_another_adapter_reads_everything_anew(model, monkeypatch):
    rng = np.random.default_rng(1)
    pairs = spec.map_params(
        lambda p: jnp.asarray(rng.normal(0, 1, p.shape), jnp.float32) if p.contract else p.init(None),
        lora.specs(transformer.specs(CONFIG), rank=2, alpha=4.0),
    )
    cache, messages = PromptCache(), talk([], "hello")
    first = model.generate_chat(messages, cache=cache, **ASKED)
    messages = talk([*messages, first.message], "and then")
    plain = model.generate_chat(messages, **ASKED)
    monkeypatch.setattr(model, "adapters", {"one": pairs})
    monkeypatch.setattr(model, "weights", model.weights)  # so that they come back
    model.set_adapter("one")
    second = model.generate_chat(messages, cache=cache, **ASKED)
    assert second.stats.cached_tokens == 0
    assert plain.content != second.content == model.generate_chat(messages, **ASKED).content


def test_a_message_that_is_refused_costs_nothing(model):
    cache, messages = PromptCache(), talk([], "hello")
    first = model.generate_chat(messages, cache=cache, **ASKED)
    with pytest.raises(InputError, match="the model's context is 64"):
        model.generate_chat(talk([*messages, first.message], "x" * 100), cache=cache, **ASKED)
    second = model.generate_chat(talk([*messages, first.message], "why"), cache=cache, **ASKED)
    assert second.stats.cached_tokens == first.usage["total_tokens"] - 1


def test_what_has_several_rows_takes_no_cache(model):
    with pytest.raises(InputError, match="a PromptCache has one row and num_beams is 2"):
        model.generate_chat(talk([], "hello"), cache=PromptCache(), num_beams=2)
