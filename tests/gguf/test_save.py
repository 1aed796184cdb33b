"""Models of this library as GGUF files: a loaded one's `save_gguf`, and training runs'."""

import dataclasses
import math
import shutil

import jax
import numpy as np
import pytest

from vishwamai import VishwamAI, VishwamAITokenizer, hub
from vishwamai.cli import main
from vishwamai.errors import CheckpointError, InputError
from vishwamai.gguf.convert import convert_to_gguf
from vishwamai.gguf_header import read_header
from vishwamai.hf import safetensors
from vishwamai.hf.safetensors import LazyTensor
from vishwamai.models import transformer
from vishwamai.models.config import ModelConfig, uniform
from vishwamai.text.split_patterns import SPLITS
from vishwamai.weights import quantize
from vishwamai.weights.quantize import Scheme

SIZES = {"vocab_size": 300, "d_model": 32, "d_ff": 64, "n_heads": 2, "n_kv_heads": 1, "head_dim": 16}
IDS = [[5, 90, 200, 17, 259, 1, 30]]
TEXT = "the cat sat, <|eos|> 12 mice"


def cats(pattern: str | None) -> VishwamAITokenizer:
    return VishwamAITokenizer.train(["the cat sat on the mat with 12 other cats"] * 9, 290, pattern=pattern)


@pytest.fixture
def model():
    tokenizer = cats(SPLITS["qwen2"].patterns[0])
    return VishwamAI.from_config(ModelConfig(**SIZES, stacks=uniform(2), max_length=64), tokenizer=tokenizer)


def assert_same_model(a: VishwamAI, b: VishwamAI) -> None:
    np.testing.assert_allclose(a(IDS), b(IDS), rtol=0, atol=1e-5 * np.abs(a(IDS)).max())
    assert a.tokenizer.encode(TEXT) == b.tokenizer.encode(TEXT)
    assert a.generation_config.eos_ids == b.generation_config.eos_ids


def test_a_model_is_saved(model, tmp_path):
    model.save_gguf(tmp_path / "new" / "cats.gguf")
    assert [path.name for path in (tmp_path / "new").iterdir()] == ["cats.gguf"]
    assert_same_model(model, VishwamAI.from_pretrained(tmp_path / "new" / "cats.gguf"))
    metadata = read_header(tmp_path / "new" / "cats.gguf").metadata
    assert metadata["general.name"] == "cats" and metadata["tokenizer.ggml.pre"] == "qwen2"


def test_a_model_in_fewer_bits_is_saved_as_the_numbers_that_these_stand_for(model, tmp_path):
    model.weights = quantize.quantize(model.weights, transformer.specs(model.config), Scheme.named("int8"))
    model.save_gguf(tmp_path / "a.gguf", kind="f32")
    assert_same_model(model, VishwamAI.from_pretrained(tmp_path / "a.gguf"))


def test_what_is_not_saved(model, tmp_path, monkeypatch):
    (tmp_path / "a.gguf").touch()
    with monkeypatch.context() as patch:
        patch.setattr(VishwamAI, "save_pretrained", None)  # refused before anything is written
        with pytest.raises(InputError, match="is there already"):
            model.save_gguf(tmp_path / "a.gguf")
        with pytest.raises(InputError, match="type 'q3' is not written; use f32, "):
            model.save_gguf(tmp_path / "b.gguf", kind="q3")
        with pytest.raises(CheckpointError, match="cannot be"):
            model.save_gguf(tmp_path / "a.gguf" / "b.gguf")
    model.config = dataclasses.replace(model.config, d_ff=32)
    with pytest.raises(CheckpointError, match="not of this configuration's shapes"):
        model.save_gguf(tmp_path / "b.gguf")
    assert [path.name for path in tmp_path.iterdir()] == ["a.gguf"]


def test_a_tokenizer_that_llama_cpp_does_not_know(model, tmp_path):
    own = VishwamAI(model.config, model.weights, tokenizer=cats(None))
    with pytest.warns(UserWarning, match="llama.cpp has no name for how this tokenizer splits texts"):
        own.save_gguf(tmp_path / "a.gguf")
    assert_same_model(own, VishwamAI.from_pretrained(tmp_path / "a.gguf"))


def round_to_q8_0(v: np.ndarray) -> np.ndarray:
    """The numbers that blocks of 32 along the last axis keep: wholes up to 127, halves away from 0, times a float16."""
    blocks = v.reshape(*v.shape[:-1], -1, 32)
    step = np.abs(blocks).max(-1, keepdims=True) / np.float32(127)
    whole = blocks * (np.float32(1) / np.where(step == 0, np.float32(1), step))
    whole = np.trunc(whole + np.copysign(np.float32(0.5), whole))
    return (whole * step.astype(np.float16).astype(np.float32)).reshape(v.shape)


@pytest.mark.by_turns
@pytest.mark.filterwarnings("ignore:llama.cpp has no name")
def test_what_8_bits_do_to_the_built_in_model_is_their_rounding_alone(tmp_path):
    """Its logits are up to 0.22 of the largest away, for another expert is chosen at some tokens."""
    source = hub.resolve("vishwamai/base")
    convert_to_gguf(source, tmp_path / "a.gguf", kind="q8_0")
    shutil.copytree(source, tmp_path / "hf", ignore=shutil.ignore_patterns("*.safetensors"))
    tensors = []
    for name, tensor in safetensors.read_folder(source).items():
        v = np.fromfile(tensor.path, tensor.dtype, math.prod(tensor.shape), offset=tensor.start).astype("f4")
        v = v.reshape(tensor.shape)
        v = round_to_q8_0(v) if v.ndim == 2 and not name.endswith("mlp.gate.weight") else v
        tensors.append(LazyTensor(name, v.shape, v.dtype, lambda v=v: v))
    safetensors.write_folder(tmp_path / "hf", tensors, max_file_bytes=2**30)
    a, b = (VishwamAI.from_pretrained(tmp_path / name, dtype="float32") for name in ("hf", "a.gguf"))
    for rounded, read in zip(jax.tree.leaves(a.weights), jax.tree.leaves(b.weights), strict=True):
        np.testing.assert_array_equal(rounded, read)
    assert_same_model(a, b)


@pytest.mark.by_turns
@pytest.mark.filterwarnings("ignore:llama.cpp has no name")
def test_a_training_run_is_converted(tmp_path, capsys):
    run, few = tmp_path / "run", ("training.steps=2", "training.batch=2", "logging.eval_batches=0")
    assert main(["train", "configs/train/smoke.json", *few, "-o", str(run)]) == 0
    for source, name in ((run / "model", "model.gguf"), (run, "newest.gguf")):
        assert main(["convert", str(source), str(tmp_path / name), "--type", "f32"]) == 0
        assert_same_model(VishwamAI.from_pretrained(run / "model"), VishwamAI.from_pretrained(tmp_path / name))
        assert read_header(tmp_path / name).metadata["general.name"] == name.removesuffix(".gguf")
    assert "logits differ by 0.0e+00" in capsys.readouterr().out
