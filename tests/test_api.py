"""The face: how prompts may be said, what comes back, and that the usage example works as it is written.

The references are the functions below the face (a full forward pass, log-softmax in float64) and plain greedy search.
"""

import dataclasses
import json
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from tokenizers import Tokenizer, decoders, models

from vishwamai import VishwamAI, VishwamAITokenizer, api
from vishwamai.errors import ConfigError, HubError, InputError, TokenizerError
from vishwamai.hf.generation_config import GenerationConfig
from vishwamai.models.config import ModelConfig, uniform
from vishwamai.models.transformer import forward
from vishwamai.text import bpe
from vishwamai.text.chat import encode_chat

EOS, PAD = 257, 258
SIZES = {"vocab_size": 263, "d_model": 16, "d_ff": 24, "n_heads": 4, "n_kv_heads": 2, "head_dim": 8}
EXPERTS = {"n_experts": 4, "n_experts_per_token": 2, "d_expert": 16, "qk_norm": True}
CONFIG = ModelConfig(**SIZES, **EXPERTS, stacks=uniform(2, moe=True), max_length=64, tie_embeddings=True)
WHOLE = jax.jit(partial(forward, cfg=CONFIG))


@pytest.fixture(scope="module")
def model():
    return VishwamAI.from_config(CONFIG, tokenizer=VishwamAITokenizer.bytes())


@pytest.fixture(scope="module")
def folder(model, tmp_path_factory):
    folder = tmp_path_factory.mktemp("model")
    model.save_pretrained(folder)
    return folder


def greedy(model, prompt: list[int], n: int) -> list[int]:
    """The likeliest next token, n times, each from a forward pass over everything before it; EOS ends it."""
    tokens = list(prompt)
    for _ in range(n):
        tokens.append(int(logits_of(model, tokens)[-1].argmax()))
        if tokens[-1] == EOS:
            break
    return tokens


def logits_of(model, tokens: list[int]) -> np.ndarray:
    """Logits `[T, V]` of a row. It is padded, which no earlier position sees, so that one program serves all rows."""
    padded = jnp.asarray([tokens + [0] * (CONFIG.max_length - len(tokens))])
    return np.asarray(WHOLE(model.weights, padded)[0][0], np.float64)[: len(tokens)]


def exact_logprobs(model, tokens: list[int]) -> np.ndarray:
    """`[T, V]`, the log-softmax in float64."""
    logits = logits_of(model, tokens)
    return logits - np.log(np.exp(logits).sum(-1, keepdims=True))


# Loading and saving


def test_a_saved_model_comes_back(model, folder):
    back = VishwamAI.from_pretrained(folder)
    assert back.config == model.config and back.model_type == "qwen3_moe"
    assert back.generation_config.eos_ids == (EOS,) and back.generation_config.pad_id == PAD
    for a, b in zip(jax.tree.leaves(back.weights), jax.tree.leaves(model.weights), strict=True):
        np.testing.assert_array_equal(a, b)
    assert back.tokenizer.encode("hé") == [104, 195, 169]


def test_a_dtype_and_a_mesh(folder):
    back = VishwamAI.from_pretrained(folder, dtype="bfloat16", mesh={"expert": 4, "tensor": 2})
    gate = back.weights.stacks[0][0].ffn.gate
    assert gate.dtype == jnp.bfloat16
    assert gate.sharding.shard_shape(gate.shape) == (2, 1, 16, 8)
    with pytest.raises(ConfigError, match="float8"):
        VishwamAI.from_pretrained(folder, dtype="float8")


def test_a_config_in_a_file(tmp_path):
    path = tmp_path / "tiny.json"
    path.write_text(json.dumps({"model": SIZES | {"stacks": [{"pattern": [{}], "repeats": 2}]}}))
    made = VishwamAI.from_config(path, seed=1)
    assert made.config == ModelConfig(**SIZES, stacks=uniform(2))
    assert not np.array_equal(made.weights.embed, VishwamAI.from_config(path, seed=2).weights.embed)
    with pytest.raises(TokenizerError, match="no tokenizer"):
        made.generate("text")


def test_a_name_that_leads_nowhere(tmp_path):
    with pytest.raises(HubError, match="nowhere"):
        VishwamAI.from_pretrained(tmp_path / "nowhere")


