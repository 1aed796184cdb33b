"""Downloads with the client of the lock from the fake hub: revisions, tokens, faults on the way, two at once."""

import errno
import os
import re
import termios
from pathlib import Path

import pytest

from vishwamai.errors import HubError
from vishwamai.hub import BUILT_IN, fetch

pytestmark = pytest.mark.by_turns

FILES = {
    "config.json": b'{"model_type": "llama"}',
    "model.safetensors": b"0123456789" * 100,
    "tokenizer.json": b"{}",
    "chat_template.jinja": b"{{ 1 }}",
    "modeling_tiny.py": b"raise SystemExit",
    "pytorch_model.bin": b"pickle",
    "original/consolidated.safetensors": b"again",
}
WANTED = {"config.json", "model.safetensors", "tokenizer.json", "chat_template.jinja"}
TINY = ("ours/tiny", {})
TOKEN, STRANGER = "hf_of-a-reader", "hf_of-a-stranger"
LARGE = 24 * 2**20


@pytest.fixture
def tiny(fake_hub):
    """`ours/tiny` with one commit."""
    repo = fake_hub.repo()
    repo.commit(FILES)
    return repo


def contents(folder: str) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in Path(folder).iterdir()}


def test_a_repository_is_downloaded_into_the_cache_without_its_code(tiny, fake_hub, ask):
    parts = [("ours/tiny", {"part": part}) for part in ("config", "tokenizer", "model")]
    (config,), said = ask(parts[0])
    assert set(os.listdir(config)) == {"config.json"}
    assert said == ""  # no bars where nobody sees them
    (tokenizer,), _ = ask(parts[1])
    assert set(os.listdir(tokenizer)) == WANTED - {"model.safetensors"}
    (folder,), _ = ask(parts[2])
    assert contents(folder) == {name: FILES[name] for name in WANTED}
    asked = len(fake_hub.seen)
    assert ask(*parts)[0] == [folder] * 3
    assert len(fake_hub.seen) == asked


def test_a_revision_is_a_branch_a_tag_or_a_commit(tiny, fake_hub, ask):
    (old,) = tiny.commits
    new = tiny.commit(FILES | {"config.json": b"{}"})
    tiny.refs |= {"v1": old, "pr/1": new}
    revisions = [None, "v1", "pr/1", old, new]
    wanted = [new, old, new, old, new]
    questions = [("ours/tiny", {"revision": revision}) for revision in revisions]
    found, _ = ask(*questions, ("ours/tiny", {"revision": "v2"}))
    assert [os.path.basename(folder) for folder in found[:-1]] == wanted
    assert contents(found[0])["config.json"] == b"{}" and contents(found[1]) == {n: FILES[n] for n in WANTED}
    assert found[-1].startswith(
        "refused: ours/tiny at v2 could not be downloaded: it has no branch, tag or commit 'v2'"
    )
    asked = len(fake_hub.seen)
    offline, _ = ask(*questions, ("ours/tiny", {"revision": "v2"}), HF_HUB_OFFLINE="1")
    assert offline[:-1] == found[:-1]
    assert "ours/tiny at v2 is not on this machine and HF_HUB_OFFLINE is set" in offline[-1]
    assert len(fake_hub.seen) == asked


def test_a_private_repository_asks_for_a_token(fake_hub, ask, tmp_path):
    fake_hub.repo(private=True).commit(FILES)
    ways = [{}, {"HF_TOKEN": STRANGER}, {"HF_TOKEN": "hf_of-nobody"}, {"HF_TOKEN": "hf_sécret"}]
    answers = [ask(TINY, **way) for way in ways]
    wanted = [
        "private: set HF_TOKEN",
        "private: the token that is set may not",
        "does not know the token",
        "characters",
    ]
    for ([said], errors), way, sentence in zip(answers, ways, wanted, strict=True):
        assert said.startswith("refused:") and sentence in said
        assert all(token not in said + errors for token in way.values())
    (tmp_path / "token").write_text(TOKEN + "\n")
    ways = {"HF_TOKEN": TOKEN}, {"HUGGING_FACE_HUB_TOKEN": TOKEN}, {"HF_TOKEN_PATH": str(tmp_path / "token")}
    for i, way in enumerate(ways):
        [folder], errors = ask(TINY, **way, HF_HUB_CACHE=str(tmp_path / str(i)))
        assert contents(folder) == {name: FILES[name] for name in WANTED}
        assert TOKEN not in errors
    assert len([a for a in fake_hub.seen if a.storage]) == len(ways)  # the large file, from another address:
    assert all(a.token is None for a in fake_hub.seen if a.storage)
    assert {a.token for a in fake_hub.fetched("config.json")} == {TOKEN}


