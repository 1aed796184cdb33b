"""Rotary positions in GGUF files: metadata, and tensors by whose numbers each pair's frequency is divided.

The object of `rope_parameters` in config.json is what stands on the other side. What llama.cpp computes of the metadata
is in its `llama-context.cpp`; of the frequencies in `ggml_rope_ext`.
"""

import math
from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np

from vishwamai.errors import ConfigError
from vishwamai.hf.gguf_names import ROPE_FREQS, ROPE_LONG, ROPE_SHORT

BASE, BASE_SLIDING, TYPE = "rope.freq_base", "rope.freq_base_swa", "rope.scaling.type"
FACTOR, LENGTH = "rope.scaling.factor", "rope.scaling.original_context_length"
ATTENTION, YARN_ATTENTION = "rope.scaling.attn_factor", "rope.scaling.yarn_attn_factor"
FAST, SLOW = "rope.scaling.yarn_beta_fast", "rope.scaling.yarn_beta_slow"
LOGARITHM = "rope.scaling.yarn_log_multiplier"
TURNED = "rope.dimension_count"
KEYS = (BASE, BASE_SLIDING, TYPE, FACTOR, LENGTH, ATTENTION, YARN_ATTENTION, FAST, SLOW, LOGARITHM, TURNED)
THETA = 10_000.0  # where the metadata has none
LLAMA3 = {"low_freq_factor": 1.0, "high_freq_factor": 4.0, "original_max_position_embeddings": 8192}  # Llama 3.1 to 3.3


class RopeMetadata(NamedTuple):
    """Metadata without their architecture, and tensors by name."""

    keys: dict[str, Any]
    tensors: dict[str, np.ndarray]


def read_rope(m: Mapping[str, Any], factors: Mapping[str, np.ndarray], max_length: int) -> dict[str, Any]:
    """Returns the object of rope_parameters. Raises `ConfigError` for a scaling that is not known, or two at once."""
    theta, kind = m.get(BASE, THETA), m.get(TYPE, "none")
    found = {"rope_theta": theta}
    if ROPE_FREQS in factors:
        if kind != "none":
            raise ConfigError(f"{TYPE} is {kind!r}, and {ROPE_FREQS} scales the frequencies once more")
        return found | _read_factors(factors[ROPE_FREQS], theta, max_length)
    if ROPE_LONG in factors and ROPE_SHORT in factors:
        lists = {"long_factor": _numbers(factors[ROPE_LONG]), "short_factor": _numbers(factors[ROPE_SHORT])}
        length = m.get(LENGTH, max_length)
        return found | {
            "rope_type": "longrope",
            **lists,
            "original_max_position_embeddings": length,
            "attention_factor": m.get(ATTENTION, 1.0),
        }
    factor = m.get(FACTOR, 0.0)
    if kind == "none" or (kind == "longrope" and not factors) or not factor:
        return found | {"rope_type": "default"}
    if kind == "linear":
        return found | {"rope_type": "linear", "factor": factor}
    if kind != "yarn":
        raise ConfigError(f"{TYPE} is {kind!r}; only none, linear, yarn and longrope are known")
    return found | _read_yarn(m, factor, max_length)


def _read_yarn(m: Mapping[str, Any], factor: float, max_length: int) -> dict[str, Any]:
    found = {"rope_type": "yarn", "factor": factor, "original_max_position_embeddings": m.get(LENGTH, max_length)}
    found |= {name: m[key] for name, key in (("beta_fast", FAST), ("beta_slow", SLOW)) if key in m}
    if YARN_ATTENTION in m:
        return found | {"attention_factor": m[YARN_ATTENTION]}
    if m.get(ATTENTION, 1.0) != 1 or m.get(LOGARITHM):
        times = _growth(factor) / _growth(factor, m.get(LOGARITHM, 0.0))
        return found | {"attention_factor": times * m.get(ATTENTION, 1.0)}
    return found


def _growth(factor: float, times: float = 1.0) -> float:
    """What yarn multiplies sine and cosine by (Peng et al., 2023, equation 15)."""
    return 0.1 * times * math.log(factor) + 1.0 if factor > 1 else 1.0


def _read_factors(factors: np.ndarray, theta: float, max_length: int) -> dict[str, Any]:
    """The scaling of Llama 3 where the factors are its own; else a longrope that has them for texts of any length."""
    llama3 = {"rope_type": "llama3", "factor": round(float(factors.max(initial=1.0)), 4), **LLAMA3}
    if np.allclose(factors, _llama3_factors(llama3, theta, len(factors)), rtol=1e-5):
        return llama3
    both = _numbers(factors)
    return {
        "rope_type": "longrope",
        "long_factor": both,
        "short_factor": both,
        "original_max_position_embeddings": max_length,
        "attention_factor": 1.0,
    }


def _llama3_factors(turn: Mapping[str, Any], theta: float, pairs: int) -> np.ndarray:
    """What Llama 3 divides the frequency of each pair by: 1 for high ones, `factor` for low ones, and between."""
    turns = turn["original_max_position_embeddings"] / (2 * np.pi * theta ** (np.arange(pairs) / pairs))
    low, high = turn["low_freq_factor"], turn["high_freq_factor"]
    share = np.clip((turns - low) / (high - low), 0, 1)
    return (1 / ((1 - share) / turn["factor"] + share)).astype(np.float32)


def write_rope(turn: Mapping[str, Any], pairs: int) -> RopeMetadata:
    """Returns what stands for an object of rope_parameters, of heads of which so many pairs turn.

    Raises `ConfigError` for a scaling that GGUF has no words for.
    """
    kind, keys = turn["rope_type"], {BASE: float(turn["rope_theta"]), TURNED: 2 * pairs}
    if kind == "default":
        return RopeMetadata(keys, {})
    if kind == "linear":
        return RopeMetadata(keys | {TYPE: kind, FACTOR: float(turn["factor"])}, {})
    if kind == "llama3":
        return RopeMetadata(keys, {ROPE_FREQS: _llama3_factors(turn, turn["rope_theta"], pairs)})
    if kind == "longrope":
        return _write_longrope(turn, keys)
    if kind != "yarn":
        raise ConfigError(f"the rotary positions are scaled by rope_type {kind!r}, which GGUF files cannot say")
    keys |= {TYPE: kind, FACTOR: float(turn["factor"]), LENGTH: turn["original_max_position_embeddings"]}
    keys |= {FAST: float(turn["beta_fast"]), SLOW: float(turn["beta_slow"])}
    times = turn["attention_factor"] / _growth(turn["factor"])
    return RopeMetadata(keys | ({} if math.isclose(times, 1.0, rel_tol=1e-6) else {ATTENTION: times}), {})


def _write_longrope(turn: Mapping[str, Any], keys: dict[str, Any]) -> RopeMetadata:
    long, short = (np.asarray(turn[name], np.float32) for name in ("long_factor", "short_factor"))
    if np.array_equal(long, short) and turn["attention_factor"] == 1:
        return RopeMetadata(keys, {ROPE_FREQS: long})
    keys |= {TYPE: "longrope", LENGTH: turn["original_max_position_embeddings"]}
    return RopeMetadata(keys | {ATTENTION: float(turn["attention_factor"])}, {ROPE_LONG: long, ROPE_SHORT: short})


def _numbers(values: np.ndarray) -> list[float]:
    """Float32 numbers by their shortest decimals."""
    return [float(str(x)) for x in values]
