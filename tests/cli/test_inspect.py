"""`vishwamai inspect`: tables and JSON of what `hf.inspection` finds, without weights, and the exit code."""

import json

from vishwamai import VishwamAI, hub
from vishwamai.cli import inspect as verb
from vishwamai.cli import main
from vishwamai.hf import certificate, inspection
from vishwamai.models import cost

from .conftest import refused


def test_inspect_counts_without_weights(capsys, folder, tmp_path):
    (tmp_path / "config.json").write_bytes((folder / "config.json").read_bytes())
    assert main(["inspect", str(tmp_path)]) == 0
    out = capsys.readouterr().out
    config = VishwamAI.from_pretrained(folder).config
    assert f"{cost.count_parameters(config).total:,}" in out and f"{cost.count_parameters(config).active:,}" in out
    assert "qwen3_moe" in out and "2 x (full experts)" in out
    assert "there are no weights to look at" in out and "nothing that it has is unsupported" in out


def test_a_name_in_brackets_is_shown_as_it_is(capsys, monkeypatch, folder, tmp_path):
    (tmp_path / "[red]").symlink_to(folder)
    monkeypatch.chdir(tmp_path)
    assert main(["inspect", "[red]"]) == 0
    assert capsys.readouterr().out.startswith("[red]  qwen3_moe\n")


def test_inspect_fetches_the_configuration_alone(capsys, monkeypatch, folder):
    asked = []

    def download(repo, revision=None, *, part="model", gguf_file=None):
        asked.append((repo, revision, part))
        return folder

    monkeypatch.setattr(hub, "download", download)
    monkeypatch.setattr(hub, "find_cached", lambda *args, **options: None)
    assert main(["inspect", "ours/tiny", "--revision", "v1"]) == 0
    assert asked == [("ours/tiny", "v1", "config")] and "ours/tiny" in capsys.readouterr().out


def test_an_adapter_is_no_model(capsys, tmp_path):
    (tmp_path / "adapter_config.json").write_text('{"base_model_name_or_path": "ours/tiny"}')
    assert "this is an adapter and no model: load ours/tiny, and" in refused(capsys, "inspect", str(tmp_path))


def test_inspection_of_an_empty_cache(capsys, folder):
    assert "1 or more" in refused(capsys, "inspect", str(folder), "--length", "0")


def test_stored_dtypes_are_shown(capsys, folder):
    assert main(["inspect", str(folder)]) == 0
    out = capsys.readouterr().out.partition("stored")[2]
    assert "float32" in out and "it is loaded in float32" in out


def test_what_is_not_supported_is_shown_and_the_exit_code_says_so(capsys, damaged):
    model = damaged("config.json", lambda raw: raw.replace(b"{", b'{"banana[/]": 3, "auto_map": {"a": "b"},', 1))
    assert main(["inspect", model]) == 2
    out, err = capsys.readouterr()
    assert "banana[/]" in out and "auto_map" in out and "never done" in out and err == ""
    assert "counted without" in out and "2 x (full experts)" in out and "is unsupported" not in out


def test_long_lists_of_problems_are_cut(capsys, damaged, monkeypatch):
    model = damaged("config.json", lambda raw: raw.replace(b"{", b'{"a1": 1, "a2": 2, "a3": 3,', 1))
    monkeypatch.setattr(verb, "SHOWN", 2)
    assert main(["inspect", model]) == 2
    out = capsys.readouterr().out
    assert "a2" in out and "a3" not in out and "and 1 more" in out


def test_json_is_the_same(capsys, damaged, folder):
    assert main(["inspect", str(folder), "--json", "--length", "8"]) == 0
    told = json.loads(capsys.readouterr().out)
    found = inspection.inspect_checkpoint(folder, length=8)
    assert told["parameters"] == found.parameters and told["problems"] == [] and told["model"] == str(folder)
    assert told["memory"] == found.memory and told["stored"][0]["size"] == found.stored[0].size
    assert main(["inspect", damaged("config.json", lambda raw: raw.replace(b"{", b'{"banana": 3,', 1)), "--json"]) == 2
    [problem] = json.loads(capsys.readouterr().out)["problems"]
    assert (problem["name"], problem["value"]) == ("banana", "3")


def test_verification(capsys, damaged, folder):
    copy = damaged("nothing", None)
    assert "no certificate" in refused(capsys, "inspect", copy, "--verify")
    files = certificate.hash_files((path.name, path) for path in folder.iterdir())
    with open(f"{copy}/parity.json", "w") as file:
        json.dump({"target": {"files": files}}, file)
    assert main(["inspect", copy, "--verify"]) == 0
    assert "every file is as parity.json states" in capsys.readouterr().out
    with open(f"{copy}/config.json", "a") as file:
        file.write("\n")
    assert main(["inspect", copy, "--verify"]) == 2
    assert capsys.readouterr().out == "config.json is not the file that was certified\n"
    assert main(["inspect", copy, "--verify", "--json"]) == 2
    assert json.loads(capsys.readouterr().out)["differences"] == ["config.json is not the file that was certified"]
