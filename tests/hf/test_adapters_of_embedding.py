"""PEFT's folders that change the embedding or the output matrix: pairs, whole weights, and models that tie the two."""

import dataclasses
import importlib.util
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vishwamai.errors import CheckpointError, InputError
from vishwamai.hf import adapters, config, weights
from vishwamai.models import transformer
from vishwamai.parallel.mesh import make_mesh
from vishwamai.parallel.sharding import Sharding
from vishwamai.weights import lora, spec

found = importlib.util.spec_from_file_location("folders", Path(__file__).with_name("test_adapters.py"))
folders = importlib.util.module_from_spec(found)
found.loader.exec_module(folders)
MODELS, Q, base, write, pair, table_pair, pairs_of, stored, assert_same = (
    getattr(folders, name)
    for name in ("MODELS", "Q", "base", "write", "pair", "table_pair", "pairs_of", "stored", "assert_same")
)
draw = folders.draw

MESH = {"fsdp": 2, "tensor": 2, "data": 2}
EMBED, HEAD = "base_model.model.model.embed_tokens", "base_model.model.lm_head"
OUTSIDE = {  # what PEFT writes of what is no layer's: (the files' tensors, what adapter_config.json says of them)
    "embedding": (table_pair("model.embed_tokens", 24, 16), {}),
    "head": (pair("lm_head", (24, 16)), {}),
    "both": (table_pair("model.embed_tokens", 24, 16) | pair("lm_head", (24, 16)), {}),
    "whole": (
        {f"{EMBED}.weight": draw(24, 16), f"{HEAD}.weight": 2 * draw(24, 16)},
        {"modules_to_save": ["embed_tokens", "lm_head"]},
    ),
    "stored beside": (  # as PEFT does by default where the embedding is a target
        table_pair("model.embed_tokens", 24, 16) | {f"{EMBED}.base_layer.weight": draw(24, 16)},
        {},
    ),
}


def changed_by_hand(tensors: dict[str, np.ndarray], folder: Path) -> tuple[np.ndarray, np.ndarray]:
    """The embedding and the output matrix `[V, D]` with what the tensors do to them, by PEFT's definition."""
    found, out = stored(folder, "model.safetensors"), []
    for module, of in (("model.embed_tokens", "lora_embedding_{}"), ("lm_head", "lora_{}.weight")):
        name = f"base_model.model.{module}."
        w = found[f"{module}.weight"].astype(np.float64)
        w = tensors.get(f"{name}weight", tensors.get(f"{name}base_layer.weight", w))
        if name + of.format("A") in tensors:
            delta = 3.0 * tensors[name + of.format("B")].astype(np.float64) @ tensors[name + of.format("A")]
            w = w + (delta.T if "embedding" in of else delta)
        out.append(w)
    return out[0], out[1]


def logits(w) -> np.ndarray:
    tokens = jnp.asarray([[3, 1, 20, 7, 7, 23]])
    return np.asarray(jax.jit(lambda w: transformer.forward(w, tokens, MODELS["llama"])[0])(w))


