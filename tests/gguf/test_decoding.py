"""Numbers out of blocks against the dequantisers of the package `gguf`, whole and in parts, and codes that are kept."""

import warnings

import gguf
import jax.numpy as jnp
import numpy as np
import pytest
from gguf import GGMLQuantizationType as Kind

from vishwamai.errors import CheckpointError
from vishwamai.gguf.decoding import KEPT, PACKAGE, PLAIN, READ, Change, make_tensor
from vishwamai.gguf_header import TYPES, TensorInfo
from vishwamai.hf.coded import QuantizedTensor
from vishwamai.weights.linear import materialize
from vishwamai.weights.quantize import Quantized

SHAPE = (6, 768)
AS_IT_IS = Change()
NAMED = {kind.name: kind for kind in TYPES.values()}
PARTS = [
    (slice(None), slice(None)),
    (slice(2, 5), slice(0, 256)),
    (slice(0, 6, 2), slice(40, 300)),
    (3, slice(512, 768)),
    (slice(1, 3), 77),
    (slice(4, 4), slice(None)),
    (slice(None), slice(32, 32)),
]


def stored(kind: str, shape=SHAPE, seed: int = 0) -> np.ndarray:
    """Random bytes of a type, with scales that are finite; numbers of a plain one."""
    rng = np.random.default_rng(seed)
    if kind in PLAIN:
        return rng.normal(size=shape).astype(PLAIN[kind]).reshape(-1).view(np.uint8)
    size = shape[-1] // NAMED[kind].block
    blocks = rng.integers(0, 256, (int(np.prod(shape[:-1])) * size, NAMED[kind].size), np.uint8)
    floats = {"Q8_0": [0], "Q4_0": [0], "Q4_1": [0, 2], "Q5_0": [0], "Q5_1": [0, 2], "Q2_K": [80, 82], "Q3_K": [108]}
    floats |= {"Q4_K": [0, 2], "Q5_K": [0, 2], "Q6_K": [208], "IQ4_NL": [0], "IQ4_XS": [0], "MXFP4": []}
    for at in floats[kind]:
        scales = rng.normal(size=(len(blocks), 1)).astype(np.float16)
        blocks[:, at : at + 2] = scales.view(np.uint8)
    if kind == "MXFP4":
        blocks[:, 0] = rng.integers(100, 140, len(blocks))
    return blocks.reshape(-1)


def tensor(kind: str, raw: np.ndarray, change: Change = AS_IT_IS, shape=SHAPE):
    return make_tensor(TensorInfo("t.weight", "file.gguf", kind, shape, 0, raw.size), raw, change)


def expected(kind: str, raw: np.ndarray, shape=SHAPE) -> np.ndarray:
    if kind in ("F64", "BF16"):
        return raw.view(PLAIN[kind]).reshape(shape).astype(np.float64 if kind == "F64" else np.float32)
    return gguf.dequantize(raw.reshape(*shape[:-1], -1), Kind[kind]).reshape(shape)


def test_every_type_is_of_one_kind():
    assert set(READ) == {*PLAIN, *KEPT, *PACKAGE} and len(READ) == len(PLAIN) + len(KEPT) + len(PACKAGE)
    wanted = "F32 F16 BF16 Q8_0 Q4_0 Q4_1 Q5_0 Q5_1 Q2_K Q3_K Q4_K Q5_K Q6_K IQ4_NL IQ4_XS MXFP4"
    assert set(wanted.split()) <= set(READ)


@pytest.mark.parametrize("kind", READ)
def test_values_are_those_of_the_package(kind):
    raw = stored(kind)
    found, whole = tensor(kind, raw), expected(kind, raw)
    for part in PARTS:
        values = np.asarray(found.plain()[part])
        assert values.dtype == found.dtype and np.array_equal(values, whole[part])
    nested = np.asarray(found.plain()[1:5][1:3, 256:][:, 3:40])
    assert np.array_equal(nested, whole[2:4, 259:296])


