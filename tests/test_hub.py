"""Names that lead to folders: local, cached as the hub's client lays files out, downloaded; and those that do not."""

import json
import os
import subprocess
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from vishwamai import hub
from vishwamai.errors import HubError

COMMIT, OTHER = "a" * 40, "b" * 40


@pytest.fixture(autouse=True)
def no_hub(tmp_path, monkeypatch):
    """An empty cache and no network."""
    monkeypatch.setenv("HF_HOME", str(tmp_path / "home"))
    monkeypatch.delenv("HF_HUB_CACHE", raising=False)
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")


@pytest.fixture
def cached(tmp_path):
    """`cached(repo, commit, files, refs)` lays a repository out as the hub's client does."""

    def lay(repo="ours/tiny", commit=COMMIT, files=("config.json", "model.safetensors"), refs=("main",)):
        root = tmp_path / "home" / "hub" / f"models--{repo.replace('/', '--')}"
        snapshot = root / "snapshots" / commit
        for folder in (snapshot, root / "blobs", root / "refs"):
            folder.mkdir(parents=True, exist_ok=True)
        for file in files:
            (root / "blobs" / f"{commit[0]}-{file}").write_text("{}")
            (snapshot / file).symlink_to(f"../../blobs/{commit[0]}-{file}")
        for ref in refs:
            (root / "refs" / ref).write_text(commit)
        return snapshot

    return lay


def test_a_local_folder_is_itself(tmp_path):
    assert hub.resolve(tmp_path) == tmp_path
    assert hub.resolve(str(tmp_path)) == tmp_path


def test_the_built_in_model_is_a_folder_of_the_package(tmp_path, monkeypatch):
    monkeypatch.setitem(hub.BUILT_IN, "vishwamai/base", tmp_path)
    assert hub.resolve("vishwamai/base") == tmp_path
    with pytest.raises(HubError, match="one revision only"):
        hub.resolve("vishwamai/base", revision="main")
    monkeypatch.setitem(hub.BUILT_IN, "vishwamai/base", tmp_path / "gone")
    with pytest.raises(HubError, match="missing from this installation"):
        hub.resolve("vishwamai/base")


def test_a_cached_repository_is_used_as_it_lies(cached):
    newest, older = cached(), cached(commit=OTHER, refs=("v1",))
    assert hub.resolve("ours/tiny") == newest
    assert hub.resolve("ours/tiny", revision="v1") == older
    assert hub.resolve("ours/tiny", revision=OTHER) == older


def test_the_cache_may_lie_elsewhere(cached, tmp_path, monkeypatch):
    snapshot = cached()
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path / "home" / "hub"))
    monkeypatch.delenv("HF_HOME")
    assert hub.resolve("ours/tiny") == snapshot


def test_a_snapshot_without_all_of_its_weights_is_not_used(cached):
    snapshot = cached(files=("config.json",))
    (snapshot / hub.INDEX).write_text(json.dumps({"weight_map": {"x": "a.safetensors", "y": "b.safetensors"}}))
    (snapshot / "a.safetensors").write_text("")
    with pytest.raises(HubError, match="HF_HUB_OFFLINE"):
        hub.resolve("ours/tiny")
    (snapshot / "b.safetensors").write_text("")
    assert hub.resolve("ours/tiny") == snapshot


def test_a_tokenizer_needs_no_weights(cached):
    snapshot = cached(files=("config.json", "tokenizer.json"))
    assert hub.resolve("ours/tiny", part="tokenizer") == hub.resolve("ours/tiny", part="config") == snapshot
    with pytest.raises(HubError, match="HF_HUB_OFFLINE"):
        hub.resolve("ours/tiny")


def test_an_adapter_needs_both_of_its_files_and_no_model(cached):
    snapshot = cached(files=("adapter_config.json",))
    with pytest.raises(HubError, match="HF_HUB_OFFLINE"):
        hub.resolve("ours/tiny", part="adapter")
    (snapshot / "adapter_model.safetensors").write_text("")
    assert hub.resolve("ours/tiny", part="adapter") == snapshot


def test_a_part_that_the_cache_lacks_is_not_there(cached):
    snapshot = cached(files=("tokenizer.json",))
    assert hub.find_cached("ours/tiny", part="tokenizer") == snapshot
    assert hub.find_cached("ours/tiny", part="config") is None
    (snapshot / "tokenizer.json").rename(snapshot / "config.json")
    assert hub.find_cached("ours/tiny", part="tokenizer") is None
    assert hub.find_cached("ours/tiny", part="config") == snapshot


@pytest.mark.parametrize(
    "name, message",
    [
        ("./nowhere", "there is no folder ./nowhere"),
        ("/nowhere/at/all", "there is no folder /nowhere/at/all"),
        ("../../nowhere", "there is no folder"),
        ("a/../b", "there is no folder"),
        ("", "the name of a model is empty"),
        ("x\0y", "there is no folder"),
        ("x" * 300, "there is no folder xxx"),
        ("a/" + "x" * 300, "there is no folder a/xxx"),
        ("~nouser-at-all/x", "there is no folder ~nouser-at-all/x"),
        ("ours/tiny", r"ours/tiny is not on this machine and HF_HUB_OFFLINE is set \(tried: a local folder.*the cache"),
    ],
)
def test_a_name_that_leads_nowhere_says_what_was_tried(name, message):
    with pytest.raises(HubError, match=message):
        hub.resolve(name)


