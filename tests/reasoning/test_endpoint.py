"""Requests that are refused, broken off, late or too many, and keys and URLs, as a remote model meets them.

The waits between tries are noted and not waited for, but where the time itself is tested.
"""

import email.utils
import math
import threading
import time

import pytest

from vishwamai import http_client
from vishwamai.errors import BackendError, InputError
from vishwamai.generation.sampling import SamplingParams
from vishwamai.reasoning.model import seed_of
from vishwamai.reasoning.remote import Remote

KEY = "sk-of-a-reader"
PLAIN = SamplingParams(max_tokens=16)


@pytest.fixture
def fake(fake_endpoint):
    return fake_endpoint


def one(model, **options):
    return model.generate(["Is it?"], [1], PLAIN, [7], **options)[0][0]


def test_what_breaks_is_tried_again(fake, remote, clock):
    fake.faults = [(429, {}), "cut", (503, b"busy"), (200, {"choices": []})]
    model = remote()
    assert one(model).text == f"seed {seed_of(7, 0)} number 0"
    assert len(fake.seen) == model.usage.device_calls == 5
    assert (model.usage.calls, model.usage.completion_tokens) == (1, 2)
    assert len(clock.slept) == 4 and all(0.25 * 2**i < wait <= 0.5 * 2**i for i, wait in enumerate(clock.slept))
    before, fake.faults = clock.slept[:], [(429, {})] * 4
    one(remote())
    assert clock.slept[4:] == before  # the jitter is the request's, not the run's
    fake.faults = [(429, {})]
    remote().generate(["Or?"], [1], PLAIN, [7])
    assert clock.slept[-1] != before[0]
    fake.faults = ["cut"]
    with pytest.raises(BackendError, match=r"broke off its answer \(RemoteProtocolError\) at try 1 of 1"):
        one(remote(retries=0))


GARBAGE = [b"", b"<html>", b"[]", b'{"choices": [{}]}', b"\xff\xfe", b"[" * 100_000, b'{"choices": 3}']


@pytest.mark.parametrize("body", GARBAGE, ids=range(len(GARBAGE)))
def test_an_answer_that_is_none_is_refused(body, fake, remote):
    fake.faults = [(200, body)] * 9
    with pytest.raises(BackendError, match=r"/v1/completions sent no completion \(.*\) at try 3 of 3: check that"):
        one(remote(retries=2))
    assert len(fake.seen) <= 3  # a busy machine may not see one in time; the words above count the tries


def test_the_servers_message_is_quoted_and_shortened(fake, remote):
    fake.faults = [(500, {"error": {"message": "overloaded\r\n\x1b[2J" + "!" * 5000}})]
    with pytest.raises(BackendError) as caught:
        one(remote(retries=0))
    text = str(caught.value)
    assert text.startswith(f"{fake.url}/completions answered 500 (overloaded [2J!!!") and text.isprintable()
    assert len(text) < 400 and text.endswith("at try 1 of 1: look at the server's log, or try again later")


REFUSALS = {400: "check the sampling parameters", 401: "check the key", 403: "check what the key may use"}
REFUSALS |= {404: "check the URL, the model's name", 307: "check the URL"}


@pytest.mark.parametrize("status", REFUSALS)
def test_a_refusal_is_not_tried_again_and_does_not_show_the_key(status, fake, remote, clock):
    message = f"wrong key {KEY}"
    answers = [{"error": {"message": message}}, [{"error": {"message": message}}], message.encode(), {KEY: 1}]
    fake.faults = [(status, said, {"Location": fake.url + "/elsewhere"}) for said in answers]
    for _ in answers:
        model = remote(api_key=KEY)
        with pytest.raises(BackendError) as caught:
            one(model)
        assert f"answered {status} (" in str(caught.value) and f"): {REFUSALS[status]}" in str(caught.value)
        assert KEY not in str(caught.value) + repr(caught.value) + repr(model) and "***" in str(caught.value)
        assert caught.value.__cause__ is None and caught.value.__suppress_context__
    assert len(fake.seen) == len(answers) and clock.slept == []


def test_the_key_of_the_environment(fake, remote, monkeypatch):
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    one(remote())
    one(remote(api_key=""))
    assert [headers["Authorization"] for _, headers, _ in fake.seen] == [f"Bearer {KEY}", None]


