"""SmolLM 3: every fourth layer has no positions."""

from functools import partial

from vishwamai.errors import ConfigError
from vishwamai.hf.attributes import COMMON, HEADS, LENGTH, LIST, WINDOW, flag, size
from vishwamai.hf.family import Attributes, Family, layers
from vishwamai.hf.gguf_names import NO_BIAS, PAIRS, GGUFTables
from vishwamai.models.config import ModelConfig


def _turns(a: Attributes, _: list[bool] | None = None) -> list[bool]:
    given, every, n = a["no_rope_layers"], a["no_rope_layer_interval"], a["num_hidden_layers"]
    if given is None:
        return [(i + 1) % every != 0 for i in range(n)]
    if len(given) != n or not all(x in (0, 1) for x in given):
        raise ConfigError(f"'no_rope_layers' must be 0 or 1 for each of the {n} layers")
    return [bool(x) for x in given]


def _write(cfg: ModelConfig) -> dict:
    return {"no_rope_layers": [int(layer.rope is not None) for layer in cfg.layers]}


FAMILIES = (
    Family(
        model_type="smollm3",
        architecture="SmolLM3ForCausalLM",
        attributes=COMMON
        | WINDOW
        | {
            "vocab_size": size(128_256, 2**24),
            "hidden_size": size(2048),
            "intermediate_size": size(11008, 2**22),
            "num_hidden_layers": size(36, 1024),
            "num_attention_heads": size(16, HEADS),
            "num_key_value_heads": size(4, HEADS, null=True),
            "max_position_embeddings": size(32768, LENGTH),
            "sliding_window": size(None, LENGTH),
            "attention_bias": flag(False),
            "mlp_bias": flag(False),
            "tie_word_embeddings": flag(True),
            "layer_types": LIST,
            "no_rope_layers": LIST,
            "no_rope_layer_interval": size(4),
        },
        layers=partial(layers, theta=2e6, turns=_turns, slides=lambda a: [not turns for turns in _turns(a)]),
        write=_write,
        gguf=GGUFTables(architecture="smollm3", permuted=PAIRS, fixed=NO_BIAS),
    ),
)
