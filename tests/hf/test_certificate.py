"""The certificate: hashes against hashlib, distances against logits that transformers gave, and what is not there."""

import hashlib
import importlib.util
import json
from pathlib import Path

import numpy as np
import pytest

from vishwamai.errors import CheckpointError
from vishwamai.hf import certificate, config, convert, reference, weights
from vishwamai.hf.certificate import TokenPrompt
from vishwamai.models.config import ModelConfig, uniform

spec = importlib.util.spec_from_file_location("stored_logits", Path(__file__).with_name("test_references.py"))
references = importlib.util.module_from_spec(spec)
spec.loader.exec_module(references)

ASKED = [TokenPrompt(tuple(references.TOKENS[0].tolist()))]
CFG = ModelConfig(vocab_size=300, d_model=8, d_ff=8, n_heads=1, n_kv_heads=1, head_dim=8, stacks=uniform(1))


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    folder = tmp_path_factory.mktemp("llama")
    references.write(folder, references.CASES["llama"])
    return folder


@pytest.fixture
def target(source, tmp_path):
    convert.convert_checkpoint(source, tmp_path / "new")
    return tmp_path / "new"


def stored(folder, rows):
    """What transformers gave for the Llama."""
    with np.load(references.LOGITS) as logits:
        return [logits["llama"]]


def raising(error):
    def raises(folder, rows):
        raise error

    return raises


def test_what_is_recorded(source, target, monkeypatch):
    monkeypatch.setattr(reference, "logits", stored)
    made = certificate.write_certificate(source, target, ASKED, name="ours/llama")
    assert json.loads((target / "parity.json").read_text()) == json.loads(json.dumps(made))
    for side, folder in (("source", source), ("target", target)):
        files = {
            p.name: hashlib.sha256(p.read_bytes()).hexdigest() for p in folder.iterdir() if p.name != "parity.json"
        }
        assert made[side]["files"] == files and files.keys() >= {"config.json", "model.safetensors"}
    assert (made["source"]["name"], made["target"]["dtype"]) == ("ours/llama", "float32")
    assert made["prompts"][0]["tokens"] == tuple(references.TOKENS[0]) and made["versions"]["jax"]
    assert made["source_to_target"]["distance"] == 0 and made["source_to_target"]["same_greedy_token"] == 1
    assert 0 < made["target_to_transformers"]["distance"] <= 1e-5
    assert made["target_to_transformers"]["positions"] == 24


def test_a_target_in_fewer_bits_is_further_away(source, tmp_path, monkeypatch):
    convert.convert_checkpoint(source, tmp_path / "new", dtype="bfloat16")
    monkeypatch.setattr(reference, "logits", raising(ModuleNotFoundError("no", name="transformers")))
    made = certificate.write_certificate(source, tmp_path / "new", ASKED, name="x")
    before, after = (
        certificate.checkpoint_logits(folder, [ASKED[0].tokens])[0] for folder in (source, tmp_path / "new")
    )
    wanted = np.abs(after - before).max() / np.abs(before).max()
    assert made["source_to_target"]["distance"] == pytest.approx(wanted) and 1e-4 < wanted < 0.1
    assert made["target_to_transformers"] == {
        "distance": None,
        "reason": "transformers cannot be asked: transformers is not installed",
    }


def test_rows_of_other_lengths_change_nothing(source):
    long, short = references.TOKENS[0].tolist(), references.TOKENS[0, :9].tolist()
    together, alone = (
        certificate.checkpoint_logits(source, [short, long]),
        certificate.checkpoint_logits(source, [long]),
    )
    assert [len(x) for x in together] == [9, 24]
    np.testing.assert_allclose(together[0], alone[0][:9], atol=1e-5)


def test_a_distance_by_hand():
    mine, theirs = [np.array([[1.0, 2.0], [0.0, -3.0]])], [np.array([[1.0, 1.5], [0.5, -4.0]])]
    made = certificate.logit_distance(mine, theirs)
    assert (made["distance"], made["largest_difference"], made["largest_logit"]) == (0.25, 1.0, 4.0)
    assert made["same_greedy_token"] == 1.0
    assert certificate.logit_distance([np.array([[2.0, 1.0]])], [np.array([[1.0, 2.0]])])["same_greedy_token"] == 0
    assert "not finite" in certificate.logit_distance([np.array([[np.nan]])], [np.array([[1.0]])])["reason"]
    assert "[1, 1] and of [1, 2]" in certificate.logit_distance([np.ones((1, 1))], [np.ones((1, 2))])["reason"]


