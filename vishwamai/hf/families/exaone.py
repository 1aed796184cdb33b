"""EXAONE 4: norms after, none before; full layers have no positions where others slide."""

from functools import partial

from vishwamai.errors import ConfigError
from vishwamai.hf.attributes import COMMON, LENGTH, LIST, Attribute, number, size
from vishwamai.hf.families.olmo import AFTER
from vishwamai.hf.family import Attributes, Family, layers


def _slides(a: Attributes) -> list[bool]:
    """By a number (every so many layers is full) or a word that repeats, such as LLLG."""
    pattern, n = a["sliding_window_pattern"], a["num_hidden_layers"]
    if isinstance(pattern, str):
        if not pattern or set(pattern) - set("LG"):
            raise ConfigError(f"'sliding_window_pattern' is {pattern!r}; it must be made of L and G")
        return [pattern[i % len(pattern)] == "L" and i < n - 1 for i in range(n)]
    return [(i + 1) % max(pattern or 1, 1) != 0 for i in range(n)]


FAMILIES = (
    Family(
        model_type="exaone4",
        architecture="Exaone4ForCausalLM",
        attributes=COMMON
        | {
            "vocab_size": size(102_400, 2**24),
            "rms_norm_eps": number(1e-5),
            "sliding_window": size(4096, LENGTH, null=True),
            "sliding_window_pattern": Attribute((int, str, type(None)), 4, 0, 1024),
            "layer_types": LIST,
        },
        layer=AFTER,
        switches={"pre_norms": False, "post_norms": True, "qk_norm": True},
        layers=partial(layers, slides=_slides, turns=lambda a, s: s if a["sliding_window"] else [True] * len(s)),
        write=lambda cfg: {"sliding_window_pattern": 4},
    ),
)
