"""Files and folders are whole or not there, wherever a process is killed, and a folder is held by one."""

import os
import signal
import subprocess
import sys

import jax
import pytest

from vishwamai import VishwamAI, VishwamAITokenizer, files
from vishwamai.data import corpus
from vishwamai.hf import adapters
from vishwamai.models import transformer
from vishwamai.models.config import ModelConfig, uniform
from vishwamai.training import folder as run_folder
from vishwamai.weights import lora, spec


class Killed(BaseException):
    """Nothing in the package catches it."""


@pytest.fixture
def killed_at(monkeypatch):
    """`killed_at(n)`: the process dies at the n-th change of the file system from now on; what it began stays there."""

    def at(n: int) -> None:
        left = [n]
        monkeypatch.undo()
        for module, name in ((os, "replace"), (os, "unlink"), (os, "fsync"), (files.shutil, "rmtree")):
            real = getattr(module, name)

            def change(*args, real=real, **options):
                left[0] -= 1
                if left[0] < 0:
                    raise Killed
                return real(*args, **options)

            monkeypatch.setattr(module, name, change)

    yield at
    monkeypatch.undo()


def contents(folder) -> dict:
    """{name: bytes} of what a folder holds, what is being written left out."""
    found = (path for path in folder.rglob("*") if path.is_file() and ".partial" not in str(path))
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in found}


def kills(save, folder, killed_at, monkeypatch) -> list[dict]:
    """What the folder holds when saving into it is killed at each place where it can be, until it is not any more."""
    found = []
    for n in range(100):
        killed_at(n)
        try:
            save()
            return [*found, contents(folder)]
        except Killed:
            found.append(contents(folder))
        finally:
            monkeypatch.undo()
    raise AssertionError("it never ended")


def test_a_file_is_its_old_self_until_it_is_whole(tmp_path, killed_at, monkeypatch):
    path = tmp_path / "a.json"
    path.write_bytes(b"old")

    def chunks():
        yield b"n"
        assert path.read_bytes() == b"old"
        yield b"ew"

    states = kills(lambda: files.write_atomic(path, chunks()), tmp_path, killed_at, monkeypatch)
    assert len(states) >= 3 and all(state in ({"a.json": b"old"}, {"a.json": b"new"}) for state in states)
    assert states[-1] == {"a.json": b"new"} and os.listdir(tmp_path) == ["a.json"]


def test_an_error_on_the_way_leaves_nothing_behind(tmp_path):
    def chunks():
        yield b"half"
        raise ValueError

    with pytest.raises(ValueError):
        files.write_atomic(tmp_path / "a", chunks())
    with pytest.raises(ValueError), files.replace_files(tmp_path / "b", last="x") as staging:
        (staging / "y").write_text("half")
        raise ValueError
    assert contents(tmp_path) == {} and not (tmp_path / "b" / ".partial").exists()


def test_a_folder_is_old_or_new_or_not_taken_for_one(tmp_path, killed_at, monkeypatch):
    old = {"config.json": b"1", "weights-1": b"1", "weights-2": b"1", "README": b"mine"}
    new = {"config.json": b"2", "weights": b"2", "more/template": b"2", "README": b"mine"}

    def save():
        with files.replace_files(tmp_path, last="config.json", obsolete=("weights*", "more/*")) as staging:
            for name, raw in new.items():
                if name != "README":
                    (staging / name).parent.mkdir(exist_ok=True)
                    files.write_atomic(staging / name, [raw])

    for name, raw in old.items():
        (tmp_path / name).write_bytes(raw)
    states = kills(save, tmp_path, killed_at, monkeypatch)
    assert states[0] == old and states[-1] == new
    assert all(state in (old, new) or "config.json" not in state for state in states)
    assert any("config.json" not in state for state in states)  # the window there is has been looked at


