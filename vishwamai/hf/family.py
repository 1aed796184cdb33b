"""A family of checkpoints: the names of its tensors, and its config.json as a model's configuration and back.

Most attributes are fields of ours, by tables that serve both directions; `layers`, `read` and `write` are for the rest.
"""

import dataclasses
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

from vishwamai.errors import ConfigError
from vishwamai.hf import rope
from vishwamai.hf.attributes import Attribute
from vishwamai.hf.gguf_names import GGUFTables
from vishwamai.hf.names import PLAIN, WHOLE, Names
from vishwamai.models.config import Layer, ModelConfig, Rope

Attributes = Mapping[str, Any]

FIELDS = {  # attribute of config.json: the field or fields of `ModelConfig` that have its value, in every family
    "vocab_size": "vocab_size",
    "hidden_size": "d_model",
    "intermediate_size": "d_ff",
    "num_attention_heads": "n_heads",
    "num_key_value_heads": "n_kv_heads",
    "head_dim": "head_dim",
    "max_position_embeddings": "max_length",
    "rms_norm_eps": "norm_eps",
    "tie_word_embeddings": "tie_embeddings",
    "attention_bias": ("attn_bias", "o_bias"),
    "mlp_bias": "mlp_bias",
    "num_experts_per_tok": "n_experts_per_token",
    "moe_intermediate_size": "d_expert",
    "norm_topk_prob": "norm_topk",
    "attn_logit_softcapping": "attn_softcap",
    "final_logit_softcapping": "final_softcap",
}
EXPERT_WIDTH = {"intermediate_size": ("d_expert", "d_ff")}  # where every layer is a mixture
TYPES = (rope.FULL_ATTENTION, "sliding_attention")
ROTARY = r".*\.rotary_emb\.inv_freq"
NEXT_TOKENS = rf"model\.layers\.{{after}}\..*|{ROTARY}"  # the layer after the last one predicts a further token


def _nothing(_: Any) -> dict[str, Any]:
    return {}


def no_layers(a: Attributes) -> list[bool]:
    """For each layer: no."""
    return [False] * a["num_hidden_layers"]


def all_layers(a: Attributes) -> list[bool]:
    """For each layer: yes."""
    return [True] * a["num_hidden_layers"]


def every_other(a: Attributes) -> list[bool]:
    """For each layer: yes and no in turns."""
    return [i % 2 == 0 for i in range(a["num_hidden_layers"])]


def all_but_every(a: Attributes) -> list[bool]:
    """For each layer: yes, but for the last one of each `sliding_window_pattern`."""
    return [(i + 1) % a["sliding_window_pattern"] != 0 for i in range(a["num_hidden_layers"])]


def after_dense(a: Attributes) -> list[bool]:
    """For each layer: no for the first ones, as many as `first_k_dense_replace` says."""
    return [i >= a["first_k_dense_replace"] for i in range(a["num_hidden_layers"])]


def layers(
    a: Attributes,
    *,
    slides: Callable[[Attributes], list[bool]] = all_layers,
    experts: Callable[[Attributes], list[bool]] = no_layers,
    turns: Callable[[Attributes, list[bool]], list[bool]] | None = None,
    theta: float = 1e4,
    local_theta: Callable[[Attributes], float] | None = None,
    scaling: Mapping[str, Any] | None = None,
    length: Callable[[Attributes], Mapping[str, Any]] = _nothing,
    **style: Any,
) -> tuple[Layer, ...]:
    """Returns the layers that the attributes describe.

    `slides` says which have the sliding window, where there is one and no `layer_types`; `experts` which are mixtures;
    `turns` (of attributes and the sliding layers) which have rotary positions. `theta` and `scaling` are the family's
    defaults; with `local_theta` sliding layers have that, and no scaling. `length` returns attributes of a scaling that
    are beside its object. `style` are further fields of `Rope`.
    """
    ropes = _ropes(a, theta, local_theta, scaling, length(a))
    full, sliding = (dataclasses.replace(r, **style) for r in ropes)
    window = a.get("sliding_window") if a.get("use_sliding_window", True) else None
    where = _slides(a, window, slides)
    turned = all_layers(a) if turns is None else turns(a, where)
    turns_by = [None if not t else sliding if s else full for s, t in zip(where, turned, strict=True)]
    parts = zip(where, turns_by, experts(a), strict=True)
    return tuple(Layer(window=window if s else None, rope=rope, moe=moe) for s, rope, moe in parts)


