"""The face and tokens that are two things at once: padding, end and start tokens, special tokens, ids without text.

And what comes out of a tokenizer and a folder's generation_config.json, as it goes into the face. The references are
those of `test_api.py`.
"""

import dataclasses

import jax.numpy as jnp
import numpy as np
import pytest

from vishwamai import VishwamAI, VishwamAITokenizer
from vishwamai.errors import InputError
from vishwamai.hf.generation_config import GenerationConfig
from vishwamai.models.config import ModelConfig, uniform
from vishwamai.text import bpe
from vishwamai.text.chat import encode_chat

from .tiny_model import EOS, greedy, logits_of, tiny_model


@pytest.fixture(scope="module")
def model():
    return tiny_model()


def padded_with(model, pad_token: str, **generation) -> VishwamAI:
    """The same model with another padding token."""
    facts = {"eos_ids": (EOS,), "pad_id": None} | generation
    tokenizer = model.tokenizer.with_tokens(pad_token=pad_token)
    return VishwamAI(model.config, model.weights, tokenizer=tokenizer, generation_config=GenerationConfig(**facts))


@pytest.mark.by_turns
@pytest.mark.parametrize(("side", "pad"), [("left", "<|eos|>"), ("right", "<|eos|>"), ("right", "<|user|>")])
def test_a_padding_token_that_is_an_end_token_too(model, side, pad):
    pad_id = model.tokenizer.token_to_id(pad)
    twice = padded_with(model, pad, eos_ids=(EOS, pad_id))  # the tokenizer knows of the first alone
    batch = twice.tokenizer(["ab", "abcd"], padding=True, padding_side=side, return_tensors="jax")
    want = [greedy(model, list(b"ab"), 3)[2:], greedy(model, list(b"abcd"), 3)[4:]]
    for said in ({"attention_mask": batch.attention_mask}, {"pad_token_id": pad_id}):
        got = twice.generate(batch.input_ids, max_new_tokens=3, return_dict=True, **said)
        new = got.sequences.tolist()
        rows = [row[4:7] for row in new] if side == "left" else [new[0][2:5], new[1][4:7]]
        assert rows == want
    with pytest.raises(InputError, match=f"the padding token {pad_id} is an end token too"):
        twice.generate(batch.input_ids, max_new_tokens=3)
    with pytest.raises(InputError, match=f"the padding token {pad_id} is an end token too"):
        twice.score(batch.input_ids)
    assert [s.tokens for s in twice.score(batch.input_ids, attention_mask=batch.attention_mask)] == [
        list(b"ab"),
        list(b"abcd"),
    ]


def test_a_prompt_with_a_real_end_token_is_read_with_it(model):
    twice, ids = padded_with(model, "<|eos|>"), np.array([[97, EOS, 98, EOS]])
    want = greedy(model, ids[0].tolist(), 2)
    assert twice.generate(ids, max_new_tokens=2).tolist() == [want]
    assert twice.generate(ids, max_new_tokens=2, pad_token_id=EOS).tolist() == [want]  # as people write it out of habit


@pytest.mark.by_turns
@pytest.mark.parametrize("put", [{"add_bos": True}, {"bos_token": "<|pad|>", "add_bos": True}, {"add_eos": True}])
def test_an_array_is_read_as_the_text_that_it_was_made_of(model, put):
    tokenizer = model.tokenizer.with_tokens(**put)
    pad = tokenizer.bos_token if put.get("add_bos") else tokenizer.eos_token
    twice = VishwamAI(model.config, model.weights, tokenizer=tokenizer.with_tokens(pad_token=pad))
    ids = twice.tokenizer.encode("ab", return_tensors="jax")
    assert twice.generate(ids, max_new_tokens=3).tolist() == twice.generate("ab", max_new_tokens=3).tolist()
    assert twice.score(ids)[0].tokens == twice.score("ab")[0].tokens == ids[0].tolist()
    batch = twice.tokenizer(["ab", "abcd"], padding=True, return_tensors="np")
    named = [s.tokens for s in twice.score(batch.input_ids, attention_mask=batch.attention_mask)]
    assert named == [s.tokens for s in twice.score(["ab", "abcd"])]
    found = twice.generate(batch.input_ids, pad_token_id=twice.tokenizer.pad_token_id, max_new_tokens=3)
    assert found[1].tolist() == twice.generate("abcd", max_new_tokens=3)[0].tolist()


