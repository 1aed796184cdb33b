"""Which dtype is taken where, written out."""

import pytest

from vishwamai.errors import ConfigError
from vishwamai.precision import Precision, choose_dtype


@pytest.mark.parametrize(
    ("asked", "stored", "platform", "dtype", "why"),
    [
        ("auto", "bfloat16", "tpu", "bfloat16", "the checkpoint's own"),
        ("auto", "float16", "gpu", "float16", "the checkpoint's own"),
        ("auto", "float32", "tpu", "float32", "the checkpoint's own"),
        ("auto", "float32", "cpu", "float32", "the checkpoint's own"),
        ("auto", "bfloat16", "cpu", "float32", "the checkpoint's bfloat16 is slower on a CPU"),
        ("auto", "float16", "cpu", "float16", "the checkpoint's own"),
        ("auto", "float64", "gpu", "float32", "the checkpoint's float64 is not computed in"),
        ("bfloat16", "float32", "cpu", "bfloat16", "as asked"),
        ("float32", "bfloat16", "tpu", "float32", "as asked"),
    ],
)
def test_the_dtype_and_why(asked, stored, platform, dtype, why):
    assert choose_dtype(asked, stored, platform) == (dtype, why)


def test_a_dtype_that_there_is_not():
    with pytest.raises(ConfigError, match="precision.weights is 'auto'; it must be one of float32, bfloat16, float16"):
        Precision(weights="auto")