def test_a_redirected_question_does_not_carry_the_token_to_another_host(tiny, fake_hub, ask):
    fake_hub.breaks("api", status=307, headers={"Location": fake_hub.url("storage") + "/else/where"})
    [said], errors = ask(TINY, HF_TOKEN=TOKEN)
    assert said.startswith("refused:") and TOKEN not in said + errors
    assert [a.token for a in fake_hub.seen] == [TOKEN, None]


def test_a_gated_repository_says_where_its_terms_are(fake_hub, ask):
    fake_hub.repo(gated=True).commit(FILES)
    for way in ({}, {"HF_TOKEN": STRANGER}):
        [said], errors = ask(TINY, **way)
        assert "accept terms: do so at https://huggingface.co/ours/tiny, then set HF_TOKEN" in said
        assert STRANGER not in said + errors
    [folder], _ = ask(TINY, HF_TOKEN=TOKEN)
    assert set(os.listdir(folder)) == WANTED


def test_what_the_hub_lacks_or_refuses_is_said(fake_hub, ask):
    fake_hub.repo("ours/pickled").commit({"config.json": b"{}", "pytorch_model.bin": b""})
    found, _ = ask(("ours/gone", {}), ("ours/pickled", {}))
    assert "ours/gone could not be downloaded: the hub has no such repository, or it is private" in found[0]
    assert "tried: a local folder ours/gone, the cache /" in found[0] and "the hub https://huggingface.co" in found[0]
    assert "ours/pickled: the repository has no config.json with weights in safetensors" in found[1]


@pytest.mark.parametrize(
    "status, headers, sentence",
    [
        (429, {"Retry-After": "77"}, "too many requests were made; try again in 77 s, or set HF_TOKEN"),
        (500, {}, "the hub answered 500; try again later"),
        (403, {}, "the token that is set may not read it"),
    ],
)
def test_a_hub_that_refuses_is_quoted(status, headers, sentence, tiny, fake_hub, ask):
    fake_hub.breaks("api", status=status, headers=headers, times=100)
    assert sentence in ask(TINY)[0][0]


def test_no_hub_at_all(ask):
    [said], _ = ask(TINY, HF_ENDPOINT="http://127.0.0.1:9")
    assert re.search(
        r"could not be downloaded: the hub cannot be reached \(.*refused.*\): check the name and the connection", said
    )
    assert "the hub http://127.0.0.1:9)" in said


