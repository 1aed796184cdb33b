"""Our forward pass against transformers', in float32: uncached, cached, and from a folder that we wrote.

Each test runs for every case of `conftest.py`.
"""

import functools
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vishwamai.hf import config, export, saving, weights
from vishwamai.models import transformer
from vishwamai.models.attention import attend_uncached
from vishwamai.models.cache import init_cache

TOLERANCE = 1e-5
PROMPT, LENGTH = 11, 32
TOKENS = np.random.default_rng(0).integers(0, 61, (2, LENGTH))

pytestmark = pytest.mark.parity


@pytest.fixture(scope="module")
def ours(tiny_models):
    """`ours(case)` -> (what the folder says, our weights), each read once."""

    @functools.cache
    def read(case: str):
        pretrained = config.read_pretrained(tiny_models(case)[1])
        return pretrained, weights.load_weights(tiny_models(case)[1], pretrained)

    return read


def logits_of(model) -> np.ndarray:
    import torch

    with torch.no_grad():
        return model(torch.tensor(TOKENS), use_cache=False).logits.numpy()


def forward(w, cfg) -> np.ndarray:
    return np.asarray(jax.jit(functools.partial(transformer.forward, cfg=cfg))(w, jnp.asarray(TOKENS, jnp.int32))[0])


@pytest.fixture
def compare(case, measured):
    """`compare(name, mine, theirs)` holds the relative difference to the tolerance, and notes it under that name."""

    def compare(name: str, mine: np.ndarray, theirs: np.ndarray) -> None:
        assert mine.shape == theirs.shape
        error = float(np.abs(mine - theirs).max() / np.abs(theirs).max())
        assert error <= TOLERANCE
        measured(case, name, error)

    return compare


@pytest.mark.usefixtures("optimised")
def test_logits_equal_those_of_transformers(case, tiny_models, ours, compare, measured):
    pretrained, w = ours(case)
    compare("logits", forward(w, pretrained.model), logits_of(tiny_models(case)[0]))
    measured(case, "model_type", pretrained.model_type)


def stepwise_logits_of(model, cfg) -> np.ndarray:
    """Transformers' logits of each token when it is the last, as in its `generate`, after a prompt read at once.

    Which is the same as of all at once, but where positions turn by the length of the text: with longrope it reads all
    anew at the border, and with a dynamic scaling what is in its cache stays as it was.
    """
    import torch

    tokens = torch.tensor(TOKENS)
    rotations = {layer.rope.scaling for layer in cfg.layers if layer.rope is not None}
    if not rotations & {"longrope", "dynamic"}:
        return logits_of(model)
    with torch.no_grad():
        out = model(tokens[:, :PROMPT], use_cache="dynamic" in rotations)
        parts = [out.logits]
        for end in range(PROMPT + 1, LENGTH + 1):
            if "dynamic" in rotations:
                out = model(tokens[:, end - 1 : end], past_key_values=out.past_key_values)
            else:
                out = model(tokens[:, :end], use_cache=False)
            parts.append(out.logits[:, -1:])
    return torch.cat(parts, 1).numpy()


def test_cached_decoding_equals_that_of_transformers(case, tiny_models, ours, compare):
    pretrained, w = ours(case)
    cfg = pretrained.model
    tokens = jnp.asarray(TOKENS, jnp.int32)
    step = jax.jit(functools.partial(transformer.forward_cached, cfg=cfg), static_argnames="attend")
    out, cache = step(w, tokens[:, :PROMPT], cache=init_cache(cfg, 2, LENGTH), attend=attend_uncached)
    parts = [out]
    for i in range(PROMPT, LENGTH):
        out, cache = step(w, tokens[:, i : i + 1], cache=cache)
        parts.append(out)
    compare("cached", np.concatenate(parts, 1), stepwise_logits_of(tiny_models(case)[0], cfg))


def test_transformers_loads_what_we_save(case, tiny_models, ours, tmp_path, compare):
    import transformers

    model, (pretrained, w) = tiny_models(case)[0], ours(case)
    kept = {"model_type": pretrained.model_type, "generation": pretrained.generation}
    saving.save_model(tmp_path, w, pretrained.model, **kept)
    again, info = transformers.AutoModelForCausalLM.from_pretrained(
        tmp_path, attn_implementation="eager", output_loading_info=True
    )
    assert not any(info.values()), info
    assert type(again) is type(model)
    compare("back", logits_of(again), logits_of(model))
    assert again.config.eos_token_id == 2 and again.generation_config.eos_token_id == 2
    assert config.read_pretrained(tmp_path) == pretrained


def older(data: dict) -> dict:
    """A config.json as transformers 4 wrote it."""
    data = dict(data)
    data["torch_dtype"] = data.pop("dtype")
    said = parameters = data.pop("rope_parameters", None)
    if parameters is None:
        return data
    if "full_attention" in said:  # of these transformers 5 reads no "type"
        if data["model_type"] == "gemma3_text":
            data["rope_local_base_freq"] = parameters["sliding_attention"]["rope_theta"]
            data.pop("layer_types")
        parameters = parameters["full_attention"]
    theta, kind = parameters.pop("rope_theta"), parameters.pop("rope_type")
    data |= {"rope_theta": theta, "rope_scaling": None}
    if "partial_rotary_factor" in parameters:
        data["partial_rotary_factor"] = parameters.pop("partial_rotary_factor")
    if kind != "default":
        data["rope_scaling"] = parameters | (
            {"type": kind} if kind == "linear" and "full_attention" not in said else {"rope_type": kind}
        )
    if "num_local_experts" in data and data["model_type"] == "qwen3_moe":
        data["num_experts"] = data.pop("num_local_experts")
    return data


def test_both_dialects_of_the_configuration_read_alike(case, tiny_models, tmp_path):
    if case == "olmo3":
        pytest.skip("transformers reads the older dialect's one theta for its full layers alone: see said_twice")
    _, folder = tiny_models(case)
    path = tmp_path / "config.json"
    path.write_text(json.dumps(older(json.loads((folder / "config.json").read_text()))))
    assert config.read_pretrained(tmp_path).model == config.read_pretrained(folder).model


SPARSE = {"vocab_size": 61, "hidden_size": 1024, "intermediate_size": 48, "num_hidden_layers": 40}


@pytest.mark.parametrize("model_type", export.WRITTEN)
def test_what_a_configuration_leaves_out_has_the_default_of_transformers(model_type, tmp_path):
    import transformers

    data = {"n_embd": 960} if model_type == "gpt2" else SPARSE | {"num_attention_heads": 32}
    data |= {"num_experts_per_tok": 2} if model_type == "deepseek_v2" else {}  # which has no default of its own
    (tmp_path / "config.json").write_text(json.dumps(data | {"model_type": model_type}))
    sparse = config.read_pretrained(tmp_path).model
    transformers.AutoConfig.for_model(model_type, **data).save_pretrained(tmp_path)
    assert config.read_pretrained(tmp_path).model == sparse
