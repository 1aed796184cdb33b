"""Optax promotes dtypes inside itself, so the strict promotion of the other tests is lifted here."""

import jax
import pytest


@pytest.fixture(autouse=True, scope="module")
def promotion_of_optax():
    with jax.numpy_dtype_promotion("standard"):
        yield
