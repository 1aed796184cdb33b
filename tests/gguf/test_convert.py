"""GGUF out: for each architecture what is written is read back as the same model, and gives the logits that llama.cpp
gave once for the same file; what files cannot say is refused; a file is whole or not there.

`llama_cpp_logits.npz` has llama.cpp's logits. `python -m tests.gguf.test_convert PYTHON` stores them anew, where
PYTHON is an interpreter that has llama-cpp-python (0.3.36 it was).
"""

import contextlib
import os
import random
import re
import subprocess
import sys
import tempfile
from pathlib import Path

import jax
import numpy as np
import pytest

from vishwamai.cli import main
from vishwamai.errors import CheckpointError, ConfigError, InputError
from vishwamai.gguf.config import ARCHITECTURES, config_json, describe
from vishwamai.gguf.convert import convert_to_gguf
from vishwamai.gguf.source import GGUFSource
from vishwamai.gguf_header import TensorInfo, read_header
from vishwamai.hf import config, safetensors, weights
from vishwamai.hf.export import differing_fields
from vishwamai.hf.families import FAMILIES
from vishwamai.hf.generation_config import GenerationConfig, parse_settings
from vishwamai.hf.safetensors import LazyTensor
from vishwamai.models import transformer

from .conftest import CASES, REFERENCES, YARN, write_folder

pytestmark = pytest.mark.filterwarnings("ignore:llama.cpp overlooks")

STORED = Path(__file__).parent / "llama_cpp_logits.npz"
TOKENS = np.random.default_rng(7).integers(0, 61, 24)
OVERLOOKED = {  # what llama.cpp computes otherwise: windows, groups of experts (V2), yarn whose bounds are not whole,
    # factors by the length of a text (it takes its room, 256 or more)
    "mistral": {"sliding_window": None},
    "mixtral_window": {"sliding_window": None},
    "phi3": {"sliding_window": None},
    "phi4_mini": {"sliding_window": None},
    "phi3_longrope": {
        "max_position_embeddings": 1024,
        "original_max_position_embeddings": 512,
        "rope_parameters": CASES["phi3_longrope"]["rope_parameters"] | {"original_max_position_embeddings": 512},
    },
    "starcoder2": {"sliding_window": None},
    "deepseek_v2": {"n_group": None, "topk_group": None, "topk_method": "greedy"},
    "gpt_oss": {"rope_parameters": {"rope_type": "default", "rope_theta": 300.0}},
}
ROUGH = dict.fromkeys(("gemma", "gemma2", "gemma3_text", "starcoder2", "gpt2"), 1e-2)  # its GELU is a float16 table
ROUGH |= {"gemma2_27b": 2e-2, "gemma3_27b": 2e-2}  # and many layers; with the other scale of queries it is 0.4 and 2
ASK = """
import sys, llama_cpp, numpy
tokens = list(map(int, sys.argv[1].split()))
for file in sys.argv[2:]:
    exact = dict(type_k=0, type_v=0, flash_attn=False, n_threads=1)
    model = llama_cpp.Llama(file, n_ctx=len(tokens), n_batch=len(tokens), logits_all=True, verbose=False, **exact)
    model.eval(tokens)
    numpy.save(file, model.scores[: len(tokens)])
"""


def assert_same_model(file: Path, folder: Path) -> None:
    """What is read of the file is the folder's model: its configuration, and each weight but for a norm's last bit."""
    mine, theirs = GGUFSource(file), config.read_pretrained(folder)
    lost = differing_fields(theirs.model, mine.pretrained.model)
    assert lost == [] or (lost == ["layers"] and theirs.model.layers[0].rope.scaling == "llama3")
    a, b = weights.load_weights(mine, mine.pretrained), weights.load_weights(folder, theirs)
    jax.tree.map(lambda x, y: np.testing.assert_allclose(x, y, atol=2e-7), a, b)


@pytest.mark.parametrize("case", CASES)
def test_each_architecture_comes_back(case, tmp_path):
    write_folder(tmp_path / "hf", CASES[case])
    done = convert_to_gguf(tmp_path / "hf", tmp_path / "out.gguf", kind="f32")
    assert (done.model_type, done.dtype) == (FAMILIES[CASES[case]["model_type"]].written_as, "f32")
    assert_same_model(tmp_path / "out.gguf", tmp_path / "hf")


FORWARD = jax.jit(transformer.forward, static_argnames="cfg")


def write_for_llama_cpp(case: str, folder: Path) -> Path:
    """A case's file, without what llama.cpp computes otherwise."""
    write_folder(folder / case, CASES[case] | OVERLOOKED.get(case, {}))
    convert_to_gguf(folder / case, folder / f"{case}.gguf", kind="f32")
    return folder / f"{case}.gguf"


