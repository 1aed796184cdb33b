"""The face with adapters: one base, several adapters beside it, and the programs that are compiled once for all.

The reference is a model whose weights have the pairs added in float64.
"""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vishwamai import VishwamAI, VishwamAITokenizer
from vishwamai.errors import CheckpointError, ConfigError, InputError
from vishwamai.hf import adapters
from vishwamai.models import transformer
from vishwamai.models.config import ModelConfig, uniform
from vishwamai.weights import lora, spec

CONFIG = ModelConfig(
    vocab_size=263, d_model=16, d_ff=24, n_heads=4, n_kv_heads=2, head_dim=8, max_length=64, stacks=uniform(2)
)
TEXT = "abc"


def drawn(seed: int, rank: int = 2) -> lora.Adapter:
    rng, declared = np.random.default_rng(seed), lora.specs(transformer.specs(CONFIG), rank=rank, alpha=2.0 * rank)
    return spec.map_params(
        lambda p: jnp.asarray(rng.standard_normal(p.shape, np.float32)) if p.contract else p.init(None), declared
    )


PAIRS = {"one": drawn(1), "two": drawn(2)}


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """A model's folder, and one for each adapter."""
    home = tmp_path_factory.mktemp("adapted")
    VishwamAI.from_config(CONFIG, tokenizer=VishwamAITokenizer.bytes()).save_pretrained(home / "model")
    for name, pairs in PAIRS.items():
        adapters.save_adapter(home / name, pairs, CONFIG)
    return home


@pytest.fixture
def model(folders):
    model = VishwamAI.from_pretrained(folders / "model")
    model.load_adapter(folders / "one", "one")
    model.load_adapter(folders / "two", "two")
    return model


def summed(folders, **shares: float) -> VishwamAI:
    """The model with its weights changed by hand."""
    plain = VishwamAI.from_pretrained(folders / "model", scan_layers=True)
    block = plain.weights.stacks[0][0]
    for name, share in shares.items():
        for path, pair in PAIRS[name].items():
            a, b, scale = (np.asarray(x, np.float64) for x in (pair.a, pair.b, pair.scale))
            part, field = path.split(".")[-2:]
            leaf = getattr(getattr(block, part), field)
            added = [s * share * np.tensordot(x, y, 1) for x, y, s in zip(a, b, scale, strict=True)]
            object.__setattr__(getattr(block, part), field, jnp.asarray(leaf + np.stack(added), jnp.float32))
    return plain


def scores(model: VishwamAI) -> list[float]:
    return model.score(TEXT * 4)[0].logprobs


def test_one_base_and_several_adapters(folders, model):
    assert list(model.adapters) == ["one", "two"]
    for names, shares in (
        ("one", {"one": 1.0}),
        (["one", "two"], {"one": 1.0, "two": 1.0}),
        ({"one": 0.5, "two": -0.25}, {"one": 0.5, "two": -0.25}),
        (None, {}),
    ):
        model.set_adapter(names)
        np.testing.assert_allclose(scores(model), scores(summed(folders, **shares)), atol=1e-4)


def test_another_adapter_runs_the_same_programs(folders, model):
    first = model.generate(TEXT, max_new_tokens=3, return_dict=True)
    model.set_adapter("one")
    second = model.generate(TEXT, max_new_tokens=3, return_dict=True)
    model.set_adapter({"two": 0.5})
    third = model.generate(TEXT, max_new_tokens=3, return_dict=True)
    assert first.stats.compiles > 0 and second.stats.compiles == third.stats.compiles == 0
    assert len({tuple(made.logprobs[0]) for made in (first, second, third)}) == 3


def test_a_mesh_compiles_once_too_and_gives_the_same(folders, model):
    spread = VishwamAI.from_pretrained(folders / "model", mesh={"fsdp": 2, "tensor": 4})
    spread.load_adapter(folders / "one", "one")
    scores(spread)
    count = spread.generator.programs.count
    spread.load_adapter(folders / "two", "two")
    spread.set_adapter({"two": 1.0})
    np.testing.assert_allclose(scores(spread), scores(model), atol=1e-4)
    assert spread.generator.programs.count == count


