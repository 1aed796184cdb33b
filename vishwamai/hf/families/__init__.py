"""The families of checkpoints that are read and written: one file a lineage, each with its tables."""

from vishwamai.errors import ConfigError
from vishwamai.hf.families import (
    apertus,
    arcee,
    cohere,
    deepseek,
    ernie,
    exaone,
    gemma,
    glm,
    gpt2,
    gpt_oss,
    granite,
    hunyuan,
    llama,
    minimax,
    mistral,
    nanochat,
    olmo,
    own,
    phi,
    qwen,
    seed_oss,
    smollm,
    starcoder,
)
from vishwamai.hf.family import Family

# A model is written as the first of the families that express it.
LINEAGES = (
    llama, mistral, qwen, gemma, gpt_oss, deepseek, olmo, phi, granite, smollm, glm, cohere, exaone, ernie, hunyuan,
    minimax, starcoder, arcee, seed_oss, apertus, nanochat, gpt2, own,
)  # fmt: skip
FAMILIES: dict[str, Family] = {family.model_type: family for lineage in LINEAGES for family in lineage.FAMILIES}


def family_of(model_type: str) -> Family:
    """The family of a model type. Raises `ConfigError` that lists the known ones."""
    if model_type not in FAMILIES:
        known = ", ".join(f"{f.architecture} ({name})" for name, f in FAMILIES.items())
        raise ConfigError(f"the architecture {model_type!r} is not known; known are {known}")
    return FAMILIES[model_type]
