"""A hub of Hugging Face's kind over loopback, as a fixture: what the client of the lock really asks, and what may fail.

Repositories have commits, branches and tags; large files are redirected to storage at another address, with their
SHA-256, small ones answered at once with git's SHA-1. Private and gated repositories ask for a token. A fault breaks
one answer: a cut, flipped or short body, a status. Everything that was asked is kept in `seen`.
"""

import hashlib
import json
import os
import re
import subprocess
import sys
import threading
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import NamedTuple
from urllib.parse import unquote

import pytest

TOKEN = "hf_of-a-reader"
STRANGER = "hf_of-a-stranger"  # known to the hub, and let in nowhere
LARGE = (".safetensors", ".bin", ".gguf")
_API = re.compile(r"/api/models/(?P<repo>[\w.-]+/[\w.-]+)(/(?P<verb>revision|tree)/(?P<revision>.+))?")
_FILE = re.compile(r"/(?P<repo>[\w.-]+/[\w.-]+)/resolve/(?P<revision>[^/]+)/(?P<file>.+)")


class Asked(NamedTuple):
    """A request as it came."""

    method: str
    path: str
    range: str | None
    token: str | None
    storage: bool  # whether it came to the storage's address


@dataclass
class Repo:
    """A repository: the files of each commit, and what leads to a commit."""

    commits: dict[str, dict[str, bytes]] = field(default_factory=dict)
    refs: dict[str, str] = field(default_factory=dict)
    private: bool = False
    gated: bool = False

    def commit(self, files: dict[str, bytes], *refs: str) -> str:
        """Adds a commit to which `refs` (main) lead from now on."""
        sha = hashlib.sha1(repr(sorted(files.items())).encode()).hexdigest()
        self.commits[sha] = files
        self.refs |= dict.fromkeys(refs or ("main",), sha)
        return sha


@dataclass
class Fault:
    """What is wrong with an answer to `file` (or to any question about a repository, where it is "api")."""

    file: str
    cut: int | None = None  # the connection ends after so many bytes of the body
    flip: bool = False  # one bit of the body is another
    short: int = 0  # so many bytes are missing at the end, and the length is that of what is sent
    status: int | None = None
    headers: dict[str, str] = field(default_factory=dict)
    times: int = 1


class Hub:
    """The state of both servers."""

    def __init__(self):
        self.repos: dict[str, Repo] = {}
        self.faults: list[Fault] = []
        self.seen: list[Asked] = []
        self.main, self.storage = (ThreadingHTTPServer(("127.0.0.1", 0), Handler) for _ in range(2))
        self.main.hub = self.storage.hub = self

    def url(self, server: str = "main") -> str:
        return f"http://127.0.0.1:{getattr(self, server).server_address[1]}"

    def repo(self, name: str = "ours/tiny", **options) -> Repo:
        """A new repository."""
        return self.repos.setdefault(name, Repo(**options))

    def breaks(self, file: str, **how) -> None:
        """Lets the next answer about `file` be wrong."""
        self.faults.append(Fault(file, **how))

    def fault(self, file: str) -> Fault | None:
        """The fault that an answer is to have, taken off the list once it is used up."""
        for fault in self.faults:
            if fault.file == file and fault.times > 0:
                fault.times -= 1
                return fault
        return None

    def fetched(self, file: str) -> list[Asked]:
        """The requests for a file's body."""
        return [a for a in self.seen if a.method == "GET" and a.path.partition("?")[0].endswith(f"/{file}")]


