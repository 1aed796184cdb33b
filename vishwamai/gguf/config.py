"""The configuration of a model as GGUF files have it, to and from the object of a config.json.

Most keys of the metadata are attributes by the tables of the families, which serve both directions. Whether a model can
be written is found out by reading what was written: what comes back must be the same model.
"""

import dataclasses
from collections.abc import Collection, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from vishwamai.errors import ConfigError
from vishwamai.gguf import rope
from vishwamai.gguf.rope import RopeMetadata
from vishwamai.gguf_header import TensorInfo
from vishwamai.hf.config import model_config
from vishwamai.hf.export import differing_fields, to_config_json
from vishwamai.hf.families import FAMILIES
from vishwamai.hf.family import TYPES, Family
from vishwamai.hf.generation_config import GenerationConfig
from vishwamai.hf.gguf_names import KEYS, ROPE_TENSORS, WINDOW
from vishwamai.hf.pieces import tensor_pieces
from vishwamai.models import transformer
from vishwamai.models.config import Layer, ModelConfig

ARCHITECTURE, FILE_TYPE = "general.architecture", "general.file_type"
EMBEDDING, HEAD = "token_embd.weight", "output.weight"
PERIOD = "attention.sliding_window_pattern"
FAMILIES_OF_GGUF = {name: family for name, family in FAMILIES.items() if family.gguf is not None}
ARCHITECTURES = tuple(dict.fromkeys(family.gguf.architecture for family in FAMILIES_OF_GGUF.values()))
BIASES = {  # attribute of config.json: the tensor whose presence says it
    "attention_bias": "blk.0.attn_q.bias",
    "qkv_bias": "blk.0.attn_q.bias",
    "use_bias": "blk.0.attn_q.bias",
    "mlp_bias": "blk.0.ffn_up.bias",
}
# Keys that change nothing, with the values of which this is known; others of the architecture are refused by name.
NEUTRAL: dict[str, tuple[Any, ...]] = {
    "attention.causal": (True,),
    "attention.clamp_kqv": (0,),
    "attention.max_alibi_bias": (0,),
    "attention.shared_kv_layers": (0,),
    "attention.temperature_scale": (0,),
    "decoder_sparse_step": (1,),
    "expert_count": (0,),
    "expert_gating_func": (0, 1),
    "expert_group_count": (0, 1),
    "expert_group_used_count": (0, 1),
    "expert_shared_count": (0, 1),
    "expert_used_count": (0,),
    "expert_weights_scale": (0, 1),
    "interleave_moe_layer_step": (0, 1),
    "leading_dense_block_count": (0,),
    "logit_scale": (0, 1),
    "moe_every_n_layers": (0, 1),
    "pooling_type": (0,),
    "rope.scale_linear": (1,),
}
HARMLESS = """
    vocab_size tensor_data_layout rope.scaling.finetuned rope.scaling.yarn_ext_factor nextn_predict_layers
    attention.key_length attention.value_length expert_feed_forward_length attention.layer_norm_epsilon
    attention.layer_norm_rms_epsilon attention.sliding_window use_parallel_residual
""".split()
SIZES = {  # what is computed with before the attributes are checked: least and most
    "block_count": (1, 1024),
    "embedding_length": (1, 2**20),
    "context_length": (1, 2**31 - 1),
    "attention.head_count": (1, 2**14),
    "attention.key_length": (1, 2**14),
    "attention.value_length": (1, 2**14),
    rope.TURNED: (1, 2**14),
    rope.LENGTH: (1, 2**31 - 1),
}
REQUIRED = ("block_count", "embedding_length", "context_length", "attention.head_count")
TEXTS = (rope.TYPE, "tensor_data_layout")
TOKENS = {
    "bos_token_id": ("tokenizer.ggml.bos_token_id",),
    "pad_token_id": ("tokenizer.ggml.padding_token_id",),
    "eos_token_id": tuple(f"tokenizer.ggml.{name}_token_id" for name in ("eos", "eot", "eom")),
}
SAMPLING = {name: f"general.sampling.{key}" for name, key in (("temperature", "temp"), ("top_k", "top_k"))}
SAMPLING["top_p"] = "general.sampling.top_p"


class Description(NamedTuple):
    """What a GGUF file says of a model: the metadata, and the tensors that are no weights."""

    metadata: dict[str, Any]
    tensors: dict[str, np.ndarray]


