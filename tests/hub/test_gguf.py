"""GGUF files by name: of a folder, of the cache, and of a repository of the fake hub."""

import json
import os
from pathlib import Path

import pytest

from vishwamai import hub
from vishwamai.errors import HubError
from vishwamai.hub import gguf

SPLIT = [f"q8/big-0000{i}-of-00003.gguf" for i in (1, 2, 3)]
HEAD = b"GGUF"


def touch(folder: Path, *names: str) -> Path:
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(HEAD)
    return folder


def test_the_files_of_one_model():
    for file in SPLIT:
        assert gguf.model_files(file) == SPLIT
    for file in ("a.gguf", "a-1-of-3.gguf", "a-00001-of-00000.gguf", "a-00001-of-99999.gguf"):
        assert gguf.model_files(file) == [file]


def test_a_local_file_is_itself(tmp_path):
    file = touch(tmp_path, "a.gguf") / "a.gguf"
    assert hub.resolve(file) == file == hub.resolve(str(file), part="config")
    for refused, said in (
        (tmp_path / "b.gguf", "there is no file"),
        ("owner/b.gguf", "give owner/model and gguf_file"),
    ):
        with pytest.raises(HubError, match=said):
            hub.resolve(refused)
    with pytest.raises(HubError, match="is a file"):
        hub.resolve(file, part="adapter")


def test_the_only_model_of_a_folder(tmp_path):
    touch(tmp_path, "a.gguf", "mmproj-a.gguf", "imatrix.gguf", "config.json")
    assert hub.resolve(tmp_path) == tmp_path / "a.gguf" == hub.resolve(tmp_path, part="config")
    assert hub.resolve(tmp_path, gguf_file="a.gguf") == tmp_path / "a.gguf"
    assert hub.resolve(tmp_path, part="adapter") == tmp_path
    touch(tmp_path, "b.gguf")
    with pytest.raises(HubError, match=r"several models in GGUF: a\.gguf, b\.gguf; name one.*--gguf-file"):
        hub.resolve(tmp_path)
    assert hub.resolve(tmp_path, gguf_file="b.gguf") == tmp_path / "b.gguf"
    with pytest.raises(HubError, match=r"there is no file c\.gguf; GGUF files of models are: a\.gguf, b\.gguf"):
        hub.resolve(tmp_path, gguf_file="c.gguf")
    touch(tmp_path, "model.safetensors")
    assert hub.resolve(tmp_path) == tmp_path and hub.resolve(tmp_path, gguf_file="a.gguf") == tmp_path / "a.gguf"


def test_a_split_model_is_one(tmp_path):
    touch(tmp_path, *SPLIT)
    assert hub.resolve(tmp_path / "q8") == tmp_path / SPLIT[0] == hub.resolve(tmp_path, gguf_file=SPLIT[1])


@pytest.mark.parametrize(
    "name", ["../a.gguf", "/a.gguf", "a.bin", "a\\b.gguf", "x/../../a.gguf", "a\n.gguf", ".gguf/.."]
)
def test_what_is_no_name_of_a_file_in_a_folder(name, tmp_path):
    for place in (tmp_path, "ours/tiny", "vishwamai/base"):
        with pytest.raises(HubError, match="is no name of a GGUF file"):
            hub.resolve(place, gguf_file=name)


@pytest.mark.by_turns
def test_a_file_of_a_repository_is_downloaded_alone(fake_hub, ask):
    names = ["README.md", "config.json", "a.Q4_0.gguf", "a.Q8_0.gguf", "mmproj.gguf", *SPLIT]
    fake_hub.repo().commit({name: name.encode() for name in names})
    questions = [("ours/tiny", {"gguf_file": name}) for name in ("a.Q8_0.gguf", SPLIT[1])]
    (one, split), said = ask(*questions)
    assert said == "" and Path(one).read_bytes() == b"a.Q8_0.gguf" and split.endswith(SPLIT[0])
    folder = Path(one).parent
    assert {p.relative_to(folder).as_posix() for p in folder.rglob("*.*")} == {"a.Q8_0.gguf", *SPLIT}
    asked = len(fake_hub.seen)
    assert ask(*questions)[0] == [one, split] == ask(*questions, HF_HUB_OFFLINE="1")[0]
    assert len(fake_hub.seen) == asked
    several = "several models in GGUF: a.Q4_0.gguf, a.Q8_0.gguf, q8/big-00001-of-00003.gguf; name one of them"
    (none, wrong), _ = ask(("ours/tiny", {}), ("ours/tiny", {"gguf_file": "b.gguf"}))
    assert f"refused: ours/tiny has {several}" in none
    assert "ours/tiny: there is no file b.gguf; GGUF files of models are: a.Q4_0.gguf" in wrong


@pytest.mark.by_turns
def test_the_only_model_of_a_repository(fake_hub, ask):
    fake_hub.repo().commit({"README.md": b"", "a.gguf": HEAD, "mmproj-a.gguf": HEAD})
    for part in ("config", "model"):
        [found], _ = ask(("ours/tiny", {"part": part}))
        assert os.path.basename(found) == "a.gguf" and Path(found).read_bytes() == HEAD
    asked = len(fake_hub.seen)
    assert ask(("ours/tiny", {}))[0] == [found] and len(fake_hub.seen) == asked
    listing = Path(found).parents[2] / "trees"
    for file in listing.iterdir():  # older clients write none
        json.loads(file.read_text())
        file.unlink()
    assert ask(("ours/tiny", {}), HF_HUB_OFFLINE="1")[0] == [found]


@pytest.mark.by_turns
def test_the_configuration_of_a_model_in_gguf_alone_is_in_its_file(fake_hub, ask):
    files = {"config.json": b"{}", "a.gguf": HEAD, "1/model.safetensors": b""}
    fake_hub.repo().commit(files)
    question = ("ours/tiny", {"part": "config"})
    found, _ = ask(question)
    folder = Path(found[0]).parent
    assert found == [str(folder / "a.gguf")] and (folder / "config.json").exists()
    assert ask(question, HF_HUB_OFFLINE="1")[0] == found
    for listing in (folder.parents[1] / "trees").iterdir():  # older clients write none
        listing.unlink()
    assert ask(question)[0] == ask(question, HF_HUB_OFFLINE="1")[0] == found
    commit = fake_hub.repo().commit(files | {"model.safetensors": b""})
    assert ask(("ours/tiny", {"part": "config", "revision": commit}))[0] == [str(folder.with_name(commit))]


@pytest.mark.by_turns
def test_a_damaged_download_is_removed(fake_hub, ask):
    fake_hub.repo().commit({"a.gguf": HEAD * 100})
    fake_hub.breaks("a.gguf", flip=True)
    question = ("ours/tiny", {"gguf_file": "a.gguf"})
    [said], _ = ask(question)
    assert "a.gguf arrived damaged" in said
    assert Path(ask(question)[0][0]).read_bytes() == HEAD * 100