class Handler(BaseHTTPRequestHandler):
    """Answers for the hub, or, at the other address, for its storage."""

    def log_message(self, *_):
        pass

    def do_HEAD(self):
        self.do_GET()

    def do_GET(self):
        hub, path = self.server.hub, self.path.partition("?")[0]
        self.token = (self.headers.get("Authorization") or "").removeprefix("Bearer ") or None
        storage = self.server is hub.storage
        hub.seen.append(Asked(self.command, self.path, self.headers.get("Range"), self.token, storage))
        if storage:
            commit, file = path[1:].split("/", 1)
            body = next((repo.commits[commit][file] for repo in hub.repos.values() if commit in repo.commits), None)
            return self.refuse(404, "") if body is None else self.send_file(file, body, {})
        for pattern, answer in ((_API, self.api), (_FILE, self.file)):
            if match := pattern.fullmatch(path):
                return answer(**{k: v and unquote(v) for k, v in match.groupdict().items()})
        self.refuse(404, "")

    def api(self, repo: str, verb: str | None, revision: str | None):
        fault = self.server.hub.fault("api")
        if fault is not None:
            return self.refuse(fault.status, "", **fault.headers)
        found = self.let_in(repo, revision or "main", gate=False)
        if found is None:
            return
        sha, files = found
        if verb == "tree":
            return self.answer(200, json.dumps([entry(name, body) for name, body in files.items()]).encode())
        self.answer(200, json.dumps({"id": repo, "sha": sha, "siblings": [{"rfilename": n} for n in files]}).encode())

    def file(self, repo: str, revision: str, file: str):
        found = self.let_in(repo, revision, gate=True)
        if found is None:
            return
        sha, files = found
        if file not in files:
            return self.refuse(404, "EntryNotFound")
        body, headers = files[file], {"X-Repo-Commit": sha, "ETag": f'"{git_hash(files[file])}"'}
        if not file.endswith(LARGE):
            return self.send_file(file, body, headers)
        headers |= {"X-Linked-Etag": f'"{hashlib.sha256(body).hexdigest()}"', "X-Linked-Size": str(len(body))}
        headers |= {"ETag": '"of-the-pointer"', "Location": f"{self.server.hub.url('storage')}/{sha}/{file}?signed=yes"}
        self.answer(302, b"", headers)

    def let_in(self, name: str, revision: str, *, gate: bool) -> tuple[str, dict[str, bytes]] | None:
        """(commit, its files), where whoever asks may see them; else None, and the answer is given."""
        repo = self.server.hub.repos.get(name)
        if self.token not in (None, TOKEN, STRANGER):
            return self.refuse(401, "", **{"X-Error-Message": "Invalid credentials in Authorization header"})
        if repo is None or (repo.private and self.token != TOKEN):
            return self.refuse(404 if self.token else 401, "RepoNotFound")
        if gate and repo.gated and self.token != TOKEN:
            return self.refuse(403 if self.token else 401, "GatedRepo")
        sha = repo.refs.get(revision, revision)
        return (sha, repo.commits[sha]) if sha in repo.commits else self.refuse(404, "RevisionNotFound")

    def send_file(self, file: str, body: bytes, headers: dict[str, str]):
        fault = self.server.hub.fault(file) if self.command == "GET" else None
        status, begin = 200, 0
        if wanted := re.fullmatch(r"bytes=(\d+)-", self.headers.get("Range") or ""):
            status, begin = 206, int(wanted[1])
            headers = headers | {"Content-Range": f"bytes {begin}-{len(body) - 1}/{len(body)}"}
        body = body[begin:]
        if fault is not None and fault.status is not None:
            return self.refuse(fault.status, "", **fault.headers)
        if fault is not None and fault.flip:
            body = body[:-1] + bytes([body[-1] ^ 1])
        if fault is not None and fault.short:
            body = body[: -fault.short]
        self.answer(status, body, headers, cut=None if fault is None else fault.cut)

    def refuse(self, status: int, code: str, **headers: str) -> None:
        self.answer(status, b"", ({"X-Error-Code": code} if code else {}) | headers)

    def answer(self, status: int, body: bytes, headers: dict[str, str] | None = None, cut: int | None = None):
        self.send_response(status)
        for key, value in ({"Content-Type": "application/json", "Content-Length": len(body)} | (headers or {})).items():
            self.send_header(key, str(value))
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(body[:cut])


def git_hash(body: bytes) -> str:
    return hashlib.sha1(b"blob %d\0" % len(body) + body).hexdigest()


def entry(name: str, body: bytes) -> dict:
    """A file as the tree's listing has it."""
    found = {"type": "file", "path": name, "size": len(body), "oid": git_hash(body)}
    if name.endswith(LARGE):
        found["lfs"] = {"oid": hashlib.sha256(body).hexdigest(), "size": len(body), "pointerSize": 130}
    return found


