"""PEFT's folders: their tensors where they belong, the way back, and what is refused.

The reference is the merge that PEFT defines, `W + scale * B @ A` in float64 on the checkpoint's own tensors, which are
then loaded as any checkpoint is.
"""

import json
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vishwamai.errors import CheckpointError, ConfigError
from vishwamai.hf import adapters, config, safetensors, saving, weights
from vishwamai.hf.safetensors import LazyTensor
from vishwamai.models import transformer
from vishwamai.models.config import Layer, ModelConfig, group_layers, uniform
from vishwamai.parallel.mesh import make_mesh
from vishwamai.parallel.sharding import Sharding
from vishwamai.weights import lora, spec

SIZES = {"vocab_size": 24, "d_model": 16, "d_ff": 32, "n_heads": 4, "n_kv_heads": 2, "head_dim": 8, "max_length": 64}
GPT2 = {"norm": "layer", "norm_bias": True, "learned_positions": True, "gated": False, "activation": "gelu_tanh"}
GPT2 |= {"attn_bias": True, "o_bias": True, "mlp_bias": True, "tie_embeddings": True}
MODELS = {
    "llama": ModelConfig(**SIZES, stacks=uniform(3)),
    "phi3": ModelConfig(**SIZES, stacks=uniform(2)),
    "gpt2": ModelConfig(
        **SIZES | GPT2 | {"n_kv_heads": 4, "head_dim": 4},
        stacks=group_layers((Layer(rope=None),) * 2),
        norm_eps=1e-5,
    ),
    "qwen3_moe": ModelConfig(
        **SIZES,
        stacks=group_layers((Layer(), Layer(moe=True)) * 2),
        n_experts=3,
        n_experts_per_token=2,
        d_expert=12,
        qk_norm=True,
    ),
}
GPT_OSS = config.model_config(json.loads(Path(__file__).with_name("references.json").read_text())["gpt_oss"], "")
AT = "model.layers.{}."
SHAPES = {  # (out, in) of modules of the checkpoints, as their families store them
    "llama": {AT + "self_attn.q_proj": (32, 16), AT + "self_attn.o_proj": (16, 32), AT + "mlp.up_proj": (32, 16)},
    "phi3": {AT + "self_attn.qkv_proj": (64, 16), AT + "self_attn.o_proj": (16, 32), AT + "mlp.gate_up_proj": (64, 16)},
    "gpt2": {"transformer.h.{}.attn.c_attn": (48, 16), "transformer.h.{}.mlp.c_proj": (16, 32)},
    "qwen3_moe": {AT + "self_attn.k_proj": (16, 16), AT + "mlp.experts.2.down_proj": (16, 12)},
}
LAYERS = {"llama": (0, 2), "phi3": (0, 1), "gpt2": (0, 1), "qwen3_moe": (1, 3)}


def draw(*shape: int) -> np.ndarray:
    return np.asarray(np.random.default_rng(sum(shape)).standard_normal(shape), np.float32)


def write(folder: Path, tensors: dict[str, np.ndarray], **said) -> Path:
    """A folder such as PEFT writes."""
    folder.mkdir(exist_ok=True)
    settings = {"peft_type": "LORA", "r": 2, "lora_alpha": 6, "target_modules": ["q_proj"], "bias": "none"} | said
    (folder / "adapter_config.json").write_text(json.dumps(settings))
    out = [LazyTensor(name, x.shape, x.dtype, lambda x=x: x) for name, x in tensors.items()]
    safetensors.write_file(folder / "adapter_model.safetensors", out)
    return folder


def pair(module: str, shape: tuple[int, int], rank: int = 2) -> dict[str, np.ndarray]:
    """lora_A and lora_B of a Linear of this shape."""
    name = f"base_model.model.{module}.lora_"
    return {f"{name}A.weight": draw(rank, shape[1]), f"{name}B.weight": draw(shape[0], rank)}


def table_pair(module: str, rows: int, width: int, rank: int = 2) -> dict[str, np.ndarray]:
    """lora_embedding_A and _B of an embedding of this many rows."""
    name = f"base_model.model.{module}.lora_embedding_"
    return {f"{name}A": draw(rank, rows), f"{name}B": draw(width, rank)}


def modules(name: str) -> dict[str, tuple[int, int]]:
    return {module.format(i): shape for i in LAYERS[name] for module, shape in SHAPES[name].items()}


