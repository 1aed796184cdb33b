"""Names of tensors and of metadata in GGUF files that the architectures of llama.cpp share.

Names of tensors are by our paths, `{layer}` counted from 0; keys of metadata are without the architecture that they
begin with.
"""

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

from vishwamai.hf.names import Names, fused

Values = Mapping[str, Any]  # metadata by key, or attributes of config.json

WHOLE = {
    "embed": "token_embd.weight",
    "positions": "position_embd.weight",
    "final_norm.scale": "output_norm.weight",
    "final_norm.bias": "output_norm.bias",
    "lm_head": "output.weight",
}
AT = "blk.{layer}."
LAYER = {
    "attn_norm.scale": AT + "attn_norm.weight",
    "attn_norm.bias": AT + "attn_norm.bias",
    "attn.q": AT + "attn_q.weight",
    "attn.k": AT + "attn_k.weight",
    "attn.v": AT + "attn_v.weight",
    "attn.o": AT + "attn_output.weight",
    "attn.q_bias": AT + "attn_q.bias",
    "attn.k_bias": AT + "attn_k.bias",
    "attn.v_bias": AT + "attn_v.bias",
    "attn.o_bias": AT + "attn_output.bias",
    "attn.q_norm.scale": AT + "attn_q_norm.weight",
    "attn.k_norm.scale": AT + "attn_k_norm.weight",
    "attn.sinks": AT + "attn_sinks.weight",
    "attn_post_norm.scale": AT + "post_attention_norm.weight",
    "ffn_norm.scale": AT + "ffn_norm.weight",
    "ffn_norm.bias": AT + "ffn_norm.bias",
    "ffn.gate": AT + "ffn_gate.weight",
    "ffn.up": AT + "ffn_up.weight",
    "ffn.down": AT + "ffn_down.weight",
    "ffn.gate_bias": AT + "ffn_gate.bias",
    "ffn.up_bias": AT + "ffn_up.bias",
    "ffn.down_bias": AT + "ffn_down.bias",
    "ffn_post_norm.scale": AT + "post_ffw_norm.weight",
}
LATENT = {  # attention whose keys and values come from one narrow vector
    **LAYER,
    "attn.q_down": AT + "attn_q_a.weight",
    "attn.q_norm": AT + "attn_q_a_norm.weight",
    "attn.q_up": AT + "attn_q_b.weight",
    "attn.kv_down": AT + "attn_kv_a_mqa.weight",
    "attn.kv_norm": AT + "attn_kv_a_norm.weight",
    "attn.kv_up": AT + "attn_kv_b.weight",
}
MOE = {
    "ffn.router": AT + "ffn_gate_inp.weight",
    "ffn.router_bias": AT + "ffn_gate_inp.bias",
    "ffn.choice_bias": AT + "exp_probs_b.bias",
    "ffn.gate": AT + "ffn_gate_exps.weight",
    "ffn.up": AT + "ffn_up_exps.weight",
    "ffn.down": AT + "ffn_down_exps.weight",
    "ffn.gate_bias": AT + "ffn_gate_exps.bias",
    "ffn.up_bias": AT + "ffn_up_exps.bias",
    "ffn.down_bias": AT + "ffn_down_exps.bias",
    "ffn.shared.gate": AT + "ffn_gate_shexp.weight",
    "ffn.shared.up": AT + "ffn_up_shexp.weight",
    "ffn.shared.down": AT + "ffn_down_shexp.weight",
    "ffn.shared_gate": AT + "ffn_gate_inp_shexp.weight",
}
QKV = fused(AT + "attn_qkv.weight", "attn.q", "attn.k", "attn.v")
QKV_BIAS = fused(AT + "attn_qkv.bias", "attn.q_bias", "attn.k_bias", "attn.v_bias")
GATE_UP = fused(AT + "ffn_up.weight", "ffn.gate", "ffn.up")

ROPE_FREQS, ROPE_LONG, ROPE_SHORT = "rope_freqs.weight", "rope_factors_long.weight", "rope_factors_short.weight"
ROPE_TENSORS = (ROPE_FREQS, ROPE_LONG, ROPE_SHORT)  # by what each pair's frequency is divided
IGNORED = r"rope_freqs\.weight|rope_factors_(long|short)\.weight|blk\.\d+\.attn_rot_embd\.weight"
NEXT_TOKENS = rf"{IGNORED}|blk\.{{after}}\..*"

KEYS: dict[str, str | tuple[str, ...]] = {  # attribute of config.json: the key, or the keys that all have its value
    "hidden_size": "embedding_length",
    "intermediate_size": "feed_forward_length",
    "num_hidden_layers": "block_count",
    "num_attention_heads": "attention.head_count",
    "num_key_value_heads": "attention.head_count_kv",
    "head_dim": ("attention.key_length", "attention.value_length"),
    "max_position_embeddings": "context_length",
    "rms_norm_eps": "attention.layer_norm_rms_epsilon",
    "sliding_window": "attention.sliding_window",
    "attn_logit_softcapping": "attn_logit_softcapping",
    "final_logit_softcapping": "final_logit_softcapping",
    "num_experts": "expert_count",
    "num_local_experts": "expert_count",
    "num_experts_per_tok": "expert_used_count",
    "moe_intermediate_size": "expert_feed_forward_length",
}
EXPERT_WIDTH = {"intermediate_size": ("feed_forward_length", "expert_feed_forward_length")}
NO_BIAS = {"attention_bias": False, "mlp_bias": False}
WINDOW = ("attention.sliding_window",)
PAIRS = ("attn.q", "attn.k", "attn.q_bias", "attn.k_bias")


def _nothing(_: Values) -> dict[str, Any]:
    return {}


@dataclasses.dataclass(frozen=True, kw_only=True)
class GGUFTables:
    """How the GGUF files of a family are written.

    `whole`, `layer` and `moe` are its tables of names there. The rows of the weights `permuted` are in another order
    in each head: those that turn together are neighbours, not halves. `norm_offset` is in the scales of norms there,
    and not in the family's own. `keys` adds to `KEYS`, `other_keys` are those that `read` alone looks at, `required`
    those that must be there beside the sizes that all have, and `fixed` are attributes that no key has. `period` says
    that the last of so many layers has no sliding window, where no key does. `read` returns attributes that come from
    the metadata in any other way, and `write` those metadata from attributes. llama.cpp does not do what the keys
    `overlooked` say. Where several families are of one `architecture`, it is this one if the key `told_by` has one of
    the `values`, or any but 0.
    """

    architecture: str
    whole: Names = dataclasses.field(default_factory=lambda: WHOLE)
    layer: Names = dataclasses.field(default_factory=lambda: LAYER)
    moe: Names = dataclasses.field(default_factory=lambda: MOE)
    ignored: str = IGNORED
    permuted: tuple[str, ...] = ()
    norm_offset: float = 0.0
    keys: Mapping[str, str | tuple[str, ...]] = dataclasses.field(default_factory=dict)
    other_keys: tuple[str, ...] = ()
    required: tuple[str, ...] = ()
    fixed: Values = dataclasses.field(default_factory=dict)
    period: int | None = None
    read: Callable[[Values], Values] = _nothing
    write: Callable[[Values], Values] = _nothing
    overlooked: tuple[str, ...] = ()
    told_by: str = ""
    values: tuple[Any, ...] = ()
