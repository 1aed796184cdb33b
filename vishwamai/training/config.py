"""The configuration of a training run: the five sections of its file, and what the file says about itself."""

import dataclasses

from vishwamai.data.corpus import Data
from vishwamai.errors import ConfigError
from vishwamai.models.config import ModelConfig
from vishwamai.parallel.mesh import AXES
from vishwamai.precision import Precision
from vishwamai.training.adapter import Adapter
from vishwamai.training.optim import Optimizer
from vishwamai.training.step import StepConfig

MAX_INT = 2**31 - 1  # steps are counted in int32, and so are the tokens of a batch
RANGES = (
    ("steps", 1, MAX_INT),
    ("batch", 1, MAX_INT),
    ("length", 2, MAX_INT),
    ("seed", -(2**63), 2**63 - 1),  # what `jax.random.key` takes
)


@dataclasses.dataclass(frozen=True, kw_only=True)
class About:
    """What a file states for people: the command that runs it, on what, how long it took, what came out."""

    command: str = ""
    hardware: str = ""
    time: str = ""
    result: str = ""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Training:
    """What is trained on, for how long, and how the weights move.

    A batch is `batch` lines of `length` tokens packed full; with `token_budget` it is as many rows of like length (one
    of `lengths`) as the budget holds. `start` names a model whose weights the run starts from in place of random ones.
    With an `adapter`, what is trained stands beside a model that stays as it is.
    """

    data: Data
    start: str | None = None
    adapter: Adapter | None = None
    optimizer: Optimizer = Optimizer()
    steps: int = 1000
    batch: int = 16
    length: int = 256
    token_budget: int | None = None
    lengths: tuple[int, ...] = (64, 128, 256)
    seed: int = 0
    balance_loss: float = 0.01
    router_z_loss: float = 0.0
    z_loss: float = 0.0

    def __post_init__(self):
        if self.start is not None and self.adapter is not None:
            raise ConfigError("training.start would do nothing: an adapter starts from its training.adapter.base")
        for name, least, most in RANGES:
            if not least <= getattr(self, name) <= most:
                raise ConfigError(f"training.{name} is {getattr(self, name)}; it must be from {least} to {most}")
        if not self.lengths or min(self.lengths) < 2:
            raise ConfigError(f"training.lengths is {list(self.lengths)}; it must be lengths of 2 or more")
        for field, (lines, length) in self.shapes.items():
            if not 1 <= lines <= MAX_INT // length:
                raise ConfigError(
                    f"{field} is {lines}; with {length} tokens each it must be from 1 to {MAX_INT // length}"
                )

    @property
    def shapes(self) -> dict[str, tuple[int, int]]:
        """(lines, tokens in a line) of every batch that may occur, by the field that says so."""
        if self.token_budget is None:
            return {"training.batch": (self.batch, self.length)}
        return {f"training.token_budget // {n}": (self.token_budget // n, n) for n in self.lengths}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Tpu:
    """The mesh: how many devices along each axis; -1 takes what is left over. It serves GPUs and CPUs as well."""

    data: int = 1
    fsdp: int = 1
    expert: int = 1
    tensor: int = 1

    def sizes(self) -> dict[str, int]:
        """The axes that are used; none on a single device."""
        return {axis: getattr(self, axis) for axis in AXES if getattr(self, axis, 1) != 1}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Optimization:
    """How a step is computed: precision, what is kept for the backward pass, and in how many parts."""

    precision: str = "float32"
    remat: str = "none"
    accumulate: int = 1
    loss_chunks: int = 4
    attention: str | None = None
    experts: str | None = None

    def __post_init__(self):
        Precision.named(self.precision)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Logging:
    """What is written and how often, in steps; `peak_flops` is the hardware's, per device, for utilisation."""

    log_every: int = 20
    eval_every: int = 500
    eval_batches: int = 4
    save_every: int = 200
    keep: int = 3
    peak_flops: float | None = None

    def __post_init__(self):
        for name in ("log_every", "eval_every", "save_every", "keep"):
            if getattr(self, name) < 1:
                raise ConfigError(f"logging.{name} is {getattr(self, name)}; it must be 1 or more")


@dataclasses.dataclass(frozen=True, kw_only=True)
class RunConfig:
    """A training run. The model of one that trains an adapter is its base's, which `beside` fills in."""

    about: About = About()
    model: ModelConfig | None = None
    training: Training
    tpu: Tpu = Tpu()
    optimization: Optimization = Optimization()
    logging: Logging = Logging()

    def __post_init__(self):
        if self.model is None and self.training.adapter is None:
            raise ConfigError("model is missing; describe it, or name in training.adapter.base one to adapt")
        parts, longest = self.optimization.accumulate, MAX_INT if self.model is None else self.model.max_length
        for field, (lines, length) in self.training.shapes.items():
            if lines % parts:
                raise ConfigError(f"{field} is {lines}, which is not a multiple of optimization.accumulate {parts}")
            if length > longest:
                raise ConfigError(f"a row of {length} tokens is longer than model.max_length {longest}")

    def beside(self, model: ModelConfig) -> "RunConfig":
        """The run of an adapter, with its base's model, and its base's tokenizer where it would make one."""
        base = self.training.adapter.base
        if self.model not in (None, model):
            raise ConfigError(f"model is not that of training.adapter.base {base}; leave it out")
        data = self.training.data
        data = dataclasses.replace(data, tokenizer=base) if data.tokenizer == "train" else data
        return dataclasses.replace(self, model=model, training=dataclasses.replace(self.training, data=data))

    @property
    def step(self) -> StepConfig:
        """What the step needs to know of all this."""
        o, t = self.optimization, self.training
        return StepConfig(
            compute=Precision.named(o.precision).compute,
            accumulate=o.accumulate,
            remat=o.remat,
            loss_chunks=o.loss_chunks,
            attention=o.attention,
            experts=o.experts,
            z_loss=t.z_loss,
            balance_loss=t.balance_loss,
            router_z_loss=t.router_z_loss,
            adapter=t.adapter,
        )
