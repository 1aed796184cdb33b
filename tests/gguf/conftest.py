"""Tiny models as GGUF files, by the writer of the package `gguf` and llama.cpp's own rules of what is stored how."""

import json
from pathlib import Path

import gguf
import numpy as np
import pytest
from gguf import GGMLQuantizationType as Kind

from vishwamai.hf import config, safetensors
from vishwamai.hf.families import FAMILIES
from vishwamai.hf.pieces import tensor_pieces
from vishwamai.hf.safetensors import LazyTensor
from vishwamai.models import transformer

SIZES = {"embedding_length": 32, "feed_forward_length": 64, "block_count": 2, "context_length": 64}
HEADS, KV_HEADS, HEAD_DIM = 4, 2, 8
BYTES = [*range(33, 127), *range(161, 173), *range(174, 256)]  # that are characters of their own in byte-level BPE
SPECIAL = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]


def byte_tokens() -> list[str]:
    """The 256 tokens of byte-level BPE."""
    rest = iter(range(256, 512))
    return [chr(byte if byte in BYTES else next(rest)) for byte in range(256)]


MERGED = ["th", "the"]
VOCABULARY = [*SPECIAL, *byte_tokens(), *MERGED]
VOCABULARY += [f"<unused{i}>" for i in range(-len(VOCABULARY) % 32)]


def random_tensors(seed: int = 0) -> dict[str, np.ndarray]:
    """The weights of a small Llama by their names in Hugging Face's files, float32."""
    rng, d, f = np.random.default_rng(seed), SIZES["embedding_length"], SIZES["feed_forward_length"]
    shapes: dict[str, tuple[int, ...]] = {"model.embed_tokens.weight": (len(VOCABULARY), d), "model.norm.weight": (d,)}
    for i in range(SIZES["block_count"]):
        at = f"model.layers.{i}."
        shapes |= {f"{at}input_layernorm.weight": (d,), f"{at}post_attention_layernorm.weight": (d,)}
        shapes |= {f"{at}self_attn.q_proj.weight": (HEADS * HEAD_DIM, d), f"{at}self_attn.o_proj.weight": (d, d)}
        shapes |= dict.fromkeys((f"{at}self_attn.{x}_proj.weight" for x in "kv"), (KV_HEADS * HEAD_DIM, d))
        shapes |= {f"{at}mlp.gate_proj.weight": (f, d), f"{at}mlp.up_proj.weight": (f, d)}
        shapes[f"{at}mlp.down_proj.weight"] = (d, f)
    return {name: (rng.normal(size=shape) * 0.2 + (len(shape) == 1)).astype("f4") for name, shape in shapes.items()}


PLACES = {"model.embed_tokens": "token_embd", "model.norm": "output_norm", "lm_head": "output"}
PLACES |= {"input_layernorm": "attn_norm", "post_attention_layernorm": "ffn_norm"}
PLACES |= {"self_attn.o_proj": "attn_output"} | {f"self_attn.{x}_proj": f"attn_{x}" for x in "qkv"}
PLACES |= {f"mlp.{x}_proj": f"ffn_{x}" for x in ("gate", "up", "down")}


def gguf_name(name: str) -> str:
    """A tensor's name in GGUF."""
    module = name.removesuffix(".weight")
    if not module.startswith("model.layers."):
        return f"{PLACES[module]}.weight"
    _, _, layer, inner = module.split(".", 3)
    return f"blk.{layer}.{PLACES[inner]}.weight"


