"""Llama 1 to 3."""

from vishwamai.hf.attributes import COMMON, flag, only
from vishwamai.hf.family import Family
from vishwamai.hf.gguf_names import PAIRS, GGUFTables

FAMILIES = (
    Family(
        model_type="llama",
        architecture="LlamaForCausalLM",
        attributes=COMMON
        | {"attention_bias": flag(False), "mlp_bias": flag(False)}
        | {"rope_interleaved": only(False)},  # as SmolLM 2 says
        gguf=GGUFTables(architecture="llama", permuted=PAIRS),
    ),
)
