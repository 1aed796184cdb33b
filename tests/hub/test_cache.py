"""Files in the cache are hashed once, where we downloaded them, by the name that the hub gave them."""

import hashlib

import pytest

from vishwamai import hub
from vishwamai.errors import HubError
from vishwamai.hub import cache

COMMIT = "c" * 40
BODIES = {"config.json": b"{}", "model.safetensors": b"0123456789"}


@pytest.fixture
def snapshot(tmp_path, monkeypatch):
    """A snapshot as the client lays it out: a small file by git's hash, a large one by its SHA-256."""
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path))
    folder = tmp_path / "models--ours--tiny" / "snapshots" / COMMIT
    names = {
        "config.json": "9e26dfeeb6e641a33dae4961196235bdb965b21b",  # git hash-object
        "model.safetensors": hashlib.sha256(BODIES["model.safetensors"]).hexdigest(),
    }
    for part in (folder, folder.parents[1] / "blobs", folder.parents[1] / cache.CHECKED):
        part.mkdir(parents=True)
    for file, name in names.items():
        (folder.parents[1] / "blobs" / name).write_bytes(BODIES[file])
        (folder / file).symlink_to(f"../../blobs/{name}")
    return folder


@pytest.fixture
def hashed(monkeypatch):
    """The files that were hashed."""
    found, digest = [], cache._digest
    monkeypatch.setattr(cache, "_digest", lambda path, name: found.append(path.name) or digest(path, name))
    return found


def test_a_file_is_hashed_once(snapshot, hashed):
    for _ in range(2):
        assert hub.resolve("ours/tiny", revision=COMMIT) == snapshot
        assert sorted(hashed) == ["config.json", "model.safetensors"]


def test_what_others_downloaded_is_used_as_it_lies(snapshot, hashed):
    (snapshot.parents[1] / cache.CHECKED).rmdir()
    (snapshot / "config.json").write_bytes(b"changed")
    cache.check_hashes(snapshot)
    assert hashed == []


@pytest.mark.parametrize("file", BODIES)
@pytest.mark.parametrize("body", [b"{]", b"012345678", b""])
def test_a_damaged_file_is_named_and_removed_and_the_others_stay(file, body, snapshot, hashed):
    """As blobs: a snapshot that lacks a file is one no more, since nothing else tells that it does."""
    (other,) = BODIES.keys() - {file}
    blob, sound = (snapshot / file).resolve(), (snapshot / other).resolve()
    blob.write_bytes(body)
    with pytest.raises(HubError, match=f"ours/tiny: {file} arrived damaged"):
        hub.resolve("ours/tiny", revision=COMMIT)
    assert not blob.exists() and list(snapshot.iterdir()) == []
    assert sound.read_bytes() == BODIES[other]
    hashed.clear()
    cache.check_hashes(snapshot)
    assert hashed == []


def test_a_damaged_blob_that_repositories_share_is_removed_at_its_root(snapshot):
    blob = (snapshot / "model.safetensors").resolve()
    shared = snapshot.parents[2] / "blobs" / "ab" / blob.name
    shared.parent.mkdir(parents=True)
    blob.rename(shared)
    blob.symlink_to(f"../../blobs/ab/{blob.name}")
    cache.check_hashes(snapshot)
    (snapshot.parents[1] / cache.CHECKED / blob.name).unlink()
    shared.write_bytes(b"another ten")
    with pytest.raises(HubError, match="model.safetensors arrived damaged"):
        cache.check_hashes(snapshot)
    assert not shared.exists() and not blob.is_symlink()


def test_a_name_that_is_no_hash_cannot_be_checked(snapshot, hashed):
    (snapshot.parents[1] / "blobs" / "abc").write_bytes(b"")
    (snapshot / "tokenizer.json").symlink_to("../../blobs/abc")
    cache.check_hashes(snapshot)
    assert "tokenizer.json" not in hashed
