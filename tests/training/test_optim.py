"""The optimiser's settings, schedules and clipping against the formulas."""

import jax.numpy as jnp
import numpy as np
import pytest

from vishwamai.errors import ConfigError
from vishwamai.training.optim import Group, Optimizer, clip_gradients, schedule


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
    free = schedule(Optimizer(optimizer="schedule_free_adamw", learning_rate=1.0, warmup_steps=4), 100)
    assert [float(free(i)) for i in (0, 3, 50, 99)] == [0.25, 1, 1, 1]


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


@pytest.mark.parametrize(
    ("settings", "name"),
    [
        ({"momentum": 0.9}, "momentum"),
        ({"optimizer": "adafactor", "beta1": 0.9}, "beta1"),
        ({"optimizer": "adafactor", "eps": 1e-8}, "eps"),
        ({"optimizer": "lion", "eps": 1e-8}, "eps"),
        ({"optimizer": "lion", "ns_steps": 3}, "ns_steps"),
        ({"optimizer": "muon", "decay_rate": 0.8}, "decay_rate"),
        ({"optimizer": "schedule_free_adamw", "schedule": "cosine"}, "schedule"),
        ({"optimizer": "schedule_free_adamw", "final_fraction": 0.0}, "final_fraction"),
        ({"optimizer": "schedule_free_adamw", "ema_decay": 0.9}, "ema_decay"),
    ],
)
def test_what_the_optimiser_does_not_read_is_refused(settings, name):
    which = settings.get("optimizer", "adamw")
    with pytest.raises(ConfigError, match=f"{name} would do nothing: {which} does not read it; leave it out"):
        Optimizer(**settings)


def test_each_optimiser_has_defaults_of_its_own():
    assert (Optimizer().setting("beta2"), Optimizer(optimizer="lion").setting("beta2")) == (0.95, 0.99)
    assert Optimizer(optimizer="lion", beta2=0.5).setting("beta2") == 0.5
    with pytest.raises(
        ConfigError, match="optimizer 'adam' is not known; use adamw, adafactor, lion, muon, schedule_free"
    ):
        Optimizer(optimizer="adam")


def test_groups_are_checked():
    for bad in ({"params": ()}, {"params": ("a",), "frozen": True, "weight_decay": 0.1}):
        with pytest.raises(ConfigError):
            Group(**bad)