@pytest.mark.parametrize(
    ("case", "mesh"),
    [*((case, None) for case in OUTSIDE), ("both", MESH), ("whole", MESH), ("stored beside", MESH)],
    ids=lambda x: x if isinstance(x, str) else "mesh" if x else "single",
)
def test_the_embedding_and_the_output_matrix_change_as_peft_defines(case, mesh, base, tmp_path):
    w, folder = base("llama")
    (tensors, said), sharding = OUTSIDE[case], Sharding(mesh and make_mesh(**mesh))
    layer = pairs_of({Q: (32, 16)})
    found = adapters.load_adapter(
        write(tmp_path / "a", tensors | layer, **said), MODELS["llama"], "llama", sharding=sharding
    )
    embed, head = changed_by_hand(tensors, folder)
    attached = lora.attach(weights.load_weights(folder, config.read_pretrained(folder), sharding=sharding), [found])
    merged = lora.merge(attached)
    np.testing.assert_allclose(merged.embed, embed, rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(merged.lm_head.T, head, rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(logits(attached), logits(merged), rtol=2e-4, atol=2e-4)
    jax.tree.map(np.testing.assert_array_equal, lora.detach(attached), w)
    adapters.save_adapter(tmp_path / "b", found, MODELS["llama"], "llama")
    again = adapters.load_adapter(tmp_path / "b", MODELS["llama"], "llama", sharding=sharding)
    assert_same(lora.merge(lora.attach(attached, [again])), merged)
    assert set(stored(tmp_path / "b")) == set(tensors | layer)


def test_a_tied_model_has_to_be_untied_unless_the_adapter_is_of_both_as_one(tmp_path):
    tied = dataclasses.replace(MODELS["llama"], tie_embeddings=True)
    for case, (tensors, said) in OUTSIDE.items():
        folder = write(tmp_path / case, tensors, **said)
        assert adapters.needs_untying(folder, tied, "llama") and not adapters.needs_untying(
            folder, MODELS["llama"], "llama"
        )
    as_one = write(tmp_path / "one", OUTSIDE["embedding"][0], ensure_weight_tying=True)
    assert not adapters.needs_untying(as_one, tied, "llama")
    assert not adapters.needs_untying(write(tmp_path / "layer", pairs_of({Q: (32, 16)})), tied, "llama")
    w = spec.init(transformer.specs(tied), jax.random.key(0))
    attached = lora.attach(w, [adapters.load_adapter(as_one, tied, "llama")])
    np.testing.assert_allclose(transformer.lm_head(attached)[0], lora.merge(attached).embed, rtol=1e-6, atol=1e-6)


def test_what_peft_repeats_for_a_tied_output_matrix_is_read_once(tmp_path):
    """As PEFT 0.21 writes it: the pair of the head is the embedding's, turned."""
    tied = dataclasses.replace(MODELS["llama"], tie_embeddings=True)
    table = OUTSIDE["embedding"][0]
    a, b = table[f"{EMBED}.lora_embedding_A"], table[f"{EMBED}.lora_embedding_B"]
    head = {f"{HEAD}.lora_A.weight": b.T, f"{HEAD}.lora_B.weight": a.T}
    alone = adapters.load_adapter(write(tmp_path / "alone", table, ensure_weight_tying=True), tied, "llama")
    twice = adapters.load_adapter(write(tmp_path / "twice", table | head, ensure_weight_tying=True), tied, "llama")
    assert_same(alone, twice)
    other = write(tmp_path / "other", table | {**head, f"{HEAD}.lora_B.weight": 2 * a.T}, ensure_weight_tying=True)
    with pytest.raises(CheckpointError, match="lm_head.lora_B.weight' differs from what there is of 'model.embed_tok"):
        adapters.load_adapter(other, tied, "llama")
    values, said = draw(24, 16), {"modules_to_save": ["embed_tokens"], "ensure_weight_tying": True}
    both = {f"{EMBED}.weight": values, f"{HEAD}.weight": values}
    read = adapters.load_adapter(write(tmp_path / "whole", both, **said), tied, "llama")
    np.testing.assert_array_equal(read["embed"].w, values)
    adapters.save_adapter(tmp_path / "again", read, tied, "llama")
    assert {n: v.tolist() for n, v in stored(tmp_path / "again").items()} == {n: v.tolist() for n, v in both.items()}
    with pytest.raises(CheckpointError, match="lm_head.weight' differs from what there is of 'model.embed_tokens'"):
        adapters.load_adapter(write(tmp_path / "two", {**both, f"{HEAD}.weight": -values}, **said), tied, "llama")


def test_modules_to_save_that_are_not_there_are_named(tmp_path):
    folder = write(tmp_path / "a", pairs_of({Q: (32, 16)}), modules_to_save=["lm_head"])
    with pytest.raises(CheckpointError, match="has no weights of 'lm_head', which modules_to_save has"):
        adapters.load_adapter(folder, MODELS["llama"], "llama")


def test_whole_weights_are_not_added_up(tmp_path):
    tensors, said = OUTSIDE["whole"]
    found = adapters.load_adapter(write(tmp_path / "a", tensors, **said), MODELS["llama"], "llama")
    w = spec.init(transformer.specs(MODELS["llama"]), jax.random.key(0))
    with pytest.raises(InputError, match="several of these adapters have a whole 'embed'"):
        lora.attach(w, lora.select({"a": found, "b": found}, ["a", "b"]))
    with pytest.raises(InputError, match="a whole 'embed' cannot be weighed, and its weight is 0.5"):
        lora.select({"a": found}, {"a": 0.5})
    assert lora.select({"a": found}, {"a": 1.0})[0].keys() == found.keys()