def test_a_cut_download_goes_on_where_it_was_cut(tiny, fake_hub, ask):
    body = bytes(range(256)) * (LARGE // 256)
    tiny.commit(FILES | {"model.safetensors": body})
    fake_hub.breaks("model.safetensors", cut=LARGE * 3 // 4)
    found, _ = ask(TINY, TINY)  # older clients do not go on by themselves
    folder = found[1]
    assert found[0] == folder or "try again" in found[0]
    assert contents(folder)["model.safetensors"] == body
    first, second = fake_hub.fetched("model.safetensors")[-2:]
    assert first.range is None
    assert int(re.fullmatch(r"bytes=(\d+)-", second.range)[1]) >= LARGE // 4


def test_files_that_arrived_before_a_failure_are_not_fetched_again(tiny, fake_hub, ask):
    fake_hub.breaks("model.safetensors", status=403)
    assert "may not read it" in ask(TINY)[0][0]
    [folder], _ = ask(TINY)
    assert contents(folder) == {name: FILES[name] for name in WANTED}
    assert len(fake_hub.fetched("config.json")) == 1


@pytest.mark.parametrize("file", ["model.safetensors", "config.json", "chat_template.jinja"])
def test_a_damaged_file_is_named_and_fetched_again(file, tiny, fake_hub, ask):
    fake_hub.breaks(file, flip=True)
    found, _ = ask(TINY, TINY)
    assert (
        found[0]
        == f"refused: ours/tiny: {file} arrived damaged (the hub gives another hash) and was removed; try again"
    )
    assert contents(found[1]) == {name: FILES[name] for name in WANTED}
    assert [len(fake_hub.fetched(name)) for name in sorted(WANTED)] == [1 + (n == file) for n in sorted(WANTED)]


def test_a_short_file_is_not_kept(tiny, fake_hub, ask):
    fake_hub.breaks("model.safetensors", short=7)
    found, _ = ask(TINY, TINY)
    assert "refused: ours/tiny could not be downloaded: " in found[0] and "1000 but has size 993" in found[0]
    assert contents(found[1])["model.safetensors"] == FILES["model.safetensors"]


def test_two_processes_may_download_at_once(tiny, fake_hub, begin):
    program = "from vishwamai import hub\nprint(hub.resolve('ours/tiny'))"
    both = [begin(program), begin(program)]
    said = [process.communicate(timeout=120) for process in both]
    assert [process.returncode for process in both] == [0, 0], said
    assert said[0][0] == said[1][0]
    assert contents(said[0][0].strip()) == {name: FILES[name] for name in WANTED}


@pytest.mark.parametrize(
    "error, sentence",
    [
        (OSError(errno.ENOSPC, "No space left on device"), "the disk is full (CACHE); make room, or set HF_HOME"),
        (
            OSError(errno.EROFS, "Read-only file system"),
            "the cache cannot be written (Read-only file system); set HF_HOME",
        ),
        (RuntimeError("peer closed\nand more"), "peer closed; try again"),
        (RuntimeError(), "RuntimeError; try again"),
    ],
)
def test_what_stands_in_the_way_on_this_machine_is_said(error, sentence, tmp_path, monkeypatch):
    def fail(*_, **__):
        raise RuntimeError("while it was written") from error

    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setenv("HF_HUB_OFFLINE", "0")
    monkeypatch.setattr("huggingface_hub.snapshot_download", fail if isinstance(error, OSError) else raising(error))
    with pytest.raises(HubError, match=re.escape(sentence.replace("CACHE", str(tmp_path)))):
        fetch.download("ours/tiny")


def raising(error: Exception):
    def fail(*_, **__):
        raise error

    return fail


def test_bars_are_shown_on_a_terminal(tiny, begin):
    screen, terminal = os.openpty()
    termios.tcsetwinsize(screen, (24, 80))
    program = "import sys, os\nos.dup2(int(sys.argv[1]), 2)\nfrom vishwamai import hub\nhub.resolve('ours/tiny')"
    process = begin(program, str(terminal), pass_fds=(terminal,))
    process.communicate(timeout=120)
    os.close(terminal)
    assert process.returncode == 0
    shown = b"".join(iter(lambda: read(screen), b""))
    os.close(screen)
    assert b"Fetching 4 files" in shown


def read(terminal: int) -> bytes:
    try:
        return os.read(terminal, 4096)
    except OSError:  # the other side is closed
        return b""


def test_an_endpoint_of_ones_own_is_asked(tiny, fake_hub, ask):
    [folder], _ = ask(TINY, HF_ENDPOINT=fake_hub.url() + "/", FAKE_HUB="http://127.0.0.1:9")
    assert set(os.listdir(folder)) == WANTED


GENERATE = "import runpy, sys\nsys.argv[0] = 'vishwamai'\nrunpy.run_module('vishwamai', run_name='__main__')"


def test_the_command_generates_with_a_revision_of_a_repository(fake_hub, begin):
    base = {path.name: path.read_bytes() for path in BUILT_IN["vishwamai/base"].iterdir()}
    repo = fake_hub.repo("ours/base")
    repo.commit(base, "v1")
    repo.commit({"config.json": b"{}"})
    process = begin(GENERATE, "generate", "2 + 3 =", "-m", "ours/base", "--revision", "v1", "-n", "3")
    said, errors = process.communicate(timeout=300)
    assert process.returncode == 0, errors
    assert said.strip() and errors == ""
    assert len(fake_hub.fetched("model.safetensors")) == len(fake_hub.fetched("tokenizer.json")) == 1
