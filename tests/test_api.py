"""The face: how prompts may be said, what comes back, and that the usage example works as it is written.

The references are the functions below the face (a full forward pass, log-softmax in float64) and plain greedy search.
"""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from tokenizers import Tokenizer, decoders, models

from vishwamai import VishwamAI, VishwamAITokenizer, api
from vishwamai.errors import ConfigError, HubError, InputError, TokenizerError
from vishwamai.hf.generation_config import GenerationConfig
from vishwamai.models.config import ModelConfig, uniform
from vishwamai.text.chat import encode_chat

from .tiny_model import CONFIG, EOS, PAD, SIZES, greedy, logits_of, tiny_model


@pytest.fixture(scope="module")
def model():
    return tiny_model()


@pytest.fixture(scope="module")
def folder(model, tmp_path_factory):
    folder = tmp_path_factory.mktemp("model")
    model.save_pretrained(folder)
    return folder


def exact_logprobs(model, tokens: list[int]) -> np.ndarray:
    """`[T, V]`, the log-softmax in float64."""
    logits = logits_of(model, tokens)
    return logits - np.log(np.exp(logits).sum(-1, keepdims=True))


# Loading and saving


def test_a_saved_model_comes_back(model, folder):
    back = VishwamAI.from_pretrained(folder, scan_layers=True)
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


@pytest.mark.parametrize(("platform", "dtype"), [("tpu", "bfloat16"), ("gpu", "bfloat16"), ("cpu", "float32")])
def test_the_dtype_is_the_checkpoint_s_and_float32_on_a_cpu(tmp_path, monkeypatch, platform, dtype):
    half = VishwamAI.from_config(CONFIG, dtype="bfloat16")
    half.save_pretrained(tmp_path)
    monkeypatch.setattr(jax, "default_backend", lambda: platform)
    back = VishwamAI.from_pretrained(tmp_path)
    assert back.weights.embed.dtype == back.precision.compute == back.precision.cache == dtype
    why = "the checkpoint's own" if platform != "cpu" else "the checkpoint's bfloat16 is slower on a CPU"
    assert back.dtype_note == f"{dtype}: {why}"
    assert VishwamAI.from_pretrained(tmp_path, dtype="float16").dtype_note == "float16: as asked"


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


@pytest.mark.by_turns
def test_ragged_rows_are_each_as_they_are_alone(model):
    prompts = [list(b"a"), list(b"longer one"), list(b"mid")]
    got = model.generate(prompts, max_new_tokens=5)
    for row, prompt in zip(got.tolist(), prompts, strict=True):
        want = greedy(model, prompt, 5)
        assert row == want + [PAD] * (got.shape[1] - len(want))


@pytest.mark.by_turns
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


@pytest.mark.by_turns
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
    with pytest.raises(InputError, match="65 tokens; the model's context is 64: shorten it, or take"):
        model.generate([1] * 65)


def test_results_in_full(model):
    got = model.generate(["abc", "d"], max_new_tokens=4, return_dict=True)
    for row, prompt, logprobs in zip(got.sequences.tolist(), (b"abc", b"d"), got.logprobs, strict=True):
        exact = exact_logprobs(model, row)
        places = range(len(prompt), len(prompt) + 4)
        np.testing.assert_allclose(logprobs, [exact[p - 1, row[p]] for p in places], atol=1e-4)
    assert got.finish_reasons == ["length", "length"] and got.stats.generated_tokens == 8
    assert got.texts == model.complete(["abc", "d"], max_new_tokens=4)


@pytest.mark.by_turns
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


def test_a_temperature_draws(model):
    draw = {"max_new_tokens": 8, "seed": 3}
    hot = model.complete("abc", temperature=1.5, **draw)
    assert hot == model.complete("abc", temperature=1.5, do_sample=True, **draw)
    assert hot != model.complete("abc", **draw)
    assert model.complete("abc", temperature=0, **draw) == model.complete("abc", **draw)


@pytest.mark.by_turns
def test_beams(model):
    got = model.generate(["abc", "d"], max_new_tokens=3, num_beams=3, num_return_sequences=2, return_dict=True)
    assert got.sequences.shape[0] == 4 and len(got.texts) == 4
    assert got.scores[0] >= got.scores[1] and got.scores[2] >= got.scores[3]
    row = [t for t in got.sequences[0].tolist() if t != PAD]
    total = sum(model.score([row])[0].logprobs[2:])
    assert got.scores[0] == pytest.approx(total / 3, abs=1e-4)
    assert total >= sum(model.generate("abc", max_new_tokens=3, return_dict=True).logprobs[0]) - 1e-4


@pytest.mark.by_turns
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
    with pytest.raises(InputError, match="a chat has one reply"):
        model.generate_chat(messages, do_sample=True, num_return_sequences=3)
    for name, close in (("temprature", "temperature"), ("efort", "effort"), ("tool", "tools")):
        with pytest.raises(InputError, match=f"{name!r}, .*did you mean {close}"):
            model.generate_chat(messages, chat_template=template, **{name: 1})
        with pytest.raises(InputError, match=f"{name!r}, .*did you mean {close}"):
            model.stream(messages, chat_template=template, **{name: 1})
    with pytest.raises(InputError, match="no argument 'tools'"):
        model.stream("a text", tools=[])


def test_a_continued_message_keeps_the_space_before_what_is_new(model):
    messages = [{"role": "user", "content": "hi"}, {"role": "assistant", "content": "yes"}]
    given = {"continue_final_message": True, "max_new_tokens": 6}
    prompt = encode_chat(model.tokenizer, messages, continue_final_message=True)
    free = model.generate(prompt, max_new_tokens=6, return_dict=True).texts[0]
    assert model.generate_chat(messages, **given).content == free.rstrip()
    assert "".join(chunk.text for chunk in model.stream(messages, **given)) == free.rstrip()


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
        ("a", {"response_format": "json"}, "'response_format'; there are do_sample"),
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