def test_a_file_or_a_wrong_revision_is_refused(tmp_path):
    file = tmp_path / "config.json"
    file.write_text("{}")
    with pytest.raises(HubError, match="is a file; name the folder"):
        hub.resolve(file)
    with pytest.raises(HubError, match="has no revision"):
        hub.resolve(tmp_path, revision="main")
    for revision in ("../main", "", "a b", "-x"):
        with pytest.raises(HubError, match="is no revision"):
            hub.resolve("ours/tiny", revision=revision)


def test_members_of_a_folder(cached, tmp_path):
    snapshot = cached()
    assert hub.member(snapshot, "config.json") == snapshot / "config.json"
    (tmp_path / "secret").write_text("")
    (snapshot / "out").symlink_to(tmp_path / "secret")
    (snapshot / "loop").symlink_to("loop")
    for name, message in (
        ("../x", "plain file name"),
        ("..", "plain file name"),
        ("a\nb", "plain file name"),
        ("gone", "no file gone"),
        ("loop", "no file loop"),
        ("out", "leads out"),
    ):
        with pytest.raises(HubError, match=message):
            hub.member(snapshot, name)


# A hub over loopback, for the client that is really used.

FILES = {
    "config.json": b'{"model_type": "llama"}',
    "model.safetensors": b"0123456789",
    "tokenizer.json": b"{}",
    "chat_template.jinja": b"{{ 1 }}",
    "modeling_tiny.py": b"raise SystemExit",
    "pytorch_model.bin": b"pickle",
    "original/consolidated.safetensors": b"again",
}


class FakeHub(BaseHTTPRequestHandler):
    """As much of the hub as a download of one small repository asks for."""

    def log_message(self, *_):
        pass

    def do_HEAD(self):
        self.do_GET()

    def do_GET(self):
        self.server.seen.append(self.path)
        _, _, rest = self.path.partition("/ours/tiny/")
        file = rest.removeprefix(f"resolve/{COMMIT}/")
        if self.path.startswith("/api/models/ours/tiny"):
            siblings = [{"rfilename": name} for name in FILES]
            tree = [{"type": "file", "path": n, "size": len(b), "oid": n.encode().hex()} for n, b in FILES.items()]
            info = {"id": "ours/tiny", "modelId": "ours/tiny", "sha": COMMIT, "siblings": siblings}
            self.answer(json.dumps(tree if "/tree/" in self.path else info).encode(), "application/json")
        elif file in FILES:
            self.answer(FILES[file], "application/octet-stream")
        else:
            self.send_error(404)

    def answer(self, body, kind):
        self.send_response(200)
        headers = {
            "Content-Type": kind,
            "Content-Length": len(body),
            "X-Repo-Commit": COMMIT,
            "ETag": f'"{hash(body)}"',
        }
        for key, value in headers.items():
            self.send_header(key, str(value))
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(body)


@pytest.fixture
def fake_hub():
    server = ThreadingHTTPServer(("127.0.0.1", 0), FakeHub)
    server.seen = []
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    yield server
    server.shutdown()
    thread.join()
    server.server_close()


def resolve_elsewhere(name, server, home, **options):
    """`resolve` in a process of its own, where the client has not yet been told to stay offline."""
    endpoint = f"http://127.0.0.1:{server.server_address[1]}"
    left_out = ("HF_HUB_OFFLINE", "HTTP_PROXY", "http_proxy", "ALL_PROXY", "all_proxy")
    environment = {k: v for k, v in os.environ.items() if k not in left_out}
    environment |= {"HF_ENDPOINT": endpoint, "HF_HOME": str(home), "HF_HUB_DISABLE_XET": "1"}
    program = (
        "import sys\nfrom vishwamai import hub, errors\n"
        f"try: print(hub.resolve(sys.argv[1], **{options}))\nexcept errors.HubError as error: print('refused:', error)"
    )
    done = subprocess.run([sys.executable, "-c", program, name], env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def test_a_repository_is_downloaded_into_the_cache_without_its_code(fake_hub, tmp_path):
    home = tmp_path / "other"
    assert os.listdir(resolve_elsewhere("ours/tiny", fake_hub, home, part="config")) == ["config.json"]
    wanted = {"config.json", "tokenizer.json", "chat_template.jinja"}
    assert set(os.listdir(resolve_elsewhere("ours/tiny", fake_hub, home, part="tokenizer"))) == wanted
    folder = resolve_elsewhere("ours/tiny", fake_hub, home)
    wanted.add("model.safetensors")
    assert set(os.listdir(folder)) == wanted
    assert all((hub.Path(folder) / name).read_bytes() == FILES[name] for name in wanted)
    asked = len(fake_hub.seen)
    assert resolve_elsewhere("ours/tiny", fake_hub, home) == folder
    assert len(fake_hub.seen) == asked


def test_a_repository_that_the_hub_does_not_have_is_named(fake_hub, tmp_path):
    said = resolve_elsewhere("ours/gone", fake_hub, tmp_path / "other")
    assert said.startswith("refused: ours/gone could not be downloaded:") and "tried: a local folder" in said