# Prompts in, sequences out


def test_the_usage_example(model, folder):
    """Word for word that of the README, but for the model's name."""
    model = VishwamAI.from_pretrained(folder)
    tokenizer = VishwamAITokenizer.from_pretrained(folder)
    input_ids = tokenizer.encode("Explain the concept of machine learning:", return_tensors="jax")
    outputs = model.generate(input_ids, max_length=512)
    response = tokenizer.decode(outputs[0], skip_special_tokens=True)
    assert isinstance(outputs, jax.Array) and outputs.dtype == jnp.int32
    prompt = tokenizer.encode("Explain the concept of machine learning:")
    assert outputs[0].tolist() == greedy(model, prompt, CONFIG.max_length - len(prompt))
    assert response.startswith("Explain the concept of machine learning:")


def test_every_way_to_say_a_prompt(model):
    want = greedy(model, list(b"abc"), 4)
    prompts = ["abc", ["abc"], [97, 98, 99], [[97, 98, 99]], np.array([97, 98, 99]), jnp.array([[97, 98, 99]])]
    prompts += [(97, 98, 99), [np.array([97, 98, 99])]]
    for prompt in prompts:
        assert model.generate(prompt, max_new_tokens=4).tolist() == [want], repr(prompt)


def test_ragged_rows_are_each_as_they_are_alone(model):
    prompts = [list(b"a"), list(b"longer one"), list(b"mid")]
    got = model.generate(prompts, max_new_tokens=5)
    for row, prompt in zip(got.tolist(), prompts, strict=True):
        want = greedy(model, prompt, 5)
        assert row == want + [PAD] * (got.shape[1] - len(want))


def test_padding_at_either_side(model):
    short, long = greedy(model, list(b"ab"), 3), greedy(model, list(b"abcd"), 3)
    left = np.array([[PAD, PAD, 97, 98], [97, 98, 99, 100]])
    assert model.generate(left, max_new_tokens=3).tolist() == [[PAD, PAD, *short], long]
    zeros = np.array([[0, 0, 97, 98], [97, 98, 99, 100]])
    mask = np.array([[0, 0, 1, 1], [1, 1, 1, 1]])
    out = model.generate(zeros, attention_mask=mask, max_new_tokens=3)
    assert out[:, 4:].tolist() == [short[2:], long[4:]]
    right, mask = jnp.array([[97, 98, 5, 5], [97, 98, 99, 100]]), jnp.array([[1, 1, 0, 0], [1, 1, 1, 1]])
    assert model.generate(right, attention_mask=mask, max_new_tokens=3).tolist() == [[*short, PAD, PAD], long]


def test_only_a_padding_token_that_somebody_names_is_padding(model):
    bare, zeros = VishwamAI(model.config, model.weights), jnp.array([[0, 5, 6, 0]])
    want = greedy(model, [0, 5, 6, 0], 2)
    assert bare.generate(zeros, max_new_tokens=2, eos_token_id=[]).tolist() == [want]
    assert bare.score(zeros)[0].tokens == [0, 5, 6, 0]
    stripped = bare.generate(zeros, max_new_tokens=2, pad_token_id=0)
    assert stripped.tolist() == [[0, *greedy(model, [5, 6], 2)]]
    declared = VishwamAI(model.config, model.weights, generation_config=GenerationConfig(pad_id=0))
    assert declared.generate(zeros, max_new_tokens=2).tolist() == stripped.tolist()
    assert declared.score(zeros)[0].tokens == [5, 6]


def padded_with(model, pad_token: str, **generation) -> VishwamAI:
    """The same model with another padding token."""
    facts = {"eos_ids": (EOS,), "pad_id": None} | generation
    tokenizer = model.tokenizer.with_tokens(pad_token=pad_token)
    return VishwamAI(model.config, model.weights, tokenizer=tokenizer, generation_config=GenerationConfig(**facts))


