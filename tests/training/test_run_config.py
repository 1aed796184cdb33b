"""Every number in a run's configuration at -1, 0, NaN and infinity: refused in words, or known to work.

The fields are found in the classes themselves, so one that is added is tried too.
"""

import dataclasses
import math
import types
import typing

import pytest

from vishwamai import config
from vishwamai.data.corpus import Data, Source
from vishwamai.data.forms import Columns, RowFormat
from vishwamai.errors import ConfigError
from vishwamai.models.config import Latent, Layer, ModelConfig, Rope, Stack, uniform
from vishwamai.training.adapter import Adapter
from vishwamai.training.config import Logging, Optimization, RunConfig, Tpu, Training
from vishwamai.training.optim import OPTIMIZERS, Group, Optimizer
from vishwamai.training.step import StepConfig

SOURCE = Source(kind="text", name="a.txt")
DATA = Data(sources=(SOURCE, SOURCE))
SIZES = dict(vocab_size=300, d_model=16, d_ff=16, n_heads=2, n_kv_heads=1, head_dim=8)
EXPERTS = dict(n_experts=4, n_experts_per_token=2, d_expert=8)
MODEL = ModelConfig(**SIZES, **EXPERTS, stacks=uniform(1, moe=True))
SOUND = [
    SOURCE,
    DATA,
    MODEL,
    Latent(kv_rank=4, d_turned=4, d_value=8),
    Layer(),
    Stack(pattern=(Layer(),), repeats=1),
    Rope(scaling="longrope", short_factors=(1.0,), long_factors=(1.0,)),
    Adapter(base="x"),
    Optimizer(),
    Optimizer(optimizer="adafactor"),
    Optimizer(optimizer="muon"),
    Group(params=("*",)),
    Training(data=DATA, token_budget=512),
    Tpu(),
    Optimization(),
    StepConfig(),
    Logging(early_stopping_patience=2),
]
ANY = {-1, 0}
# What is not refused, and why it works. (JSON and the command line have no NaN and no infinity: `config` refuses them.)
ACCEPTED = {
    (Source, "weight"): {0},  # gives no row; refused by `Data` where it is the only source
    (Source, "held_out"): {0},  # the default: nothing is held out
    (Data, "seed"): ANY,  # seeds are any whole numbers, to Python's generator as text
    (Training, "seed"): ANY,  # `jax.random.key` takes negative ones
    (Training, "balance_loss"): {0},  # a term of the loss is left out
    (Training, "router_z_loss"): {0},
    (Training, "z_loss"): {0},
    (StepConfig, "balance_loss"): {0},
    (StepConfig, "router_z_loss"): {0},
    (StepConfig, "z_loss"): {0},
    (Optimizer, "warmup_steps"): {0},  # begins at the peak
    (Optimizer, "final_fraction"): {0},  # falls to zero
    (Optimizer, "decay_fraction"): {0},  # falls in the last step
    (Optimizer, "beta1"): {0},  # Adam without that moment's memory
    (Optimizer, "beta2"): {0},
    (Optimizer, "momentum"): {0},
    (Optimizer, "ema_decay"): {0},  # the average is the weights
    (Optimizer, "weight_decay"): {0},
    (Group, "weight_decay"): {0},
    (Tpu, "data"): {-1},  # what is left over
    (Tpu, "fsdp"): {-1},
    (Tpu, "expert"): {-1},
    (Tpu, "tensor"): {-1},
    (Logging, "eval_batches"): {0},  # no evaluation
    (Logging, "early_stopping_threshold"): {0},  # any better loss counts
    (ModelConfig, "norm_offset"): ANY,  # added to a norm's scale
    (ModelConfig, "route_scale"): ANY,  # multiplies the experts' weights
    (ModelConfig, "attn_temperature"): {0},  # the default: none
    (ModelConfig, "d_shared"): {0},  # the default: no shared expert
}


def kinds(hint) -> set:
    """The plain types in an annotation: of `tuple[float, ...]` and of `int | None` too."""
    if typing.get_origin(hint) in (typing.Union, types.UnionType, tuple):
        return set().union(*(kinds(part) for part in typing.get_args(hint)))
    return {hint}


