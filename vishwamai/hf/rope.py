"""Rotary positions in config.json and in a `Rope`: the two dialects that published files use.

Until transformers 4: `rope_theta` and `rope_scaling` (and for Gemma 3 `rope_local_base_freq`). From 5 on:
`rope_parameters`, one object or one for each type of layer.
"""

from collections.abc import Mapping
from typing import Any

from vishwamai.errors import ConfigError
from vishwamai.models.config import Rope

_FIELDS = {  # of each scaling: its key in the file -> our field
    "default": {},
    "linear": {"factor": "factor"},
    "llama3": {
        "factor": "factor",
        "low_freq_factor": "low_freq_factor",
        "high_freq_factor": "high_freq_factor",
        "original_max_position_embeddings": "original_max_length",
    },
}
_ALWAYS = {"rope_type", "type", "rope_theta", "partial_rotary_factor"}


def read(values: Mapping[str, Any] | None, theta: float, max_length: int, where: str) -> Rope:
    """A `Rope` from one object of either dialect; `theta` is used where the object names none."""
    values = values or {}
    kind = values.get("rope_type", values.get("type", "default"))
    if not isinstance(kind, str) or kind not in _FIELDS:
        raise ConfigError(f"{where}: rope_type {kind!r} is not known; known are {', '.join(_FIELDS)}")
    if values.get("partial_rotary_factor", 1.0) != 1.0:
        raise ConfigError(f"{where}: partial_rotary_factor: only 1.0 is known, that is, whole heads")
    for key, value in values.items():
        if key not in _ALWAYS and key not in _FIELDS[kind]:
            raise ConfigError(f"{where}: {key!r} is not known for rope_type {kind!r}")
        if key in _FIELDS[kind] or key == "rope_theta":
            _check_number(value, f"{where}: {key}")
    fields = {ours: values[key] for key, ours in _FIELDS[kind].items() if key in values}
    missing = [key for key in _FIELDS[kind] if key not in values and key != "original_max_position_embeddings"]
    if missing:
        raise ConfigError(f"{where}: rope_type {kind!r} needs {', '.join(missing)}")
    if kind == "llama3":
        fields.setdefault("original_max_length", max_length)
        fields["original_max_length"] = int(fields["original_max_length"])
    scaling = "none" if kind == "default" else kind
    numbers = {k: v if k == "original_max_length" else float(v) for k, v in fields.items()}
    return Rope(theta=float(values.get("rope_theta", theta)), scaling=scaling, **numbers)


def write(rope: Rope) -> dict[str, Any]:
    """The object of the newer dialect for a `Rope`."""
    kind = "default" if rope.scaling == "none" else rope.scaling
    return {"rope_type": kind, "rope_theta": rope.theta} | {k: getattr(rope, f) for k, f in _FIELDS[kind].items()}


def _check_number(value: Any, where: str) -> None:
    if type(value) not in (int, float) or not 0 < value < 1e12:
        raise ConfigError(f"{where}: must be a number over 0, not {value!r}")
