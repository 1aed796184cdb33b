"""Every configuration of the parity tests against logits that transformers gave once: no torch is needed to compare.

Weights come from a formula of their names, so only configurations and logits are stored (`references.json`,
`references.npz`); and of some models a folder that PEFT wrote with the logits that it gave then (`adapters.npz`).
`python tests/hf/test_references.py`, in the environment of `make parity` and with `peft`, stores all anew.
"""

import functools
import importlib.util
import itertools
import json
import tempfile
import zlib
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vishwamai.hf import adapters, config, saving, weights
from vishwamai.hf.families import FAMILIES
from vishwamai.hf.pieces import tensor_pieces
from vishwamai.hf.safetensors import LazyTensor, write_folder
from vishwamai.models import transformer
from vishwamai.models.attention import attend_cached, attend_uncached
from vishwamai.models.cache import init_cache
from vishwamai.weights import lora

pytestmark = pytest.mark.by_turns

HERE = Path(__file__).parent
CONFIGS = HERE / "references.json"
LOGITS = HERE / "references.npz"
ADAPTERS = HERE / "adapters.npz"
TOKENS = np.random.default_rng(7).integers(0, 61, (1, 24)).astype(np.int32)
FORWARD = jax.jit(transformer.forward, static_argnames="cfg")
TOLERANCE = 1e-5
PROMPT = 9  # tokens that fill a cache at once, more than the windows of the cases; the others come one at a time
CACHED = (
    "mistral",
    "gemma3_text",
    "gpt_oss",
    "deepseek_v3",
    "gpt2",
    "cohere2",
    "ministral3",
    "phi4_mini",
    "phi3_longrope_window",
    "llama_dynamic",
)  # each way to hold and turn
BY_LENGTH = CACHED[-3:]  # a text turns by its length, so what a step gives is not what the whole text gives there
CASES = json.loads(CONFIGS.read_text()) if CONFIGS.exists() else {}
ADAPTED = {  # what PEFT's LoraConfig is given
    "llama": {
        "target_modules": "all-linear",
        "rank_pattern": {"v_proj": 3},
        "alpha_pattern": {"layers.1.mlp.up_proj": 9},
    },
    "phi3": {"target_modules": ["qkv_proj", "down_proj"], "use_rslora": True},
    "gpt2": {"target_modules": ["c_attn", "c_proj"], "fan_in_fan_out": True, "layers_to_transform": [0, 2]},
    "gpt_oss": {"target_modules": ["q_proj", "o_proj"]},
}


def value(name: str, shape: tuple[int, ...]) -> np.ndarray:
    """A tensor of a checkpoint, from its name alone. Scales are far from 0 and 1, so that none is idle.

    Biases have no common sign: they would outweigh the tokens, and every token would go to the same experts.
    """
    drawn = np.random.default_rng(zlib.crc32(name.encode())).standard_normal(shape).astype(np.float32)
    centred = len(shape) > 1 or name.endswith("bias")
    return np.asarray(0.2 * drawn if centred else 0.6 + 0.3 * drawn, np.float32)


def write(folder: Path, data: dict) -> None:
    """A folder with this configuration, and weights by the formula."""
    (folder / "config.json").write_text(json.dumps(data))
    found = config.read_pretrained(folder)
    named = {
        piece.name: piece.shape
        for leaf in tensor_pieces(FAMILIES[found.model_type], transformer.specs(found.model), found.model)
        for piece in leaf
    }
    tensors = [LazyTensor(n, s, np.dtype("float32"), functools.partial(value, n, s)) for n, s in named.items()]
    write_folder(folder, tensors, max_file_bytes=2**30)


def theirs(folder: Path) -> np.ndarray:
    return their_logits(their_model(folder))


def their_model(folder: Path):
    import transformers

    return transformers.AutoModelForCausalLM.from_pretrained(folder, attn_implementation="eager").eval()