@pytest.mark.parametrize("side", ["left", "right"])
def test_a_padding_token_that_is_an_end_token_too(model, side):
    twice = padded_with(model, "<|eos|>")
    batch = twice.tokenizer(["ab", "abcd"], padding=True, padding_side=side, return_tensors="jax")
    want = [greedy(model, list(b"ab"), 3)[2:], greedy(model, list(b"abcd"), 3)[4:]]
    for said in ({"attention_mask": batch.attention_mask}, {"pad_token_id": EOS}):
        got = twice.generate(batch.input_ids, max_new_tokens=3, return_dict=True, **said)
        new = got.sequences.tolist()
        rows = [row[4:7] for row in new] if side == "left" else [new[0][2:5], new[1][4:7]]
        assert rows == want
    with pytest.raises(InputError, match="the padding token 257 is an end token too"):
        twice.generate(batch.input_ids, max_new_tokens=3)
    with pytest.raises(InputError, match="the padding token 257 is an end token too"):
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


@pytest.mark.parametrize(
    ("ids", "mask", "says"),
    [
        ([[1, 2], [3]], None, "rows of one length"),
        ([[1, 2]], [[1]], "a mask of the same shape"),
        ([[1, 263]], None, "holds 263; token ids are numbers from 0 to 262"),
        ([[1] * 65], None, "65 tokens; the model's context is 64"),
        ("text", None, "must be whole numbers"),
    ],
)
def test_logits_of_what_is_no_batch_are_refused(model, ids, mask, says):
    with pytest.raises(InputError, match=says):
        model(ids, mask)


def test_an_end_token_ends_a_row(model):
    free = greedy(model, list(b"abc"), 6)
    end = free[4]
    at = free.index(end, 3) + 1
    got = model.generate([97, 98, 99], max_new_tokens=6, eos_token_id=end, return_dict=True)
    assert got.sequences.tolist() == [free[:at]] and got.finish_reasons == ["stop"]
    both = model.generate([[97, 98, 99], [97]], max_new_tokens=6, eos_token_id=[end, 1], pad_token_id=7)
    assert both[0].tolist() == free[:at] + [7] * (both.shape[1] - at)


def test_lengths(model):
    assert model.generate("abc", max_length=5).shape == (1, 5)
    assert model.generate("abc", max_new_tokens=2).shape == (1, 5)
    assert model.generate("abc", max_length=10**6).shape[1] <= CONFIG.max_length
    with pytest.raises(InputError, match="max_length is 3 and counts the prompt, which has 3 tokens"):
        model.generate("abc", max_length=3)
    with pytest.raises(InputError, match="65 tokens; the model's context is 64"):
        model.generate([1] * 65)


def test_results_in_full(model):
    got = model.generate(["abc", "d"], max_new_tokens=4, return_dict=True)
    for row, prompt, logprobs in zip(got.sequences.tolist(), (b"abc", b"d"), got.logprobs, strict=True):
        exact = exact_logprobs(model, row)
        places = range(len(prompt), len(prompt) + 4)
        np.testing.assert_allclose(logprobs, [exact[p - 1, row[p]] for p in places], atol=1e-4)
    assert got.finish_reasons == ["length", "length"] and got.stats.generated_tokens == 8
    assert got.texts == model.complete(["abc", "d"], max_new_tokens=4)


def test_the_likeliest_tokens_of_each_step(model):
    got = model.generate(["abc", "d"], max_new_tokens=4, logprobs=3, return_dict=True)
    for row, start, top in zip(got.sequences.tolist(), (3, 1), got.top_logprobs, strict=True):
        exact = exact_logprobs(model, row[: start + 4])
        want = [np.argsort(-exact[p - 1])[:3].tolist() for p in range(start, start + 4)]
        assert [list(step) for step in top] == want
        for step, p in zip(top, range(start, start + 4), strict=True):
            np.testing.assert_allclose(list(step.values()), exact[p - 1, list(step)], atol=1e-4)
    streamed = [step for chunk in model.stream("abc", max_new_tokens=4, logprobs=3) for step in chunk.top_logprobs]
    assert [list(step) for step in streamed] == [list(step) for step in got.top_logprobs[0]]
    assert model.generate("abc", max_new_tokens=4, return_dict=True).top_logprobs is None


def test_logprobs_where_there_are_none_to_give(model):
    for call in (model.generate, model.complete, model.generate_chat):
        with pytest.raises(InputError, match="logprobs would do nothing here: call generate with return_dict=True"):
            call("a", logprobs=3)
    with pytest.raises(InputError, match="a beam search reports scores and no logprobs"):
        model.generate("a", num_beams=2, logprobs=3, return_dict=True)


