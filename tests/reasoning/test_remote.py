"""What a remote model asks of an endpoint, and what it makes of its answers: texts, seeds, log-probabilities, usage."""

import asyncio
import dataclasses
import math
import time

import pytest

from vishwamai.errors import BackendError, InputError
from vishwamai.generation.sampling import SamplingParams
from vishwamai.reasoning import drive
from vishwamai.reasoning.budget import Budget
from vishwamai.reasoning.model import seed_of
from vishwamai.reasoning.remote import EndpointSettings, Remote

PLAIN = SamplingParams(temperature=0.7, top_p=0.9, max_tokens=16, stop=("\n",))


@pytest.fixture
def fake(fake_endpoint):
    return fake_endpoint


def one(model, sampling=PLAIN, **options):
    return model.generate(["Is it?"], [1], sampling, [7], **options)[0][0]


def test_prompts_are_continued(fake, remote):
    made = remote(api_key="sk-ours").generate([("Is ", "it", "?"), "Or?"], [2, 1], PLAIN, [7, 8])
    seeds = [seed_of(7, 0), seed_of(7, 1), seed_of(8, 0)]
    assert [c.text for row in made for c in row] == [f"seed {seed} number 0" for seed in seeds]
    assert [len(row) for row in made] == [2, 1]
    assert {(c.tokens, c.finish_reason, c.logprob, c.likeliest) for c in sum(made, [])} == {(2, "stop", 0.0, ())}
    path, headers, _ = fake.seen[0]
    assert (path, headers["Authorization"]) == ("/v1/completions", "Bearer sk-ours")
    shared = {"model": "tiny", "temperature": 0.7, "top_p": 0.9, "max_tokens": 16, "stop": ["\n"]}
    wanted = [shared | {"prompt": p, "seed": s} for p, s in zip(("Is it?", "Is it?", "Or?"), seeds, strict=True)]
    by_seed = {body["seed"]: body for body in fake.bodies}
    assert [by_seed[seed] for seed in seeds] == wanted and len(fake.bodies) == 3


def test_a_chat_is_one_message_of_the_user(fake, remote):
    made = one(remote(chat=True), dataclasses.replace(PLAIN, max_tokens=None, stop=()))
    [(path, headers, body)] = fake.seen
    assert path == "/v1/chat/completions" and "Authorization" not in headers
    assert body.pop("messages") == [{"role": "user", "content": "Is it?"}]
    assert body == {"model": "tiny", "temperature": 0.7, "top_p": 0.9, "seed": seed_of(7, 0)}
    assert made.text == f"seed {seed_of(7, 0)} number 0"


def test_fields_of_vllm_are_sent_where_they_are_set(fake, remote):
    unusual = {"top_k": 5, "min_p": 0.1, "repetition_penalty": 1.2, "stop_token_ids": (3,), "ignore_eos": True}
    one(remote(), SamplingParams(**unusual, max_tokens=None))
    one(remote(), SamplingParams(top_k=-1))
    first, second = fake.bodies
    assert {name: first[name] for name in unusual} == unusual | {"stop_token_ids": [3]}
    assert first["max_tokens"] is None  # for /completions would stop after 16
    assert set(second) == {"model", "prompt", "temperature", "top_p", "max_tokens", "seed"}


def test_the_same_seeds_give_the_same_texts(remote):
    texts = [[c.text for c in remote().generate(["Is it?"], [6], PLAIN, [seed])[0]] for seed in (7, 7, 8)]
    assert texts[0] == texts[1] and len(set(texts[0] + texts[2])) == 12


def test_seeds_can_be_shorter_or_left_out(fake, remote):
    one(remote(seed_bits=31))
    [made] = remote(supports_seed=False).generate(["Is it?"], [3], PLAIN, [7])
    first, second = fake.bodies
    assert first["seed"] == seed_of(7, 0) % 2**31 != seed_of(7, 0)
    assert "seed" not in second and second["n"] == len(made) == 3


