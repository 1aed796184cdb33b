"""A GGUF file as a checkpoint: its weights are those that were written, whatever the type, and all of it loads, is
inspected and converted like a folder."""

import contextlib
import dataclasses
import itertools
import json

import gguf
import jax
import numpy as np
import pytest
from gguf import GGMLQuantizationType as Kind

from vishwamai import VishwamAI
from vishwamai.cli import main
from vishwamai.errors import CheckpointError, HubError, VishwamAIError
from vishwamai.gguf.source import GGUFSource, open_source
from vishwamai.hf import inspection, weights
from vishwamai.hf.convert import convert_checkpoint
from vishwamai.weights.quantize import is_quantized

from .conftest import HEAD_DIM, HEADS, VOCABULARY, random_tensors, write_llama

IDS = [[5, 90, 200, 17, 259, 1, 30]]
# Types that the package quantises to; the others are random bytes in test_decoding.
TYPES = ("F32", "F16", "BF16", "Q8_0", "Q4_0", "Q4_1", "Q5_0", "Q5_1", "MXFP4")


def reference_logits(tensors: dict[str, np.ndarray], ids: list[int]) -> np.ndarray:
    """The logits of a Llama in NumPy, float64, by the names of Hugging Face: halves of each head turn together."""
    w = {name: values.astype(np.float64) for name, values in tensors.items()}
    x, n = w["model.embed_tokens.weight"][ids], len(ids)
    angles = np.arange(n)[:, None] * 10000.0 ** (-np.arange(0, HEAD_DIM, 2) / HEAD_DIM)
    sin, cos = (np.concatenate([f(angles)] * 2, -1)[:, None] for f in (np.sin, np.cos))

    def norm(x, name):
        return x / np.sqrt((x * x).mean(-1, keepdims=True) + 1e-5) * w[name]

    def turn(x):
        a, b = np.split(x, 2, -1)
        return x * cos + np.concatenate([-b, a], -1) * sin

    for i in range(2):
        at = f"model.layers.{i}."
        h = norm(x, f"{at}input_layernorm.weight")
        q, k, v = ((h @ w[f"{at}self_attn.{name}_proj.weight"].T).reshape(n, -1, HEAD_DIM) for name in ("q", "k", "v"))
        q, k, v = turn(q), np.repeat(turn(k), 2, 1), np.repeat(v, 2, 1)
        scores = np.einsum("tnh,snh->nts", q, k) / HEAD_DIM**0.5
        scores = np.where(np.tri(n, dtype=bool), scores, -np.inf)
        p = np.exp(scores - scores.max(-1, keepdims=True))
        out = np.einsum("nts,snh->tnh", p / p.sum(-1, keepdims=True), v).reshape(n, HEADS * HEAD_DIM)
        x = x + out @ w[f"{at}self_attn.o_proj.weight"].T
        h = norm(x, f"{at}post_attention_layernorm.weight")
        gate, up = (h @ w[f"{at}mlp.{name}_proj.weight"].T for name in ("gate", "up"))
        x = x + (gate / (1 + np.exp(-gate)) * up) @ w[f"{at}mlp.down_proj.weight"].T
    return norm(x, "model.norm.weight") @ w["model.embed_tokens.weight"].T


def rounded(kind: str) -> dict[str, np.ndarray]:
    """The small Llama's weights as a type holds them: rounding a row is rounding its blocks, in whatever order."""

    def one(values: np.ndarray) -> np.ndarray:
        if values.ndim == 1 or kind == "F32":
            return values
        return gguf.dequantize(gguf.quantize(values, Kind[kind]), Kind[kind])

    return {name: one(values) for name, values in random_tensors().items()}


@pytest.mark.parametrize("kind", TYPES)
def test_logits_are_those_of_the_weights_that_were_written(kind, llama):
    model = VishwamAI.from_pretrained(llama(kind), dtype="float32")
    wanted = reference_logits(rounded(kind), IDS[0])
    np.testing.assert_allclose(np.asarray(model(IDS))[0], wanted, atol=1e-5 * np.abs(wanted).max())
    assert model.model_type == "llama" and model.generation_config.eos_ids == (2, 0)