@pytest.mark.parametrize("kind", READ)
def test_rows_in_another_order_and_numbers_added(kind):
    raw, order = stored(kind), np.array([4, 2, 0, 5, 3, 1])
    whole = expected(kind, raw)
    ordered = tensor(kind, raw, Change(order=order))
    for part in PARTS:
        assert np.array_equal(np.asarray(ordered.plain()[part]), whole[order][part])
    shifted = tensor(kind, raw, Change(added=-1.0))
    assert shifted.dtype == np.float32 and np.array_equal(np.asarray(shifted.plain()), whole.astype(np.float32) - 1)


@pytest.mark.parametrize("group", [32, 16])
@pytest.mark.parametrize("kind", KEPT)
def test_codes_that_are_kept_stand_for_the_same_values(kind, group):
    raw, order = stored(kind, seed=1), np.array([4, 2, 0, 5, 3, 1])
    found = tensor(kind, raw, Change(order=order))
    assert isinstance(found, QuantizedTensor) and found.scheme.kind == KEPT[kind].scheme and found.scheme.group == 32
    assert (found.scheme.offset_dtype is not None) == (kind == "Q4_1")
    offset = jnp.asarray(np.asarray(found.offsets(group))) if found.offset else None
    scale = jnp.asarray(np.asarray(found.scales(group)))
    kept = Quantized(values=jnp.asarray(np.asarray(found.values())), scale=scale, offset=offset)
    whole = expected(kind, raw)[order]
    tolerance = {"rtol": 0, "atol": 1e-6 * np.abs(whole).max()} if kind == "Q4_1" else {"rtol": 0, "atol": 0}
    np.testing.assert_allclose(np.asarray(materialize(kept)), whole, **tolerance)
    np.testing.assert_allclose(np.asarray(found.plain()), whole, rtol=0, atol=0)
    part = np.asarray(found.values()[1:3, 40:70]).astype(np.float32)
    assert np.array_equal(part, np.asarray(found.values()).astype(np.float32)[1:3, 40:70])


def test_experts_and_vectors():
    for kind in ("Q8_0", "MXFP4", "Q4_K", "F16"):
        raw = stored(kind, (3, 4, 256))
        found, whole = tensor(kind, raw, shape=(3, 4, 256)), expected(kind, raw, (3, 4, 256))
        for part in ((1,), (slice(0, 2), slice(1, 3), slice(32, 64)), (2, slice(None), slice(None))):
            assert np.array_equal(np.asarray(found.plain()[part]), whole[part])
    raw = stored("F32", (64,))
    order = np.arange(64)[::-1].copy()
    found = tensor("F32", raw, Change(order=order), (64,))
    assert np.array_equal(np.asarray(found.plain()[8:16]), expected("F32", raw, (64,))[order][8:16])


@pytest.mark.parametrize("kind", [k for k in READ if k not in PLAIN and k != "MXFP4"])
def test_scales_that_are_not_finite_are_refused(kind):
    raw = stored(kind).reshape(-1, NAMED[kind].size)
    at = {"Q2_K": 80, "Q3_K": 108, "Q6_K": 208}.get(kind, 0)
    raw[5, at : at + 2] = np.array([np.inf], np.float16).view(np.uint8)
    with (
        warnings.catch_warnings(),
        pytest.raises(CheckpointError, match="file.gguf: tensor 't.weight' has .*not finite"),
    ):
        warnings.simplefilter("error")
        np.asarray(tensor(kind, raw.reshape(-1)).plain())


def test_a_type_that_is_not_read_is_named():
    with pytest.raises(CheckpointError, match="'t.weight' is of the type IQ1_S, which is not read; F32, F16"):
        tensor("IQ1_S", np.zeros(6 * 3 * 50, np.uint8))


def test_without_the_package_the_extra_is_named(monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "gguf", None)
    for kind in (*PLAIN, *KEPT):
        np.asarray(tensor(kind, stored(kind)).plain())
    with pytest.raises(CheckpointError, match=r'pip install "vishwamai\[gguf\]"'):
        np.asarray(tensor("Q6_K", stored("Q6_K")).plain())