@pytest.mark.parametrize("chat", [False, True])
def test_logprobs_are_read_where_they_are_asked_for(chat, fake, remote):
    model = remote(chat=chat, top_logprobs=4)
    made = [one(model, dataclasses.replace(PLAIN, logprobs=k)) for k in (2, 9)]
    assert [c.logprob for c in made] == [-1.0, -1.0] and made[0].likeliest == (fake.likeliest, fake.likeliest)
    asked = [(body["logprobs"], body.get("top_logprobs")) for body in fake.bodies]
    assert asked == ([(True, 2), (True, 4)] if chat else [(2, None), (4, None)])


def test_logprobs_that_do_not_come_are_missed(fake, remote):
    fake.answer = lambda path, body: {"choices": [{"text": "yes"}]}
    with pytest.raises(BackendError, match="/v1/completions gives no log-probabilities: set logprobs to None"):
        one(remote(), dataclasses.replace(PLAIN, logprobs=1))
    assert len(fake.seen) == 1


def test_one_request_for_all_completions_of_a_prompt(fake, remote):
    made = remote(distinct_seeds=False).generate(["Is it?", "Or?"], [3, 1], PLAIN, [7, 8])
    assert [c.text for c in made[0]] == [f"seed 7 number {j}" for j in range(3)]
    assert sorted(body.get("n", 1) for body in fake.bodies) == [1, 3]
    remote(distinct_seeds=False, parallel_n=False).generate(["Is it?"], [3], PLAIN, [7])
    assert ["n" in body for body in fake.bodies[2:]] == [False] * 3


@pytest.mark.parametrize("refusal", [None, "n must be 1", "no such temperature"])
@pytest.mark.parametrize("parallel_n", ["auto", True])
def test_a_server_that_draws_one_at_a_time(parallel_n, refusal, fake, remote):
    if refusal is None:
        fake.answer = lambda path, body: fake.say(path, body | {"n": 1})
    else:
        fake.faults = [(400, {"error": {"message": refusal}})]
    model = remote(distinct_seeds=False, parallel_n=parallel_n)
    if parallel_n is True or refusal == "no such temperature":
        with pytest.raises(BackendError, match=refusal or "gave 1 of 3 completions: set parallel_n to False"):
            model.generate(["Is it?"], [3], PLAIN, [7])
        assert len(fake.seen) == 1
    else:
        [made] = model.generate(["Is it?"], [3], PLAIN, [7])
        assert [c.text for c in made] == [f"seed {seed_of(7, j)} number 0" for j in range(3)]


@pytest.mark.parametrize("options", [{}, {"distinct_seeds": False}])
def test_what_came_before_the_deadline_is_kept(options, fake):
    def slow(path, body):
        if body["prompt"] == "Or?":
            fake.over.wait(20)
        return fake.say(path, body)

    fake.answer, deadline = slow, time.monotonic() + 3
    made = Remote(fake.url, "tiny", **options).generate(["Is it?", "Or?"], [1, 2], PLAIN, [7, 8], deadline=deadline)
    assert made[0][0].finish_reason == "stop"
    assert [(c.text, c.tokens, c.finish_reason) for c in made[1]] == [("", 0, "length")] * 2


def test_a_deadline_that_has_passed_asks_nothing(fake, remote, clock):
    with pytest.raises(BackendError, match="gave nothing before the deadline: allow"):
        one(remote(), deadline=clock())
    assert fake.seen == [] and remote().generate(["Is it?"], [0], PLAIN, [7], deadline=clock()) == [[]]


def test_it_works_where_a_loop_runs(remote):
    async def notebook():
        return one(remote())

    assert asyncio.run(notebook()) == one(remote())


def echoing(path: str, body: dict) -> dict:
    """A server of words that knows `echo`: a token's log-probability is its length, negated; one more is made."""
    assert body["echo"] and body["max_tokens"] <= 1
    words = [word if i == 0 else f" {word}" for i, word in enumerate(body["prompt"].split(" "))] + [" extra"]
    offsets = [len("".join(words[:i])) for i in range(len(words))]
    found = {"tokens": words, "token_logprobs": [None] + [-len(word) for word in words[1:]], "text_offset": offsets}
    return {"choices": [{"text": "".join(words), "logprobs": found}]}


