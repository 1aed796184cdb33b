"""What a model is: sizes, switches and the stacks of its layers. It knows no file format and no arrays.

A switch is here only because a published checkpoint that VishwamAI loads needs it.
"""

import dataclasses

from vishwamai.errors import ConfigError

ACTIVATIONS = ("silu", "gelu_tanh")
ROPE_SCALINGS = ("none", "linear", "llama3")


def _positive(config, *names: str) -> None:
    for name in names:
        value = getattr(config, name)
        if value is not None and not value > 0:
            raise ConfigError(f"{name} is {value}; it must be more than 0")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Rope:
    """Rotary position embedding of a layer. The last three fields are read by the `llama3` scaling alone."""

    theta: float = 10000.0
    scaling: str = "none"
    factor: float = 1.0
    low_freq_factor: float = 1.0
    high_freq_factor: float = 4.0
    original_max_length: int = 8192

    def __post_init__(self):
        if self.scaling not in ROPE_SCALINGS:
            raise ConfigError(f"rope scaling {self.scaling!r} is not known; use {', '.join(ROPE_SCALINGS)}")
        _positive(self, "theta", "factor", "low_freq_factor", "original_max_length")
        if self.high_freq_factor <= self.low_freq_factor:
            raise ConfigError("rope high_freq_factor must be larger than low_freq_factor")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Layer:
    """How one layer differs from the others: its window (None: all), its positions, dense or mixture of experts."""

    window: int | None = None
    rope: Rope = Rope()
    moe: bool = False

    def __post_init__(self):
        if self.window is not None and self.window < 1:
            raise ConfigError(f"a layer's window is {self.window}; it must be 1 or more, or null for none")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Stack:
    """A pattern of layers that is scanned `repeats` times: (sliding x 5, full) x 4 is a pattern of 6, 4 times."""

    pattern: tuple[Layer, ...]
    repeats: int

    def __post_init__(self):
        if not self.pattern or self.repeats < 1:
            raise ConfigError("a stack needs at least one layer in its pattern and at least one repeat")


@dataclasses.dataclass(frozen=True, kw_only=True)
class ModelConfig:
    """A decoder-only transformer.

    Counts are `n_*`, widths `d_*`; `max_length` is the longest sequence in tokens. Raises `ConfigError` where values
    contradict one another.
    """

    vocab_size: int
    d_model: int
    d_ff: int
    n_heads: int
    n_kv_heads: int
    head_dim: int
    stacks: tuple[Stack, ...]
    max_length: int = 4096
    norm_eps: float = 1e-6
    activation: str = "silu"
    tie_embeddings: bool = False
    qk_norm: bool = False
    norm_offset: float = 0.0  # 1 where the stored scale of a norm is a distance from one
    post_norms: bool = False  # a norm after attention and feed-forward too, before the residual is added
    embed_scale: float | None = None
    attn_scale: float | None = None  # None: head_dim ** -0.5
    attn_softcap: float | None = None
    final_softcap: float | None = None
    attn_bias: bool = False
    o_bias: bool = False
    mlp_bias: bool = False
    n_experts: int = 0
    n_experts_per_token: int = 0
    d_expert: int = 0
    norm_topk: bool = True  # the chosen experts' weights sum to one

    def __post_init__(self):
        _positive(self, "vocab_size", "d_model", "d_ff", "n_heads", "n_kv_heads", "head_dim", "max_length", "norm_eps")
        if self.n_heads % self.n_kv_heads:
            raise ConfigError(f"n_heads {self.n_heads} is not a multiple of n_kv_heads {self.n_kv_heads}")
        if self.head_dim % 2:
            raise ConfigError(f"head_dim {self.head_dim} is odd; rotary positions turn pairs, so it must be even")
        if self.activation not in ACTIVATIONS:
            raise ConfigError(f"activation {self.activation!r} is not known; use {', '.join(ACTIVATIONS)}")
        if not self.stacks:
            raise ConfigError("a model needs at least one stack of layers")
        _positive(self, "embed_scale", "attn_scale", "attn_softcap", "final_softcap")
        if any(layer.moe for layer in self.layers):
            self._check_experts()

    def _check_experts(self):
        _positive(self, "n_experts", "n_experts_per_token", "d_expert")
        if self.n_experts_per_token > self.n_experts:
            raise ConfigError(f"n_experts_per_token {self.n_experts_per_token} is more than n_experts {self.n_experts}")

    @property
    def layers(self) -> tuple[Layer, ...]:
        """Every layer in the order in which a token meets it."""
        return tuple(layer for stack in self.stacks for _ in range(stack.repeats) for layer in stack.pattern)

    @property
    def n_layers(self) -> int:
        """How many layers the model has."""
        return sum(len(stack.pattern) * stack.repeats for stack in self.stacks)


def uniform(n_layers: int, **layer) -> tuple[Stack, ...]:
    """Stacks of `n_layers` equal layers: `uniform(16, moe=True)`."""
    return (Stack(pattern=(Layer(**layer),), repeats=n_layers),)


def stacks_of(layers: tuple[Layer, ...]) -> tuple[Stack, ...]:
    """The fewest stacks that give these layers in this order: the shortest pattern that repeats, then what is left."""
    stacks: list[Stack] = []
    while layers:
        width, repeats = _best_pattern(layers)
        stacks.append(Stack(pattern=layers[:width], repeats=repeats))
        layers = layers[width * repeats :]
    return tuple(stacks)


def _best_pattern(layers: tuple[Layer, ...]) -> tuple[int, int]:
    """(width, repeats) of the prefix pattern that covers most layers; the narrowest of those that cover as many."""

    def covered(width: int) -> int:
        repeats = 1
        while layers[repeats * width : (repeats + 1) * width] == layers[:width]:
            repeats += 1
        return repeats

    repeating = [w for w in range(1, len(layers) // 2 + 1) if covered(w) > 1]
    width = max(repeating, key=lambda w: (w * covered(w), -w), default=1)
    return width, covered(width)
