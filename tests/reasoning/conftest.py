"""An OpenAI-compatible endpoint on this machine that answers, refuses, breaks off or hangs; a clock that waits for
nobody; and a task whose tree of thoughts is made up by chance.
"""

import contextlib
import http.server
import json
import os
import random
import subprocess
import sys
import threading

import pytest

from vishwamai.errors import InputError
from vishwamai.reasoning.model import Completion
from vishwamai.reasoning.remote import Remote
from vishwamai.reasoning.scripted import Scripted
from vishwamai.reasoning.task import Task

# What a process runs first: of the package it has what it names, and not what its `__init__` imports, which is JAX.
LEAD = """
import importlib.util, sys
sys.modules["vishwamai.reasoning"] = importlib.util.module_from_spec(importlib.util.find_spec("vishwamai.reasoning"))
"""


def begin(source: str, *arguments: object, **environment: str) -> subprocess.Popen:
    """A process of Python that needs no more of the package than a memory does."""
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)} | environment
    command = [sys.executable, "-c", f"{LEAD}{source}", *map(str, arguments)]
    return subprocess.Popen(command, env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)


class FakeEndpoint:
    """`answer` makes its answers; each of `faults`, while there are any, is met by one request.

    A fault is (status, body) or (status, body, headers), where the body is bytes or becomes JSON; "hang" (nothing
    comes), "drip" (a byte now and then), "header" (bytes of a header without end) or "cut" (half of the answer comes).
    """

    likeliest = {"yes": -0.25, "no": -1.5}

    def __init__(self):
        self.seen, self.faults, self.answer = [], [], self.say
        self.over, self.lock, self.now, self.most = threading.Event(), threading.Lock(), 0, 0
        self.server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler(self))
        self.url = f"http://127.0.0.1:{self.server.server_address[1]}/v1"

    @property
    def bodies(self) -> list[dict]:
        """What was asked."""
        return [body for _, _, body in self.seen]

    def say(self, path: str, body: dict) -> dict:
        """Completions of two tokens that name their seed and number."""
        say = self.chat_choice if path.endswith("/chat/completions") else self.choice
        choices = [
            {"index": j, "finish_reason": "stop", **say(f"seed {body.get('seed')} number {j}", body)}
            for j in range(body.get("n", 1))
        ]
        return {"choices": choices, "usage": {"prompt_tokens": 11, "completion_tokens": 2 * len(choices)}}

    def choice(self, text: str, body: dict) -> dict:
        found = {"tokens": ["seed"] * 2, "token_logprobs": [-0.5] * 2, "top_logprobs": [self.likeliest] * 2}
        return {"text": text, "logprobs": found if "logprobs" in body else None}

    def chat_choice(self, text: str, body: dict) -> dict:
        tops = [{"token": token, "logprob": logprob} for token, logprob in self.likeliest.items()]
        found = {"content": [{"token": "seed", "logprob": -0.5, "top_logprobs": tops}] * 2}
        return {"message": {"role": "assistant", "content": text}, "logprobs": found if body.get("logprobs") else None}

    def take(self, seen: tuple):
        """Notes a request that is under way from now on; the fault that it is to meet."""
        with self.lock:
            self.seen.append(seen)
            self.now += 1
            self.most = max(self.most, self.now)
            return self.faults.pop(0) if self.faults else None

    def done(self) -> None:
        with self.lock:
            self.now -= 1