def test_seeds(model):
    draw = {"do_sample": True, "temperature": 1.5, "max_new_tokens": 8}
    alone = model.complete("abc", **draw, seed=3)
    assert model.complete(["x", "abc", "longer"], **draw, seed=3)[1:2] == alone
    assert model.complete(["x", "abc"], **draw, seed=[1, 3])[1:] == alone
    assert model.complete("abc", **draw, seed=4) != alone
    several = model.generate("abc", **draw, seed=3, num_return_sequences=3)
    assert len({tuple(row) for row in several.tolist()}) == 3
    assert several[0].tolist() == model.generate("abc", **draw, seed=3)[0].tolist()
    assert model.complete("abc", **draw, seed=np.int64(3)) == alone
    assert len({model.complete("abc", **draw, seed=None)[0] for _ in range(4)}) > 1


def test_the_sampling_that_a_folder_recommends(model):
    cold = GenerationConfig(eos_ids=(EOS,), temperature=1e-4)
    quiet = VishwamAI(model.config, model.weights, tokenizer=model.tokenizer, generation_config=cold)
    assert quiet.complete("abc", max_new_tokens=5, do_sample=True) == model.complete("abc", max_new_tokens=5)
    hot = quiet.complete("abc", max_new_tokens=5, do_sample=True, temperature=2.0)
    assert hot == model.complete("abc", max_new_tokens=5, do_sample=True, temperature=2.0)


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
    with pytest.warns(UserWarning, match="it asks for no_repeat_ngram_size=3 in generating, which is not followed"):
        VishwamAI.from_pretrained(tmp_path)


def test_a_temperature_draws(model):
    draw = {"max_new_tokens": 8, "seed": 3}
    hot = model.complete("abc", temperature=1.5, **draw)
    assert hot == model.complete("abc", temperature=1.5, do_sample=True, **draw)
    assert hot != model.complete("abc", **draw)
    assert model.complete("abc", temperature=0, **draw) == model.complete("abc", **draw)


def test_beams(model):
    got = model.generate(["abc", "d"], max_new_tokens=3, num_beams=3, num_return_sequences=2, return_dict=True)
    assert got.sequences.shape[0] == 4 and len(got.texts) == 4
    assert got.scores[0] >= got.scores[1] and got.scores[2] >= got.scores[3]
    row = [t for t in got.sequences[0].tolist() if t != PAD]
    total = sum(model.score([row])[0].logprobs[2:])
    assert got.scores[0] == pytest.approx(total / 3, abs=1e-4)
    assert total >= sum(model.generate("abc", max_new_tokens=3, return_dict=True).logprobs[0]) - 1e-4


def test_drawn_beams_have_a_seed_a_prompt(model):
    draw = {"num_beams": 3, "num_return_sequences": 2, "do_sample": True, "temperature": 2.0, "max_new_tokens": 3}
    both = model.generate(["abc", "d"], **draw, seed=[3, 4], pad_token_id=0)
    alone = model.generate("d", **draw, seed=4, pad_token_id=0)
    assert [row[:4] for row in both.tolist()[2:]] == alone.tolist()


def test_stop_texts(model):
    whole = model.complete("abc", max_new_tokens=12, seed=5, do_sample=True)[0]
    stop = whole[3:5]
    want = whole[: whole.index(stop)]
    given = {"max_new_tokens": 12, "seed": 5, "do_sample": True, "stop": stop}
    assert model.complete("abc", **given) == [want]
    chunks = list(model.stream("abc", **given))
    assert "".join(chunk.text for chunk in chunks) == want and chunks[-1].finish_reason == "stop"


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


def test_a_stop_text_that_begins_with_the_space_of_the_first_new_word(model):
    words = Tokenizer(models.WordLevel({f"▁w{i}": i for i in range(SIZES["vocab_size"])}, unk_token="▁w0"))
    words.decoder = decoders.Metaspace()  # which drops a space where a text begins
    spaced = VishwamAI(model.config, model.weights, tokenizer=VishwamAITokenizer(words))
    free = spaced.generate([1, 2], max_new_tokens=4, return_dict=True)
    stop = free.texts[0][: free.texts[0].index(" ", 1)]
    got = spaced.generate([1, 2], max_new_tokens=4, stop=stop, return_dict=True)
    assert stop.startswith(" w") and got.texts == [""] and got.finish_reasons == ["stop"]
    assert got.sequences.tolist() == [free.sequences[0, :3].tolist()]