def their_logits(model) -> np.ndarray:
    import torch

    with torch.no_grad():
        return model(torch.tensor(TOKENS, dtype=torch.int64), use_cache=False).logits.numpy()[0]


def their_steps(folder: Path) -> np.ndarray:
    """Their logits of each token when it is the last: longrope reads all anew, a dynamic scaling keeps its cache."""
    import torch

    model, tokens = their_model(folder), torch.tensor(TOKENS, dtype=torch.int64)
    keeps = model.config.rope_parameters["rope_type"] == "dynamic"
    with torch.no_grad():
        out = model(tokens[:, :PROMPT], use_cache=keeps)
        parts = [out.logits[0]]
        for end in range(PROMPT + 1, tokens.shape[1] + 1):
            begin = end - 1 if keeps else 0
            out = model(tokens[:, begin:end], use_cache=keeps, past_key_values=out.past_key_values if keeps else None)
            parts.append(out.logits[0, -1:])
    return torch.cat(parts).numpy()


def logits_of(folder: Path) -> np.ndarray:
    """What we make of a folder."""
    found = config.read_pretrained(folder)
    return np.asarray(FORWARD(weights.load_weights(folder, found), jnp.asarray(TOKENS), cfg=found.model)[0])[0]


def stored(case: str) -> np.ndarray:
    """What transformers made of a case."""
    with np.load(LOGITS) as logits:
        return logits[case]


def distance(mine: np.ndarray, reference: np.ndarray) -> float:
    return float(np.abs(mine - reference).max() / np.abs(reference).max())


def whole_distance(case: str, folder: Path) -> float:
    """How far a case's logits of all tokens at once are from the stored ones."""
    write(folder, CASES[case])
    return distance(logits_of(folder), stored(case))


def cached_distance(case: str, folder: Path) -> float:
    """The same of a prompt at once and each further token with the cache."""
    write(folder, CASES[case])
    found, tokens = config.read_pretrained(folder), jnp.asarray(TOKENS)
    step = jax.jit(functools.partial(transformer.forward_cached, cfg=found.model), static_argnames="attend")
    w, cache, parts = weights.load_weights(folder, found), init_cache(found.model, 1, tokens.shape[1]), []
    for begin, end in itertools.pairwise((0, *range(PROMPT, tokens.shape[1] + 1))):
        out, cache = step(w, tokens[:, begin:end], cache=cache, attend=attend_cached if begin else attend_uncached)
        parts.append(out[0])
    return distance(np.concatenate(parts), stored(f"{case}/steps" if case in BY_LENGTH else case))


@pytest.fixture(autouse=True)
def exact(request):
    """An optimiser where its lack costs digits. (`make parity` compares all these logits with it.)"""
    callspec = getattr(request.node, "callspec", None)
    if callspec and callspec.params["case"] == "gemma3_text":
        request.getfixturevalue("optimised")


@pytest.mark.parametrize("case", CASES)
def test_logits_are_those_that_transformers_gave(case, tmp_path):
    assert whole_distance(case, tmp_path) <= TOLERANCE


@pytest.mark.parametrize("case", CACHED)
def test_decoding_with_a_cache_gives_them_too(case, tmp_path):
    assert cached_distance(case, tmp_path) <= TOLERANCE


def test_kimi_k2_is_deepseek_v3_by_another_name(tmp_path):
    write(tmp_path, CASES["deepseek_v3"])
    found = config.read_pretrained(tmp_path)
    (tmp_path / "config.json").write_text(json.dumps(CASES["deepseek_v3"] | {"model_type": "kimi_k2"}))
    kimi = config.read_pretrained(tmp_path)
    assert (kimi.model_type, kimi.model, kimi.generation) == ("kimi_k2", found.model, found.generation)
    assert distance(logits_of(tmp_path), stored("deepseek_v3")) <= TOLERANCE
    saving.save_model(tmp_path / "again", weights.load_weights(tmp_path, kimi), kimi.model, model_type=kimi.model_type)
    assert config.read_pretrained(tmp_path / "again").model_type == "deepseek_v3"