def pairs_of(named: dict[str, tuple[int, int]], ranks=lambda module: 2) -> dict[str, np.ndarray]:
    return {k: v for module, shape in named.items() for k, v in pair(module, shape, ranks(module)).items()}


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    """`base(model)` -> (weights, folder), each made once."""
    made = {}

    def make(name: str):
        if name not in made:
            folder, rng = tmp_path_factory.mktemp(name), np.random.default_rng(0)
            specs = transformer.specs(MODELS[name])
            w = spec.map_params(lambda p: jnp.asarray(rng.standard_normal(p.shape, np.float32)), specs)
            saving.save_model(folder, w, MODELS[name], model_type=name)
            made[name] = w, folder
        return made[name]

    return make


def stored(folder: Path, file: str = "adapter_model.safetensors") -> dict[str, np.ndarray]:
    data = safetensors.open_map(folder / file)
    return {name: np.array(t.view(data)) for name, t in safetensors.read_header(folder / file).items()}


def merged_there(folder: Path, out: Path, tensors: dict[str, np.ndarray], scale_of, *, turned: bool):
    """The base's checkpoint with `scale * B @ A` added to its own tensors in float64, as it is loaded."""
    found = stored(folder, "model.safetensors")
    for name in [name for name in tensors if name.endswith("lora_A.weight")]:
        module = name.removeprefix("base_model.model.").removesuffix(".lora_A.weight")
        a, b = (tensors[n].astype(np.float64) for n in (name, name.replace("lora_A", "lora_B")))
        delta = scale_of(module, len(a)) * (b @ a)
        found[f"{module}.weight"] = np.float32(found[f"{module}.weight"] + (delta if turned else delta.T))
    out.mkdir()
    (out / "config.json").write_text((folder / "config.json").read_text())
    outgoing = [LazyTensor(name, x.shape, x.dtype, lambda x=x: x) for name, x in found.items()]
    safetensors.write_folder(out, outgoing, max_file_bytes=2**30)
    return weights.load_weights(out, config.read_pretrained(out))


def assert_same(got, want) -> None:
    assert jax.tree.structure(got) == jax.tree.structure(want)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-5), got, want)


@pytest.mark.parametrize("name", MODELS)
def test_a_folder_adds_what_peft_defines(name, base, tmp_path):
    w, folder = base(name)
    tensors = pairs_of(modules(name))
    found = adapters.load_adapter(write(tmp_path / "a", tensors, fan_in_fan_out=name == "gpt2"), MODELS[name], name)
    want = merged_there(folder, tmp_path / "m", tensors, lambda module, rank: 3.0, turned=name != "gpt2")
    assert_same(lora.merge(lora.attach(w, [found])), want)


Q = "model.layers.0.self_attn.q_proj"


def test_the_text_model_in_one_of_several_kinds_has_two_names(tmp_path):
    cfg = MODELS["llama"]
    for i, inside in enumerate(("model.language_model.", "language_model.model.")):
        folder = write(tmp_path / str(i), pair(f"{inside}layers.1.self_attn.q_proj", (32, 16)))
        assert list(adapters.load_adapter(folder, cfg, "gemma3")) == ["stacks.0.0.attn.q"]
    seen = write(tmp_path / "seen", pair("model.vision_tower.encoder.layers.0.self_attn.q_proj", (32, 16)))
    with pytest.raises(CheckpointError, match=r"vision_tower\.encoder.*this model has no such weight"):
        adapters.load_adapter(seen, cfg, "gemma3")


def test_ranks_and_alphas_of_their_own(base, tmp_path):
    w, folder = base("llama")
    ranks = {"model.layers.2.mlp.up_proj": 5, "model.layers.0.self_attn.o_proj": 1}
    tensors = pairs_of(modules("llama"), lambda module: ranks.get(module, 2))
    patterns = {"rank_pattern": {"layers.2.mlp.up_proj": 5, "^model.layers.0.self_attn.o_proj": 1, "^q_proj": 9}}
    patterns |= {"alpha_pattern": {"o_proj": 4.5, "self_attn.o_proj": 1}}
    for by_root in (False, True):
        found = adapters.load_adapter(
            write(tmp_path / "a", tensors, use_rslora=by_root, **patterns), MODELS["llama"], "llama"
        )

        def scale_of(module: str, rank: int, by_root=by_root) -> float:
            return (4.5 if module.endswith("o_proj") else 6) / (rank**0.5 if by_root else rank)

        want = merged_there(folder, tmp_path / f"m{by_root}", tensors, scale_of, turned=True)
        assert_same(lora.merge(lora.attach(w, [found])), want)
    assert {path.rsplit(".", 1)[-1]: p.a.shape[-1] for path, p in found.items()} == {"q": 2, "o": 2, "up": 5}


