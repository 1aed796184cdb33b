"""Writes quantised weights as compressed-tensors does, so that transformers, vLLM and ourselves read them.

Integers are packed into 32-bit words (`pack-quantized`); FP8 lies as it is beside a scale for each output
(`float-quantized`). It knows no weights: a matrix `[out, in]` of values and that of its scales are had when their turn
comes.
"""

import math
import warnings
from collections.abc import Callable, Iterable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np

from vishwamai.hf.config import QUANTIZATION
from vishwamai.hf.families import FAMILIES
from vishwamai.hf.families.own import OWN
from vishwamai.hf.pieces import pieces
from vishwamai.hf.safetensors import Outgoing
from vishwamai.models import transformer
from vishwamai.models.config import ModelConfig
from vishwamai.weights import quantize, spec
from vishwamai.weights.quantize import Scheme, is_quantized

BITS = {"int8": 8, "int4": 4, "fp8": 8}


def leaves(tree) -> list:
    """A model's weights, or their specs, in the tree's order; a quantised one is one of them."""
    return jax.tree.leaves(tree, is_leaf=is_quantized)


def written(tree, cfg: ModelConfig) -> Scheme | None:
    """The one scheme in which a model's quantised weights are written.

    Groups of several sizes are written as the smaller ones that divide them all. None where there are no such weights,
    or they have to be dequantised first.
    """
    params = spec.leaves(transformer.specs(cfg))
    pairs = [(w, p) for w, p in zip(leaves(tree), params, strict=True) if is_quantized(w)]
    found = [(quantize.scheme_of(w, p), p.shape[quantize.last_contracted(p)]) for w, p in pairs]
    kinds, grouped = {(s.kind, s.scale_dtype) for s, _ in found}, any(s.group for s, _ in found)
    if len(kinds) != 1:
        return None
    [(kind, dtype)] = kinds
    if kind == "mxfp4" or (kind == "fp8" and grouped):
        return None
    return Scheme(kind, math.gcd(*(s.group or size for s, size in found)) if grouped else None, dtype)


def how(model_type: str, tree, cfg: ModelConfig, scheme: Scheme | None) -> tuple[str, dict[str, Any]]:
    """(the family to write a model as, what its config.json says of the weights); `tree` tells which are quantised.

    A quantised weight must be a torch Linear of the family, or a part of one; where it is not, the family is our own.
    """
    if scheme is None:
        return model_type, {}
    parts = pieces(FAMILIES[model_type], transformer.specs(cfg), cfg)
    quantised = [of[0] for leaf, of in zip(leaves(tree), parts, strict=True) if is_quantized(leaf)]
    if not all(len(piece.shape) == 2 and piece.transposed for piece in quantised):
        what = f"{model_type} keeps weights that are quantised in tensors which compressed-tensors has no form for"
        warnings.warn(f"{what}, so only VishwamAI will load this folder", stacklevel=3)
        return how(OWN, tree, cfg, scheme)
    plain = [of for leaf, of in zip(leaves(tree), parts, strict=True) if not is_quantized(leaf)]
    matmuls = {piece.name.removesuffix(".weight") for of in plain for piece in of if piece.transposed}
    return model_type, {QUANTIZATION: configuration(scheme, matmuls | ({"lm_head"} if cfg.tie_embeddings else set()))}


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


def rounded(name: str, shape: tuple[int, int], scheme: Scheme, whole: Callable[[], np.ndarray]) -> list[Outgoing]:
    """The tensors that stand for a plain one `[out, in]`, whose values are rounded when they are first asked for."""
    made: list[quantize.Quantized] = []

    def part(which: str, last: bool) -> np.ndarray:
        if not made:
            scale_shape = (shape[0], shape[1] // (scheme.group or shape[1]))
            made.append(quantize.round_to_scheme(jnp.asarray(whole()), scale_shape, scheme))
        found = np.asarray(getattr(made[0], which))
        if last:
            made.clear()
        return found

    return tensors(name, shape, scheme, partial(part, "values", False), partial(part, "scale", True))


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