@pytest.fixture
def fake_hub():
    """A `Hub` that answers."""
    hub = Hub()
    threads = [
        threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
        for server in (hub.main, hub.storage)
    ]
    for thread in threads:
        thread.start()
    yield hub
    for server, thread in zip((hub.main, hub.storage), threads, strict=True):
        server.shutdown()
        thread.join()
        server.server_close()


@pytest.fixture
def online(fake_hub, tmp_path):
    """The environment of a process that may ask the fake hub and nobody else, with a cache of its own.

    It names no endpoint, as a user names none: the client asks its own, and `LEAD` has it connect to the fake hub.
    """
    others = ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "HF_", "HUGGING", "TRANSFORMERS_OFFLINE", "XDG_CACHE")
    clean = {k: v for k, v in os.environ.items() if not k.upper().startswith(others)}
    return clean | {"FAKE_HUB": fake_hub.url(), "HF_HOME": str(tmp_path / "hf"), "HF_HUB_DISABLE_TELEMETRY": "1"}


# What a process runs first: requests to the hub go to the fake one, in the transport below the client. It imports
# nothing of the client, whose submodules would be there for us too then.
LEAD = r"""
import importlib, os, re
from importlib.metadata import requires
from urllib.parse import urlsplit

HUB = "https://huggingface.co/"
FAKE = urlsplit(os.environ["FAKE_HUB"])

def lead(transport, method, send_to_fake):
    send = getattr(transport, method)

    def led(self, request, **options):
        assert str(request.url).startswith((HUB, "http://127.0.0.1")), request.url
        led_by = send_to_fake if str(request.url).startswith(HUB) else send
        return led_by(self, request, **options)

    setattr(transport, method, led)
    return send

needs = {re.match(r"[\w-]+", need)[0] for need in requires("huggingface_hub") if "extra ==" not in need}
[below] = needs & {"httpx2", "httpx", "requests"}
http = importlib.import_module(below)
if below == "requests":

    def send_to_fake(self, request, **options):
        other = request.copy()
        other.url = request.url.replace(HUB, FAKE.geturl() + "/")
        answer = send(self, other, **options)
        answer.url, answer.request = request.url, request
        return answer

    send = lead(http.adapters.HTTPAdapter, "send", send_to_fake)
else:

    def send_to_fake(self, request):
        url = request.url.copy_with(scheme=FAKE.scheme, host=FAKE.hostname, port=FAKE.port)
        parts = {"headers": request.headers, "stream": request.stream, "extensions": request.extensions}
        return send(self, http.Request(request.method, url, **parts))

    send = lead(http.HTTPTransport, "handle_request", send_to_fake)
"""


@pytest.fixture
def begin(online):
    """`begin(program, *arguments, **environment)` starts a process of Python that may ask the fake hub."""
    started = []

    def start(program: str, *arguments: str, pass_fds: tuple[int, ...] = (), **environment: str) -> subprocess.Popen:
        command = [sys.executable, "-c", f"{LEAD}\n{program}", *arguments]
        pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True, "pass_fds": pass_fds}
        started.append(subprocess.Popen(command, env=online | environment, **pipes))
        return started[-1]

    yield start
    for process in started:
        process.kill()
        process.communicate()


RESOLVE = (
    "import sys, json\nfrom vishwamai import hub, errors\n"
    "for name, options in json.loads(sys.argv[1]):\n"
    "    try: print(hub.resolve(name, **options))\n"
    "    except errors.HubError as error: print('refused:', error)\n"
)


@pytest.fixture
def ask(begin):
    """`ask((name, options), ..., **environment)`: `resolve` elsewhere -> (a line for each, what stderr was told)."""

    def resolve(*questions: tuple[str, dict], **environment: str) -> tuple[list[str], str]:
        process = begin(RESOLVE, json.dumps(questions), **environment)
        said, errors = process.communicate(timeout=120)
        assert process.returncode == 0, errors
        return said.splitlines(), errors

    return resolve
