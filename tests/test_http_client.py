"""A client of any JSON over HTTP: what it posts, where it sends the key, whom it trusts, and what it needs installed.

How it meets refusals, broken answers, limits and deadlines is tested with a model behind it, in `reasoning/`.
"""

import asyncio
import http.server
import json
import shutil
import ssl
import subprocess
import sys
import threading

import numpy as np
import pytest

from vishwamai import http_client
from vishwamai.errors import BackendError
from vishwamai.http_client import JSONClient


class Echo(http.server.BaseHTTPRequestHandler):
    """Answers with what was posted, where, and with which key."""

    protocol_version = "HTTP/1.1"

    def do_POST(self):
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        reply = json.dumps({"path": self.path, "body": body, "key": self.headers["Authorization"]}).encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(reply)))
        self.end_headers()
        self.wfile.write(reply)

    def log_message(self, *args):
        pass


@pytest.fixture
def serve():
    """Starts servers on this machine; their ports."""
    servers = []

    def start(tls: ssl.SSLContext | None = None) -> int:
        server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Echo)
        if tls is not None:
            server.socket = tls.wrap_socket(server.socket, server_side=True)
        servers.append(server)
        threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()
        return server.server_address[1]

    yield start
    for server in servers:
        server.shutdown()
        server.server_close()


def client(url: str, path: str = "/embeddings") -> JSONClient:
    how = {"api_key": "sk-a", "timeout": 600.0, "retries": 0, "concurrency": 2}
    return JSONClient(url=url, path=path, **how, content="embedding", advice={"content": "ask for one"})


def post(client: JSONClient, *payloads: dict, read=lambda answer: answer) -> list:
    async def main():
        async with client.session() as send:
            return await asyncio.gather(*(send(payload, read) for payload in payloads))

    return asyncio.run(main())


def test_any_json_is_posted_with_the_key(serve):
    found = post(client(f"http://127.0.0.1:{serve()}/v1/"), {"input": ["é", np.float32(0.5)]}, {}, {"n": np.int64(3)})
    assert [answer["body"] for answer in found] == [{"input": ["é", 0.5]}, {}, {"n": 3}]
    assert {(answer["path"], answer["key"]) for answer in found} == {("/v1/embeddings", "Bearer sk-a")}


def test_an_answer_that_lacks_something_is_a_failure(serve):
    with pytest.raises(BackendError, match=r"/embeddings sent no embedding \(.*\) at try 1 of 1: ask for one"):
        post(client(f"http://127.0.0.1:{serve()}"), {}, read=lambda answer: answer["data"])


def test_proxies_of_the_environment_are_not_used(serve, monkeypatch):
    for name in ("HTTP_PROXY", "http_proxy", "ALL_PROXY", "all_proxy"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")
    assert post(client(f"http://127.0.0.1:{serve()}"), {"a": 1})[0]["body"] == {"a": 1}


@pytest.mark.skipif(shutil.which("openssl") is None, reason="openssl makes the certificate")
def test_a_certificate_must_be_trusted(serve, tmp_path, monkeypatch):
    certificate, key = tmp_path / "certificate.pem", tmp_path / "key.pem"
    command = ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-subj", "/CN=here", "-days", "2"]
    command += ["-addext", "subjectAltName=IP:127.0.0.1", "-out", str(certificate), "-keyout", str(key)]
    subprocess.run(command, check=True, capture_output=True)
    tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    tls.load_cert_chain(certificate, key)
    url = f"https://127.0.0.1:{serve(tls)}"
    with pytest.raises(BackendError, match=r"has a certificate that is not trusted \(self.signed certificate\): check"):
        post(client(url), {})
    monkeypatch.setenv("SSL_CERT_FILE", str(certificate))
    assert post(client(url), {"a": 1})[0]["body"] == {"a": 1}


def test_a_missing_package_is_named_with_its_extra(monkeypatch):
    monkeypatch.setitem(sys.modules, "httpx", None)  # importing it now fails, installed or not
    with pytest.raises(BackendError, match=r'httpx cannot be imported .*pip install "vishwamai\[remote\]"'):
        client("http://127.0.0.1:9")


def test_the_package_is_not_needed_to_import_the_client():
    assert not hasattr(http_client, "httpx")