@pytest.mark.parametrize("kind", ["Q8_0", "Q4_0", "Q4_1", "MXFP4"])
def test_what_is_kept_gives_the_same_logits(kind, llama):
    plain, kept = (VishwamAI.from_pretrained(llama(kind), quantization=how) for how in (None, "keep"))
    leaves = jax.tree.leaves(kept.weights, is_leaf=is_quantized)
    assert sum(map(is_quantized, leaves)) == len([w for w in leaves if is_quantized(w) or w.ndim > 2])
    assert kept.layers_note == ("layers scanned in stacks" if kind == "MXFP4" else "each layer compiled by itself")
    a, b = np.asarray(plain(IDS)), np.asarray(kept(IDS))
    np.testing.assert_allclose(b, a, atol=1e-5 * np.abs(a).max())


@pytest.mark.parametrize("quantization", [None, "keep"])
def test_over_a_mesh_as_on_one_device(quantization, llama):
    how = {"dtype": "float32", "quantization": quantization}
    whole, parts = (
        VishwamAI.from_pretrained(llama("Q4_1"), mesh=mesh, **how) for mesh in (None, {"fsdp": 4, "tensor": 2})
    )
    a, b = (np.asarray(model(IDS * 4)) for model in (whole, parts))
    np.testing.assert_allclose(b, a, atol=1e-5 * np.abs(a).max())


def test_the_dtype_of_a_file(llama):
    notes = {kind: VishwamAI.from_pretrained(llama(kind)).dtype_note for kind in ("F32", "F16", "BF16", "Q4_1")}
    assert notes["F32"] == "float32: the checkpoint's own" and notes["F16"] == "float16: the checkpoint's own"
    assert notes["BF16"] == "float32: the checkpoint's bfloat16 is slower on a CPU"
    assert notes["Q4_1"] == "float32: the checkpoint's q4_1 is not computed in"


def test_names_that_lead_to_a_file(llama, tmp_path):
    folder = tmp_path / "models"
    folder.mkdir()
    for kind in ("F16", "Q8_0"):
        (folder / f"{kind}.gguf").write_bytes(llama(kind).read_bytes())
    with pytest.raises(HubError, match=r"several models in GGUF: F16\.gguf, Q8_0\.gguf"):
        VishwamAI.from_pretrained(folder)
    model = VishwamAI.from_pretrained(folder, gguf_file="Q8_0.gguf")
    assert model.dtype_note.endswith("q8_0 is not computed in")
    (folder / "F16.gguf").unlink()
    assert open_source(folder).path == folder / "Q8_0.gguf"


def test_a_split_model_loads_as_one(llama, tmp_path):
    write_llama(tmp_path / "m.gguf", "Q8_0", split_max_tensors=5)
    assert len(list(tmp_path.glob("m-*.gguf"))) > 3
    split, whole = (VishwamAI.from_pretrained(path) for path in (tmp_path, llama("Q8_0")))
    for a, b in zip(jax.tree.leaves(split.weights), jax.tree.leaves(whole.weights), strict=True):
        np.testing.assert_array_equal(a, b)


def test_text_goes_in_and_comes_out(llama):
    model = VishwamAI.from_pretrained(llama("Q8_0"))
    assert [model.tokenizer.decode([i]) for i in model.tokenizer.encode("the é")] == ["the", " ", "\ufffd", "\ufffd"]
    assert model.tokenizer.eos_token == "<|im_end|>"
    [text] = model.complete("the", max_new_tokens=4)
    assert isinstance(text, str)
    assert model.generate_chat([{"role": "user", "content": "hi"}], max_new_tokens=2).usage["prompt_tokens"] == 4


@pytest.mark.parametrize("damage", ["missing", "shape", "more"])
def test_tensors_that_do_not_fit_are_named(damage, tmp_path):
    tensors = random_tensors()
    name = "model.layers.1.mlp.up_proj.weight"
    said = {"missing": "missing from the weights", "shape": r"of shape \[32, 32\] in the file"}
    said["more"] = "the configuration has no place for it"
    if damage == "missing":
        del tensors[name]
    elif damage == "shape":
        tensors[name] = tensors[name][:32]
    else:
        tensors["lm_head.weight"] = tensors["model.embed_tokens.weight"]
        tensors["model.layers.7.mlp.up_proj.weight"] = tensors[name]
    path = write_llama(tmp_path / "m.gguf", tensors=tensors)
    with pytest.raises(CheckpointError, match=said[damage]):
        VishwamAI.from_pretrained(path)
    assert inspection.inspect_checkpoint(GGUFSource(path)).problems


