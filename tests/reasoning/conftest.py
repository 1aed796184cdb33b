"""An OpenAI-compatible endpoint on this machine that answers, refuses, breaks off or hangs, and a clock that waits for
nobody.
"""

import contextlib
import http.server
import json
import threading

import pytest

from vishwamai.reasoning.remote import Remote


class FakeEndpoint:
    """`answer` makes its answers; each of `faults`, while there are any, is met by one request.

    A fault is (status, body) or (status, body, headers), where the body is bytes or becomes JSON; "hang" (nothing
    comes), "drip" (a byte now and then) or "cut" (half of the answer comes).
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
    thread = threading.Thread(target=fake.server.serve_forever, kwargs={"poll_interval": 0.01})
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
    return lambda **options: Remote(fake_endpoint.url, "tiny", **{"sleep": clock.sleep, "clock": clock} | options)
