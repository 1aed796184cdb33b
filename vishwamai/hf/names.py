"""Names of tensors that many families share: our path -> the checkpoint's name. `{layer}` and `{expert}` count from 0.

Paths of a layer are without their stack and place. A torch Linear is stored `[out, in]` and holds one weight; any other
tensor is a `Stored`.
"""

import dataclasses
from collections.abc import Mapping


@dataclasses.dataclass(frozen=True)
class Stored:
    """A tensor that holds several weights, or one in another layout than a torch Linear's.

    `of` are the weights that it holds along its outputs, one after another or (`interleaved`) in turns; it is
    `[out, in]` unless not `transposed`; a vector may be a matrix of one `row`. A name without `{expert}` is of a tensor
    that holds all experts.
    """

    name: str
    of: tuple[str, ...] = ()
    interleaved: bool = False
    transposed: bool = True
    row: bool = False


Names = Mapping[str, "str | Stored"]


def fused(name: str, *of: str, interleaved: bool = False, transposed: bool = True) -> dict[str, Stored]:
    """Returns the rows of a table for the weights of one tensor."""
    return dict.fromkeys(of, Stored(name, of, interleaved, transposed))


WHOLE = {"embed": "model.embed_tokens.weight", "final_norm.scale": "model.norm.weight", "lm_head": "lm_head.weight"}

AT = "model.layers.{layer}."
ATTENTION = {
    "attn_norm.scale": AT + "input_layernorm.weight",
    "attn.q": AT + "self_attn.q_proj.weight",
    "attn.k": AT + "self_attn.k_proj.weight",
    "attn.v": AT + "self_attn.v_proj.weight",
    "attn.o": AT + "self_attn.o_proj.weight",
    "attn.q_bias": AT + "self_attn.q_proj.bias",
    "attn.k_bias": AT + "self_attn.k_proj.bias",
    "attn.v_bias": AT + "self_attn.v_proj.bias",
    "attn.o_bias": AT + "self_attn.o_proj.bias",
    "attn.q_norm.scale": AT + "self_attn.q_norm.weight",
    "attn.k_norm.scale": AT + "self_attn.k_norm.weight",
    "ffn_norm.scale": AT + "post_attention_layernorm.weight",
}
DENSE = {
    "ffn.gate": AT + "mlp.gate_proj.weight",
    "ffn.up": AT + "mlp.up_proj.weight",
    "ffn.down": AT + "mlp.down_proj.weight",
    "ffn.gate_bias": AT + "mlp.gate_proj.bias",
    "ffn.up_bias": AT + "mlp.up_proj.bias",
    "ffn.down_bias": AT + "mlp.down_proj.bias",
}
SANDWICH = {  # norms before and after, which moves the name of the one before the feed-forward
    "attn_post_norm.scale": AT + "post_attention_layernorm.weight",
    "ffn_norm.scale": AT + "pre_feedforward_layernorm.weight",
    "ffn_post_norm.scale": AT + "post_feedforward_layernorm.weight",
}
EXPERTS = {
    "ffn.router": AT + "mlp.gate.weight",
    "ffn.gate": AT + "mlp.experts.{expert}.gate_proj.weight",
    "ffn.up": AT + "mlp.experts.{expert}.up_proj.weight",
    "ffn.down": AT + "mlp.experts.{expert}.down_proj.weight",
}
PLAIN = ATTENTION | DENSE


def shared_expert(module: str) -> dict[str, str]:
    """Returns the rows for the shared expert, a module of the mixture."""
    return {f"ffn.shared.{weight}": f"{AT}mlp.{module}.{weight}_proj.weight" for weight in ("gate", "up", "down")}


def with_prefix(prefix: str, names: dict[str, str]) -> dict[str, str]:
    """Returns the names of a text model inside a model of several kinds."""
    return {path: prefix + name for path, name in names.items()}