def is_read(sound, name: str) -> bool:
    """Whether a setting is none that only other optimisers read, which is refused whatever it is."""
    if not isinstance(sound, Optimizer):
        return True
    return name in OPTIMIZERS[sound.optimizer] or not any(name in read for read in OPTIMIZERS.values())


def numbers() -> list[tuple[object, str, bool]]:
    """(a sound value, one of its fields that is a number, whether that is a list of numbers)."""
    found = []
    for sound in SOUND:
        hints = typing.get_type_hints(type(sound))
        for field in dataclasses.fields(sound):
            if kinds(hints[field.name]) & {int, float} and is_read(sound, field.name):
                found.append((sound, field.name, typing.get_origin(hints[field.name]) is tuple))
    return found


@pytest.mark.parametrize(
    ("sound", "name", "is_list"), [pytest.param(*n, id=f"{type(n[0]).__name__}.{n[1]}") for n in numbers()]
)
def test_a_number_out_of_range_is_refused_or_works(sound, name, is_list):
    accepted = set()
    for value in (-1, 0, math.nan, math.inf):
        try:
            dataclasses.replace(sound, **{name: (value,) if is_list else value})
            accepted.add(value)
        except ConfigError as error:
            assert name in str(error), error
    assert accepted == ACCEPTED.get((type(sound), name), set())


def test_every_section_of_a_run_is_tried():
    def sections(cls) -> set:
        found = {cls}
        for hint in typing.get_type_hints(cls).values():
            found |= set().union(*(sections(kind) for kind in kinds(hint) if dataclasses.is_dataclass(kind)))
        return found

    with_numbers = {type(sound) for sound, _, _ in numbers()}
    tried = {type(sound) for sound in SOUND}
    assert sections(RunConfig) - tried == {RunConfig, RowFormat, Columns, config_about()} and with_numbers == tried


def config_about():
    return typing.get_type_hints(RunConfig)["about"]


def run(**changes) -> dict:
    """A sound run as plain values, some of them changed by their path."""
    file = config.to_dict(RunConfig(model=MODEL, training=Training(data=DATA, length=32, lengths=(32,))))
    for path, value in changes.items():
        *above, last = path.split("__")
        here = file
        for key in above:
            here = here[key]
        here[last] = value
    return file


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"optimization__accumulate": 0}, "optimization.accumulate is 0"),
        ({"optimization__accumulate": -2}, "optimization.accumulate is -2"),
        ({"optimization__remat": "some"}, "optimization.remat 'some' is not known; use none, full"),
        ({"optimization__attention": "flash"}, "optimization.attention 'flash' is not known; use reference, blockwise"),
        ({"optimization__experts": "foo"}, "optimization.experts 'foo' is not known; use reference, ragged"),
        ({"tpu__data": -1, "tpu__fsdp": -1}, "tpu.data and tpu.fsdp are -1; only one"),
        ({"training__data__sources": []}, "none of a weight over 0"),
    ],
)
def test_what_cannot_be_run_is_refused_when_it_is_read(changes, words):
    assert config.from_dict(RunConfig, run()).model == MODEL
    with pytest.raises(ConfigError, match=words):
        config.from_dict(RunConfig, run(**changes))


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"optimization__experts": "foo"}, "is not known"),
        ({"optimization__experts": "ragged"}, "optimization.experts would do nothing: no layer of this model has expe"),
        ({"training__router_z_loss": 0.001}, "training.router_z_loss would do nothing"),
        ({"training__balance_loss": 0.5}, "training.balance_loss would do nothing"),
    ],
)
def test_settings_of_experts_are_refused_for_a_dense_model(changes, words):
    dense = config.to_dict(dataclasses.replace(MODEL, stacks=uniform(1)))
    assert config.from_dict(RunConfig, run(model=dense))
    assert config.from_dict(RunConfig, run(model=dense, training__balance_loss=0.0))
    with pytest.raises(ConfigError, match=words):
        config.from_dict(RunConfig, run(model=dense, **changes))
    if "foo" not in changes.values():
        assert config.from_dict(RunConfig, run(**changes))
