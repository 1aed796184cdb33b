"""Which dtype the weights, the computation and the cache have. It knows no arrays and no model."""

import dataclasses

from vishwamai.errors import ConfigError

DTYPES = ("float32", "bfloat16", "float16")
AUTO = "auto"


@dataclasses.dataclass(frozen=True, kw_only=True)
class Precision:
    """The dtypes of one run, by name.

    `weights` is how weights are stored (and what the optimiser updates), `compute` what they are cast to where they
    meet an activation, `cache` what keys and values are kept in. Norms, softmax, router and loss are float32 always.
    """

    weights: str = "float32"
    compute: str = "float32"
    cache: str = "float32"

    def __post_init__(self):
        for field in dataclasses.fields(self):
            value = getattr(self, field.name)
            if value not in DTYPES:
                raise ConfigError(f"precision.{field.name} is {value!r}; it must be one of {', '.join(DTYPES)}")

    @classmethod
    def named(cls, name: str) -> "Precision":
        """The precision that people call `float32`, `bfloat16` (all of it) or `mixed` (float32 weights)."""
        match name:
            case "float32":
                return cls()
            case "bfloat16":
                return cls(weights="bfloat16", compute="bfloat16", cache="bfloat16")
            case "mixed":
                return cls(weights="float32", compute="bfloat16", cache="bfloat16")
        raise ConfigError(f"precision {name!r} is not known; use float32, bfloat16 or mixed")


def choose_dtype(asked: str, stored: str, platform: str) -> tuple[str, str]:
    """(the dtype to load a model in, why): `asked`, or for "auto" that of the checkpoint, `stored`.

    On a CPU "auto" is float32 in place of bfloat16, which is slower there (`benchmarks/cpu_dtypes.py`). What is
    stored in fewer bits is computed in float32 there and in bfloat16 elsewhere.
    """
    if asked != AUTO:
        return asked, "as asked"
    if stored not in DTYPES:
        dtype = "float32" if platform == "cpu" or stored == "float64" else "bfloat16"
        return dtype, f"the checkpoint's {stored} is not computed in"
    if platform == "cpu" and stored == "bfloat16":
        return "float32", "the checkpoint's bfloat16 is slower on a CPU"
    return stored, "the checkpoint's own"