def test_continuations_are_scored_by_an_echo(fake, remote):
    fake.answer = echoing
    model = remote()
    found = model.score([("Is", " it"), "Or what"], [[" so", " so or so", ""], [" not"]])
    assert found == [[-3.0, -9.0, 0.0], [-4.0]]
    assert sorted(body["prompt"] for body in fake.bodies) == ["Is it so", "Is it so or so", "Or what not"]
    assert (model.usage.calls, model.usage.device_calls, model.usage.prompt_tokens) == (1, 3, 3 + 5 + 3)
    assert model.score(["Is it"], [[]]) == [[]]


@pytest.mark.parametrize("how", ["chat", "refused", "ignored"])
def test_without_an_echo_the_next_token_is_scored(how, fake, remote):
    model = remote(chat=how == "chat")
    fake.faults = [(400, {"error": "echo with logprobs is not supported"})] if how == "refused" else []
    assert model.score(["Is it?"], [["yes"]]) == [[-0.25]]
    assert model.score(["Is it?"], [["no", "yes", "seed", ""]]) == [[-1.5, -0.25, -0.5, 0.0]]
    assert sum("echo" in body for body in fake.bodies) == (0 if how == "chat" else 1)
    asked = fake.bodies[-1]
    assert asked["max_tokens"] == 1 and asked["top_logprobs" if how == "chat" else "logprobs"] == 5
    with pytest.raises(BackendError, match="'maybe' is none of the 3 likeliest next tokens: raise top_logprobs"):
        model.score(["Is it?"], [["yes", "maybe"]])


def test_other_failures_of_a_score_are_raised(fake, remote, clock):
    fake.faults = [(401, {})]
    with pytest.raises(BackendError, match="answered 401"):
        remote().score(["Is it?"], [["yes"]])
    with pytest.raises(BackendError, match="before the deadline"):
        remote().score(["Is it?"], [["yes"]], deadline=clock())
    assert len(fake.seen) == 1


def test_usage_is_the_servers_or_counts_words(fake, remote):
    model = remote()
    model.generate(["Is it?"], [2], PLAIN, [7])
    assert dataclasses.astuple(model.usage) == (1, 2, 22, 22, 4, 0.0)
    fake.answer = lambda path, body: {"choices": [{"text": "it may be"}]}
    fake.faults = [(429, {}, {"Retry-After": "3"})]
    assert one(model).tokens == 3
    assert dataclasses.astuple(model.usage) == (2, 4, 24, 24, 7, 3.0)


def test_searches_run_on_it(remote):
    def search(seed):
        [made] = yield from drive.ask(Budget(), ["Is it?"], [2], PLAIN, [seed])
        return [c.text for c in made]

    found = drive.run(remote(), [search(1), search(2)])
    assert found == [[f"seed {seed_of(seed, j)} number 0" for j in range(2)] for seed in (1, 2)]


def test_the_identity_is_of_the_url_and_the_model():
    urls = "http://a/v1", "http://a/v1/", "https://a/v1", "http://b/v1"
    found = [Remote(url, "tiny").identity for url in urls]
    assert found[0] == found[1] and len({*found, Remote(urls[0], "other").identity}) == 4
    assert Remote(urls[0], "tiny", identity="mine").identity == "mine"


OUT_OF_RANGE = [{"concurrency": 0}, {"requests_per_minute": 0}, {"retries": -1}, {"timeout": 0}, {"timeout": math.nan}]
OUT_OF_RANGE += [{"top_logprobs": 21}, {"parallel_n": "yes"}, {"seed_bits": 0}, {"model": ""}]


@pytest.mark.parametrize("option", OUT_OF_RANGE, ids=str)
def test_options_out_of_range_are_refused(option):
    with pytest.raises(InputError, match=f"^{next(iter(option))} is"):
        Remote(**{"url": "http://a/v1", "model": "tiny"} | option)


def test_unknown_settings_are_named_with_those_that_there_are():
    with pytest.raises(InputError, match="Remote has no setting 'time_out'; did you mean timeout?"):
        Remote("http://a/v1", "tiny", time_out=3)
    with pytest.raises(InputError, match="no setting 'flavour'; there are api_key, chat, .*, timeout, top_logprobs$"):
        Remote("http://a/v1", "tiny", flavour="sweet")
    settings = Remote("http://a/v1", "tiny", timeout=3, api_key="sk-ours").settings
    assert settings == EndpointSettings(timeout=3, api_key="sk-ours") and "sk-ours" not in repr(settings)