def gguf_family(model_type: str) -> Family:
    """A family with the names that its tensors have in GGUF files. Raises `ConfigError` where there are none."""
    family = FAMILIES[model_type]
    if family.gguf is None:
        known = ", ".join(FAMILIES_OF_GGUF)
        raise ConfigError(f"models of the type {model_type!r} have no form in GGUF; these have: {known}")
    tables = family.gguf
    names = {"whole": tables.whole, "layer": tables.layer, "moe": tables.moe}
    return dataclasses.replace(family, **names, ignored=tables.ignored, prefix="")


def config_json(metadata: Mapping[str, Any], tensors: Mapping[str, TensorInfo]) -> dict[str, Any]:
    """Returns the object of config.json that a file's metadata and tensors say.

    Raises `ConfigError` that names the key for an architecture or a value that is not known.
    """
    family = _family(metadata)
    shapes = {name: tensor.shape for name, tensor in tensors.items()}
    factors = {name: _read_factors(tensors[name]) for name in ROPE_TENSORS if name in tensors}
    kind = {"architectures": [family.architecture], "model_type": family.model_type}
    return kind | _attributes(family, metadata, shapes, factors) | _generation(metadata)


def _family(metadata: Mapping[str, Any]) -> Family:
    """The family of a file's architecture; of several, the one that its metadata tell."""
    name = metadata.get(ARCHITECTURE)
    if not isinstance(name, str) or name not in ARCHITECTURES:
        raise ConfigError(f"{ARCHITECTURE} is {name!r:.60}, which is not known; known are {', '.join(ARCHITECTURES)}")
    families = [family for family in FAMILIES_OF_GGUF.values() if family.gguf.architecture == name]

    def told(family: Family) -> bool:
        value = metadata.get(f"{name}.{family.gguf.told_by}")
        if not isinstance(value, int | float):
            return False
        return value in family.gguf.values if family.gguf.values else bool(value)

    particular = (family for family in reversed(families) if family.gguf.told_by and told(family))
    return next(particular, next(family for family in families if not family.gguf.told_by))


def _read_factors(tensor: TensorInfo) -> np.ndarray:
    if tensor.type != "F32" or len(tensor.shape) != 1 or tensor.nbytes > 2**16:
        raise ConfigError(f"{tensor.name} is {tensor.type} {list(tensor.shape)}; it must be a list of F32")
    return np.fromfile(tensor.path, "<f4", tensor.shape[0], offset=tensor.start)


def _attributes(
    family: Family,
    metadata: Mapping[str, Any],
    shapes: Mapping[str, Sequence[int]],
    factors: Mapping[str, np.ndarray],
) -> dict[str, Any]:
    """The attributes of config.json, by the tables of a family."""
    tables, own = family.gguf, f"{family.gguf.architecture}."
    m = {key.removeprefix(own): _plain(value, key) for key, value in metadata.items() if key.startswith(own)}
    keys = _keys(family)
    _check(
        m,
        {
            *tables.other_keys,
            *[PERIOD] * (tables.period is not None),
            *(key for those in keys.values() for key in those),
        },
        own,
    )
    for key in (*REQUIRED, *tables.required):
        if key not in m:
            raise ConfigError(f"the key {own}{key} is missing")
    if m["attention.head_count"] > m["embedding_length"]:
        raise ConfigError(f"{own}attention.head_count is {m['attention.head_count']}, and heads would have no width")
    if len(shapes.get(EMBEDDING, ())) != 2:
        raise ConfigError(f"the tensor {EMBEDDING!r} is missing, or is no matrix")
    found = {name: _value(m, those, own) for name, those in keys.items()}
    found = {name: value for name, value in found.items() if value is not None}
    found |= {"vocab_size": shapes[EMBEDDING][0], "tie_word_embeddings": HEAD not in shapes}
    switches = {name for name, attribute in family.attributes.items() if attribute.kinds == (bool,)}
    found |= {name: tensor in shapes for name, tensor in BIASES.items() if name in switches}
    window = family.attributes.get("sliding_window")
    if window is not None and type(None) in window.kinds:
        found["sliding_window"] = found.get("sliding_window") or None
    read = dict(tables.read(m))
    if "rope_parameters" in family.attributes:
        found |= _turned(family, m, factors, read.pop("rope_parameters", {}))
    found |= _slides(tables.period, m)
    return {name: value for name, value in (found | tables.fixed | read).items() if name in family.attributes}


def _plain(value: Any, key: str) -> Any:
    """A value as config.json has it: a float by its shortest decimals, and one number where all layers have the same.

    Raises `ConfigError` where they have not.
    """
    if isinstance(value, float):
        return float(str(np.float32(value)))
    if not isinstance(value, np.ndarray) or key.endswith(PERIOD):
        return value
    if len(set(value.tolist())) != 1:
        raise ConfigError(f"{key} is {value.tolist()!r:.60}, and only layers of one size are known")
    return value.tolist()[0]