@pytest.mark.parametrize("name", MODELS)
def test_what_is_written_is_read_back(name, tmp_path):
    cfg, rng = MODELS[name], np.random.default_rng(1)
    declared = lora.specs(transformer.specs(cfg), rank=3, alpha=5.0)
    before = spec.map_params(lambda p: jnp.asarray(rng.standard_normal(p.shape, np.float32)), declared)
    adapters.save_adapter(tmp_path, before, cfg, name, base="owner/model")
    after = adapters.load_adapter(tmp_path, cfg, name)
    assert before.keys() == after.keys()
    for path in before:
        np.testing.assert_allclose(after[path].product, before[path].product, rtol=1e-4, atol=1e-4, err_msg=path)
    said = json.loads((tmp_path / "adapter_config.json").read_text())
    assert (said["base_model_name_or_path"], said["fan_in_fan_out"]) == ("owner/model", name == "gpt2")


def test_fused_weights_share_one_a_or_stand_in_blocks(base, tmp_path):
    cfg, names = MODELS["phi3"], {"model.layers.0.self_attn.qkv_proj": (64, 16)}
    tensors = pairs_of(names)
    one = adapters.load_adapter(write(tmp_path / "one", tensors, r=2), cfg, "phi3")
    adapters.save_adapter(tmp_path / "again", one, cfg, "phi3")
    again = stored(tmp_path / "again")
    for name, x in tensors.items():
        np.testing.assert_array_equal(again[name], x)
    apart = {path: jax.tree.map(lambda x, n=n: x * n, p) for n, (path, p) in enumerate(one.items(), 2)}
    adapters.save_adapter(tmp_path / "apart", apart, cfg, "phi3")
    a, b = stored(tmp_path / "apart").values()
    assert a.shape == (6, 16) and b.shape == (64, 6)
    assert np.count_nonzero(b) == 64 * 2 and np.count_nonzero(b[:32, 2:]) == np.count_nonzero(b[48:, :4]) == 0


def test_the_names_in_a_configuration_mean_what_was_adapted_and_no_more(tmp_path):
    cfg = MODELS["qwen3_moe"]
    rng, specs = np.random.default_rng(1), transformer.specs(cfg)
    declared = lora.specs(specs, rank=3, alpha=5.0, targets=["attn.q", "ffn.down"])
    declared |= lora.specs(specs, rank=2, alpha=5.0, targets=["attn.o"])
    first = "stacks.0.0."  # the dense layers; the others are mixtures
    kept = {path: p for path, p in declared.items() if not (path.startswith(first) and path.endswith("down"))}
    pairs = spec.map_params(
        lambda p: jnp.asarray(rng.standard_normal(p.shape, np.float32)) if p.contract else p.init(None), kept
    )
    adapters.save_adapter(tmp_path, pairs, cfg, "qwen3_moe")
    said = json.loads((tmp_path / "adapter_config.json").read_text())
    experts = [f"model.layers.{i}.mlp.experts.{e}.down_proj" for i in (1, 3) for e in range(3)]
    assert set(said["target_modules"]) == {"q_proj", "o_proj", *experts}
    assert (said["r"], said["lora_alpha"]) == (3, 5) and said["rank_pattern"] == {"o_proj": 2}
    assert said["alpha_pattern"] == {} and said["use_rslora"] is False


def test_eight_devices(base, tmp_path):
    cfg, sharding = MODELS["llama"], Sharding(make_mesh(fsdp=2, tensor=4))
    folder = write(tmp_path / "a", pairs_of(modules("llama")))
    one, many = (
        adapters.load_adapter(folder, cfg, "llama"),
        adapters.load_adapter(folder, cfg, "llama", sharding=sharding),
    )
    up = many["stacks.0.0.ffn.up"]
    assert (up.a.addressable_shards[0].data.shape, up.b.addressable_shards[0].data.shape) == ((3, 8, 2), (3, 2, 8))
    adapters.save_adapter(tmp_path / "one", one, cfg, "llama")
    adapters.save_adapter(tmp_path / "many", many, cfg, "llama")
    for file in ("adapter_model.safetensors", "adapter_config.json"):
        assert (tmp_path / "one" / file).read_bytes() == (tmp_path / "many" / file).read_bytes()


# What is refused