def test_merged_and_saved(folders, model, tmp_path):
    model.set_adapter("one")
    before = scores(model)
    with pytest.raises(CheckpointError, match="merge or detach adapters"):
        model.save_pretrained(tmp_path / "never")
    model.merge_adapter()
    assert model.adapters == {}
    np.testing.assert_allclose(scores(model), before, atol=1e-5)
    model.save_pretrained(tmp_path / "merged")
    np.testing.assert_allclose(scores(VishwamAI.from_pretrained(tmp_path / "merged")), before, atol=1e-5)


def test_saved_as_it_was_read(folders, model, tmp_path):
    model.save_adapter(tmp_path, "two")
    for file in ("adapter_model.safetensors", "adapter_config.json"):
        assert (tmp_path / file).read_bytes() == (folders / "two" / file).read_bytes()


def test_what_is_refused(folders, model):
    with pytest.raises(InputError, match="no adapter 'three'; loaded are one, two"):
        model.set_adapter("three")
    with pytest.raises(InputError, match="no adapter 'default'"):
        model.save_adapter("nowhere")
    with pytest.raises(ConfigError, match=r"this is an adapter and no model.*load_adapter"):
        VishwamAI.from_pretrained(folders / "one")
    assert all(
        len(x.pairs) == 1 for x in jax.tree.leaves(model.weights, is_leaf=lora.is_low_rank) if lora.is_low_rank(x)
    )


@pytest.fixture(scope="module")
def tied(tmp_path_factory):
    """(a folder with a tied model, one with an adapter of its embedding)."""
    home, cfg = tmp_path_factory.mktemp("tied"), dataclasses.replace(CONFIG, tie_embeddings=True)
    VishwamAI.from_config(cfg, tokenizer=VishwamAITokenizer.bytes()).save_pretrained(home / "model")
    rng = np.random.default_rng(5)
    a, b = (jnp.asarray(rng.standard_normal(shape, np.float32)) for shape in ((263, 2), (2, 16)))
    adapters.save_adapter(home / "adapter", {"embed": lora.Pair(a=a, b=b, scale=jnp.float32(0.5))}, CONFIG)
    return home / "model", home / "adapter", 0.5 * np.asarray(a) @ np.asarray(b)


@pytest.mark.parametrize("mesh", [None, {"fsdp": 2, "tensor": 4}])
def test_an_adapter_of_a_tied_embedding_unties_it(mesh, tied, tmp_path):
    """As in PEFT the output matrix stays as it was; merged, it does still."""
    folder, adapter, added = tied
    model, want = VishwamAI.from_pretrained(folder, mesh=mesh), VishwamAI.from_pretrained(folder)
    before = scores(model)
    want.weights, want.config = transformer.untie_embeddings(want.weights, want.config)
    object.__setattr__(want.weights, "embed", want.weights.embed + jnp.asarray(added, jnp.float32))
    reference = scores(want)
    model.load_adapter(adapter)
    assert not model.config.tie_embeddings and model.n_parameters == want.n_parameters
    np.testing.assert_allclose(scores(model), reference, atol=1e-4)
    with pytest.raises(CheckpointError, match="merge or detach adapters"):
        model.save_pretrained(tmp_path / "never")
    model.set_adapter(None)
    np.testing.assert_allclose(scores(model), before, atol=1e-4)
    model.set_adapter("default")
    model.merge_adapter()
    np.testing.assert_allclose(scores(model), reference, atol=1e-4)
    model.save_pretrained(tmp_path / "merged")
    np.testing.assert_allclose(scores(VishwamAI.from_pretrained(tmp_path / "merged")), reference, atol=1e-4)
