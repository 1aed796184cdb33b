"""VishwamAI's own: models that no published family expresses, with our configuration and our paths."""

from vishwamai.hf.family import Family

OWN = "vishwamai"
WHOLE = "embed positions embed_norm.scale embed_norm.bias final_norm.scale final_norm.bias lm_head head_bias".split()
NORMS = [f"{place}.{part}" for place in ("attn_norm", "attn_post_norm", "ffn_norm", "ffn_post_norm",
                                         "attn.q_norm", "attn.k_norm") for part in ("scale", "bias")]  # fmt: skip
ATTENTION = [f"attn.{name}" for name in "q k v o q_bias k_bias v_bias o_bias sinks".split()]
ATTENTION += [f"attn.{name}" for name in "q_down q_down_bias q_norm q_up kv_down kv_down_bias kv_norm kv_up".split()]
FEED_FORWARD = "gate up down gate_bias up_bias down_bias".split()
FEED_FORWARD += [f"xielu.{name}" for name in "above below slope edge".split()]
ONCE = "ffn.router ffn.router_bias ffn.choice_bias ffn.shared_gate".split()
ONCE += [f"ffn.shared.{name}" for name in FEED_FORWARD]
EXPERTS = "gate up down gate_bias up_bias down_bias".split()


def _in_layer(paths: list[str], end: str = "") -> dict[str, str]:
    return {path: f"layers.{{layer}}.{path}{end}" for path in paths}


FAMILIES = (
    Family(
        model_type=OWN,
        architecture="VishwamAI",
        attributes={},
        whole={path: path for path in WHOLE},
        layer=_in_layer([*NORMS, *ATTENTION, *(f"ffn.{name}" for name in FEED_FORWARD)]),
        moe=_in_layer(ONCE) | _in_layer([f"ffn.{name}" for name in EXPERTS], ".{expert}"),
    ),
)
