"""How published checkpoints store quantised weights: config.json's `quantization_config`, and the tensors by it.

FP8 in blocks (DeepSeek-V3, 2024, section 3.3), MXFP4 (OCP Microscaling Formats 1.0, 2023), and compressed-tensors'
symmetric integers and FP8. Activations and the cache are never quantised, so scales for them are not read. It knows no
family's names.
"""

import dataclasses
import re
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from vishwamai.errors import CheckpointError, ConfigError
from vishwamai.hf.coded import CODES, AxisRanges, QuantizedTensor, to_index
from vishwamai.hf.safetensors import TENSOR_DTYPES, Tensor

QUANT_METHODS = ("fp8", "mxfp4", "compressed-tensors")
PACKED = ("pack-quantized",)
SCALE_DTYPES = tuple(np.dtype(TENSOR_DTYPES[name]) for name in ("F32", "F16", "BF16"))
MXFP4_BYTES = 16  # of the 32 codes that share a scale
UNPACKED = ("int-quantized", "float-quantized", "naive-quantized")
OF_CACHE = re.compile(r".*\.(self_attn|attn)\.([qkv]_|kv_|prob_)scale|.*\.[qkv]_proj\.([kv]_|output_)scale")
ViewStored = Callable[[str], np.ndarray]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Storage:
    """How a checkpoint stores quantised weights: the block of a scale (0: a whole axis), and an integer's bits.

    With `method` "none" the weights are plain, and only the cache was meant to be quantised.
    """

    method: str
    block: tuple[int, int] = (0, 0)
    bits: int = 8

    def plain_tensors(self, tensors: Mapping[str, Tensor], view: ViewStored) -> dict[str, Tensor | QuantizedTensor]:
        """Returns the tensors by the names that they have in a checkpoint that is not quantised."""
        makers = {"fp8": self._fp8, "mxfp4": self._mxfp4, "compressed-tensors": self._compressed}
        found: dict[str, Tensor | QuantizedTensor] = {n: t for n, t in tensors.items() if not OF_CACHE.fullmatch(n)}
        for name, tensor in tensors.items() if self.method in makers else ():
            quantized, used = makers[self.method](name, tensor, tensors, view)
            if quantized is not None:
                for one in used:
                    found.pop(one, None)
                found[quantized.name] = quantized
        return found

    def _fp8(self, name, tensor, tensors, view):
        # Both names are of what codes are multiplied by: the first is DeepSeek's, the second AutoFP8's.
        scales = [one for one in (f"{name}_scale_inv", f"{name}_scale") if one in tensors]
        if tensor.dtype != CODES["fp8"] or not scales:
            return None, ()
        if len(scales) > 1:
            raise CheckpointError(f"{tensor.path}: {scales[0]!r} and {scales[1]!r} are both there; keep one of them")
        module, scale = name.removesuffix("weight"), _scales(tensors[scales[0]], view)
        used = (name, *scales, f"{module}activation_scale", f"{module}input_scale")
        return self._matmul(name, tensor.path, "fp8", tensor.shape, _bytes(view(name)), scale), used

    def _mxfp4(self, name, tensor, tensors, view):
        plain = name.removesuffix("_blocks")
        if plain == name or f"{plain}_scales" not in tensors:
            return None, ()
        scales = tensors[f"{plain}_scales"]
        _require(tensor, np.uint8, len(tensor.shape) == 4 and tensor.shape[-1] == MXFP4_BYTES, "[E, out, groups, 16]")
        _require(scales, np.uint8, scales.shape == tensor.shape[:3], "those of its blocks, without the last axis")
        experts, outputs, groups, half = tensor.shape
        raw, exponents = view(name).reshape(experts, outputs, groups * half), view(f"{plain}_scales")

        def codes(axes: AxisRanges) -> np.ndarray:
            expert, inputs, rows = to_index(axes)
            return np.swapaxes(_nibbles(raw[expert, rows]), -1, -2)[..., inputs, :]

        def scale(grid: tuple[np.ndarray, ...]) -> np.ndarray:
            return np.ldexp(np.float32(1), exponents[grid[0], grid[2], grid[1]].astype(np.int32) - 127)

        shape = (experts, groups * 2 * half, outputs)
        coded = QuantizedTensor(plain, tensor.path, "mxfp4", shape, codes, scale, (1, 2 * half, 1), inputs=1)
        return coded, (name, f"{plain}_scales")

    def _compressed(self, name, tensor, tensors, view):
        plain = name.removesuffix("_packed")
        packed = plain != name
        if f"{plain}_scale" not in tensors or not (packed or tensor.dtype in (CODES["fp8"], np.int8)):
            return None, ()
        kind = f"int{self.bits}" if packed or tensor.dtype == np.int8 else "fp8"
        shape = self._unpacked_shape(tensor, tensors, view, plain) if packed else tensor.shape
        codes = _unpacked(view(name), self.bits) if packed else _bytes(view(name))
        used = (
            name,
            f"{plain}_scale",
            f"{plain}_shape",
            f"{plain}_g_idx",
            f"{plain.removesuffix('weight')}input_scale",
        )
        scale = _scales(tensors[f"{plain}_scale"], view)
        if f"{plain}_g_idx" in tensors:
            return self._by_index(plain, tensor, tensors[f"{plain}_g_idx"], view, kind, shape, codes, scale), used
        return self._matmul(plain, tensor.path, kind, shape, codes, scale), used

    def _unpacked_shape(self, tensor, tensors, view, plain) -> tuple[int, ...]:
        """The shape of what is packed: the last word of a row may be filled up."""
        _require(tensor, np.int32, len(tensor.shape) == 2, "[out, words]")
        shape = (tensor.shape[0], tensor.shape[1] * 32 // self.bits)
        if (stated := tensors.get(f"{plain}_shape")) is not None:
            _require(stated, np.int64, stated.shape == (2,), "[2]")
            given = tuple(int(n) for n in view(stated.name))
            fits = given[0] == shape[0] and 0 < given[1] <= shape[1] < given[1] + 32 // self.bits
            _require(tensor, np.int32, fits, f"that of {list(given)} packed, as {stated.name!r} says")
            shape = given
        return shape

    def _by_index(self, name, tensor, index, view, kind, shape, codes, scale) -> QuantizedTensor:
        """A matrix whose inputs have a scale each by an index of groups, as they were ordered by activations."""
        _require(index, np.int32, index.shape == shape[1:], f"[{shape[1]}], the group of each input")
        group = np.asarray(view(index.name))
        if scale.shape[0] != shape[0] or not ((0 <= group) & (group < scale.shape[1])).all():
            sizes = f"{list(scale.shape)} scales do not fit {list(shape)} by {index.name!r}"
            raise CheckpointError(f"{tensor.path}: tensor {name!r}: {sizes}")
        return QuantizedTensor(
            name, tensor.path, kind, tuple(shape), codes, lambda grid: scale[grid[0], group[grid[1]]], (1, 1)
        )

    def _matmul(self, name, path, kind, shape, codes, scale) -> QuantizedTensor:
        """A matrix `[out, in]` of codes, and that of its scales."""
        if len(shape) != 2 or len(scale.shape) != 2 or 0 in shape:
            raise CheckpointError(f"{path}: tensor {name!r}: it and its scales must be matrices, and not empty")
        block = tuple(n if one == 1 else b or n for n, b, one in zip(shape, self.block, scale.shape, strict=True))
        if tuple(-(-n // b) for n, b in zip(shape, block, strict=True)) != scale.shape:
            sizes = f"{list(scale.shape)} scales do not fit {list(shape)} in blocks of {list(block)}"
            raise CheckpointError(f"{path}: tensor {name!r}: {sizes}")
        return QuantizedTensor(name, path, kind, tuple(shape), codes, lambda grid: scale[grid], block)


def _scales(tensor: Tensor, view: ViewStored) -> np.ndarray:
    """A tensor of scales as a matrix: one of all, or a column of the outputs'."""
    if tensor.dtype not in SCALE_DTYPES:
        what = f"is {tensor.dtype}, and holds scales, which are floats"
        raise CheckpointError(f"{tensor.path}: tensor {tensor.name!r} {what}")
    scale = view(tensor.name)
    return scale.reshape(-1, 1) if scale.ndim < 2 else scale


def _require(tensor: Tensor, dtype, fits: bool, shape: str) -> None:
    if tensor.dtype != dtype or not fits:
        what = f"is {tensor.dtype} of shape {list(tensor.shape)}"
        raise CheckpointError(f"{tensor.path}: tensor {tensor.name!r} {what}; it must be {np.dtype(dtype)}, {shape}")


def _bytes(raw: np.ndarray) -> Callable:
    """Codes of a byte each."""
    codes = raw if raw.dtype == np.int8 else raw.view(np.uint8)
    return lambda axes: codes[to_index(axes)]


def _nibbles(raw: np.ndarray) -> np.ndarray:
    """The two codes of each byte of the last axis, the low one first."""
    return np.stack([raw & 15, raw >> 4], -1).reshape(*raw.shape[:-1], -1)


def _unpacked(raw: np.ndarray, bits: int) -> Callable:
    """Codes that lie in 32-bit words, the lowest first, each with half its range added."""
    words = raw.view(np.uint8)

    def codes(axes: AxisRanges) -> np.ndarray:
        rows, columns = to_index(axes)
        part = words[rows]
        part = _nibbles(part) if bits == 4 else part
        return (part[..., columns].astype(np.int16) - (1 << bits - 1)).astype(np.int8)

    return codes


def parse_quantization(config: Any, where: str) -> Storage | None:
    """Returns what a `quantization_config` says. Raises `ConfigError` that names what is not read."""
    if config is None:
        return None
    if not isinstance(config, Mapping):
        raise ConfigError(f"{where}: quantization_config: must be an object, not {str(config)[:60]!r}")
    method = config.get("quant_method")
    if method not in QUANT_METHODS:
        known = ", ".join(QUANT_METHODS)
        raise ConfigError(
            f"{where}: quantization_config: weights quantised by {method!r} are not read, those by {known} are; "
            "use the original weights"
        )
    try:
        if method == "mxfp4":
            return Storage(method="mxfp4")
        return _parse_fp8(config) if method == "fp8" else _parse_compressed(config)
    except ConfigError as error:
        raise ConfigError(f"{where}: quantization_config: {error}") from None


def _parse_fp8(config: Mapping[str, Any]) -> Storage:
    block = config.get("weight_block_size")
    _allow(config, "fmt", None, "e4m3")
    _allow(config, "expert_dtype", None, "fp8")
    if block is not None and not (isinstance(block, list) and len(block) == 2 and all(_is_size(n) for n in block)):
        raise ConfigError(f"weight_block_size is {str(block)[:60]}; it must be two sizes")
    return Storage(method="fp8", block=tuple(block or (0, 0)))


def _parse_compressed(config: Mapping[str, Any]) -> Storage:
    if config.get("config_groups") or not config.get("kv_cache_scheme"):
        _allow(config, "format", *PACKED, *UNPACKED)
    _allow(config, "sparsity_config", None, {})
    _allow(config, "transform_config", None, {})
    groups = config.get("config_groups")
    if not groups and config.get("kv_cache_scheme"):
        return Storage(method="none")
    if not isinstance(groups, Mapping):
        raise ConfigError("config_groups must say how weights are quantised")
    weights = [g.get("weights") if isinstance(g, Mapping) else None for g in groups.values()]
    if not weights or not all(isinstance(w, Mapping) for w in weights):
        raise ConfigError("config_groups must say how weights are quantised")
    for w in weights:
        _allow(w, "symmetric", True)
        _allow(w, "actorder", None, "static", "weight", "group")
        _allow(w, "num_bits", *((4, 8) if config["format"] in PACKED else (8,)))
        _allow(w, "type", "int", *(() if config["format"] in PACKED else ("float",)))
    found = {(w["num_bits"], _compressed_block(w)) for w in weights}
    if len(found) > 1:
        raise ConfigError("config_groups that differ in num_bits or in what shares a scale are not read")
    bits, block = found.pop()
    return Storage(method="compressed-tensors", bits=bits, block=block)


def _compressed_block(w: Mapping[str, Any]) -> tuple[int, int]:
    strategy, group, block = w.get("strategy"), w.get("group_size"), w.get("block_structure")
    match strategy:
        case "tensor":
            return 0, 0
        case "channel":
            return 1, 0
        case "group" if _is_size(group):
            return 1, group
        case "block" if isinstance(block, list) and len(block) == 2 and all(map(_is_size, block)):
            return block[0], block[1]
    raise ConfigError(f"weights of strategy {strategy!r}, group_size {group} and block_structure {block} are not read")


def _allow(config: Mapping[str, Any], key: str, *values: Any) -> None:
    if not any(config.get(key) == v and type(config.get(key)) is type(v) for v in values):
        raise ConfigError(f"{key} is {str(config.get(key))[:60]}; only {' or '.join(map(str, values))} is read")


def _is_size(n: Any) -> bool:
    return type(n) is int and 0 < n <= 2**20