def test_a_token_of_the_chat_template_may_end_a_prompt(model):
    tokenizer = model.tokenizer.with_tokens(
        pad_token="<|assistant|>", templates=(("default", "{{ messages[0].content }}<|assistant|>"),)
    )
    chat = VishwamAI(model.config, model.weights, tokenizer=tokenizer)
    ids = np.array([encode_chat(tokenizer, [{"role": "user", "content": "hi"}])])
    assert ids[0, -1] == tokenizer.pad_token_id
    assert chat.generate(ids, max_new_tokens=2)[0].tolist() == greedy(model, ids[0].tolist(), 2)


def test_what_a_tokenizer_gives_goes_into_generate(model):
    tokenizer, want = model.tokenizer, greedy(model, list(b"abc"), 4)
    for kind in ("jax", "np", None):
        assert model.generate(**tokenizer("abc", return_tensors=kind), max_new_tokens=4).tolist() == [want]
    ragged = model.generate(**tokenizer(["abc", "a"]), max_new_tokens=4)
    assert ragged[0].tolist() == want and ragged[1, :5].tolist() == greedy(model, list(b"a"), 4)
    left = model.generate(
        **tokenizer(["abc", "a"], padding=True, padding_side="left", return_tensors="jax"), max_new_tokens=4
    )
    assert left[:, 3:].tolist() == [want[3:], greedy(model, list(b"a"), 4)[1:]]


@pytest.mark.by_turns
def test_logits(model):
    rows = [list(b"abcd"), list(b"ab")]
    exact = [logits_of(model, row) for row in rows]
    got = model(jnp.array(rows[:1]))
    assert got.shape == (1, 4, 263) and got.dtype == jnp.float32
    np.testing.assert_allclose(got[0], exact[0], atol=1e-4)
    np.testing.assert_allclose(model(rows[1])[0], exact[1], atol=1e-4)
    for side, place in (("left", slice(2, 4)), ("right", slice(0, 2))):
        batch = model.tokenizer(["abcd", "ab"], padding=True, padding_side=side, return_tensors="jax")
        got = model(**batch)
        np.testing.assert_allclose(got[0], exact[0], atol=1e-4)
        np.testing.assert_allclose(got[1, place], exact[1], atol=1e-4)
    assert (
        (np.argmax(model(**model.tokenizer("abc", return_tensors="np")), -1)[0, -1]) == greedy(model, rows[0][:3], 1)[3]
    )


@pytest.mark.by_turns
def test_padding_takes_up_no_positions():
    sizes = {"vocab_size": 20, "d_model": 16, "d_ff": 24, "n_heads": 2, "n_kv_heads": 2, "head_dim": 8}
    config = ModelConfig(**sizes, stacks=uniform(1, rope=None), learned_positions=True, max_length=16)
    learned = VishwamAI.from_config(config)
    ids, mask = np.array([[0, 0, 5, 6, 7], [1, 2, 3, 4, 5]]), np.array([[0, 0, 1, 1, 1], [1, 1, 1, 1, 1]])
    got = learned(ids, mask)
    for row, real in enumerate(mask):
        np.testing.assert_allclose(got[row, real > 0], learned(ids[row, real > 0])[0], atol=1e-5)


@pytest.mark.parametrize(
    ("ids", "mask", "says"),
    [
        ([[1, 2], [3]], None, "rows of one length"),
        ([[1, 2]], [[1]], "a mask of the same shape"),
        ([[1, 263]], None, "holds 263; token ids are numbers from 0 to 262"),
        ([[1] * 65], None, "65 tokens; the model's context is 64"),
        ("text", None, r"must be whole numbers \[B, T\]: call the tokenizer first, as in model\(\*\*tokenizer"),
    ],
)
def test_logits_of_what_is_no_batch_are_refused(model, ids, mask, says):
    with pytest.raises(InputError, match=says):
        model(ids, mask)


def test_the_folder_s_repetition_penalty_counts_greedily_and_with_beams(model):
    quiet = GenerationConfig(eos_ids=(EOS,), repetition_penalty=1.6, temperature=0.1)
    folder = VishwamAI(model.config, model.weights, tokenizer=model.tokenizer, generation_config=quiet)
    for more in ({}, {"num_beams": 2}):
        want = model.generate("abc", max_new_tokens=12, repetition_penalty=1.6, **more)
        assert folder.generate("abc", max_new_tokens=12, **more).tolist() == want.tolist()
        plain = model.generate("abc", max_new_tokens=12, **more)
        assert folder.generate("abc", max_new_tokens=12, repetition_penalty=1.0, **more).tolist() == plain.tolist()
        assert plain.tolist() != want.tolist()
    [text] = folder.complete("abc", max_new_tokens=12)
    assert text == "".join(chunk.text for chunk in folder.stream("abc", max_new_tokens=12))
    assert text == model.complete("abc", max_new_tokens=12, repetition_penalty=1.6)[0]


