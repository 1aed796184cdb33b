"""What each family of checkpoints calls our weights: tables of names, and nothing else that differs.

A torch Linear is stored `[out, in]`, so the transpose of its tensor, reshaped, is right for every weight whose
contracted axes lead; the others are stored as they are. `{layer}` and `{expert}` count from 0.
"""

import dataclasses
import math
import re
from collections.abc import Mapping

from vishwamai.errors import ConfigError
from vishwamai.models.config import ModelConfig
from vishwamai.weights import spec
from vishwamai.weights.spec import Param


@dataclasses.dataclass(frozen=True, kw_only=True)
class Family:
    """How one family names its weights. Keys are our paths, those of a layer without their stack and place."""

    model_type: str
    architecture: str
    whole: Mapping[str, str]
    layer: Mapping[str, str]
    moe: Mapping[str, str] = dataclasses.field(default_factory=dict)  # stands before `layer` where a layer has experts
    ignored: str = r".*\.rotary_emb\.inv_freq"  # tensors that hold no weight, or none of the text model's


@dataclasses.dataclass(frozen=True)
class Piece:
    """One tensor of a checkpoint and its place in a leaf of ours."""

    name: str
    index: tuple[int, ...]  # into the leaf's leading axes (layers, experts)
    shape: tuple[int, ...]  # in the checkpoint
    transposed: bool


WHOLE = {"embed": "model.embed_tokens.weight", "final_norm": "model.norm.weight", "lm_head": "lm_head.weight"}

_AT = "model.layers.{layer}."
ATTENTION = {
    "attn_norm": _AT + "input_layernorm.weight",
    "attn.q": _AT + "self_attn.q_proj.weight",
    "attn.k": _AT + "self_attn.k_proj.weight",
    "attn.v": _AT + "self_attn.v_proj.weight",
    "attn.o": _AT + "self_attn.o_proj.weight",
    "attn.q_bias": _AT + "self_attn.q_proj.bias",
    "attn.k_bias": _AT + "self_attn.k_proj.bias",
    "attn.v_bias": _AT + "self_attn.v_proj.bias",
    "attn.o_bias": _AT + "self_attn.o_proj.bias",
    "attn.q_norm": _AT + "self_attn.q_norm.weight",
    "attn.k_norm": _AT + "self_attn.k_norm.weight",
    "ffn_norm": _AT + "post_attention_layernorm.weight",
}
DENSE = {
    "ffn.gate": _AT + "mlp.gate_proj.weight",
    "ffn.up": _AT + "mlp.up_proj.weight",
    "ffn.down": _AT + "mlp.down_proj.weight",
    "ffn.gate_bias": _AT + "mlp.gate_proj.bias",
    "ffn.up_bias": _AT + "mlp.up_proj.bias",
    "ffn.down_bias": _AT + "mlp.down_proj.bias",
}
SANDWICH = {  # norms before and after, which moves the name of the one before the feed-forward
    "attn_post_norm": _AT + "post_attention_layernorm.weight",
    "ffn_norm": _AT + "pre_feedforward_layernorm.weight",
    "ffn_post_norm": _AT + "post_feedforward_layernorm.weight",
}
QWEN_EXPERTS = {
    "ffn.router": _AT + "mlp.gate.weight",
    "ffn.gate": _AT + "mlp.experts.{expert}.gate_proj.weight",
    "ffn.up": _AT + "mlp.experts.{expert}.up_proj.weight",
    "ffn.down": _AT + "mlp.experts.{expert}.down_proj.weight",
}
MIXTRAL_EXPERTS = {
    "ffn.router": _AT + "block_sparse_moe.gate.weight",
    "ffn.gate": _AT + "block_sparse_moe.experts.{expert}.w1.weight",
    "ffn.up": _AT + "block_sparse_moe.experts.{expert}.w3.weight",
    "ffn.down": _AT + "block_sparse_moe.experts.{expert}.w2.weight",
}
PLAIN = ATTENTION | DENSE
GEMMA = PLAIN | SANDWICH
OWN = "vishwamai"  # a model that no published family expresses: our own configuration and our own paths
OWN_LAYER = {path: f"layers.{{layer}}.{path}" for path in GEMMA}
OWN_EXPERTS = {path: f"layers.{{layer}}.{path}" + ".{expert}" * (path != "ffn.router") for path in QWEN_EXPERTS}


def _inside(prefix: str, names: Mapping[str, str]) -> dict[str, str]:
    return {path: prefix + name for path, name in names.items()}