# Streams, chats and scores


def test_a_stream_is_the_completion_in_pieces(model):
    chunks = list(model.stream("héllo", max_new_tokens=9))
    got = model.generate("héllo", max_new_tokens=9, return_dict=True)
    assert "".join(chunk.text for chunk in chunks) == got.texts[0]
    assert [t for chunk in chunks for t in chunk.tokens] == got.sequences[0].tolist()[6:]
    assert [chunk.stats is None for chunk in chunks] == [True] * (len(chunks) - 1) + [False]
    stats = chunks[-1].stats
    assert (stats.prompt_tokens, stats.generated_tokens) == (6, 9) and stats.tokens_per_second > 0
    assert list(model.stream("héllo", max_new_tokens=9))[-1].stats.compiles == 0
    with pytest.raises(InputError, match="one prompt, not 2"):
        model.stream(["a", "b"])


def test_a_chat(model):
    messages = [{"role": "user", "content": "hi <|eos|>"}]
    prompt = encode_chat(model.tokenizer, messages)
    assert prompt.count(EOS) == 1  # that of the template alone
    reply = model.generate_chat(messages, max_new_tokens=6)
    got = model.generate(prompt, max_new_tokens=6, return_dict=True)
    assert str(reply) == reply.content == got.texts[0].strip()
    n = got.sequences.shape[1] - len(prompt)
    assert reply.usage == {"prompt_tokens": len(prompt), "completion_tokens": n, "total_tokens": len(prompt) + n}
    assert reply.message == {"role": "assistant", "content": reply.content}
    assert "".join(chunk.text for chunk in model.stream(messages, max_new_tokens=6)) == got.texts[0]


def test_a_chats_arguments_are_options_and_the_templates_variables(model, monkeypatch):
    prompts = []
    real = api.encode_chat
    monkeypatch.setattr(api, "encode_chat", lambda *args, **given: prompts.append(real(*args, **given)) or prompts[-1])
    template = "{% for m in messages %}[{{ m.role }}]{{ m.content }}{% endfor %}{% if effort %}!{{ effort }}{% endif %}"
    template += "{% if add_generation_prompt %}[assistant]{% endif %}{{ tools | map(attribute='name') | join }}"
    template += "{{ documents | map(attribute='text') | join if documents }}"
    messages = [{"role": "user", "content": "hi"}, {"role": "assistant", "content": "The answer "}]
    given = {"tools": [{"name": "f"}], "documents": [{"text": "d"}], "chat_template": template, "effort": "high"}
    for ask in (model.generate_chat, lambda *args, **given: list(model.stream(*args, **given))):
        ask(messages, max_new_tokens=2, **given)
        ask(messages, max_new_tokens=2, add_generation_prompt=False, **given)
        ask(messages, max_new_tokens=2, continue_final_message=True, **given)
    talk = "[user]hi[assistant]The answer "
    expected = [f"{talk}!high[assistant]fd", f"{talk}!highfd", talk]
    assert [model.tokenizer.decode(prompt) for prompt in prompts] == expected * 2
    with pytest.raises(InputError, match="continue_final_message .* add_generation_prompt"):
        model.generate_chat(messages, continue_final_message=True, add_generation_prompt=True)
    for name, close in (("temprature", "temperature"), ("efort", "effort"), ("tool", "tools")):
        with pytest.raises(InputError, match=f"{name!r}; did you mean {close}?"):
            model.generate_chat(messages, chat_template=template, **{name: 1})
        with pytest.raises(InputError, match=f"{name!r}; did you mean {close}?"):
            model.stream(messages, chat_template=template, **{name: 1})
    with pytest.raises(InputError, match="no argument 'tools'"):
        model.stream("a text", tools=[])


def test_a_continued_message_keeps_the_space_before_what_is_new(model):
    messages = [{"role": "user", "content": "hi"}, {"role": "assistant", "content": "yes"}]
    given = {"continue_final_message": True, "max_new_tokens": 6}
    prompt = encode_chat(model.tokenizer, messages, continue_final_message=True)
    free = model.generate(prompt, max_new_tokens=6, return_dict=True).texts[0]
    assert model.generate_chat(messages, **given).content == free.rstrip()