@pytest.mark.by_turns
@pytest.mark.parametrize("case", CASES)
def test_logits_are_those_of_llama_cpp(case, tmp_path):
    source = GGUFSource(write_for_llama_cpp(case, tmp_path))
    w = weights.load_weights(source, source.pretrained)
    mine = np.asarray(FORWARD(w, TOKENS[None].astype(np.int32), cfg=source.pretrained.model)[0])[0]
    with np.load(STORED) as stored:
        theirs = stored[case]
    limit = np.abs(theirs).max() * ROUGH.get(case, 1e-5)
    assert np.abs(mine - theirs).max() <= limit
    second, first = np.sort(theirs)[:, -2:].T
    assert ((mine.argmax(-1) == theirs.argmax(-1)) | (first - second <= limit)).all()


def store(python: str) -> None:
    """Asks llama.cpp."""
    with tempfile.TemporaryDirectory() as folder:
        files = {case: str(write_for_llama_cpp(case, Path(folder))) for case in CASES}
        subprocess.run([python, "-c", ASK, " ".join(map(str, TOKENS)), *files.values()], check=True)
        np.savez_compressed(STORED, **{case: np.load(f"{file}.npy") for case, file in files.items()})


def test_every_architecture_has_a_case():
    written = {FAMILIES[CASES[case]["model_type"]].gguf.architecture for case in CASES}
    assert written == set(ARCHITECTURES)


def tensor_bytes(path: Path) -> dict[str, tuple]:
    found = read_header(path).tensors
    return {
        n: (t.type, t.shape, np.fromfile(t.path, "u1", t.nbytes, offset=t.start).tobytes()) for n, t in found.items()
    }


@pytest.mark.parametrize("kind", ["F32", "F16", "BF16", "Q8_0", "Q4_0", "Q4_1", "Q5_0", "Q5_1", "MXFP4"])
def test_out_again_and_back_is_bit_equal(kind, llama, tmp_path):
    source = llama(kind)
    convert_to_gguf(GGUFSource(source), tmp_path / "same.gguf")
    convert_to_gguf(GGUFSource(source), tmp_path / "asked.gguf", kind=kind.lower())
    wanted, asked = tensor_bytes(source), tensor_bytes(tmp_path / "asked.gguf")
    assert tensor_bytes(tmp_path / "same.gguf") == wanted
    assert all(asked[name] == tensor for name, tensor in wanted.items() if name.startswith("blk"))
    a, b = read_header(source).metadata, read_header(tmp_path / "same.gguf").metadata
    assert all(np.array_equal(value, b[key]) for key, value in a.items())