def test_it_is_inspected(llama, capsys):
    assert main(["inspect", str(llama("Q4_1")), "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert told["model_type"] == "llama" and told["switches"]["n_kv_heads"] == 2 and told["problems"] == []
    assert {row["dtype"]: row["tensors"] for row in told["stored"]} == {"Q4_1": 15, "F32": 5}
    assert main(["inspect", str(llama("Q4_1"))]) == 0
    assert "it is loaded in bfloat16, and in float32 on a CPU" in capsys.readouterr().out.replace("\n", " ")


def test_a_folder_with_it_and_a_config_json_is_inspected_as_it_is_loaded(llama, capsys, tmp_path):
    (tmp_path / "config.json").write_text('{"model_type": "qwen3"}')
    (tmp_path / "a.gguf").symlink_to(llama("Q4_1"))
    assert main(["inspect", str(llama("Q4_1")), "--json"]) == main(["inspect", str(tmp_path), "--json"]) == 0
    file, folder = map(json.loads, capsys.readouterr().out.replace("}\n{", "}\0{").split("\0"))
    assert file | {"model": str(tmp_path)} == folder


@pytest.mark.parametrize("kind", ["F16", "Q4_0"])
def test_it_is_converted_to_a_folder(kind, llama, tmp_path):
    done = convert_checkpoint(GGUFSource(llama(kind)), tmp_path / "new")
    assert done.model_type == "llama" and done.dtype == {"F16": "float16", "Q4_0": "float32"}[kind]
    a, b = (VishwamAI.from_pretrained(path, dtype="float32") for path in (llama(kind), tmp_path / "new"))
    for x, y in zip(jax.tree.leaves(a.weights), jax.tree.leaves(b.weights), strict=True):
        np.testing.assert_array_equal(x, y)
    assert a.config == b.config and a.generation_config == b.generation_config
    text = "the quick <|im_end|> 123 é"
    assert a.tokenizer.encode(text) == b.tokenizer.encode(text) and len(b.tokenizer) == VOCABULARY.index("<unused0>")


def test_the_command_converts_with_a_certificate(llama, tmp_path, capsys):
    assert main(["convert", str(llama("Q8_0")), str(tmp_path / "new"), "--certificate", "hashes"]) == 0
    made = json.loads((tmp_path / "new/parity.json").read_text())
    assert list(made["source"]["files"]) == ["llama.Q8_0.gguf"]
    assert main(["tokenizer", "encode", "-m", str(llama("Q8_0")), "the"]) == 0
    assert capsys.readouterr().out.splitlines()[-1] == str(VOCABULARY.index("the"))


EXTREMES = (0, 1, -1, 3, 2**30, 2**64 - 1, 1e38, float("nan"), 0.0, True, "x", "", [], ["a"])
EXTREMES += (np.array([1, 2]), np.array([], np.int32), np.array([0.5]), np.zeros(9999, np.int32), None)


def open_all(source: GGUFSource) -> None:
    """All that loading asks of a file."""
    opened, _ = weights.open_checkpoint(source, source.pretrained)
    for name in ("blk.0.attn_q.weight", "token_embd.weight"):
        np.asarray(opened.view(name))
    if source.has_tokenizer():
        source.tokenizer()


def test_metadata_of_any_value_is_read_or_refused_in_a_sentence(llama):
    header, refused = GGUFSource(llama("Q4_1")).header, 0
    for key, value in itertools.product(header.metadata, EXTREMES):
        source = GGUFSource(header.path)
        changed = {k: v for k, v in (header.metadata | {key: value}).items() if v is not None}
        source.header = dataclasses.replace(header, metadata=changed)
        try:
            open_all(source)
        except VishwamAIError as error:
            assert str(header.path) in str(error)
            refused += 1
    assert 0.6 < refused / len(header.metadata) / len(EXTREMES) < 0.95


@pytest.mark.parametrize("seed", range(2))
def test_mutated_files_are_read_or_refused_in_a_sentence(seed, llama, tmp_path):
    """Headers alone are mutated in test_header; here what is made of them, data and all."""
    original, rng, path = llama("Q4_1").read_bytes(), np.random.default_rng(seed), tmp_path / "mutated.gguf"
    opened = 0
    for _ in range(150):
        raw = bytearray(original)
        for at in rng.integers(24, len(raw), rng.integers(1, 4)):
            raw[at] = rng.integers(0, 256)
        path.write_bytes(raw)
        with contextlib.suppress(VishwamAIError):
            open_all(GGUFSource(path))
            opened += 1
    assert 0 < opened < 150
