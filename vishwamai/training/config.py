"""The configuration of a training run: the five sections of its file, and what the file says about itself."""

import dataclasses

from vishwamai.config import check_numbers
from vishwamai.data.corpus import Data
from vishwamai.errors import ConfigError
from vishwamai.models.config import ModelConfig
from vishwamai.parallel.mesh import AXES
from vishwamai.precision import Precision
from vishwamai.training.adapter import Adapter, trained_specs
from vishwamai.training.optim import Optimizer
from vishwamai.training.rules import check_groups
from vishwamai.training.step import MAX_INT, StepConfig, check_computation


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
    of `lengths`) as the budget holds, and evaluation alone reads `batch` lines of `length`. `start` names a model whose
    weights the run starts from in place of random ones. With an `adapter`, what is trained stands beside a model that
    stays as it is.
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
        check_numbers(self, "steps", "batch", least=1, most=MAX_INT, section="training.")
        check_numbers(self, "length", least=2, most=MAX_INT, section="training.")
        check_numbers(self, "seed", least=-(2**63), most=2**63 - 1, section="training.")  # what `jax.random.key` takes
        check_numbers(self, "balance_loss", "router_z_loss", "z_loss", least=0, section="training.")
        check_numbers(self, "token_budget", least=1, section="training.")
        if not self.lengths or not all(2 <= length <= MAX_INT for length in self.lengths):
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

    def __post_init__(self):
        sizes = {axis.name: getattr(self, axis.name) for axis in dataclasses.fields(self)}
        for axis, size in sizes.items():
            if size != -1 and not 1 <= size <= MAX_INT:
                raise ConfigError(f"tpu.{axis} is {size}; it must be 1 or more, or -1 for what is left over")
        if len(left_over := [axis for axis, size in sizes.items() if size == -1]) > 1:
            raise ConfigError(f"tpu.{' and tpu.'.join(left_over)} are -1; only one can take what is left over")

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
        check_computation(self, "optimization.")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Logging:
    """What is written and how often, in steps; `peak_flops` is the hardware's, per device, for utilisation.

    A run ends early once so many evaluations in a row as `early_stopping_patience` were no better, by over the
    threshold, than the best. With it or with `load_best_model_at_end` every evaluation that is the best is saved.
    """

    log_every: int = 20
    eval_every: int = 500
    eval_batches: int = 4
    save_every: int = 200
    keep: int = 3
    peak_flops: float | None = None
    early_stopping_patience: int | None = None
    early_stopping_threshold: float = 0.0
    load_best_model_at_end: bool = False

    def __post_init__(self):
        counts = ("log_every", "eval_every", "save_every", "keep", "early_stopping_patience")
        check_numbers(self, *counts, least=1, most=MAX_INT, section="logging.")
        check_numbers(self, "eval_batches", least=0, most=MAX_INT, section="logging.")
        check_numbers(self, "peak_flops", above=0, section="logging.")
        check_numbers(self, "early_stopping_threshold", least=0, section="logging.")
        if self.early_stopping_threshold and self.early_stopping_patience is None:
            raise ConfigError("logging.early_stopping_threshold would do nothing without early_stopping_patience")

    @property
    def keeps_best(self) -> bool:
        """Whether an evaluation that is the best so far is saved."""
        return self.load_best_model_at_end or self.early_stopping_patience is not None


@dataclasses.dataclass(frozen=True, kw_only=True)
class RunConfig:
    """A training run. The model of one that trains an adapter is its base's, which `with_base_model` fills in."""

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
        if self.model is not None and not any(layer.moe for layer in self.model.layers):
            self._check_dense()
        if self.model is not None:
            check_groups(self.training.optimizer, trained_specs(self.model, self.training.adapter))
        held_out = any(source.has_held_out for source in self.training.data.sources)
        if self.logging.keeps_best and not (self.logging.eval_batches and held_out):
            raise ConfigError(
                "logging.early_stopping_patience and logging.load_best_model_at_end need evaluations; set "
                "logging.eval_batches, and held_out of a source of training.data"
            )
        if self.training.adapter is not None and self.training.optimizer.base_width is not None:
            raise ConfigError(
                "training.optimizer.base_width is for whole weights; leave it out where pairs are trained"
            )
        for field, (lines, length) in self.training.shapes.items():
            if lines % parts:
                raise ConfigError(f"{field} is {lines}, which is not a multiple of optimization.accumulate {parts}")
            if length > longest:
                raise ConfigError(f"a row of {length} tokens is longer than model.max_length {longest}")

    def _check_dense(self):
        """Settings of experts do nothing for a model without any; a default is not taken for what somebody set."""
        set_here = {
            "optimization.experts": self.optimization.experts is not None,
            "training.router_z_loss": self.training.router_z_loss != 0,
            "training.balance_loss": self.training.balance_loss not in (0, Training.balance_loss),
        }
        if wrong := [field for field, is_set in set_here.items() if is_set]:
            raise ConfigError(f"{wrong[0]} would do nothing: no layer of this model has experts; leave it out")

    def with_base_model(self, model: ModelConfig) -> "RunConfig":
        """The run of an adapter, with its base's model, and its base's tokenizer where it would make one."""
        base = self.training.adapter.base
        if model != model.stacked:
            raise ConfigError(f"the layers of {base} lie one by one; use from_pretrained(..., scan_layers=True)")
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
