"""What a model costs, from its specs and in closed form: parameters, operations and bytes. It makes no arrays.

A multiply and an add are two operations. Norms, activations, softmax and rotations are not counted: matmuls are more
than 97% of the work of any model worth planning. Formulas: Kaplan et al. (2020), appendix; Chowdhery et al. (PaLM,
2022), appendix B for the two conventions of model FLOPs utilisation.
"""

import dataclasses
import math

from vishwamai.models import transformer
from vishwamai.models.config import Layer, ModelConfig
from vishwamai.weights import spec


@dataclasses.dataclass(frozen=True)
class Parameters:
    """How many numbers the weights hold. `active` are those that one token meets."""

    total: int
    active: int
    embedding: int  # of the total, those only looked up: embeddings (unless they are the output matrix too), positions


def count_parameters(cfg: ModelConfig) -> Parameters:
    """The weights' size, counted from the configuration alone."""
    named = spec.named(transformer.specs(cfg))
    tables = {path: p for path, p in named if p.contract and not p.is_matmul}
    if cfg.tie_embeddings:
        del tables["embed"]
    looked_up = spec.n_parameters(list(tables.values()))
    active = sum(_active_size(cfg, p) for _, p in named) - looked_up
    return Parameters(total=spec.n_parameters([p for _, p in named]), active=active, embedding=looked_up)


def forward_flops(cfg: ModelConfig, batch: int, length: int, *, logits: bool = True) -> int:
    """Operations of one forward pass over `batch` rows of `length` tokens that attend causally to their own row."""
    layers = [p for path, p in spec.named(transformer.specs(cfg)) if p.is_matmul and path != "lm_head"]
    weights = sum(_active_size(cfg, p) for p in layers) + (cfg.vocab_size * cfg.d_model if logits else 0)
    return 2 * batch * length * weights + sum(_attention_flops(cfg, layer, batch, length) for layer in cfg.layers)


def _active_size(cfg: ModelConfig, p: spec.Param) -> int:
    """How many numbers of a weight one token meets: of experts, those that it is sent to."""
    size = math.prod(p.shape)
    return size * cfg.n_experts_per_token // cfg.n_experts if "experts" in p.axes else size


def train_flops(cfg: ModelConfig, batch: int, length: int) -> int:
    """Operations of one training step: forward, and twice that backward. Recomputation (remat) is not counted."""
    return 3 * forward_flops(cfg, batch, length)


def six_n_flops(cfg: ModelConfig, tokens: int) -> int:
    """The `6 N D` convention: six per active parameter and token, attention's scores left out."""
    return 6 * count_parameters(cfg).active * tokens


def cache_bytes(cfg: ModelConfig, batch: int, length: int, itemsize: int = 2) -> int:
    """Bytes of keys and values for `batch` rows of `length` positions; a window keeps no more than itself."""
    slots = sum(length if layer.window is None else min(layer.window, length) for layer in cfg.layers)
    return 2 * batch * slots * cfg.n_kv_heads * cfg.d_cache * itemsize


def _attention_flops(cfg: ModelConfig, layer: Layer, batch: int, length: int) -> int:
    """Scores and their weighted sum over the pairs that the causal mask and the window leave."""
    w = min(layer.window or length, length)
    pairs = w * (w + 1) // 2 + (length - w) * w
    return 4 * batch * pairs * cfg.n_heads * cfg.d_cache