def handler(fake: FakeEndpoint) -> type:
    class Handler(http.server.BaseHTTPRequestHandler):
        def do_POST(self):
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            fault = fake.take((self.path, self.headers, body))
            if fault == "hang":
                fake.over.wait(20)
            reply = fault if isinstance(fault, tuple) else (200, fake.answer(self.path, body), {}, fault)
            fake.done()  # before who asked can ask again
            with contextlib.suppress(OSError):  # who asked may have gone
                self.reply(*reply)

        def reply(self, status, body, headers=None, manner=None):
            body = body if isinstance(body, bytes) else json.dumps(body).encode()
            self.wfile.write(b"HTTP/1.1 200 OK\r\nX: " if manner == "header" else b"")
            while manner == "header" and not fake.over.wait(0.05):
                self.wfile.write(b"x")
            self.send_response(status)
            for name, value in ({"Content-Length": str(len(body))} | (headers or {})).items():
                self.send_header(name, value)
            self.end_headers()
            for i in range(len(body) if manner == "drip" else 0):
                self.wfile.write(body[i : i + 1])
                if fake.over.wait(0.05):
                    return
            self.wfile.write(body[: len(body) // 2] if manner == "cut" else body)

        def log_message(self, *args):
            pass

    return Handler


@pytest.fixture
def fake_endpoint(monkeypatch):
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    fake = FakeEndpoint()
    thread = threading.Thread(target=fake.server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
    thread.start()
    yield fake
    fake.over.set()
    fake.server.shutdown()
    fake.server.server_close()
    thread.join()


class Clock:
    """Time that passes when somebody sleeps."""

    def __init__(self):
        self.now, self.slept = 100.0, []

    def __call__(self) -> float:
        return self.now

    async def sleep(self, seconds: float) -> None:
        self.slept.append(seconds)
        self.now += seconds


@pytest.fixture
def clock():
    return Clock()


@pytest.fixture
def remote(fake_endpoint, clock):
    """Makes models of the fake endpoint that wait by the test's clock."""
    return lambda **settings: by_clock(clock, Remote(fake_endpoint.url, "tiny", **settings))


def by_clock(clock, model: Remote) -> Remote:
    """A remote model that waits by a test's clock."""
    model._client.sleep, model._client.clock = clock.sleep, clock
    return model


class Land(Task):
    """Places that lead to places: a step is the name of the next one, and the model's words are the roads from here.

    `roads` is {place: texts}, the first being "start"; without it they are drawn by `seed`, problem and place: to new
    places, to known ones, wrong ways and answers (`right 1`, `maybe 2`, `refuted 1`). What is asked for again goes on
    where the texts were left, and after the last of them come wrong ways.
    """

    name, step_tokens, question = "land", 4, "Ways:"

    def __init__(self, roads=None, worth=None, seed=0):
        self._roads, self._worth, self.seed, self._drawn = roads, worth, seed, {}
        self.model = Scripted(self.says)

    def roads(self, problem, place):
        if self._roads is not None:
            return self._roads.get(place, [])
        rng = random.Random(f"{self.seed} {problem} {place}")
        ways = {
            "new": lambda: place.removeprefix("start") + rng.choice("abcd"),
            "known": lambda: rng.choice(["start", "a", "b", "ab", "ba", "abc"]),
            "wrong": lambda: "wrong way",
            "answer": lambda: f"{rng.choice(['right', 'maybe', 'maybe', 'refuted'])} {rng.randrange(3)}",
        }
        return [ways[way]() for way in rng.choices(list(ways), (12, 3, 2, 1), k=rng.randrange(8))]

    def worth(self, problem, place):
        if self._worth is not None:
            return self._worth[place]
        return random.Random(f"worth {self.seed} {problem} {place}").choice([0, 0.25, 0.5, 0.5, 1])

    def logprob(self, problem, place, text):
        return -random.Random(f"logprob {self.seed} {problem} {place} {text}").choice([0.5, 1.0, 1.5, 2.0])

    def says(self, prompt, n):
        listed = prompt.endswith(self.question)
        problem, place = self.at(prompt)
        texts = self.roads(problem, place)
        if listed:
            return ["\n".join(texts)] * n
        begin = self._drawn.get(prompt, 0)
        self._drawn[prompt] = begin + n
        drawn = (texts[begin:] + ["wrong way"] * n)[:n]
        return [
            Completion(text=text, tokens=max(len(text.split()), 1), logprob=self.logprob(problem, place, text))
            for text in drawn
        ]

    def at(self, prompt):
        """The problem, and the place that a prompt has come to."""
        problem, *places = prompt.removesuffix(self.question).removesuffix("\n").split("\n")
        return problem, places[-1] if places else "start"

    def visited(self):
        """The places that each call asked for thoughts at."""
        return [[self.at(prompt)[1] for prompt in call] for call in self.model.asked]

    def read(self, problem):
        if not problem.strip():
            raise InputError("the problem is empty; name a land")
        return "start"

    def prompt(self, problem, steps=()):
        return (problem, "\n", *(f"{step}\n" for step in steps))

    def step(self, state, text):
        return None if text.startswith("wrong") else text

    def answer(self, problem, steps, state):
        return state if state[:5] in ("right", "maybe", "refut") else None

    def check(self, problem, answer):
        return {"right": True, "refuted": False}.get(answer.split()[0])


@pytest.fixture
def land():
    """Makes lands."""
    return Land