def test_the_server_says_when_to_come_back(fake, remote, clock):
    date = email.utils.formatdate(time.time() + 90)
    fake.faults = [(429, {}, {"Retry-After": said}) for said in ("7", date, "soon", "nan", "-3")]
    one(remote())
    assert clock.slept[0] == 7.0 and 80 < clock.slept[1] <= 90 and max(clock.slept[2:]) <= 8
    fake.faults = [(429, {}, {"Retry-After": "86400"})]
    with pytest.raises(BackendError, match="at try 1 of 6: ask for less at once"):
        one(remote())
    fake.faults = [(429, {}, {"Retry-After": "30"})]
    with pytest.raises(BackendError, match=r"before the deadline \(at the last try it answered 429"):
        one(remote(), deadline=clock() + 29)
    assert len(clock.slept) == 5


def test_a_deadline_ends_the_tries(fake, remote, clock):
    fake.faults = [(429, {})] * 1000
    with pytest.raises(BackendError, match="gave nothing before the deadline .*429.*: allow more time"):
        one(remote(retries=1000), deadline=clock() + 5)
    assert sum(clock.slept) < 5 and len(fake.seen) == len(clock.slept) + 1 > 2


@pytest.mark.parametrize("fault", ["hang", "drip", "header"])
def test_a_server_that_takes_too_long(fault, fake, clock):
    """Which answers well in the end: whoever waits for that has no error."""
    fake.faults = [fault] * 2
    with pytest.raises(BackendError, match="did not answer in time at try 2 of 2: raise timeout"):
        model = Remote(fake.url, "tiny", timeout=0.2, retries=1)
        model._client.sleep = clock.sleep
        one(model)
    fake.faults = [fault]
    with pytest.raises(BackendError, match="before the deadline"):
        one(Remote(fake.url, "tiny", retries=0), deadline=time.monotonic() + 1)
    assert len(fake.seen) == 3


def test_nobody_answers(clock):
    model = Remote("http://127.0.0.1:9/v1", "tiny", retries=1)
    model._client.sleep = clock.sleep
    with pytest.raises(BackendError, match=r"^http://127.0.0.1:9/v1/completions could not be reached \(.*refused"):
        one(model)
    assert model.usage.device_calls == 2


def test_a_large_answer_is_not_read_to_its_end(fake, remote, monkeypatch):
    monkeypatch.setattr(http_client, "MAX_RESPONSE", 1 << 20)
    fake.faults = [(200, b" " * (3 << 20))]
    with pytest.raises(BackendError, match="sent more than 1 MiB: lower max_tokens"):
        one(remote())
    assert len(fake.seen) == 1


def test_requests_are_under_way_at_once_and_no_more_than_allowed(fake, remote):
    together = threading.Barrier(3, timeout=10)

    def answer(path, body):
        together.wait()
        return fake.say(path, body)

    fake.answer = answer
    remote(concurrency=3).generate(["Is it?"] * 3, [4] * 3, PLAIN, [1, 2, 3])
    assert fake.most == 3 and len(fake.seen) == 12


def test_requests_are_paced(fake, remote, clock):
    model = remote(requests_per_minute=30, concurrency=1)
    fake.faults = [(429, {})]
    model.generate(["Is it?"], [3], PLAIN, [7])
    assert math.isclose(clock.now, 106.0) and len(fake.seen) == 4  # a second try takes a turn too
    with pytest.raises(BackendError, match="before the deadline"):
        one(model, deadline=clock() + 1)
    clock.now += 60
    begun = clock.now
    one(model)
    assert clock.now == begun


def test_requests_that_are_never_sent_take_no_turn(fake, remote, clock):
    model = remote(requests_per_minute=60, concurrency=2)
    fake.faults = [(401, {})] * 4
    with pytest.raises(BackendError, match="answered 401"):
        model.generate(["Is it?"], [50], PLAIN, [7])
    fake.faults = []
    one(model)
    assert clock.now < 110


URLS = ["", "a:80/v1", "ftp://a/v1", "http:///v1", "http://a:b/v1", "http://a b/v1", "http://a/\nv1", "http://é/", 3]
URLS += [f"http://me:{KEY}@a/v1", f"http://a/v1?key={KEY}", f"http://a/v1#{KEY}"]


@pytest.mark.parametrize("url", URLS)
def test_a_url_that_cannot_be_used_is_refused(url):
    with pytest.raises(InputError, match="the endpoint's URL .*must be like http://host:port/v1") as caught:
        Remote(url, "tiny")
    assert KEY not in str(caught.value)


@pytest.mark.parametrize("key", [KEY + "\n", KEY + " ", KEY + "é"])
def test_a_key_that_cannot_be_sent_is_refused_unseen(key):
    with pytest.raises(InputError, match="characters that no key has") as caught:
        Remote("http://a/v1", "tiny", api_key=key)
    assert KEY not in str(caught.value)
