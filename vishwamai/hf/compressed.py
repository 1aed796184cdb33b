"""Writes quantised weights as compressed-tensors does, so that transformers, vLLM and ourselves read them.

Integers are packed into 32-bit words (`pack-quantized`); FP8 lies as it is beside a scale for each output
(`float-quantized`). It knows no weights: a matrix `[out, in]` of values and that of its scales are had when their turn
comes.
"""

import math
from collections.abc import Callable, Iterable, Mapping
from typing import Any, NamedTuple

import jax.numpy as jnp
import ml_dtypes
import numpy as np

from vishwamai.hf.safetensors import LazyTensor
from vishwamai.weights import quantize
from vishwamai.weights.quantize import Scheme, is_quantized
from vishwamai.weights.spec import Param

BITS = {"int8": 8, "int4": 4, "fp8": 8}


def common_scheme(weights: Mapping[str, Any], params: Mapping[str, Param]) -> Scheme | None:
    """The one scheme in which a model's quantised weights are written; weights and their specs are by path.

    Groups of several sizes are written as the smaller ones that divide them all. None where there are no such weights,
    or they have to be dequantised first: compressed-tensors has whole numbers for zero points, and no offsets.
    """
    pairs = [(w, params[path]) for path, w in weights.items() if is_quantized(w)]
    found = [(quantize.scheme_of(w, p), p.shape[quantize.last_contracted(p)]) for w, p in pairs]
    kinds, grouped = {(s.kind, s.scale_dtype) for s, _ in found}, any(s.group for s, _ in found)
    if len(kinds) != 1 or any(s.offset_dtype for s, _ in found):
        return None
    [(kind, dtype)] = kinds
    if kind == "mxfp4" or (kind == "fp8" and grouped):
        return None
    return Scheme(kind, math.gcd(*(s.group or size for s, size in found)) if grouped else None, dtype)


class Codes(NamedTuple):
    """The codes `[out, in]` and the scales `[out, groups]` of a quantised matrix, made when they are called for."""

    values: Callable[[], np.ndarray]
    scales: Callable[[], np.ndarray]


def compressed_tensors(name: str, shape: tuple[int, int], scheme: Scheme, codes: Codes) -> list[LazyTensor]:
    """The tensors that stand for one plain tensor `[out, in]`."""
    outputs, inputs = shape
    scales = LazyTensor(
        f"{name}_scale", (outputs, inputs // (scheme.group or inputs)), np.dtype(np.float32), codes.scales
    )
    if scheme.kind == "fp8":
        return [LazyTensor(name, shape, np.dtype(ml_dtypes.float8_e4m3fn), codes.values), scales]
    bits = BITS[scheme.kind]
    words = (outputs, -(-inputs * bits // 32))
    packed = LazyTensor(f"{name}_packed", words, np.dtype(np.int32), lambda: pack_words(codes.values(), bits))
    return [packed, scales, LazyTensor(f"{name}_shape", (2,), np.dtype(np.int64), lambda: np.asarray(shape, np.int64))]


def round_codes(shape: tuple[int, int], scheme: Scheme, plain: Callable[[], np.ndarray]) -> Codes:
    """The codes of a plain matrix `[out, in]`, rounded when the values are called for and kept until the scales are."""
    made: list[quantize.Quantized] = []

    def values() -> np.ndarray:
        scale_shape = (shape[0], shape[1] // (scheme.group or shape[1]))
        made.append(quantize.round_to_scheme(jnp.asarray(plain()), scale_shape, scheme))
        return np.asarray(made[0].values)

    return Codes(values, lambda: np.asarray(made.pop().scale))


def pack_words(values: np.ndarray, bits: int) -> np.ndarray:
    """Integers `[out, in]` in 32-bit words along the inputs, the lowest bits first, each with half its range added."""
    per_word = 32 // bits
    codes = (values.astype(np.int16) + (1 << bits - 1)).astype(np.uint8)
    codes = np.pad(codes, ((0, 0), (0, -codes.shape[1] % per_word)))
    codes = codes[:, ::2] | codes[:, 1::2] << 4 if bits == 4 else codes
    return np.ascontiguousarray(codes).view("<i4")


def quantization_config(scheme: Scheme, plain_modules: Iterable[str]) -> dict[str, Any]:
    """config.json's `quantization_config`; `plain_modules` are the matmuls that are not quantised."""
    is_float = scheme.kind == "fp8"
    weights = {
        "num_bits": BITS[scheme.kind],
        "type": "float" if is_float else "int",
        "symmetric": True,
        "strategy": "channel" if scheme.group is None else "group",
        "group_size": scheme.group,
        "block_structure": None,
        "dynamic": False,
        "actorder": None,
        "observer": "minmax",
        "observer_kwargs": {},
    }
    activations = {"input_activations": None, "output_activations": None}
    return {
        "quant_method": "compressed-tensors",
        "format": "float-quantized" if is_float else "pack-quantized",
        "quantization_status": "compressed",
        "config_groups": {"group_0": {"targets": ["Linear"], "weights": weights, **activations}},
        "ignore": sorted(plain_modules),
        "kv_cache_scheme": None,
        "global_compression_ratio": None,
    }
