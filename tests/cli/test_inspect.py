"""`vishwamai inspect`: counts from the configuration alone."""

from vishwamai import VishwamAI, hub
from vishwamai.cli import main
from vishwamai.models import cost

from .conftest import refused


def test_inspect_counts_without_weights(capsys, folder, tmp_path):
    (tmp_path / "config.json").write_bytes((folder / "config.json").read_bytes())
    assert main(["inspect", str(tmp_path)]) == 0
    out = capsys.readouterr().out
    config = VishwamAI.from_pretrained(folder).config
    assert f"{cost.parameters(config).total:,}" in out and f"{cost.parameters(config).active:,}" in out
    assert "qwen3_moe" in out and "2 x (full experts)" in out


def test_a_name_in_brackets_is_shown_as_it_is(capsys, monkeypatch, folder, tmp_path):
    (tmp_path / "[red]").symlink_to(folder)
    monkeypatch.chdir(tmp_path)
    assert main(["inspect", "[red]"]) == 0
    assert capsys.readouterr().out.startswith("[red]  qwen3_moe\n")


def test_inspect_fetches_the_configuration_alone(capsys, monkeypatch, folder):
    asked = []

    def download(repo, revision=None, *, part="model"):
        asked.append((repo, part))
        return folder

    monkeypatch.setattr(hub, "download", download)
    monkeypatch.setattr(hub, "find_cached", lambda *args, **options: None)
    assert main(["inspect", "ours/tiny"]) == 0
    assert asked == [("ours/tiny", "config")] and "ours/tiny" in capsys.readouterr().out


def test_inspection_of_an_empty_cache(capsys, folder):
    assert "1 or more" in refused(capsys, "inspect", str(folder), "--length", "0")