def test_what_a_folder_asks_for_and_is_not_followed_is_told(model, tmp_path):
    asks = GenerationConfig(eos_ids=(EOS,), unsupported=(("no_repeat_ngram_size", 3),))
    VishwamAI(model.config, model.weights, generation_config=asks).save_pretrained(tmp_path)
    with pytest.warns(UserWarning, match="in generating it asks for no_repeat_ngram_size=3, which is not followed"):
        VishwamAI.from_pretrained(tmp_path)


def saying(model, prompt: list[int], token: int, tokenizer: VishwamAITokenizer) -> VishwamAI:
    """The same model, but that its second new token after the prompt is this one."""
    first, rival = greedy(model, prompt, 2)[-2:]
    assert first != rival
    embed = model.weights.embed
    weights = dataclasses.replace(model.weights, embed=embed.at[token].set(1.02 * embed[rival]))
    return VishwamAI(model.config, weights, tokenizer=tokenizer)


def test_stop_texts_that_are_or_hold_a_special_token(model):
    tokenizer, prompt = model.tokenizer, list(b"hn")
    user = tokenizer.token_to_id("<|user|>")
    says = saying(model, prompt, user, tokenizer)
    free = says.generate([prompt], max_new_tokens=6, return_dict=True)
    first, second, third = free.sequences[0, 2:5].tolist()
    assert second == user and free.finish_reasons == ["length"]
    letter = tokenizer.decode([first])
    assert letter.isprintable() and tokenizer.decode([third]).isprintable()  # whole characters
    for stop, n, text in (
        ("<|user|>", 2, letter),
        (f"{letter}<|user|>", 2, ""),
        (["<|tool|>", f"<|user|>{tokenizer.decode([third])}"], 3, letter),
        ("<|tool|>", 6, free.texts[0]),
    ):
        given = {"max_new_tokens": 6, "stop": stop}
        got = says.generate([prompt], return_dict=True, **given)
        assert got.sequences[0].tolist() == free.sequences[0, : 2 + n].tolist()
        assert (got.finish_reasons, got.texts) == (["stop" if n < 6 else "length"], [text])
        assert says.complete("hn", **given) == [text]
        chunks = list(says.stream("hn", **given))
        assert "".join(chunk.text for chunk in chunks) == text and sum(len(c.tokens) for c in chunks) == n
    with pytest.raises(InputError, match="stop strings cannot end a beam"):
        says.generate([prompt], stop="<|user|>", num_beams=2)


def test_a_reply_ends_before_a_stop_text_of_a_special_token(model):
    messages = [{"role": "user", "content": "a"}]
    prompt, tool = encode_chat(model.tokenizer, messages), model.tokenizer.token_to_id("<|tool|>")
    says = saying(model, prompt, tool, model.tokenizer)
    reply = says.generate_chat(messages, max_new_tokens=6, stop="<|tool|>")
    assert (reply.finish_reason, reply.usage["completion_tokens"]) == ("stop", 2)


@pytest.mark.by_turns
def test_ids_beyond_the_tokenizer_have_no_text_and_nothing_is_lost(model):
    few = VishwamAITokenizer(bpe.byte_tokenizer(("<|eos|>", "<|user|>", "<|assistant|>", "<|system|>")))
    says = saying(model, list(b"hn"), 262, few)  # the tokenizer has ids up to 259
    made = says.generate(["hn", "d"], max_new_tokens=4, return_dict=True)
    new = made.sequences[0, 2:].tolist()
    assert new[1] == 262
    known = [i for i in new if i < 256]
    assert made.texts[0] == bytes(known).decode("utf-8", "replace")
    assert says.complete(["hn", "d"], max_new_tokens=4) == made.texts
    assert "".join(chunk.text for chunk in says.stream("hn", max_new_tokens=4)) == made.texts[0]
    beams = says.generate("hn", max_new_tokens=4, num_beams=3, num_return_sequences=3, return_dict=True)
    assert len(beams.texts) == 3 and any(262 in row for row in beams.sequences.tolist())
    messages = [{"role": "user", "content": "a"}]
    chatty = saying(model, encode_chat(few, messages), 262, few)
    assert chatty.generate_chat(messages, max_new_tokens=3).usage["completion_tokens"] == 3
    stopped = says.generate("hn", max_new_tokens=4, stop="no such text", return_dict=True)
    assert stopped.texts == made.texts[:1]
