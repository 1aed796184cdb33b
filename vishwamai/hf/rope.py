"""Rotary positions in config.json and in a `Rope`: the two dialects that published files use.

Until transformers 4: `rope_theta` and `rope_scaling` (and for Gemma 3 `rope_local_base_freq`). From 5 on:
`rope_parameters`, one object or one for each type of layer.
"""

import math
from collections.abc import Mapping
from typing import Any

from vishwamai.errors import ConfigError
from vishwamai.models.config import Rope

_LENGTH = {"original_max_position_embeddings": "original_max_length"}
_FIELDS = {  # of each scaling: its key in the file -> our field
    "default": {},
    "linear": {"factor": "factor"},
    "llama3": {
        "factor": "factor",
        "low_freq_factor": "low_freq_factor",
        "high_freq_factor": "high_freq_factor",
        **_LENGTH,
    },
    "longrope": {"attention_factor": "magnitude", **_LENGTH},
    "yarn": {
        "factor": "factor",
        "beta_fast": "beta_fast",
        "beta_slow": "beta_slow",
        "truncate": "truncate",
        "attention_factor": "magnitude",
        **_LENGTH,
    },
}
_OPTIONAL = {*_LENGTH, "beta_fast", "beta_slow", "truncate", "attention_factor"}
_MAGNITUDES = {"mscale", "mscale_all_dim"}  # of yarn: they say what attention_factor is where it is not given
_LISTS = {"short_factor", "long_factor"}  # of longrope: for texts up to the original length, and for longer ones
_ALWAYS = {"rope_type", "type", "rope_theta", "partial_rotary_factor"}


def read(values: Mapping[str, Any] | None, theta: float, max_length: int, where: str) -> Rope:
    """A `Rope` from one object of either dialect; `theta` is used where the object names none."""
    values = values or {}
    kind = values.get("rope_type", values.get("type", "default"))
    if not isinstance(kind, str) or kind not in _FIELDS:
        raise ConfigError(f"{where}: rope_type {kind!r} is not known; known are {', '.join(_FIELDS)}")
    known = _FIELDS[kind].keys() | (_MAGNITUDES if kind == "yarn" else set())
    if kind == "longrope":
        return _longrope(values, theta, max_length, where)
    for key, value in values.items():
        if key not in _ALWAYS and key not in known:
            raise ConfigError(f"{where}: {key!r} is not known for rope_type {kind!r}")
        if key == "truncate" and type(value) is not bool:
            raise ConfigError(f"{where}: truncate: must be true or false, not {value!r}")
        if key != "truncate" and (key in known or key in ("rope_theta", "partial_rotary_factor")):
            _check_number(value, f"{where}: {key}")
    missing = [key for key in _FIELDS[kind] if key not in values and key not in _OPTIONAL]
    if missing:
        raise ConfigError(f"{where}: rope_type {kind!r} needs {', '.join(missing)}")
    fields = {ours: values[key] for key, ours in _FIELDS[kind].items() if key in values}
    if "original_max_position_embeddings" in _FIELDS[kind]:
        fields["original_max_length"] = int(fields.get("original_max_length", max_length))
    if kind == "yarn":
        fields.setdefault("magnitude", _yarn_magnitude(values))
    scaling = "none" if kind == "default" else kind
    numbers = {k: v if type(v) is bool or k == "original_max_length" else float(v) for k, v in fields.items()}
    fraction = float(values.get("partial_rotary_factor", 1.0))
    return Rope(theta=float(values.get("rope_theta", theta)), fraction=fraction, scaling=scaling, **numbers)


def _longrope(values: Mapping[str, Any], theta: float, max_length: int, where: str) -> Rope:
    """Which of its lists holds is decided once, by the longest text that the model takes: a cache cannot change it."""
    original = values.get("original_max_position_embeddings", max_length)
    for key, value in values.items():
        if key not in _ALWAYS | _LISTS | _FIELDS["longrope"].keys() | {"factor"}:
            raise ConfigError(f"{where}: {key!r} is not known for rope_type 'longrope'")
        for number in value if key in _LISTS and isinstance(value, list) else [value]:
            if key not in ("rope_type", "type"):
                _check_number(number, f"{where}: {key}")
    if not all(isinstance(values.get(key), list) for key in _LISTS):
        raise ConfigError(f"{where}: rope_type 'longrope' needs the lists short_factor and long_factor")
    if type(original) is not int or original < 2:
        key = "original_max_position_embeddings"
        raise ConfigError(f"{where}: {key} is {original}; it must be a whole number, 2 or more")
    factor = values.get("factor") or max_length / original
    growth = math.sqrt(1 + math.log(factor) / math.log(original)) if factor > 1 else 1.0
    return Rope(
        theta=float(values.get("rope_theta", theta)),
        fraction=float(values.get("partial_rotary_factor", 1.0)),
        scaling="longrope",
        factors=tuple(map(float, values["long_factor" if max_length > original else "short_factor"])),
        magnitude=float(values.get("attention_factor") or growth),
        original_max_length=int(original),
    )


def _yarn_magnitude(values: Mapping[str, Any]) -> float:
    """What sine and cosine are multiplied by where the file does not say (Peng et al., 2023, equation 15)."""

    def growth(times: float) -> float:
        return 0.1 * times * math.log(max(values["factor"], 1.0)) + 1.0

    if values.get("mscale") and values.get("mscale_all_dim"):
        return growth(values["mscale"]) / growth(values["mscale_all_dim"])
    return growth(1.0)


def write(rope: Rope) -> dict[str, Any]:
    """The object of the newer dialect for a `Rope`."""
    kind = "default" if rope.scaling == "none" else rope.scaling
    said = {"rope_type": kind, "rope_theta": rope.theta} | {k: getattr(rope, f) for k, f in _FIELDS[kind].items()}
    said |= {key: list(rope.factors) for key in _LISTS} if kind == "longrope" else {}
    return said | ({} if rope.fraction == 1 else {"partial_rotary_factor": rope.fraction})


def _check_number(value: Any, where: str) -> None:
    if type(value) not in (int, float) or not 0 < value < 1e12:
        raise ConfigError(f"{where}: must be a number over 0, not {value!r}")
