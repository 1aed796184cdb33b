"""Names that lead to folders, local or cached as the hub's client lays files out; and those that do not."""

import json

import pytest

from vishwamai import hub
from vishwamai.errors import HubError
from vishwamai.hub import cache

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


def test_the_adapter_of_a_run_is_found_in_its_folder(tmp_path):
    (tmp_path / "adapter").mkdir()
    assert hub.resolve(tmp_path, part="adapter") == tmp_path
    for file in hub.WANTED["adapter"]:
        (tmp_path / "adapter" / file).touch()
    assert hub.resolve(tmp_path, part="adapter") == tmp_path / "adapter" and hub.resolve(tmp_path) == tmp_path
    for file in hub.WANTED["adapter"]:
        (tmp_path / file).touch()
    assert hub.resolve(tmp_path, part="adapter") == tmp_path


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
    under = cached(repo="_ours/_tiny")
    assert hub.resolve("_ours/_tiny") == under


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
    assert cache.find_cached("ours/tiny", part="tokenizer") == snapshot
    assert cache.find_cached("ours/tiny", part="config") is None
    (snapshot / "tokenizer.json").rename(snapshot / "config.json")
    assert cache.find_cached("ours/tiny", part="tokenizer") is None
    assert cache.find_cached("ours/tiny", part="config") == snapshot


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
        ("vishwamai/bsae", r"bsae is no folder and not built in.*; did you mean vishwamai/base\?"),
        ("vishwamai/xyzzy-7b", "as vishwamai/base and vishwamai/countdown are"),
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


def test_a_blob_that_repositories_share_is_inside_the_cache(cached, tmp_path):
    snapshot, shared = cached(files=()), tmp_path / "home" / "hub" / "blobs" / "ab" / ("ab" * 32)
    shared.parent.mkdir(parents=True)
    shared.write_text("")
    (snapshot.parents[1] / "blobs" / "x").symlink_to(f"../../blobs/ab/{shared.name}")
    (snapshot / "model.safetensors").symlink_to("../../blobs/x")
    assert hub.member(snapshot, "model.safetensors").resolve() == shared


def test_online_a_snapshot_has_all_that_its_listing_names(cached):
    snapshot = cached(files=("config.json", "model.safetensors", "x.py"))
    listing = snapshot.parents[1] / "trees" / f"{COMMIT}.json"
    listing.parent.mkdir()
    names = ["config.json", "model.safetensors", "pytorch_model.bin", "original/consolidated.safetensors"]
    listing.write_text(json.dumps({"files": dict.fromkeys(names)}))
    assert cache.find_cached("ours/tiny", whole=True) == snapshot
    listing.write_text(json.dumps({"files": dict.fromkeys([*names, "tokenizer.json"])}))
    assert cache.find_cached("ours/tiny", whole=True) is None
    assert cache.find_cached("ours/tiny", part="config", whole=True) == snapshot
    assert hub.resolve("ours/tiny") == snapshot
    listing.write_text("no listing")
    assert cache.find_cached("ours/tiny", whole=True) == snapshot