@pytest.mark.parametrize(
    ("said", "words"),
    [
        ({"use_dora": True}, "'use_dora' is True; only False"),
        ({"bias": "all"}, "'bias' is 'all'; only 'none'"),
        ({"modules_to_save": [1]}, "modules_to_save must be names of modules"),
        ({"trainable_token_indices": [5, 6]}, "'trainable_token_indices' is"),
        ({"peft_type": "IA3"}, "'peft_type' is 'IA3'; only 'LORA'"),
        ({"target_parameters": ["mlp.experts.gate_up_proj"]}, "'target_parameters' is"),
        ({"init_lora_weights": "pissa"}, "'init_lora_weights' is 'pissa'"),
        ({"layer_replication": [[0, 4]]}, "'layer_replication' is"),
        ({"shiny_new_trick": 1}, "'shiny_new_trick' is not known for LoRA"),
        ({"r": 0}, "'r' is 0"),
        ({"lora_alpha": -1}, "'lora_alpha' is -1"),
        ({"rank_pattern": {"(a+)+": 2}}, r"rank_pattern: '\(a\+\)\+' is a pattern"),
        ({"rank_pattern": {"q_proj": 2.5}}, "rank_pattern: 'q_proj' is 2.5"),
        ({"alpha_pattern": {"q_proj": True}}, "alpha_pattern: 'q_proj' is True"),
    ],
)
def test_configurations_that_are_refused(said, words, tmp_path):
    folder = write(tmp_path / "a", pair(Q, (32, 16)), **said)
    with pytest.raises(ConfigError, match=f"adapter_config.json: .*{words}"):
        adapters.load_adapter(folder, MODELS["llama"], "llama")


def test_a_type_must_be_said(tmp_path):
    folder = write(tmp_path / "a", pair(Q, (32, 16)))
    (folder / "adapter_config.json").write_text('{"r": 2}')
    with pytest.raises(ConfigError, match="'peft_type' is missing"):
        adapters.load_adapter(folder, MODELS["llama"], "llama")


@pytest.mark.parametrize(
    ("name", "tensors", "words"),
    [
        (
            "llama",
            pair("model.layers.7.self_attn.q_proj", (32, 16)),
            r"layers\.7\.self_attn\.q_proj: this model has no",
        ),
        ("llama", pair(Q, (32, 16), rank=4), r"are \[4, 16\] and \[32, 4\], and must be \[2, 16\] and \[32, 2\]"),
        ("llama", pair(Q, (64, 16)), r"are \[2, 16\] and \[64, 2\], and must be"),
        ("llama", {f"base_model.model.{Q}.lora_A.weight": draw(2, 16)}, "has lora_A alone"),
        ("llama", pair("model.norm", (16, 16)), "no matrix that multiplies"),
        (
            "llama",
            pair("model.embed_tokens", (16, 24)),
            "is an embedding here, and .*lora_A.weight' is of another kind",
        ),
        ("llama", table_pair(Q, 16, 32), "is a Linear here, and .*lora_embedding_A' is of another kind"),
        ("llama", {"base_model.model.model.norm.weight": draw(16)}, "whole weight .* of the embedding and the output"),
        (
            "llama",
            {"base_model.model.lm_head.weight": draw(26, 16)},
            r"\[26, 16\], and the model's \[24, 16\]; where tokens",
        ),
        (
            "llama",
            {f"base_model.model.lm_head.{part}": draw(24, 16) for part in ("weight", "base_layer.weight")},
            "lm_head.weight' and .*lm_head.base_layer.weight' are both there",
        ),
        ("llama", {f"base_model.model.{Q}.lora_magnitude_vector": draw(32)}, "neither lora_A nor lora_B"),
        ("llama", {k: v.astype(np.int8) for k, v in pair(Q, (32, 16)).items()}, "int8, which holds no weights"),
        ("llama", {}, "holds no tensors"),
        ("gpt_oss", pair("model.layers.0.mlp.experts.gate_up_proj", (32, 96)), "all experts in one tensor"),
    ],
)
def test_tensors_that_do_not_fit_are_refused(name, tensors, words, tmp_path):
    folder = write(tmp_path / "a", tensors)
    with pytest.raises(CheckpointError, match=f"adapter_model.safetensors: .*{words}"):
        adapters.load_adapter(folder, GPT_OSS if name == "gpt_oss" else MODELS[name], name)


def test_experts_in_one_tensor_are_not_written(tmp_path):
    declared = lora.specs(transformer.specs(GPT_OSS), rank=1, alpha=1.0, targets=["ffn.up"])
    with pytest.raises(CheckpointError, match=r"layers\.0\.mlp\.experts\.gate_up_proj.*all experts in one tensor"):
        adapters.save_adapter(tmp_path, spec.init(declared, jax.random.key(0)), GPT_OSS, "gpt_oss")


def test_files_that_are_missing(tmp_path):
    with pytest.raises(ConfigError, match=r"no file adapter_config\.json.*an adapter is a folder with"):
        adapters.load_adapter(tmp_path, MODELS["llama"], "llama")
    folder = write(tmp_path / "a", pair(Q, (32, 16)))
    (folder / "adapter_model.safetensors").rename(folder / "adapter_model.bin")
    with pytest.raises(CheckpointError, match=r"adapter_model\.bin is a pickle, which is never read"):
        adapters.load_adapter(folder, MODELS["llama"], "llama")
    with pytest.raises(ConfigError, match=r"this is an adapter and no model.*load_adapter"):
        config.read_pretrained(folder)