def test_scores(model):
    texts = ["hello", "hi"]
    for text, score in zip(texts, model.score(texts), strict=True):
        exact = exact_logprobs(model, list(text.encode()))
        want = [exact[i, t] for i, t in enumerate(text.encode()[1:])]
        np.testing.assert_allclose(score.logprobs, want, atol=1e-4)
        assert score.sum == pytest.approx(sum(want), abs=1e-3) and score.tokens == list(text.encode())


# What is refused


@pytest.mark.parametrize(
    ("prompt", "given", "says"),
    [
        ("a", {"temprature": 0.7}, "'temprature'; did you mean temperature?"),
        ("a", {"max_tokens": 3}, "'max_tokens'; did you mean max_new_tokens"),
        ("a", {"response_format": "json"}, "'response_format'; there are max_length"),
        ("a", {"temperature": 0.7, "do_sample": False}, "do_sample=False .* temperature=0.7 draws: leave one out"),
        ("a", {"temperature": 0, "do_sample": True}, "do_sample=True .* temperature=0 takes the likeliest"),
        ("a", {"temperature": float("nan"), "do_sample": True}, "temperature is nan"),
        ("a", {"max_length": -1}, "max_length is -1"),
        ("a", {"num_return_sequences": 2}, "num_return_sequences=2"),
        ("a", {"num_beams": 2, "num_return_sequences": 3}, "num_return_sequences=3"),
        ("a", {"length_penalty": 2.0}, "num_beams is 1"),
        ("a", {"seed": [1, 2]}, "2 entries for 1 rows"),
        ([1, [2]], {}, "prompt 0"),
        ([[1, 2], [3]], {"attention_mask": [[1, 1], [1, 1]]}, r"attention_mask has rows of \[2, 2\]"),
        ({"input_ids": [[1]]}, {}, r"unpack it, as in generate\(\*\*tokenizer"),
        ("a", {"early_stopping": 1, "num_beams": 2}, 'early_stopping is 1; it must be True, False or "never"'),
        ("", {}, "empty"),
        ([], {}, "give a text"),
        (None, {}, "give a text"),
        ([[1], "a", None], {}, "prompt 2"),
        ([300], {}, "300"),
        (np.array([[0.5]]), {}, "float64"),
        (np.zeros((1, 2, 3), int), {}, r"\[1, 2, 3\]"),
        (np.array([[PAD, PAD]]), {}, "padding"),
        (np.array([[1, 2, 3]]), {"attention_mask": [[1, 0, 1]]}, "hole"),
        (np.array([[1, 2, 3]]), {"attention_mask": [[1, 1]]}, r"rows of \[2\] and the prompts of \[3\]"),
    ],
)
def test_bad_arguments(model, prompt, given, says):
    with pytest.raises(InputError, match=says):
        model.generate(prompt, **given)


def test_text_needs_a_tokenizer(model):
    bare = VishwamAI(model.config, model.weights)
    assert bare.generate([1, 2], max_new_tokens=2).shape == (1, 4)
    assert bare.generate([1, 2], max_new_tokens=2, return_dict=True).texts is None
    with pytest.raises(TokenizerError, match="no tokenizer"):
        bare.generate("text")
    with pytest.raises(InputError, match="stop"):
        bare.generate([1, 2], stop="x")


def test_both_lengths_warn(model):
    with pytest.warns(UserWarning, match="max_new_tokens=2 wins"):
        assert model.generate("abc", max_length=50, max_new_tokens=2).shape == (1, 5)


@pytest.mark.parametrize("quantization", ["int8", "int4", "fp8"])
def test_quantised_weights_score_over_a_mesh_as_on_one_device(quantization):
    text, scores = "Make 24 from 1 2 3 4.", []
    for mesh in (None, {"fsdp": 2, "expert": 2, "tensor": 2}):
        model = VishwamAI.from_pretrained("vishwamai/base", quantization=quantization, mesh=mesh)
        scores.append(model.score(text)[0].sum)
        assert model.score(text)[0].sum == scores[-1]
    assert abs(scores[0] - scores[1]) < 1e-3
