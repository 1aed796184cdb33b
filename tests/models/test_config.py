"""The model's configuration: what is refused, and how layers become stacks."""

import pytest

from vishwamai.errors import ConfigError
from vishwamai.models.config import Layer, ModelConfig, Rope, Stack, group_layers, uniform

GOOD = dict(vocab_size=64, d_model=32, d_ff=48, n_heads=4, n_kv_heads=2, head_dim=8, stacks=uniform(2))
WIDE, FULL = Layer(window=4), Layer()


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"n_heads": 32, "n_kv_heads": 5}, "n_heads 32 is not a multiple of n_kv_heads 5"),
        ({"d_model": 0}, "d_model is 0"),
        ({"head_dim": 7}, "head_dim 7 is odd"),
        ({"activation": "relu"}, "silu, gelu, gelu_tanh"),
        ({"stacks": ()}, "at least one stack"),
        ({"stacks": uniform(2, moe=True)}, "n_experts is 0"),
        (
            {"stacks": uniform(2, moe=True), "n_experts": 2, "n_experts_per_token": 3, "d_expert": 4},
            "more than n_exp",
        ),
        ({"norm_eps": float("nan")}, "norm_eps is nan"),
        ({"final_softcap": -1.0}, "final_softcap"),
    ],
)  # fmt: skip
def test_contradictions_are_refused(change, words):
    with pytest.raises(ConfigError, match=words):
        ModelConfig(**{**GOOD, **change})


def test_layers_and_turneds_are_checked():
    for make in (lambda: Layer(window=0), lambda: Rope(scaling="ntk"), lambda: Rope(factor=0.0)):
        with pytest.raises(ConfigError):
            make()
    with pytest.raises(ConfigError):
        Stack(pattern=(), repeats=1)


@pytest.mark.parametrize(
    ("layers", "shape"),
    [
        ((FULL,) * 5, [(1, 5)]),
        ((WIDE, WIDE, FULL) * 4, [(3, 4)]),
        ((WIDE, WIDE, FULL) * 4 + (WIDE, WIDE), [(3, 4), (1, 2)]),
        ((FULL,) * 3 + (Layer(moe=True),) * 20, [(1, 3), (1, 20)]),
        ((FULL, WIDE, WIDE), [(1, 1), (1, 2)]),
        ((FULL, WIDE), [(1, 1), (1, 1)]),
    ],
)
def test_stacks_give_back_the_layers(layers, shape):
    stacks = group_layers(layers)
    assert tuple(x for s in stacks for _ in range(s.repeats) for x in s.pattern) == layers
    assert [(len(s.pattern), s.repeats) for s in stacks] == shape


def test_a_config_hashes_and_counts_layers():
    cfg = ModelConfig(**{**GOOD, "stacks": group_layers((WIDE, WIDE, FULL) * 2)})
    assert hash(cfg) == hash(ModelConfig(**{**GOOD, "stacks": group_layers((WIDE, WIDE, FULL) * 2)}))
    assert cfg.n_layers == 6 and cfg.layers[2] == FULL
