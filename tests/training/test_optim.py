"""AdamW and its schedules against the formulas."""

import jax.numpy as jnp
import numpy as np
import pytest

from vishwamai.errors import ConfigError
from vishwamai.training.optim import Optimizer, clip_gradients, optimizer, schedule
from vishwamai.weights.spec import Param

SPECS = {"w": Param((2, 2), ("embed", "mlp"), contract=("embed",)), "norm": Param((2,), ("embed",))}


def test_one_update_is_adam_with_decay_on_what_is_multiplied():
    o = Optimizer(learning_rate=0.1, schedule="constant", warmup_steps=0, weight_decay=0.5, beta1=0.9, beta2=0.95)
    rule, weights = optimizer(o, SPECS, 10), {"w": jnp.full((2, 2), 3.0), "norm": jnp.full(2, 3.0)}
    grads = {"w": jnp.full((2, 2), 7.0), "norm": jnp.full(2, -7.0)}
    updates, _ = rule.update(grads, rule.init(weights), weights, step=jnp.zeros((), jnp.int32))
    np.testing.assert_allclose(updates["w"], -0.1 * (1.0 + 0.5 * 3.0), rtol=1e-5)  # the first step is the sign
    np.testing.assert_allclose(updates["norm"], 0.1, rtol=1e-5)


def test_schedules():
    cosine = schedule(Optimizer(learning_rate=1.0, warmup_steps=10, final_fraction=0.1), 110)
    assert [float(cosine(i)) for i in (0, 4, 9)] == pytest.approx([0.1, 0.5, 1.0])
    assert float(cosine(60)) == pytest.approx(0.1 + 0.9 * 0.5) and float(cosine(110)) == pytest.approx(0.1)
    wsd = schedule(
        Optimizer(learning_rate=1.0, schedule="wsd", warmup_steps=10, decay_fraction=0.2, final_fraction=0), 100
    )
    assert [float(wsd(i)) for i in (50, 80, 90, 100)] == pytest.approx([1, 1, 0.5, 0])
    flat = schedule(Optimizer(learning_rate=1.0, schedule="constant", warmup_steps=0), 100)
    assert float(flat(0)) == float(flat(99)) == 1.0


def test_clipping_shortens_and_never_lengthens():
    grads = {"w": jnp.array([3.0, 4.0])}
    np.testing.assert_allclose(clip_gradients(grads, jnp.array(5.0), 1.0)["w"], [0.6, 0.8], rtol=1e-6)
    np.testing.assert_allclose(clip_gradients(grads, jnp.array(5.0), 10.0)["w"], [3, 4])


@pytest.mark.parametrize(
    "bad",
    [
        {"schedule": "step"},
        {"learning_rate": -1.0},
        {"learning_rate": float("nan")},
        {"beta2": 1.5},
        {"warmup_steps": -1},
    ],
)
def test_settings_are_checked(bad):
    with pytest.raises(ConfigError):
        Optimizer(**bad)
