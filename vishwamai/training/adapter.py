"""What a run trains: a model's weights, or pairs of low rank beside a model that stays as it is. It knows no file."""

import dataclasses

import jax

from vishwamai.config import check_numbers
from vishwamai.models import transformer
from vishwamai.models.config import ModelConfig
from vishwamai.weights import lora


@dataclasses.dataclass(frozen=True, kw_only=True)
class Adapter:
    """An adapter to be trained for the model `base` (a name or a folder), whose own weights stay as they are.

    `targets` are names within a layer, such as `attn.q`, `ffn` (all in it); without any it is all but the router.
    """

    base: str
    rank: int = 8
    alpha: float = 16.0
    targets: tuple[str, ...] = ()

    def __post_init__(self):
        check_numbers(self, "rank", least=1)
        check_numbers(self, "alpha", above=0)


def trained_specs(cfg: ModelConfig, adapter: Adapter | None):
    """What is trained, declared: the model's weights, or an adapter's pairs."""
    specs = transformer.specs(cfg)
    if adapter is None:
        return specs
    return lora.specs(specs, rank=adapter.rank, alpha=adapter.alpha, targets=adapter.targets)


def full_weights(weights, base, dtype):
    """The weights that the model computes with: those trained in `dtype`, or as pairs beside `base`, of any kind."""
    if base is not None:
        return lora.attach(base, [weights])
    return jax.tree.map(lambda w: w.astype(dtype), weights)