def permuted(name: str, values: np.ndarray) -> np.ndarray:
    """What llama.cpp stores of a matrix of queries or keys: in each head the halves' rows in turns."""
    heads = {"q_proj": HEADS, "k_proj": KV_HEADS}.get(name.split(".")[-2], 0)
    if not heads:
        return values
    return values.reshape(heads, 2, HEAD_DIM // 2, -1).swapaxes(1, 2).reshape(values.shape)


def write_llama(path: Path, kind: str = "F32", tensors: dict[str, np.ndarray] | None = None, **options) -> Path:
    """A Llama whose matrices are of a type; its vectors are float32."""
    writer = gguf.GGUFWriter(path, "llama", **options)
    for key, value in SIZES.items():
        writer.add_uint32(f"llama.{key}", value)
    writer.add_head_count(HEADS)
    writer.add_head_count_kv(KV_HEADS)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_rope_freq_base(10000.0)
    writer.add_rope_dimension_count(HEAD_DIM)
    writer.add_vocab_size(len(VOCABULARY))
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("smollm")
    writer.add_token_list(VOCABULARY)
    writer.add_token_types([3] * 3 + [1] * 258 + [5] * (len(VOCABULARY) - 261))
    writer.add_token_merges(["t h", "th e"])
    writer.add_bos_token_id(1)
    writer.add_eos_token_id(2)
    writer.add_chat_template("{% for m in messages %}<|im_start|>{{ m['content'] }}<|im_end|>{% endfor %}")
    for name, values in (random_tensors() if tensors is None else tensors).items():
        plain = values.ndim == 1 or kind == "F32"
        data = values if plain else gguf.quantize(permuted(name, values), Kind[kind])
        writer.add_tensor(gguf_name(name), permuted(name, values) if plain else data, raw_dtype=_raw(kind, plain))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def _raw(kind: str, plain: bool):
    return None if plain or kind == "F16" else Kind[kind]


@pytest.fixture(scope="session")
def llama(tmp_path_factory):
    """`llama(kind)`: the file of the small Llama with matrices of a type."""
    folder = tmp_path_factory.mktemp("llama")

    def make(kind: str = "F32") -> Path:
        path = folder / f"llama.{kind}.gguf"
        return path if path.exists() else write_llama(path, kind)

    return make


REFERENCES = json.loads((Path(__file__).parent.parent / "hf" / "references.json").read_text())
YARN = REFERENCES["deepseek_v3"]["rope_parameters"] | {"mscale": 0.7, "mscale_all_dim": 0.7}
NO_BIAS = {"attention_bias": False}
_CHANGED = {  # cases, and what of them has no form in GGUF
    "llama": {},
    "llama3": {},
    "mistral": {},
    "ministral3": {
        "rope_parameters": REFERENCES["ministral3"]["rope_parameters"] | {"mscale": 1.0, "mscale_all_dim": 1.0}
    },
    "mixtral": {},
    "mixtral_window": {},
    "qwen2": {"use_sliding_window": False, "layer_types": None},
    "qwen3": NO_BIAS,
    "qwen2_moe": {"mlp_only_layers": None, "decoder_sparse_step": 1, "norm_topk_prob": False, "head_dim": 8},
    "qwen3_moe": NO_BIAS | {"mlp_only_layers": None, "decoder_sparse_step": 1, "norm_topk_prob": True},
    "gemma": NO_BIAS,
    "gemma2": NO_BIAS | {"query_pre_attn_scalar": REFERENCES["gemma2"]["head_dim"]},
    "gemma3_text": NO_BIAS | {"query_pre_attn_scalar": REFERENCES["gemma3_text"]["head_dim"]},
    "phi3": {},
    "phi4_mini": {},
    "phi3_longrope": {},
    "granite": {},
    "olmo2": NO_BIAS,
    "olmo3": NO_BIAS,
    "smollm3": {"no_rope_layers": [1, 1, 1, 0, 1]},
    "gpt_oss": {"swiglu_limit": 7.0},
    "deepseek_v2": NO_BIAS,
    "deepseek_v2_lite": {},
    "deepseek_v3": {"rope_parameters": YARN},
    "starcoder2": {},
    "gpt2": {},
}
CASES = {case: REFERENCES[case] | changes for case, changes in _CHANGED.items()}
SIX = ["sliding_attention"] * 5 + ["full_attention"]
CASES |= {  # the largest models, which llama.cpp knows by their layers: it scales their queries in another way
    "gemma2_27b": CASES["gemma2"] | {"num_hidden_layers": 46, "query_pre_attn_scalar": 8, "layer_types": SIX[-2:] * 23},
    "gemma3_27b": CASES["gemma3_text"]
    | {"num_hidden_layers": 62, "query_pre_attn_scalar": 8, "layer_types": SIX * 10 + SIX[:2]},
}


def write_folder(folder: Path, data: dict, dtype: str = "float32") -> None:
    """A folder with this configuration and random weights."""
    folder.mkdir(exist_ok=True)
    (folder / "config.json").write_text(json.dumps(data))
    cfg, rng = config.read_pretrained(folder).model, np.random.default_rng(0)
    pieces = tensor_pieces(FAMILIES[data["model_type"]], transformer.specs(cfg), cfg)
    shapes = {piece.name: piece.shape for of in pieces for piece in of}
    values = {name: (0.5 * rng.standard_normal(shape)).astype(dtype) for name, shape in shapes.items()}
    tensors = [LazyTensor(name, v.shape, v.dtype, lambda v=v: v) for name, v in values.items()]
    safetensors.write_folder(folder, tensors, max_file_bytes=2**30)
