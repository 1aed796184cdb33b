"""`vishwamai generate`: the completion on standard output, as the face gives it."""

import shutil

import jax.numpy as jnp
import pytest

from vishwamai import VishwamAI
from vishwamai.cli import main
from vishwamai.hf import adapters, config
from vishwamai.models import transformer
from vishwamai.weights import lora, spec

from .conftest import refused, type_in


def test_generate_prints_the_completion(capsys, monkeypatch, folder):
    want = VishwamAI.from_pretrained(folder).complete("hi", max_new_tokens=8)[0]
    type_in(monkeypatch, b"hi\n")
    assert main(["generate", "-", "-m", str(folder), "-n", "8", "--stats"]) == 0
    out, err = capsys.readouterr()
    assert out == want + "\n" and err.startswith("8 tokens, ")


def test_beams_have_stats_too(capsys, folder):
    want = VishwamAI.from_pretrained(folder).complete("hi", max_new_tokens=8, num_beams=2)[0]
    assert main(["generate", "hi", "-m", str(folder), "-n", "8", "--num-beams", "2", "--stats"]) == 0
    out, err = capsys.readouterr()
    assert out == want + "\n" and err.startswith("8 tokens, ")


@pytest.mark.parametrize("beams", [[], ["--num-beams", "2"]])
def test_a_text_that_fills_the_context_says_so(capsys, folder, beams):
    assert main(["generate", "hi", "-m", str(folder), "-n", "1000", *beams]) == 0
    assert "cut: the model's context of 64 tokens is full\n" in capsys.readouterr().err
    assert main(["generate", "hi", "-m", str(folder), "-n", "8", *beams]) == 0
    assert capsys.readouterr().err == ""


def test_a_sampling_flag_samples(capsys, folder):
    want = VishwamAI.from_pretrained(folder).complete("hi", max_new_tokens=8, do_sample=True, temperature=2.0, seed=4)
    assert main(["generate", "hi", "-m", str(folder), "-n", "8", "-t", "2", "--seed", "4"]) == 0
    assert capsys.readouterr().out == want[0] + "\n"


def test_the_stats_say_which_dtype_was_taken(capsys, folder):
    assert main(["generate", "hi", "-m", str(folder), "-n", "8", "--stats"]) == 0
    assert capsys.readouterr().err.endswith("; float32: the checkpoint's own; each layer compiled by itself\n")


@pytest.mark.filterwarnings("default")
def test_warnings_are_sentences(capsys, folder):
    assert main(["generate", "hi", "-m", str(folder), "-n", "8", "--max-length", "30"]) == 0
    for line in capsys.readouterr().err.splitlines():
        assert line == "vishwamai: warning: both are given: max_new_tokens=8 wins over max_length=30"


def test_a_folder_that_asks_for_beams_gets_them(capsys, folder, tmp_path):
    shutil.copytree(folder, tmp_path / "beams")
    (tmp_path / "beams" / "generation_config.json").write_text('{"num_beams": 2, "eos_token_id": 257}')
    assert main(["generate", "hi", "-m", str(tmp_path / "beams"), "-n", "8"]) == 0
    assert (
        capsys.readouterr().out
        == VishwamAI.from_pretrained(folder).complete("hi", max_new_tokens=8, num_beams=2)[0] + "\n"
    )


def test_an_adapter_is_put_on_the_model(capsys, monkeypatch, folder, tmp_path):
    found, used = config.read_pretrained(folder), []
    declared = lora.specs(transformer.specs(found.model), rank=1, alpha=1.0, targets=["attn.q"])
    adapters.save_adapter(
        tmp_path, spec.map_params(lambda p: jnp.ones(p.shape), declared), found.model, found.model_type
    )
    monkeypatch.setattr(
        VishwamAI, "stream", lambda model, *_, **__: used.append(model.weights.stacks[0][0].attn.q) or []
    )
    assert main(["generate", "hi", "-m", str(folder), "--adapter", str(tmp_path)]) == 0
    assert [lora.is_low_rank(q) for q in used] == [True]
    capsys.readouterr()
    assert "this is an adapter and no model" in refused(capsys, "generate", "hi", "-m", str(tmp_path))


def test_a_prompt_longer_than_the_context(capsys, folder):
    sentence = refused(capsys, "generate", "x" * 65, "-m", str(folder))
    assert "65" in sentence and "64" in sentence


def test_an_argument_that_is_not_utf8(capsys, folder):
    assert "not UTF-8" in refused(capsys, "generate", "abc\udcff", "-m", str(folder))


@pytest.mark.parametrize(
    ("option", "value"),
    [
        ("--temperature", "nan"),
        ("--temperature", "inf"),
        ("--temperature", "-1"),
        ("--max-new-tokens", "-5"),
        ("--max-length", "-5"),
        ("--max-new-tokens", "0"),
        ("--top-k", "-2"),
        ("--top-p", "nan"),
        ("--top-p", "1.5"),
        ("--min-p", "-0.5"),
        ("--repetition-penalty", "0"),
        ("--repetition-penalty", "nan"),
        ("--num-beams", "0"),
        ("--num-beams", "100000"),
        ("--num-beams", "100000000000"),
        ("--stop", ""),
    ],
)
def test_numbers_out_of_range(capsys, folder, option, value):
    sentence = refused(capsys, "generate", "hi", "-m", str(folder), option, value)
    assert option.strip("-").replace("-", "_") in sentence


def test_a_length_shorter_than_the_prompt(capsys, folder):
    assert "max_length" in refused(capsys, "generate", "hello", "-m", str(folder), "--max-length", "3")