@pytest.mark.parametrize("case", ADAPTED)
def test_logits_with_an_adapter_are_those_that_peft_gave(case, tmp_path):
    write(tmp_path, CASES[case])
    with np.load(ADAPTERS) as stored:
        for file in ("adapter_config.json", "adapter_model.safetensors"):
            (tmp_path / file).write_bytes(stored[f"{case}/{file}"].tobytes())
        reference = stored[f"{case}/logits"]
    found = config.read_pretrained(tmp_path)
    pairs = adapters.load_adapter(tmp_path, found.model, found.model_type)
    w = lora.attach(weights.load_weights(tmp_path, found), [pairs])
    mine = FORWARD(w, jnp.asarray(TOKENS), cfg=found.model)[0]
    with np.load(LOGITS) as stored:
        assert distance(stored[case], reference) > 0.1
    assert distance(np.asarray(mine)[0], reference) <= TOLERANCE


def test_our_own_format_has_a_place_for_every_weight_of_every_family(tmp_path):
    for data in CASES.values():
        (tmp_path / "config.json").write_text(json.dumps(data))
        cfg = config.read_pretrained(tmp_path).model
        names = [
            piece.name for leaf in tensor_pieces(FAMILIES["vishwamai"], transformer.specs(cfg), cfg) for piece in leaf
        ]
        assert len(names) == len(set(names)) > 0


@pytest.mark.parity
@pytest.mark.parametrize("case", CASES)
def test_transformers_gives_them_still(case, tmp_path):
    write(tmp_path, CASES[case])
    most = 1e-5  # torch itself differs by 3e-6 from processor to processor
    assert distance(theirs(tmp_path), stored(case)) <= most
    if case in BY_LENGTH:
        assert distance(their_steps(tmp_path), stored(f"{case}/steps")) <= most


def store() -> None:
    """Asks transformers for the logits of every case of `tests/parity/conftest.py`."""
    import transformers

    spec = importlib.util.spec_from_file_location("cases", HERE.parent / "parity" / "conftest.py")
    cases = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(cases)
    configs, logits = {}, {}
    for case, (kind, fields) in cases.CASES.items():
        with tempfile.TemporaryDirectory() as folder:
            cases.config_of(kind, fields).save_pretrained(folder)
            data = json.loads((Path(folder) / "config.json").read_text())
            data["architectures"] = [FAMILIES[data["model_type"]].architecture]
            write(Path(folder), data)
            configs[case], logits[case] = data, theirs(Path(folder))
            logits |= {f"{case}/steps": their_steps(Path(folder))} if case in BY_LENGTH else {}
    CONFIGS.write_text(json.dumps(configs, indent=1) + "\n")
    np.savez_compressed(LOGITS, **logits)
    print(f"{len(configs)} cases from transformers {transformers.__version__}: {LOGITS.stat().st_size:,} bytes")


def store_adapters() -> None:
    """Asks PEFT for an adapter of each case of `ADAPTED`, and for the logits with it."""
    import peft

    kept = {}
    for case, given in ADAPTED.items():
        with tempfile.TemporaryDirectory() as folder:
            write(Path(folder), CASES[case])
            model = peft.get_peft_model(their_model(Path(folder)), peft.LoraConfig(r=2, lora_alpha=5, **given)).eval()
            for name, parameter in model.named_parameters():
                if ".lora_" in name:
                    parameter.data.numpy()[:] = value(name, tuple(parameter.shape))
            model.save_pretrained(folder)
            for file in ("adapter_config.json", "adapter_model.safetensors"):
                kept[f"{case}/{file}"] = np.frombuffer((Path(folder) / file).read_bytes(), np.uint8)
            kept[f"{case}/logits"] = their_logits(model)
    np.savez_compressed(ADAPTERS, **kept)
    print(f"{len(ADAPTED)} adapters from peft {peft.__version__}: {ADAPTERS.stat().st_size:,} bytes")


if __name__ == "__main__":
    store()
    store_adapters()
