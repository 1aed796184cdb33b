"""The same code gives the same with a model behind an OpenAI-compatible endpoint as with that model in this process.

The endpoint draws with the plain generator, one request at a time, from the whole prompt; the model in this process
forks prefixes. As most servers do, the endpoint gives neither the text nor the tokens of what ended a completion.
"""

import http.server
import json
import threading

import pytest

from vishwamai import VishwamAI
from vishwamai.generation import requests
from vishwamai.generation.sampling import SamplingParams
from vishwamai.reasoning.chain import ChainOfThought
from vishwamai.reasoning.local import Local
from vishwamai.reasoning.model import Completion, seed_of
from vishwamai.reasoning.remote import Remote
from vishwamai.reasoning.tasks.countdown import Game24
from vishwamai.reasoning.tree import TreeOfThoughts

pytestmark = pytest.mark.by_turns

PUZZLE = "4 9 10 13"


@pytest.fixture(scope="module")
def face():
    with pytest.MonkeyPatch.context() as patch:  # one program for all requests
        patch.setattr(requests, "LEAST_PROMPT", 64)
        patch.setattr(requests, "LEAST_CACHE", 128)
        yield VishwamAI.from_pretrained("vishwamai/base")


def answer(face, body: dict) -> dict:
    """A completion in OpenAI's shape."""
    tokenizer = face.tokenizer
    prompt = tokenizer.encode(body["prompt"])
    names = ("max_tokens", "temperature", "top_p", "stop", "seed")
    params = SamplingParams(**{name: body[name] for name in names if name in body}, logprobs=5)
    made = face.generator.generate(face.weights, [prompt], [params])
    [ids], [logprobs] = made.tokens, made.logprobs
    texts = [tokenizer.decode([i]) if i not in tokenizer.special_ids else "" for i in ids]
    text = "".join(texts)
    ends = [text.index(stop) for stop in params.stop if stop in text]
    text = text[: min(ends, default=len(text))]
    begins = [len("".join(texts[:i])) for i in range(len(ids))]
    steps = [i for i, begin in enumerate(begins) if begin < len(text)]
    told = {
        "tokens": [texts[i] for i in steps],
        "token_logprobs": [logprobs[i] for i in steps],
        "top_logprobs": [{tokenizer.decode([j]): x for j, x in made.top_logprobs[0][i].items()} for i in steps],
        "text_offset": [len(body["prompt"]) + begins[i] for i in steps],
    }
    choice = {"index": 0, "text": text, "finish_reason": made.finish_reasons[0]}
    choice["logprobs"] = told if "logprobs" in body else None
    usage = {"prompt_tokens": len(prompt), "completion_tokens": len(ids), "total_tokens": len(prompt) + len(ids)}
    return {"id": "cmpl-1", "object": "text_completion", "model": body["model"], "choices": [choice], "usage": usage}


def handler(face) -> type:
    lock = threading.Lock()

    class Handler(http.server.BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_POST(self):
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            with lock:
                reply = json.dumps(answer(face, body)).encode()
            self.send_response(200 if self.path == "/v1/completions" else 404)
            self.send_header("Content-Length", str(len(reply)))
            self.end_headers()
            self.wfile.write(reply)

        def log_message(self, *args):
            pass

    return Handler


@pytest.fixture(scope="module")
def url(face):
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler(face))
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
    thread.start()
    yield f"http://127.0.0.1:{server.server_address[1]}/v1"
    server.shutdown()
    server.server_close()
    thread.join()


@pytest.fixture(scope="module")
def models(face, url):
    """The model in this process, and the one that is served; both are used by all tests."""
    return Local(face, rows=64), Remote(url, "base", api_key="", timeout=120.0, retries=0)


def thoughts(solution) -> list[tuple]:
    return [(t.path, t.text, t.status, t.why, t.tokens) for t in solution.trace.thoughts]


def check_same(here, there):
    assert (here.answer, here.verified, here.candidates) == (there.answer, there.verified, there.candidates)
    assert here.steps == there.steps
    assert thoughts(here) == thoughts(there)
    assert (here.tokens, here.calls, here.nodes, here.stopped) == (there.tokens, there.calls, there.nodes, None)


def test_a_tree_is_the_same(models):
    here, there = (TreeOfThoughts(m, task="game24", temperature=1.0, seed=3).solve(PUZZLE) for m in models)
    check_same(here, there)
    assert here.verified and len(here.steps) == 3
    pairs = list(zip(here.trace.thoughts, there.trace.thoughts, strict=True))
    assert [a.value is None for a, _ in pairs] == [b.value is None for _, b in pairs]
    assert all(abs(a.value - b.value) <= 1e-3 for a, b in pairs if a.value is not None)
    assert len({a.value for a, _ in pairs}) > 3


def test_chains_are_the_same(models):
    here, there = (
        ChainOfThought(m, task="game24", samples=4, temperature=1.0, seed=3, thinking=100).solve(PUZZLE) for m in models
    )
    check_same(here, there)
    assert here.confidence == there.confidence and len({t.text for t in here.trace.thoughts}) == 4


def test_a_completion_has_the_seed_that_the_protocol_says(face, models):
    how = SamplingParams(temperature=1.0, max_tokens=24, stop=("\n",), logprobs=5)
    here, there = (m.generate([("Make 24 from 4 9 10 13.", "\n")], [3], how, [5])[0] for m in models)
    [again] = models[1].generate(["Make 24 from 4 9 10 13.\n"], [1], how, [5])
    assert [c.text for c in here] == [c.text for c in there] and again == there[:1]
    body = {
        "model": "base",
        "prompt": "Make 24 from 4 9 10 13.\n",
        "temperature": 1.0,
        "max_tokens": 24,
        "stop": ["\n"],
    }
    assert answer(face, body | {"seed": seed_of(5, 1)})["choices"][0]["text"] == here[1].text
    for a, b in zip(here, there, strict=True):
        assert (a.tokens, a.finish_reason, len(a.likeliest)) == (b.tokens, b.finish_reason, len(b.likeliest) + 1)
        for own, told in zip(a.likeliest, b.likeliest, strict=False):
            assert told == pytest.approx(own, abs=1e-4)


# What a step is worth, wherever the model says it


SURE = {" yes": -0.1, " no": -2.4}


@pytest.mark.parametrize(
    ("likeliest", "value"),
    [
        ([{" 4": -0.1}, SURE, {"\n": 0.0}], 0.909),
        ([{" 4": -0.1}, SURE], 0.909),  # the stop text's step is not there
        ([{" 4": -0.1}, SURE, {"\n": 0.0, " no": -19.0}], 0.909),  # among the likeliest there by chance
        ([{" 4": -0.1, " yes": -22.0}, {" yes": -3.0, " no": -0.05}, {"\n": 0.0}], 0.050),
        ([{" no": -0.001}], 0.0),
        ([{" 4": -0.1}, {"\n": 0.0}], None),
        ([{}, {}], None),
        ([], None),
    ],
)
def test_the_value_is_read_where_it_is_said(likeliest, value):
    for reason in ("stop", "length"):
        made = Completion(text="", tokens=3, finish_reason=reason, likeliest=tuple(likeliest))
        assert Game24().value(made) == (None if value is None else pytest.approx(value, abs=1e-3))
