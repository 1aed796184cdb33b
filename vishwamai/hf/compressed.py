"""Writes quantised weights as compressed-tensors does, so that transformers, vLLM and ourselves read them.

Integers are packed into 32-bit words (`pack-quantized`); FP8 lies as it is beside a scale for each output
(`float-quantized`). It knows no model: a matrix `[out, in]` of values and that of its scales are had when their turn
comes.
"""

import math
from collections.abc import Callable, Iterable
from typing import Any

import ml_dtypes
import numpy as np

from vishwamai.hf.safetensors import Outgoing
from vishwamai.weights.quantize import Scheme

BITS = {"int8": 8, "int4": 4, "fp8": 8}


def written(found: Iterable[tuple[Scheme, int]]) -> Scheme | None:
    """The one scheme in which weights are written, from (scheme, size of the last axis that is contracted) of each.

    Groups of several sizes are written as the smaller ones that divide them all. None where there are no such weights,
    or they have to be dequantised first.
    """
    found = list(found)
    kinds, grouped = {scheme.kind for scheme, _ in found}, any(scheme.group for scheme, _ in found)
    if len(kinds) != 1 or kinds == {"mxfp4"} or (kinds == {"fp8"} and grouped):
        return None
    return Scheme(kinds.pop(), math.gcd(*(scheme.group or size for scheme, size in found)) if grouped else None)


def tensors(
    name: str,
    shape: tuple[int, int],
    scheme: Scheme,
    values: Callable[[], np.ndarray],
    scale: Callable[[], np.ndarray],
) -> list[Outgoing]:
    """The tensors that stand for one plain tensor `[out, in]`."""
    outputs, inputs = shape
    scale_shape = (outputs, inputs // (scheme.group or inputs))
    scales = Outgoing(f"{name}_scale", scale_shape, np.dtype(np.float32), scale)
    if scheme.kind == "fp8":
        return [Outgoing(name, shape, np.dtype(ml_dtypes.float8_e4m3fn), values), scales]
    bits = BITS[scheme.kind]
    words = (outputs, -(-inputs * bits // 32))
    packed = Outgoing(f"{name}_packed", words, np.dtype(np.int32), lambda: pack(values(), bits))
    return [packed, scales, Outgoing(f"{name}_shape", (2,), np.dtype(np.int64), lambda: np.asarray(shape, np.int64))]


def pack(values: np.ndarray, bits: int) -> np.ndarray:
    """Integers `[out, in]` in 32-bit words along the inputs, the lowest bits first, each with half its range added."""
    per_word = 32 // bits
    codes = (values.astype(np.int16) + (1 << bits - 1)).astype(np.uint8)
    codes = np.pad(codes, ((0, 0), (0, -codes.shape[1] % per_word)))
    codes = codes[:, ::2] | codes[:, 1::2] << 4 if bits == 4 else codes
    return np.ascontiguousarray(codes).view("<i4")


def configuration(scheme: Scheme, plain_modules: Iterable[str]) -> dict[str, Any]:
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
