"""Rotary positions between config.json and a `Rope`, in the dialects of transformers 4 and 5.

Until 4: `rope_theta` and `rope_scaling` (and for Gemma 3 `rope_local_base_freq`). From 5 on: `rope_parameters`, one
object or one for each type of layer. The object's values go before those beside it, as in transformers; two objects
that do not agree are refused.
"""

import math
import warnings
from collections.abc import Mapping
from typing import Any

from vishwamai.errors import ConfigError
from vishwamai.models.config import Rope

FULL_ATTENTION = "full_attention"
OLD, NEW = "rope_scaling", "rope_parameters"
_LENGTH = {"original_max_position_embeddings": "original_max_length"}
_FIELDS = {  # of each scaling: its key in the file -> our field
    "default": {},
    "linear": {"factor": "factor"},
    "dynamic": {"factor": "factor"},
    "llama3": {
        "factor": "factor",
        "low_freq_factor": "low_freq_factor",
        "high_freq_factor": "high_freq_factor",
        **_LENGTH,
    },
    "longrope": {
        "short_factor": "short_factors",
        "long_factor": "long_factors",
        "attention_factor": "magnitude",
        **_LENGTH,
    },
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
_FURTHER = {  # what says how large the magnitude is, where attention_factor does not
    "yarn": {"mscale", "mscale_all_dim"},
    "longrope": {"factor"},
}
_LISTS = ("short_factor", "long_factor")
_KIND = ("rope_type", "type")
_NUMBERS = ("rope_theta", "partial_rotary_factor")
_OVERLOOKED = {  # by transformers, whose numbers are ours
    "attn_factor": "vLLM multiplies sine and cosine by it; if that is meant, write attention_factor",
    "finetuned": None,
}


def merge_dialects(a: Mapping[str, Any], *, by_type: bool) -> dict[str, Any]:
    """Returns the attributes with `rope_parameters` as the object of either dialect, None where there is none.

    Raises `ConfigError` where there are two that do not agree: transformers drops one of them.
    """
    old, new = a.get(OLD) or None, a.get(NEW)
    if old is None:
        return dict(a)
    if by_type:
        layers = {} if new is None else new
        alone = layers.get(FULL_ATTENTION) or {"rope_type": "default"}
        if not isinstance(alone, Mapping):
            return dict(a)  # which is refused where it is read
        full = {**alone, **old}
        found, agree = {**layers, FULL_ATTENTION: full}, not new or _normalized(alone, a) == _normalized(full, a)
    else:
        found, agree = old, not new or _normalized(old, a) == _normalized(new, a)
    if not agree:
        raise ConfigError(
            f"{OLD!r} and {NEW!r} do not agree: {dict(old)} and {dict(new or {})}; keep one of them, with the "
            f"rope_theta that is meant (transformers would obey {OLD})"
        )
    return {**a, NEW: found}


def _normalized(values: Mapping[str, Any], a: Mapping[str, Any]) -> dict[str, Any]:
    """An object's values and those beside it, each by one name."""
    beside = {key: a.get(key) for key in _NUMBERS}
    merged = {k: v for k, v in {**beside, **values}.items() if v is not None}
    kind = merged.pop("type", "default")
    return {"rope_type": kind, **merged}


def parse_rope(
    values: Mapping[str, Any] | None, theta: float, max_length: int, where: str, *, whole: bool = True
) -> Rope:
    """Returns the `Rope` of one object of either dialect; `theta` is the default.

    With `whole`, models of this family rotate whole heads, and an object that names a part is refused.
    """
    values = {key: value for key, value in (values or {}).items() if value is not None}
    kind = _kind(values, where)
    _check(values, kind, where, whole)
    fields = {ours: values[key] for key, ours in _FIELDS[kind].items() if key in values}
    if kind == "dynamic" or "original_max_position_embeddings" in _FIELDS[kind]:
        fields["original_max_length"] = int(fields.get("original_max_length", max_length))
    if kind == "yarn":
        fields.setdefault("magnitude", _yarn_magnitude(values))
    if kind == "longrope":
        fields |= {ours: tuple(map(float, values[key])) for key, ours in _FIELDS[kind].items() if key in _LISTS}
        fields.setdefault("magnitude", _longrope_magnitude(values, max_length, fields["original_max_length"], where))
    return Rope(
        theta=float(values.get("rope_theta", theta)),
        fraction=float(values.get("partial_rotary_factor", 1.0)),
        scaling="none" if kind == "default" else kind,
        **{k: float(v) if type(v) is int and k != "original_max_length" else v for k, v in fields.items()},
    )


def _kind(values: Mapping[str, Any], where: str) -> str:
    found = [values[key] for key in _KIND if key in values] or ["default"]
    kinds = ["longrope" if kind == "su" else kind for kind in found]  # which is what Phi 3 first called it
    for kind in kinds:
        if not isinstance(kind, str) or kind not in _FIELDS:
            raise ConfigError(f"{where}: rope_type {kind!r} is not known; known are {', '.join(_FIELDS)}")
        if kind != kinds[0]:
            raise ConfigError(f"{where}: rope_type is {found[0]!r} and type is {found[1]!r}; keep one of them")
    return kinds[0]


def _check(values: Mapping[str, Any], kind: str, where: str, whole: bool) -> None:
    """Raises `ConfigError` for what is not known, out of range or missing."""
    known = _FIELDS[kind].keys() | _FURTHER.get(kind, set())
    for key, value in values.items():
        if key in _OVERLOOKED:
            if (why := _OVERLOOKED[key]) is not None:
                warnings.warn(f"{where}: {key!r} is overlooked, as transformers does: {why}", stacklevel=2)
        elif key not in known and key not in (*_KIND, *_NUMBERS):
            raise ConfigError(f"{where}: {key!r} is not known for rope_type {kind!r}")
        elif key == "truncate" and type(value) is not bool:
            raise ConfigError(f"{where}: truncate: must be true or false, not {value!r}")
        elif key in _LISTS:
            if not isinstance(value, list):
                raise ConfigError(f"{where}: {key}: must be a list of numbers, not {str(value)[:60]!r}")
            for number in value:
                _check_number(number, f"{where}: {key}")
        elif key != "truncate" and key not in _KIND:
            _check_number(value, f"{where}: {key}")
    missing = [key for key in _FIELDS[kind] if key not in values and key not in _OPTIONAL]
    if missing:
        raise ConfigError(f"{where}: rope_type {kind!r} needs {', '.join(missing)}")
    if whole and values.get("partial_rotary_factor", 1) != 1:
        part = values["partial_rotary_factor"]
        raise ConfigError(f"{where}: 'partial_rotary_factor' is {part}, and models of this family turn whole heads")


def _yarn_magnitude(values: Mapping[str, Any]) -> float:
    """The default of what sine and cosine are multiplied by (Peng et al., 2023, equation 15)."""

    def growth(times: float) -> float:
        return 0.1 * times * math.log(max(values["factor"], 1.0)) + 1.0

    if values.get("mscale") and values.get("mscale_all_dim"):
        return growth(values["mscale"]) / growth(values["mscale_all_dim"])
    return growth(1.0)


def _longrope_magnitude(values: Mapping[str, Any], max_length: int, original: int, where: str) -> float:
    if original < 2:
        raise ConfigError(f"{where}: original_max_position_embeddings is {original}; it must be 2 or more")
    factor = values.get("factor") or max_length / original
    return math.sqrt(1 + math.log(factor) / math.log(original)) if factor > 1 else 1.0


def rope_to_json(rope: Rope) -> dict[str, Any]:
    """Returns the object of transformers 5 for a `Rope`."""
    kind = "default" if rope.scaling == "none" else rope.scaling
    data = {"rope_type": kind, "rope_theta": rope.theta} | {k: getattr(rope, f) for k, f in _FIELDS[kind].items()}
    data = {key: list(value) if key in _LISTS else value for key, value in data.items()}
    return data | ({} if rope.fraction == 1 else {"partial_rotary_factor": rope.fraction})


def _check_number(value: Any, where: str) -> None:
    if type(value) not in (int, float) or not 0 < value < 1e12:
        raise ConfigError(f"{where}: must be a number over 0, not {value!r}")