def _keys(family: Family) -> dict[str, tuple[str, ...]]:
    """Attribute of config.json -> the keys that have its value."""
    known = {name: keys for name, keys in (KEYS | family.gguf.keys).items() if name in family.attributes}
    return {name: (keys,) if isinstance(keys, str) else keys for name, keys in known.items()}


def _check(m: Mapping[str, Any], known: Collection[str], own: str) -> None:
    """Raises `ConfigError` for a key or a value that is not known, and for what is no number where one is read."""
    for key, value in m.items():
        least, most = SIZES.get(key, (0, 2**40))
        is_number = isinstance(value, int | float) and least <= value <= most
        if key in SIZES and type(value) is not int or not (is_number or key in TEXTS or key == PERIOD):
            raise ConfigError(f"{own}{key} is {value!r:.60}, which is no value for it")
    for key, value in m.items():
        if key not in known and key not in HARMLESS and key not in rope.KEYS and value not in NEUTRAL.get(key, ()):
            hint = f"; only {' or '.join(map(str, NEUTRAL[key]))} is known" if key in NEUTRAL else ""
            raise ConfigError(f"{own}{key} is {value!r:.60}, which is not known{hint}, so the model is not loaded")


def _value(m: Mapping[str, Any], keys: tuple[str, ...], own: str) -> Any:
    """The value that those of the keys which are there agree on."""
    values = {key: m[key] for key in keys if key in m}
    if len(set(values.values())) > 1:
        raise ConfigError(
            f"{own}{' and '.join(values)} are {' and '.join(map(str, values.values()))}; only one is known"
        )
    return next(iter(values.values()), None)


