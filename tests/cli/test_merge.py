"""`vishwamai merge`: what is written is the base with the adapter on it."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vishwamai import VishwamAI, VishwamAITokenizer
from vishwamai.cli import main
from vishwamai.hf import adapters, safetensors
from vishwamai.models import transformer
from vishwamai.models.config import ModelConfig, uniform
from vishwamai.weights import lora, spec

from .conftest import refused

CONFIG = ModelConfig(
    vocab_size=263, d_model=16, d_ff=24, n_heads=4, n_kv_heads=2, head_dim=8, max_length=64, stacks=uniform(2)
)


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """(base in bfloat16, an adapter that names it, one that names none)."""
    root = tmp_path_factory.mktemp("merge")
    model = VishwamAI.from_config(CONFIG, dtype="bfloat16", tokenizer=VishwamAITokenizer.bytes())
    model.save_pretrained(root / "base")
    declared = lora.specs(transformer.specs(CONFIG), rank=2, alpha=4.0)
    rng = np.random.default_rng(0)
    drawn = spec.map_params(
        lambda p: jnp.asarray(rng.standard_normal(p.shape, np.float32)) if p.contract else p.init(None), declared
    )
    for name, base in (("adapter", str(root / "base")), ("nameless", None)):
        adapters.save_adapter(root / name, drawn, CONFIG, "llama", base=base)
    return root / "base", root / "adapter", root / "nameless"


def test_a_merged_model_is_its_base_with_the_adapter(capsys, folders, tmp_path):
    base, adapter, nameless = folders
    assert main(["merge", str(adapter), str(tmp_path / "a"), "--dtype", "float32"]) == 0
    assert f"{base} with {adapter} merged into it, llama, float32" in capsys.readouterr().out
    expected = VishwamAI.from_pretrained(base)
    before = expected.weights
    expected.load_adapter(adapter)
    expected.merge_adapter()
    found = VishwamAI.from_pretrained(tmp_path / "a")
    for a, b in zip(jax.tree.leaves(found.weights), jax.tree.leaves(expected.weights), strict=True):
        np.testing.assert_array_equal(a, b)
    assert not np.array_equal(found.weights.stacks[0][0].attn.q, before.stacks[0][0].attn.q)
    assert found.tokenizer.encode("hi") == [104, 105]


def test_the_dtype_is_that_of_the_base(capsys, folders, tmp_path):
    base, _, nameless = folders
    assert main(["merge", str(nameless), str(tmp_path / "b"), "-m", str(base)]) == 0
    assert {tensor.dtype.name for tensor in safetensors.read_folder(tmp_path / "b").values()} == {"bfloat16"}
    assert json.loads((tmp_path / "b" / "config.json").read_text())["dtype"] == "bfloat16"


def test_what_cannot_be_merged(capsys, folders, tmp_path, monkeypatch):
    base, adapter, nameless = folders
    monkeypatch.setattr(VishwamAI, "from_pretrained", lambda *args, **options: pytest.fail("a model was loaded"))
    assert "does not name its base model; give it with --model" in refused(capsys, "merge", str(nameless), "x")
    (tmp_path / "full").write_text("")
    assert "is there already; name a folder that is empty or new" in refused(
        capsys, "merge", str(adapter), str(tmp_path / "full")
    )
    assert "nowhere" in refused(capsys, "merge", str(tmp_path / "nowhere"), str(tmp_path / "x"))
    assert "gone" in refused(capsys, "merge", str(adapter), str(tmp_path / "x"), "-m", str(tmp_path / "gone"))
