"""What a model costs, in closed form: parameters, floating-point operations and bytes. It makes no arrays.

A multiply and an add are two operations. Norms, activations, softmax and rotations are not counted: matmuls are more
than 97% of the work of any model worth planning. Formulas: Kaplan et al. (2020), appendix; Chowdhery et al. (PaLM,
2022), appendix B for the two conventions of model FLOPs utilisation.
"""

import dataclasses

from vishwamai.models.config import Layer, ModelConfig


@dataclasses.dataclass(frozen=True)
class Parameters:
    """How many numbers the weights hold. `active` are those that one token meets."""

    total: int
    active: int
    embedding: int  # of the total, those only looked up; 0 when the table is the output matrix too


def parameters(cfg: ModelConfig) -> Parameters:
    """The weights' size, counted from the configuration alone."""
    norms = cfg.d_model * (1 + (4 if cfg.post_norms else 2) * cfg.n_layers)
    qk_norms = 2 * cfg.head_dim * cfg.n_layers if cfg.qk_norm else 0
    fixed = norms + qk_norms + sum(_attention_parameters(cfg) for _ in cfg.layers)
    table = cfg.vocab_size * cfg.d_model
    fixed += table if cfg.tie_embeddings else 2 * table
    total = fixed + sum(_ffn_parameters(cfg, layer, cfg.n_experts) for layer in cfg.layers)
    active = fixed + sum(_ffn_parameters(cfg, layer, cfg.n_experts_per_token) for layer in cfg.layers)
    embedding = 0 if cfg.tie_embeddings else table
    return Parameters(total=total, active=active - embedding, embedding=embedding)


def forward_flops(cfg: ModelConfig, batch: int, length: int, *, logits: bool = True) -> int:
    """Operations of one forward pass over `batch` rows of `length` tokens that attend causally to their own row."""
    tokens = batch * length
    weights = sum(_matmul_weights(cfg, layer) for layer in cfg.layers)
    weights += cfg.vocab_size * cfg.d_model if logits else 0
    return 2 * tokens * weights + sum(_attention_flops(cfg, layer, batch, length) for layer in cfg.layers)


def train_flops(cfg: ModelConfig, batch: int, length: int) -> int:
    """Operations of one training step: forward, and twice that backward. Recomputation (remat) is not counted."""
    return 3 * forward_flops(cfg, batch, length)


def six_n_flops(cfg: ModelConfig, tokens: int) -> int:
    """The `6 N D` convention: six per active parameter and token, attention's scores left out."""
    return 6 * parameters(cfg).active * tokens


def cache_bytes(cfg: ModelConfig, batch: int, length: int, itemsize: int = 2) -> int:
    """Bytes of keys and values for `batch` rows of `length` positions; a window keeps no more than itself."""
    slots = sum(length if layer.window is None else min(layer.window, length) for layer in cfg.layers)
    return 2 * batch * slots * cfg.n_kv_heads * cfg.head_dim * itemsize


def _attention_parameters(cfg: ModelConfig) -> int:
    q, kv = cfg.n_heads * cfg.head_dim, cfg.n_kv_heads * cfg.head_dim
    bias = (q + 2 * kv if cfg.attn_bias else 0) + (cfg.d_model if cfg.o_bias else 0)
    return cfg.d_model * (2 * q + 2 * kv) + bias


def _expert_parameters(cfg: ModelConfig) -> int:
    return 3 * cfg.d_model * cfg.d_expert


def _ffn_parameters(cfg: ModelConfig, layer: Layer, n_experts: int) -> int:
    if layer.moe:
        return n_experts * _expert_parameters(cfg) + cfg.d_model * cfg.n_experts
    return 3 * cfg.d_model * cfg.d_ff + (2 * cfg.d_ff + cfg.d_model if cfg.mlp_bias else 0)


def _matmul_weights(cfg: ModelConfig, layer: Layer) -> int:
    attention = cfg.d_model * cfg.head_dim * 2 * (cfg.n_heads + cfg.n_kv_heads)
    if layer.moe:
        return attention + cfg.n_experts_per_token * _expert_parameters(cfg) + cfg.d_model * cfg.n_experts
    return attention + 3 * cfg.d_model * cfg.d_ff


def _attention_flops(cfg: ModelConfig, layer: Layer, batch: int, length: int) -> int:
    """Scores and their weighted sum over the pairs that the causal mask and the window leave."""
    w = min(layer.window or length, length)
    pairs = w * (w + 1) // 2 + (length - w) * w
    return 4 * batch * pairs * cfg.n_heads * cfg.head_dim