def test_blocks_that_no_rounding_makes_are_copied(llama, tmp_path):
    source = tmp_path / "in.gguf"
    source.write_bytes(llama("Q4_0").read_bytes())
    tensor = read_header(source).tensors["blk.0.ffn_up.weight"]
    block = np.float16(0.5).tobytes() + bytes([0x99] * 16)  # each number is 0.5, whose scale would be -0.0625
    with source.open("r+b") as file:
        file.seek(tensor.start)
        file.write(block * (tensor.nbytes // len(block)))
    convert_to_gguf(GGUFSource(source), tmp_path / "out.gguf", kind="q4_0")
    assert tensor_bytes(tmp_path / "out.gguf")[tensor.name] == tensor_bytes(source)[tensor.name]


def test_types(tmp_path):
    """Norms, biases and routers are F32, the embedding and the head 8 bits, rows that do not fit F16."""
    data = CASES["qwen2_moe"] | {"hidden_size": 64, "head_dim": 16, "moe_intermediate_size": 40, "vocab_size": 96}
    write_folder(tmp_path / "hf", data, "bfloat16")
    convert_to_gguf(tmp_path / "hf", tmp_path / "q4.gguf", kind="q4_0")
    convert_to_gguf(tmp_path / "hf", tmp_path / "as.gguf")
    found = {name: tensor.type for name, tensor in read_header(tmp_path / "q4.gguf").tensors.items()}
    assert found["token_embd.weight"] == found["output.weight"] == "Q8_0"
    assert found["blk.0.attn_q.weight"] == found["blk.1.ffn_up_exps.weight"] == "Q4_0"
    assert found["blk.1.ffn_down_exps.weight"] == "F16"
    exact = ("attn_q.bias", "ffn_norm.weight", "ffn_gate_inp.weight", "ffn_gate_inp_shexp.weight")
    assert {found[f"blk.1.{name}"] for name in exact} == {"F32"}
    stored = read_header(tmp_path / "as.gguf")
    assert stored.tensors["blk.0.attn_q.weight"].type == "BF16" and stored.metadata["general.file_type"] == 32


def test_the_commands(capsys, tmp_path):
    write_folder(tmp_path / "hf", CASES["qwen3"])
    folder, file = str(tmp_path / "hf"), tmp_path / "out.gguf"
    assert main(["convert", folder, str(file), "--type", "bf16"]) == 0
    first, second = capsys.readouterr().out.splitlines()
    assert first.startswith(f"{file}: qwen3, bf16, ") and second.startswith("source to target: logits differ by ")
    for arguments in ([folder, str(file)], [folder, str(tmp_path / "new"), "--type", "f16"]):
        assert main(["convert", *arguments]) == 2
    assert main(["convert", folder, str(tmp_path / "b.gguf"), "--dtype", "float16"]) == 2


def test_a_failed_conversion_leaves_no_file(tmp_path, monkeypatch):
    folder = tmp_path / "hf"
    write_folder(folder, CASES["llama"])
    tensors = safetensors.read_folder(folder)
    name = "model.layers.0.mlp.up_proj.weight"
    values = {n: np.fromfile(t.path, t.dtype, int(np.prod(t.shape)), offset=t.start) for n, t in tensors.items()}
    values[name][0] = 1e6
    made = [LazyTensor(n, tensors[n].shape, v.dtype, lambda v=v: v) for n, v in values.items()]
    safetensors.write_folder(folder, made, max_file_bytes=2**30)
    with pytest.raises(CheckpointError, match="numbers that F16 does not hold; write bf16"):
        convert_to_gguf(folder, tmp_path / "out.gguf", kind="f16")
    assert [path.name for path in tmp_path.iterdir()] == ["hf"]

    class Killed(BaseException):
        pass

    def killed(*_):
        raise Killed

    monkeypatch.setattr(os, "replace", killed)
    with pytest.raises(Killed):
        convert_to_gguf(folder, tmp_path / "out.gguf", kind="bf16")
    assert not (tmp_path / "out.gguf").exists()


def test_wrong_arguments(tmp_path):
    with pytest.raises(InputError, match="type 'q4_k' is not written; use f32, f16"):
        convert_to_gguf(tmp_path, tmp_path / "out.gguf", kind="q4_k")


LOST = {
    "llama_dynamic": ({}, "scaled by rope_type 'dynamic', which GGUF files cannot say"),
    "qwen3": (
        {"use_sliding_window": True, "sliding_window": 5, "max_window_layers": 1, "layer_types": None},
        "the window of layers of",
    ),
    "gemma2": ({"query_pre_attn_scalar": 20}, "has no words for the attn_scale"),
    "gpt_oss": ({"swiglu_limit": 5.0}, "has no words for the glu_limit"),
    "olmo2": ({"attention_bias": True}, "has no words for the attn_bias, o_bias"),
    "deepseek_v3": ({"rope_parameters": YARN | {"mscale": 1.0}}, "where mscale and mscale_all_dim are the same"),
    "exaone4": ({}, "models of the type 'exaone4' have no form in GGUF; these have: llama, "),
}


@pytest.mark.parametrize("case", LOST)
def test_what_files_cannot_say_is_refused(case):
    changes, message = LOST[case]
    data = CASES.get(case, REFERENCES[case]) | changes
    cfg = config.model_config(data, case)
    with pytest.raises(ConfigError, match=re.escape(message)):
        describe(cfg, data["model_type"], GenerationConfig())


READ = {
    "general.architecture": ("rwkv6", "general.architecture is 'rwkv6', which is not known; known are llama, "),
    "llama.attention.clamp_kqv": (8.0, "llama.attention.clamp_kqv is 8.0, which is not known; only 0 is known"),
    "llama.swin_norm": (True, "llama.swin_norm is True, which is not known, so the model is not loaded"),
    "llama.attention.head_count": (64, "attention.head_count is 64, and heads would have no width"),
    "llama.rope.dimension_count": (4, "rope.dimension_count is 4, and heads have 8"),
    "llama.rope.scaling.type": ("ntk", "rope.scaling.type is 'ntk'; only none, linear, yarn and longrope are known"),
    "llama.attention.head_count_kv": (np.array([2, 1]), "llama.attention.head_count_kv is [2, 1]"),
    "llama.attention.value_length": (16, "attention.value_length are 8 and 16; only one is known"),
}


@pytest.mark.parametrize("key", READ)
def test_unknown_values_are_refused(key, llama):
    header, (value, message) = read_header(llama()), READ[key]
    extra = {"llama.rope.scaling.factor": 2.0, "llama.attention.key_length": 8}
    with pytest.raises(ConfigError, match=re.escape(message)):
        config_json({**header.metadata, **extra, key: value}, header.tensors)


MISSING = {
    "llama": ("block_count", "embedding_length", "context_length", "attention.head_count"),
    "deepseek_v2": ("attention.key_length", "attention.value_length", "rope.dimension_count"),
}


@pytest.mark.parametrize("case", MISSING)
def test_missing_keys_are_named(case):
    metadata = describe(config.model_config(CASES[case], case), case, GenerationConfig()).metadata
    for key in (f"{metadata['general.architecture']}.{name}" for name in MISSING[case]):
        with pytest.raises(ConfigError, match=f"the key {key} is missing"):
            config_json({k: v for k, v in metadata.items() if k != key}, {})
    with pytest.raises(ConfigError, match=r"the tensor 'token_embd.weight' is missing"):
        config_json(metadata, {})


WRONG = ("x", "", 0, -1, 1, 2**40, 2**63, True, 0.5, float("nan"), float("inf"), 1e30, 1e-40, None, [], ["a"])
WRONG += tuple(np.array(values) for values in ([1, 2], [], [True], [1.5, float("nan")], ["a"]))


@pytest.mark.parametrize("case", CASES)
def test_any_value_of_any_key_is_read_or_refused(case):
    cfg = config.model_config(CASES[case], case)
    settings = GenerationConfig(eos_ids=(1, 2, 3), bos_id=4, pad_id=5, temperature=0.5, top_k=3, top_p=0.9)
    metadata, tables = (
        describe(cfg, CASES[case]["model_type"], settings).metadata,
        FAMILIES[CASES[case]["model_type"]].gguf,
    )
    if tables.period is not None:
        metadata[f"{tables.architecture}.attention.sliding_window_pattern"] = 2
    tensors = {"token_embd.weight": TensorInfo("token_embd.weight", Path("a"), "F32", (61, 32), 0, 0)}

    def read(changed: dict) -> None:
        data = config_json({key: value for key, value in changed.items() if value is not None}, tensors)
        config.parse_pretrained(data, Path("a"), lambda: parse_settings(data, "a"))

    read(metadata)
    choose = random.Random(0)
    several = ({key: choose.choice(WRONG) for key in choose.sample([*metadata], 3)} for _ in range(2000))
    for changes in (*({key: value} for key in metadata for value in WRONG), *several):
        with contextlib.suppress(ConfigError):
            read(metadata | changes)


SCALINGS = {
    "linear": {"rope_type": "linear", "factor": 2.0},
    "yarn": {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 64, "attention_factor": 1.5},
    "llama3": {
        "rope_type": "llama3",
        "factor": 8.0,
        "low_freq_factor": 1.0,
        "high_freq_factor": 4.0,
        "original_max_position_embeddings": 8192,
    },
}


@pytest.mark.parametrize("kind", SCALINGS)
def test_scalings_come_back_as_they_were(kind, tmp_path):
    data = CASES["llama"] | {"rope_parameters": {"rope_theta": 5e5, **SCALINGS[kind]}, "head_dim": 64}
    write_folder(tmp_path / "hf", data)
    convert_to_gguf(tmp_path / "hf", tmp_path / "out.gguf")
    found, wanted = GGUFSource(tmp_path / "out.gguf").pretrained.model, config.read_pretrained(tmp_path / "hf").model
    assert differing_fields(wanted, found) == []


def test_what_yarn_multiplies_by():
    """llama.cpp multiplies by 0.1 ln(factor) + 1, and by the key."""
    cfg = config.model_config(CASES["llama"] | {"rope_parameters": {"rope_theta": 5e5, **SCALINGS["yarn"]}}, "")
    metadata = describe(cfg, "llama", GenerationConfig()).metadata
    np.testing.assert_allclose(metadata["llama.rope.scaling.attn_factor"], 1.5 / (0.1 * np.log(4) + 1))


if __name__ == "__main__":
    store(sys.argv[1])


def test_numbers_beyond_f16_are_refused_and_nothing_is_left(tmp_path):
    write_folder(tmp_path / "hf", CASES["llama"])
    [file] = (tmp_path / "hf").glob("*.safetensors")
    found = safetensors.read_folder(tmp_path / "hf")
    data = bytearray(file.read_bytes())
    start = found["model.embed_tokens.weight"].start
    dtype = found["model.embed_tokens.weight"].dtype
    data[start : start + dtype.itemsize] = np.asarray([1e5], dtype).tobytes()
    file.write_bytes(data)
    with pytest.raises(CheckpointError, match=r"'token_embd.weight' has numbers that F16 does not hold; write bf16"):
        convert_to_gguf(tmp_path / "hf", tmp_path / "out.gguf", kind="f16")
    assert not (tmp_path / "out.gguf").exists()
    convert_to_gguf(tmp_path / "hf", tmp_path / "out.gguf", kind="bf16")