FAMILIES = {
    family.model_type: family
    for family in (
        Family(model_type="llama", architecture="LlamaForCausalLM", whole=WHOLE, layer=PLAIN),
        Family(model_type="mistral", architecture="MistralForCausalLM", whole=WHOLE, layer=PLAIN),
        Family(model_type="qwen2", architecture="Qwen2ForCausalLM", whole=WHOLE, layer=PLAIN),
        Family(model_type="qwen3", architecture="Qwen3ForCausalLM", whole=WHOLE, layer=PLAIN),
        Family(
            model_type="qwen3_moe",
            architecture="Qwen3MoeForCausalLM",
            whole=WHOLE,
            layer=PLAIN,
            moe=QWEN_EXPERTS,
        ),
        Family(
            model_type="mixtral",
            architecture="MixtralForCausalLM",
            whole=WHOLE,
            layer=PLAIN,
            moe=MIXTRAL_EXPERTS,
        ),
        Family(model_type="gemma2", architecture="Gemma2ForCausalLM", whole=WHOLE, layer=GEMMA),
        Family(model_type="gemma3_text", architecture="Gemma3ForCausalLM", whole=WHOLE, layer=GEMMA),
        Family(
            model_type="gemma3",
            architecture="Gemma3ForConditionalGeneration",
            whole=_inside("language_model.", WHOLE),
            layer=_inside("language_model.", GEMMA),
            ignored=r"vision_tower\..*|multi_modal_projector\..*",
        ),
        Family(
            model_type=OWN,
            architecture="VishwamAI",
            whole={path: path for path in WHOLE},
            layer=OWN_LAYER,
            moe=OWN_EXPERTS,
        ),
    )
}


def family_of(model_type: str) -> Family:
    """The family of a model type. Raises `ConfigError` that lists the known ones."""
    if model_type not in FAMILIES:
        known = ", ".join(f"{f.architecture} ({name})" for name, f in FAMILIES.items())
        raise ConfigError(f"the architecture {model_type!r} is not known; known are {known}")
    return FAMILIES[model_type]


def pieces(family: Family, specs, cfg: ModelConfig) -> list[list[Piece]]:
    """For each leaf of the spec tree, in the tree's order, the tensors that it is made of."""
    return [_leaf_pieces(family, path, param, cfg) for path, param in spec.named(specs)]


def is_ignored(family: Family, name: str) -> bool:
    """Whether a tensor of a checkpoint may be left unread."""
    return re.fullmatch(family.ignored, name) is not None


def _leaf_pieces(family: Family, path: str, param: Param, cfg: ModelConfig) -> list[Piece]:
    stacked = tuple(n for n, axis in zip(param.shape, param.axes, strict=True) if axis in spec.STACKED)
    shape, template, first, step = _stored_shape(param), _template(family, path, cfg), 0, 0
    if path.startswith("stacks."):
        first, step = _layer_numbers(path, cfg)

    def piece(index: tuple[int, ...]) -> Piece:
        layer = first + step * index[0] if index else 0
        expert = index[1] if len(index) > 1 else 0
        return Piece(template.format(layer=layer, expert=expert), index, shape, param.is_matmul)

    return [piece(index) for index in _indices(stacked)]


def _template(family: Family, path: str, cfg: ModelConfig) -> str:
    if not path.startswith("stacks."):
        return family.whole[path]
    _, i, j, rest = path.split(".", 3)
    moe = cfg.stacks[int(i)].pattern[int(j)].moe
    name = (family.moe if moe else {}).get(rest) or family.layer.get(rest)
    if name is None:
        raise ConfigError(f"{family.model_type} has no weight {rest!r}, which this model has")
    return name


def _layer_numbers(path: str, cfg: ModelConfig) -> tuple[int, int]:
    """(number of the first layer, distance to the next) of those stacked at a place of a pattern."""
    i, j = (int(part) for part in path.split(".")[1:3])
    before = sum(len(s.pattern) * s.repeats for s in cfg.stacks[:i])
    return before + j, len(cfg.stacks[i].pattern)


def _stored_shape(param: Param) -> tuple[int, ...]:
    """The shape that torch gives one layer's or expert's tensor of this weight."""
    sizes = [(n, a) for n, a in zip(param.shape, param.axes, strict=True) if a not in spec.STACKED]
    if not param.contract:
        return (math.prod(n for n, _ in sizes),)
    if not param.is_matmul:
        return tuple(n for n, _ in sizes)
    return math.prod(n for n, a in sizes if a not in param.contract), param.fan_in


def _indices(sizes: tuple[int, ...]) -> list[tuple[int, ...]]:
    out: list[tuple[int, ...]] = [()]
    for n in sizes:
        out = [(*index, i) for index in out for i in range(n)]
    return out