def _turned(family: Family, m: Mapping[str, Any], factors: Mapping[str, np.ndarray], more: Mapping[str, Any]) -> dict:
    """Rotary positions, and how much of each head turns; `more` is what the family adds to rope_parameters."""
    width = m.get("attention.key_length", m["embedding_length"] // m["attention.head_count"])
    turned, found = m.get(rope.TURNED, width), {}
    if "head_dim" in family.attributes and rope.TURNED not in family.gguf.keys.values():
        found["head_dim"] = width
        if "partial_rotary_factor" in family.attributes:
            found["partial_rotary_factor"] = turned / width
        elif turned != width:
            raise ConfigError(
                f"{rope.TURNED} is {turned}, and heads have {width}; only whole heads that turn are known"
            )
    plain = {key: value for key, value in m.items() if key not in family.gguf.other_keys}
    turn = rope.read_rope(plain, factors, m["context_length"])
    data = {TYPES[0]: turn} if family.ropes_by_type else turn
    return found | {"rope_parameters": data | more}


def _slides(period: int | None, m: Mapping[str, Any]) -> dict[str, Any]:
    """Which layers have the sliding window, in architectures of which some have: all but the last of each period."""
    if period is None:
        return {}
    given, n = m.get(PERIOD, period), m["block_count"]
    if type(given) is not int and not isinstance(given, np.ndarray):
        raise ConfigError(f"{PERIOD} is {given!r:.60}; it must be a number or say it of each layer")
    slides = given.tolist() if isinstance(given, np.ndarray) else [not given or (i + 1) % given != 0 for i in range(n)]
    return {"layer_types": [TYPES[bool(x)] for x in slides]}


def _generation(metadata: Mapping[str, Any]) -> dict[str, Any]:
    """The special tokens, and the settings for sampling."""
    ids = {name: [metadata[key] for key in keys if key in metadata] for name, keys in TOKENS.items()}
    if any(type(i) is not int for those in ids.values() for i in those):
        raise ConfigError(f"the special tokens must be ids, and are {ids!r:.120}")
    found: dict[str, Any] = {name: list(dict.fromkeys(those)) for name, those in ids.items() if those}
    found = {name: those if len(those) > 1 else those[0] for name, those in found.items()}
    sampling = {name: metadata[key] for name, key in SAMPLING.items() if key in metadata}
    return found | ({"do_sample": True, **sampling} if sampling else {})


def choose_family(cfg: ModelConfig, preferred: str) -> str:
    """Returns the model type to write a model as: the preferred one, or the first that expresses it in a GGUF file.

    Raises `ConfigError` that says what does not fit, where none does.
    """
    own = FAMILIES[preferred].written_as
    names = (own,) if own in FAMILIES_OF_GGUF else tuple(FAMILIES_OF_GGUF)
    obstacles = []
    for name in names:
        try:
            describe(cfg, name, GenerationConfig())
        except ConfigError as error:
            obstacles.append(str(error))
        else:
            return name
    if len(names) == 1:
        raise ConfigError(obstacles[0])
    raise ConfigError(f"no architecture of GGUF files expresses this model ({preferred}): {'; '.join(obstacles)}")


def metadata_of(cfg: ModelConfig, model_type: str, generation: GenerationConfig) -> dict[str, Any]:
    """Returns the metadata of a model but for its vocabulary. Raises `ConfigError` as `describe` does."""
    return describe(cfg, model_type, generation).metadata


def describe(cfg: ModelConfig, model_type: str, generation: GenerationConfig) -> Description:
    """Returns what a GGUF file says of a model beside its vocabulary and its weights.

    Raises `ConfigError` where the file would be read as another model, with the fields that it has no words for.
    """
    family = gguf_family(model_type)
    tables, a = family.gguf, to_config_json(cfg, model_type)
    found = {key: a[name] for name, keys in _keys(family).items() for key in keys if a.get(name) is not None}
    turns = RopeMetadata({}, {})
    if "rope_parameters" in family.attributes:
        turn = a["rope_parameters"][TYPES[0]] if family.ropes_by_type else a["rope_parameters"]
        turns = rope.write_rope(turn, next(x.rope for x in cfg.layers if x.rope).rotary_dim(cfg.d_turned) // 2)
    found |= turns.keys | _write_period(tables.period, cfg) | dict(tables.write(a)) | {"vocab_size": cfg.vocab_size}
    metadata = {ARCHITECTURE: tables.architecture} | {
        f"{tables.architecture}.{k}": v for k, v in found.items() if v is not None
    }
    pieces = tensor_pieces(family, transformer.specs(cfg), cfg)
    shapes = {piece.name: piece.shape for of in pieces for piece in of}
    back = _family(metadata)
    data = {"model_type": back.model_type} | _attributes(back, metadata, shapes, turns.tensors)
    lost = _lost(cfg, model_config(data, f"as {tables.architecture}"), approximate=rope.ROPE_FREQS in turns.tensors)
    if lost:
        what = f"{', '.join(lost)} of this {model_type}"
        raise ConfigError(f"a GGUF file of the architecture {tables.architecture} has no words for the {what}")
    return Description(metadata | _write_generation(generation), turns.tensors)


def overlooked(model_type: str, metadata: Mapping[str, Any]) -> list[str]:
    """Returns what llama.cpp does not do of what a file's metadata says: `key = value`."""
    tables, found = FAMILIES[model_type].gguf, []
    for key in tables.overlooked:
        value = metadata.get(f"{tables.architecture}.{key}", 0)
        if value > 1 and not (key == WINDOW[0] and value >= metadata[f"{tables.architecture}.context_length"]):
            found.append(f"{tables.architecture}.{key} = {value}")
    return found


def _lost(cfg: ModelConfig, back: ModelConfig, *, approximate: bool) -> list[str]:
    """The fields in which a model differs from what was read back; of layers, their own.

    With `approximate` the scaling of its rotary positions is not compared: it is a list of numbers in the file.
    """
    found = differing_fields(cfg, back)
    if "layers" not in found or len(cfg.layers) != len(back.layers):
        return found
    pairs = list(zip(cfg.layers, back.layers, strict=True))
    if approximate:
        pairs = [(dataclasses.replace(a, rope=b.rope if a.rope and b.rope else a.rope), b) for a, b in pairs]
    fields = [
        f.name for f in dataclasses.fields(Layer) if any(getattr(a, f.name) != getattr(b, f.name) for a, b in pairs)
    ]
    return [name for name in found if name != "layers"] + [f"{name} of layers" for name in fields]


def _write_period(period: int | None, cfg: ModelConfig) -> dict[str, Any]:
    slides = [layer.window is not None for layer in cfg.layers]
    if period is None:
        return {}

    def fits(n: int) -> bool:
        return slides == [(i + 1) % n != 0 for i in range(len(slides))]

    other = next((n for n in range(1, len(slides) + 2) if fits(n)), None)
    return {} if fits(period) or other is None else {PERIOD: other}


def _write_generation(generation: GenerationConfig) -> dict[str, Any]:
    ids = {"eos_token_id": generation.eos_ids or (), "bos_token_id": (generation.bos_id,)}
    ids["pad_token_id"] = (generation.pad_id,)
    found = {key: i for name, of in ids.items() for key, i in zip(TOKENS[name], of, strict=False) if i is not None}
    return found | {key: value for name, key in SAMPLING.items() if (value := getattr(generation, name)) is not None}