def test_a_pipe_is_written_into(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    with subprocess.Popen(["cat", str(tmp_path / "pipe")], stdout=subprocess.PIPE) as reader:
        files.write_atomic(tmp_path / "pipe", [b"a", b"b"])
        assert reader.stdout.read() == b"ab"
    assert os.listdir(tmp_path) == ["pipe"]


CFG = ModelConfig(vocab_size=263, d_model=8, d_ff=8, n_heads=1, n_kv_heads=1, head_dim=8, stacks=uniform(1))


def test_a_model_saved_over_another_is_the_one_or_the_other(tmp_path, killed_at, monkeypatch):
    tokenizer = VishwamAITokenizer.bytes()
    first = VishwamAI.from_config(CFG, tokenizer=tokenizer.with_tokens(templates=(("default", "{{ messages }}"),)))
    second = VishwamAI.from_config(CFG, seed=1, tokenizer=tokenizer)
    first.save_pretrained(tmp_path)
    old = contents(tmp_path)
    assert "chat_template.jinja" in old
    second.save_pretrained(tmp_path / "alone")
    new = contents(tmp_path / "alone")
    files.shutil.rmtree(tmp_path / "alone")
    states = kills(lambda: second.save_pretrained(tmp_path), tmp_path, killed_at, monkeypatch)
    assert states[0] == old and states[-1] == new and "chat_template.jinja" not in new
    assert all(state in (old, new) or "config.json" not in state for state in states)


def test_an_adapter_saved_over_another_is_the_one_or_the_other(tmp_path, killed_at, monkeypatch):
    def adapter(alpha):
        declared = lora.specs(transformer.specs(CFG), rank=1, alpha=alpha, targets=["attn.q"])
        return spec.init(declared, jax.random.key(0))

    adapters.save_adapter(tmp_path, adapter(1.0), CFG)
    old = contents(tmp_path)
    states = kills(lambda: adapters.save_adapter(tmp_path, adapter(3.0), CFG), tmp_path, killed_at, monkeypatch)
    new = states[-1]
    assert states[0] == old != new
    assert all(state in (old, new) or "adapter_config.json" not in state for state in states)


DATA = corpus.Data(sources=(corpus.Source(kind="generated", name="game24"),), tokenizer_rows=20)


def test_a_run_killed_while_its_tokenizer_is_written_has_the_same_rows(tmp_path, killed_at, monkeypatch):
    whole = corpus.tokenizer(DATA, 300, tmp_path / "whole")
    row = corpus.Corpus(DATA, whole).samples().read(0)
    n, done = 0, False
    while not done:
        folder = tmp_path / str(n)
        killed_at(n)
        try:
            corpus.tokenizer(DATA, 300, folder)
            done = True
        except Killed:
            pass
        monkeypatch.undo()
        again = corpus.tokenizer(DATA, 300, folder)
        assert corpus.Corpus(DATA, again).samples().read(0) == row and again.eos_token_id == whole.eos_token_id
        assert contents(folder) == contents(tmp_path / "whole")
        n += 1
    assert n > 3


def test_what_a_tokenizer_leaves_out_is_not_read_from_what_another_left(tmp_path):
    (tmp_path / "special_tokens_map.json").write_text('{"eos_token": "x"}')
    (tmp_path / "added_tokens.json").write_text('{"y": 300}')
    (tmp_path / "tokenizer.model").write_text("the source's own")
    VishwamAITokenizer.bytes().save_pretrained(tmp_path)
    assert sorted(contents(tmp_path)) == ["tokenizer.json", "tokenizer.model", "tokenizer_config.json"]
    assert VishwamAITokenizer.from_folder(tmp_path).eos_token == "<|eos|>"


def test_a_folder_is_held_by_one_and_given_back(tmp_path):
    with files.lock_folder(tmp_path) as first, files.lock_folder(tmp_path) as second:
        assert first and not second
    with files.lock_folder(tmp_path) as again:
        assert again


HOLD = """
import sys, time
from vishwamai.files import lock_folder
with lock_folder(sys.argv[1]) as ours:
    print(ours, flush=True)
    time.sleep(600)
"""


def test_a_lock_ends_with_its_process(tmp_path):
    with subprocess.Popen([sys.executable, "-c", HOLD, str(tmp_path)], stdout=subprocess.PIPE, text=True) as other:
        assert other.stdout.readline() == "True\n"
        with files.lock_folder(tmp_path) as ours:
            assert not ours
        with pytest.raises(run_folder.CheckpointError, match="another run is at work"), run_folder.lock_run(tmp_path):
            raise AssertionError("it was not held")
        other.send_signal(signal.SIGKILL)
    with files.lock_folder(tmp_path) as ours:
        assert ours