def _slides(a: Attributes, window: int | None, by_default: Callable[[Attributes], list[bool]]) -> list[bool]:
    n, types = a["num_hidden_layers"], a.get("layer_types")
    if types is None:
        return [window is not None and slides for slides in by_default(a)]
    if len(types) != n or not all(t in TYPES for t in types):
        raise ConfigError(f"'layer_types' must say {' or '.join(TYPES)} {n} times")
    if window is None and "sliding_attention" in types:
        raise ConfigError("'layer_types' has sliding layers, and no sliding window is set")
    return [t == "sliding_attention" for t in types]


def _ropes(
    a: Attributes,
    theta: float,
    local_theta: Callable[[Attributes], float] | None,
    scaling: Mapping[str, Any] | None,
    length: Mapping[str, Any],
) -> tuple[Rope, Rope]:
    """The positions of full and of sliding layers."""
    theta, given, where = a["rope_theta"] or theta, a[rope.NEW], rope.OLD if a[rope.OLD] else rope.NEW
    read = partial(rope.parse_rope, max_length=a["max_position_embeddings"], whole="partial_rotary_factor" not in a)
    if local_theta is None:
        part = {"partial_rotary_factor": a["partial_rotary_factor"]} if "partial_rotary_factor" in a else {}
        data = part | (scaling or {} if given is None else given)
        both = read(_with_length(data, length, where), theta, where=where)
        return both, both
    given = given or {}
    if given.keys() - set(TYPES) or not all(isinstance(v, dict | None) for v in given.values()):
        raise ConfigError(f"{where}: must hold an object for {TYPES[0]} and one for {TYPES[1]}")
    full, sliding = (given.get(kind) for kind in TYPES)
    return read(full, theta, where=f"{where}: {TYPES[0]}"), read(sliding, local_theta(a), where=f"{where}: {TYPES[1]}")


def _with_length(data: Mapping[str, Any], length: Mapping[str, Any], where: str) -> Mapping[str, Any]:
    """A rope's object with the attributes of length that are beside it, which it must not contradict."""
    if data.get("rope_type", data.get("type")) not in ("longrope", "su"):
        return data
    for key, value in length.items():
        if data.get(key) not in (None, value):
            raise ConfigError(f"{where}: {key!r} is {data[key]}, and beside it {value} (which transformers would obey)")
    return {**data, **length}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Family:
    """One family. Keys of the name tables are our paths, those of a layer without their stack and place; Llama's by
    default.

    `fields` adds to `FIELDS`; `multiples` is {attribute: (field, the field that it is a multiple of)}; `switches` hold
    for every model of the family. `read` returns fields that come from attributes in any other way, and `write` these
    attributes. `text` is the family of the text model inside a model of several kinds, and `twin` the one that differs
    in its model type alone. `gguf` says how its GGUF files are written, where there are any.
    """

    model_type: str
    architecture: str
    attributes: Mapping[str, Attribute]
    whole: Names = dataclasses.field(default_factory=lambda: WHOLE)
    layer: Names = dataclasses.field(default_factory=lambda: PLAIN)
    moe: Names = dataclasses.field(default_factory=dict)  # stands before `layer` where a layer has experts
    ignored: str = ROTARY  # tensors that hold no weight, or none of the text model's
    fields: Mapping[str, str | tuple[str, ...]] = dataclasses.field(default_factory=dict)
    multiples: Mapping[str, tuple[str, str]] = dataclasses.field(default_factory=dict)
    switches: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    layers: Callable[[Attributes], tuple[Layer, ...]] = layers
    read: Callable[[Attributes], Mapping[str, Any]] = _nothing
    write: Callable[[ModelConfig], Mapping[str, Any]] = _nothing
    prefix: str = ""  # of all names but the output matrix's, which older files leave away
    text: str | None = None
    twin: str | None = None
    gguf: GGUFTables | None = None
    ropes_by_type: bool = False  # whether rope_parameters has an object for each type of layer

    @property
    def written_as(self) -> str:
        """The model type that models of this family are written as."""
        return self.text or self.twin or self.model_type

    @property
    def shared(self) -> dict[str, tuple[str, ...]]:
        """Attribute -> the fields that have its value."""
        known = {theirs: ours for theirs, ours in (FIELDS | self.fields).items() if theirs in self.attributes}
        return {theirs: (ours,) if isinstance(ours, str) else ours for theirs, ours in known.items()}