def test_what_could_not_be_compared_is_said_in_words(source, target, monkeypatch):
    def reasons():
        made = certificate.write_certificate(source, target, ASKED, name="x")
        return [made[key].get("reason", "") for key in certificate.DISTANCES]

    monkeypatch.setattr(reference, "logits", raising(ValueError("no such family\nand more")))
    assert reasons() == ["", "transformers gave no logits: ValueError: no such family"]
    monkeypatch.setattr(certificate, "free_memory", lambda: 1000)
    assert reasons() == ["skipped: it needs 0.0 GiB of memory, and 0.0 GiB are free"] * 2
    monkeypatch.undo()
    monkeypatch.setattr(certificate.weights, "load_weights", raising(RuntimeError("RESOURCE_EXHAUSTED: Out of memory")))
    monkeypatch.setattr(certificate, "checkpoint_logits", lambda *_: certificate.weights.load_weights(None, None))
    assert reasons() == ["our logits could not be computed: RESOURCE_EXHAUSTED: Out of memory"] * 2


def test_our_own_format_has_no_reference(source, tmp_path):
    convert.convert_checkpoint(source, tmp_path / "new", model_type="vishwamai")
    made = certificate.write_certificate(source, tmp_path / "new", ASKED, name="x")
    assert made["source_to_target"]["distance"] == 0
    assert "own format" in made["target_to_transformers"]["reason"]


def test_hashes_alone_load_no_model(source, target, monkeypatch):
    monkeypatch.setattr(certificate, "checkpoint_logits", raising(AssertionError))
    made = certificate.write_certificate(source, target, [], name="x", compare=False)
    assert made["source_to_target"] == {"distance": None, "reason": "it was not computed"}
    assert certificate.changed_files(target) == []


def test_hashes_are_written_before_a_model_is_loaded(source, target, monkeypatch):
    monkeypatch.setattr(certificate, "checkpoint_logits", raising(KeyboardInterrupt))
    with pytest.raises(KeyboardInterrupt):
        certificate.write_certificate(source, target, ASKED, name="x")
    assert certificate.changed_files(target) == []


def test_what_differs_from_a_certificate_is_named(source, target):
    certificate.write_certificate(source, target, [], name="x", compare=False)
    raw = bytearray((target / "model.safetensors").read_bytes())
    raw[-1] ^= 1
    (target / "model.safetensors").write_bytes(raw)
    (target / "generation_config.json").unlink()
    (target / "more.json").write_text("{}")
    assert certificate.changed_files(target) == [
        "generation_config.json is missing",
        "model.safetensors is not the file that was certified",
        "more.json was not there",
    ]


@pytest.mark.parametrize("torn", [None, '{"format": 1, "target": {"fi', "{}", '{"target": {"files": {"a": 1}}}'])
def test_a_certificate_that_is_missing_or_torn_is_an_error_and_never_in_the_way(torn, target):
    if torn is not None:
        (target / "parity.json").write_text(torn)
    with pytest.raises(CheckpointError, match="certificate"):
        certificate.changed_files(target)
    weights.load_weights(target, config.read_pretrained(target))


def test_prompts_are_texts_where_a_tokenizer_fits_and_seeded_ids_elsewhere():
    texts = certificate.choose_prompts(CFG, lambda text: list(text.encode()))
    assert [p.text for p in texts] == list(certificate.TEXTS) and texts[0].tokens == tuple(texts[0].text.encode())
    assert all(0 < len(p.tokens) <= certificate.LONGEST for p in texts)
    for encode in (None, lambda text: [300], lambda text: []):
        drawn = certificate.choose_prompts(CFG, encode)
        assert drawn == certificate.choose_prompts(CFG) and {p.text for p in drawn} == {None}
        assert 0 <= min(drawn[1].tokens) and max(drawn[1].tokens) < 300 and len(drawn[1].tokens) == 48


def test_memory_is_told_in_bytes():
    assert certificate.needed_memory(CFG, [(1, 2), (3,)]) > 4 * (300 * 8 + 3 * 4 * 300)
    assert certificate.free_memory() is None or certificate.free_memory() > 2**20


@pytest.mark.parity
@pytest.mark.parametrize("case", ["llama3", "qwen3_moe", "gemma2", "gpt_oss", "deepseek_v3", "phi3", "gpt2"])
def test_the_certificate_is_near_transformers(case, tmp_path):
    (tmp_path / "source").mkdir()
    references.write(tmp_path / "source", references.CASES[case])
    convert.convert_checkpoint(tmp_path / "source", tmp_path / "new", dtype="bfloat16")
    found = config.read_pretrained(tmp_path / "source")
    made = certificate.write_certificate(
        tmp_path / "source", tmp_path / "new", certificate.choose_prompts(found.model), name=case
    )
    assert made["target_to_transformers"]["distance"] <= 1e-5, made["target_to_transformers"]
    assert made["target_to_transformers"]["same_greedy_token"] == 1
    assert made["source_to_target"]["distance"] > 0  # and not small where rounding sends a token to another expert
    assert made["versions"]["torch"] and made["versions"]["transformers"]
