"""How a loaded model's layers lie, scanned in stacks or each by itself: the same numbers, files and identity."""

import dataclasses
from functools import partial

import jax
import numpy as np
import pytest

from vishwamai import VishwamAI
from vishwamai.config import from_dict
from vishwamai.errors import ConfigError
from vishwamai.hf import config as hf_config
from vishwamai.models import transformer
from vishwamai.models.cache import init_cache
from vishwamai.models.config import MAX_UNROLLED, Layer, group_layers, is_unrolled_faster, uniform, unroll
from vishwamai.parallel.sharding import abstract
from vishwamai.reasoning import Local
from vishwamai.training import trainer
from vishwamai.training.config import RunConfig

from .tiny_model import CONFIG, tiny_model


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("model")
    tiny_model().save_pretrained(folder)
    return folder


def test_layers_are_unrolled_on_a_cpu_and_scanned_over_a_mesh(folder):
    by_default = VishwamAI.from_pretrained(folder)
    assert by_default.config == unroll(CONFIG) and by_default.layers_note == "each layer compiled by itself"
    for scanned in (
        VishwamAI.from_pretrained(folder, mesh={"data": 8}),
        VishwamAI.from_pretrained(folder, scan_layers=True),
    ):
        assert scanned.config == CONFIG and scanned.layers_note == "layers scanned in stacks"
    assert VishwamAI.from_pretrained(folder, mesh={"data": 8}, scan_layers=False).config == unroll(CONFIG)


@pytest.mark.parametrize(
    ("n_layers", "platform", "faster"),
    [
        (2, "cpu", True),
        (MAX_UNROLLED, "cpu", True),
        (MAX_UNROLLED + 1, "cpu", False),
        (2, "tpu", False),
        (2, "gpu", False),
    ],
)
def test_very_deep_models_and_accelerators_scan(n_layers, platform, faster):
    deep = dataclasses.replace(CONFIG, stacks=uniform(n_layers, moe=True))
    assert is_unrolled_faster(deep, platform, "float32") is faster and len(unroll(deep).layers) == n_layers
    dense = dataclasses.replace(deep, stacks=uniform(n_layers))
    assert not is_unrolled_faster(deep, platform, "float16") and not is_unrolled_faster(dense, platform, "fp8")
    for weights in ("bfloat16", "int8", "int4"):
        assert is_unrolled_faster(dense, platform, weights) is faster
        assert not is_unrolled_faster(deep, platform, weights)


def test_both_give_the_same_text_scores_and_files(folder, tmp_path):
    scanned, unrolled = (VishwamAI.from_pretrained(folder, scan_layers=scan) for scan in (True, False))
    want = scanned.generate("hello", max_new_tokens=8, return_dict=True)
    got = unrolled.generate("hello", max_new_tokens=8, return_dict=True)
    assert got.sequences.tolist() == want.sequences.tolist()
    np.testing.assert_allclose(got.logprobs, want.logprobs, atol=1e-5)
    unrolled.save_pretrained(tmp_path / "again")
    back = VishwamAI.from_pretrained(tmp_path / "again", scan_layers=True)
    assert back.config == CONFIG
    jax.tree.map(np.testing.assert_array_equal, back.weights, scanned.weights)


def test_only_scanned_layers_are_a_loop():
    """It is the loop that copies each layer's weights out of their stack."""
    cfg = dataclasses.replace(CONFIG, stacks=group_layers((Layer(window=5), Layer()) * 2))
    for arranged, loops in ((cfg, 1), (unroll(cfg), 0)):
        w, cache = abstract(transformer.specs(arranged)), jax.eval_shape(partial(init_cache, arranged, 1, 16))
        step = jax.make_jaxpr(partial(transformer.forward_cached, cfg=arranged))
        assert str(step(w, np.zeros((1, 1), np.int32), cache=cache)).count(" scan[") == loops


def test_experts_of_few_bits_are_scanned(folder):
    """XLA widens the weights of all unrolled layers at once."""
    for how in ({"quantization": "int8"}, {"dtype": "float16"}, {"dtype": "bfloat16"}):
        assert VishwamAI.from_pretrained(folder, **how).config == CONFIG, how


@pytest.mark.filterwarnings("ignore:no family of transformers")
def test_our_own_format_is_stacked(tmp_path):
    """A model that no family expresses, which is stored with its stacks."""
    cfg = dataclasses.replace(CONFIG, stacks=uniform(4, moe=True), embed_scale=3.0, logit_scale=0.5)
    VishwamAI.from_config(cfg).save_pretrained(tmp_path / "one")
    unrolled = VishwamAI.from_pretrained(tmp_path / "one", scan_layers=False)
    assert unrolled.config == unroll(cfg) and unrolled.config.stacked == cfg
    unrolled.save_pretrained(tmp_path / "two")
    assert hf_config.read_pretrained(tmp_path / "two").model == cfg  # and not only once it is loaded
    one, two = (VishwamAI.from_pretrained(tmp_path / name, scan_layers=True) for name in ("one", "two"))
    assert one.config == two.config == cfg
    jax.tree.map(np.testing.assert_array_equal, two.weights, one.weights)


def test_the_identity_is_that_of_the_weights(folder):
    scanned, unrolled = (VishwamAI.from_pretrained(folder, scan_layers=scan) for scan in (True, False))
    other = VishwamAI.from_config(CONFIG, seed=1, tokenizer=scanned.tokenizer)
    one, two, three = (Local(model, context=32).identity for model in (scanned, unrolled, other))
    assert one == two != three


def test_training_takes_stacked_layers_alone(folder):
    unrolled = VishwamAI.from_pretrained(folder)
    data = {"sources": [{"kind": "generated", "name": "countdown"}], "tokenizer": "bytes"}
    run = from_dict(RunConfig, {"training": {"data": data, "length": 32, "adapter": {"base": str(folder)}}})
    assert run.with_base_model(CONFIG).model == CONFIG
    with pytest.raises(ConfigError, match="scan_layers=True"):
        run.with_base_model(unrolled.config)
    with pytest.raises(ConfigError, match="scan_layers=True"):
        trainer._check_start(unrolled.weights, dataclasses.replace(run, model=CONFIG))
