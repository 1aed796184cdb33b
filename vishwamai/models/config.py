"""What a model is: sizes, switches and the stacks of its layers. It knows no file format and no arrays.

A switch is here only because a published checkpoint that VishwamAI loads needs it.
"""

import dataclasses
import math

from vishwamai.config import check_numbers
from vishwamai.errors import ConfigError

ACTIVATIONS = ("silu", "gelu", "gelu_tanh", "relu2", "xielu")
NORMS = ("rms", "layer")
ROUTERS = ("softmax", "chosen", "sigmoid")
ROPE_SCALINGS = ("none", "linear", "dynamic", "llama3", "yarn", "longrope")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Rope:
    """Rotary position embedding of a layer.

    The first `fraction` of each head is turned: its halves as pairs, or (`interleaved`) its neighbours, against the
    usual sense where `reversed`. `low_freq_factor` and `high_freq_factor` belong to the `llama3` scaling, `beta_fast`,
    `beta_slow` and `truncate` to `yarn`, `short_factors` and `long_factors` (one a pair) to `longrope`, for texts up to
    `original_max_length` and for longer ones; `dynamic` grows theta for those. Sine and cosine are multiplied by
    `magnitude`.
    """

    theta: float = 10000.0
    fraction: float = 1.0
    interleaved: bool = False
    reversed: bool = False
    scaling: str = "none"
    factor: float = 1.0
    low_freq_factor: float = 1.0
    high_freq_factor: float = 4.0
    beta_fast: float = 32.0
    beta_slow: float = 1.0
    truncate: bool = True
    short_factors: tuple[float, ...] = ()
    long_factors: tuple[float, ...] = ()
    magnitude: float = 1.0
    original_max_length: int = 8192

    def __post_init__(self):
        if self.scaling not in ROPE_SCALINGS:
            raise ConfigError(f"rope scaling {self.scaling!r} is not known; use {', '.join(ROPE_SCALINGS)}")
        scales = ("theta", "factor", "low_freq_factor", "high_freq_factor", "magnitude", "beta_fast", "beta_slow")
        check_numbers(self, *scales, "original_max_length", above=0)
        if self.high_freq_factor <= self.low_freq_factor:
            raise ConfigError("rope high_freq_factor must be larger than low_freq_factor")
        if not 0 < self.fraction <= 1:
            raise ConfigError(f"rope fraction is {self.fraction}; it must be more than 0 and at most 1")
        lists, is_longrope = (self.short_factors, self.long_factors), self.scaling == "longrope"
        if any(bool(factors) != is_longrope or not all(0 < f < math.inf for f in factors) for factors in lists):
            raise ConfigError("rope short_factors and long_factors must be more than 0, and are for longrope alone")

    def rotary_dim(self, head_dim: int) -> int:
        """How many numbers of a head are turned."""
        return int(head_dim * self.fraction)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Layer:
    """How one layer differs from the others: its window (None: all), its positions (None: none), dense or mixture."""

    window: int | None = None
    rope: Rope | None = Rope()
    moe: bool = False

    def __post_init__(self):
        check_numbers(self, "window", least=1, section="a layer's ")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Latent:
    """Attention whose keys and values come from one narrow vector, and queries from another (None: from the residual).

    `d_turned` numbers at the end of each head turn by position, and are the same in all heads of keys.
    """

    q_rank: int | None = None
    kv_rank: int
    d_turned: int
    d_value: int

    def __post_init__(self):
        check_numbers(self, "q_rank", "kv_rank", "d_turned", "d_value", above=0)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Stack:
    """A pattern of layers that is scanned `repeats` times: (sliding x 5, full) x 4 is a pattern of 6, 4 times."""

    pattern: tuple[Layer, ...]
    repeats: int

    def __post_init__(self):
        check_numbers(self, "repeats", least=1, section="a stack's ")
        if not self.pattern:
            raise ConfigError("a stack needs at least one layer in its pattern")


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
    norm: str = "rms"
    norm_eps: float = 1e-6
    norm_scale: bool = True
    norm_bias: bool = False
    norm_offset: float = 0.0  # 1 where the stored scale of a norm is a distance from one
    pre_norms: bool = True  # a norm before attention and feed-forward
    post_norms: bool = False  # a norm after them (too), before the residual is added
    embed_norm: bool = False
    parallel: bool = False  # attention and feed-forward read the same normed residual
    tie_embeddings: bool = False
    learned_positions: bool = False
    embed_scale: float | None = None
    residual_scale: float | None = None  # of what attention and feed-forward add
    logit_scale: float | None = None
    final_softcap: float | None = None
    attn_scale: float | None = None  # None: head_dim ** -0.5
    attn_softcap: float | None = None
    attn_temperature: float = 0.0  # how queries grow with the logarithm of their position
    attn_temperature_length: int = 8192  # in steps of so many positions
    attn_clip: float | None = None  # queries, keys and values lie in +- this
    attn_sinks: bool = False
    latent: Latent | None = None
    qk_norm: bool = False
    qk_norm_whole: bool = False  # over all heads together
    qk_norm_late: bool = False  # after the rotation
    attn_bias: bool = False
    o_bias: bool = False
    mlp_bias: bool = False
    head_bias: bool = False
    activation: str = "silu"
    gated: bool = True
    glu_limit: float | None = None  # clamps gate and up, and shifts up by one
    n_experts: int = 0
    n_experts_per_token: int = 0
    d_expert: int = 0
    router: str = "softmax"  # over all experts, over the `chosen` ones, or a `sigmoid` for each
    router_bias: bool = False  # on the router's logits
    choice_bias: bool = False  # on the scores, for the choice of experts alone
    n_expert_groups: int = 1
    n_groups_per_token: int = 1
    norm_topk: bool = True  # the chosen experts' weights sum to one
    route_scale: float = 1.0  # of those weights
    d_shared: int = 0  # width of an expert that every token meets
    shared_gate: bool = False
    expert_bias: bool = False

    def __post_init__(self):
        sizes = ("vocab_size", "d_model", "d_ff", "n_heads", "n_kv_heads", "head_dim", "max_length")
        check_numbers(self, *sizes, "norm_eps", above=0)
        check_numbers(self, "norm_offset", "route_scale")
        check_numbers(self, "attn_temperature", "n_experts", "n_experts_per_token", "d_expert", "d_shared", least=0)
        check_numbers(self, "attn_temperature_length", "n_expert_groups", "n_groups_per_token", least=1)
        if self.n_heads % self.n_kv_heads:
            raise ConfigError(f"n_heads {self.n_heads} is not a multiple of n_kv_heads {self.n_kv_heads}")
        for rope in {layer.rope for layer in self.layers if layer.rope is not None}:
            rotary_dim = rope.rotary_dim(self.d_turned)
            if rope.scaling == "longrope" and {len(rope.short_factors), len(rope.long_factors)} != {rotary_dim // 2}:
                lists = f"{len(rope.short_factors)} short_factors and {len(rope.long_factors)} long_factors"
                raise ConfigError(
                    f"rope has {lists}; {rotary_dim} numbers of a head turn, so each has {rotary_dim // 2}"
                )
            if rope.scaling == "dynamic" and rotary_dim < 4:
                raise ConfigError(f"a dynamic scaling needs 4 or more numbers of a head that turn, not {rotary_dim}")
            if rotary_dim % 2:
                what = f"head_dim {self.d_turned}" + f" x fraction {rope.fraction}" * (rope.fraction != 1)
                raise ConfigError(f"{what} is odd; rotary positions turn pairs, so it must be even")
        if self.latent is not None and self.latent.d_turned > self.head_dim:
            raise ConfigError(f"latent.d_turned {self.latent.d_turned} is more than head_dim {self.head_dim}")
        for name, known in (("activation", ACTIVATIONS), ("norm", NORMS), ("router", ROUTERS)):
            if getattr(self, name) not in known:
                raise ConfigError(f"{name} {getattr(self, name)!r} is not known; use {', '.join(known)}")
        if not self.stacks:
            raise ConfigError("a model needs at least one stack of layers")
        scales = ("embed_scale", "residual_scale", "logit_scale", "attn_scale", "attn_softcap", "final_softcap")
        check_numbers(self, *scales, "attn_clip", "glu_limit", above=0)
        if any(layer.moe for layer in self.layers):
            self._check_experts()

    def _check_experts(self):
        check_numbers(self, "n_experts", "n_experts_per_token", "d_expert", above=0)
        if self.n_experts_per_token > self.n_experts:
            raise ConfigError(f"n_experts_per_token {self.n_experts_per_token} is more than n_experts {self.n_experts}")
        if self.n_experts % self.n_expert_groups or not 1 <= self.n_groups_per_token <= self.n_expert_groups:
            raise ConfigError(
                f"{self.n_experts} experts do not make {self.n_expert_groups} groups of which a token is sent to "
                f"{self.n_groups_per_token}"
            )

    @property
    def layers(self) -> tuple[Layer, ...]:
        """Every layer in the order in which a token meets it."""
        return tuple(layer for stack in self.stacks for _ in range(stack.repeats) for layer in stack.pattern)

    @property
    def d_turned(self) -> int:
        """The width of the part of a head that rotary positions are of."""
        return self.head_dim if self.latent is None else self.latent.d_turned

    @property
    def d_cache(self) -> int:
        """The width of a head in attention and in the cache, where keys and values have one."""
        return self.head_dim if self.latent is None else max(self.head_dim, self.latent.d_value)

    @property
    def rope_switch(self) -> int | None:
        """The length of text past which every position rotates otherwise (`longrope`), or None."""
        ropes = [layer.rope for layer in self.layers if layer.rope is not None]
        return next((r.original_max_length for r in ropes if r.short_factors != r.long_factors), None)

    @property
    def stacked(self) -> "ModelConfig":
        """An unrolled model with its layers in the fewest stacks, as it is trained and stored; others as they are."""
        return dataclasses.replace(self, stacks=group_layers(self.layers)) if self == unroll(self) else self

    @property
    def n_layers(self) -> int:
        """How many layers the model has."""
        return sum(len(stack.pattern) * stack.repeats for stack in self.stacks)


def uniform(n_layers: int, **layer) -> tuple[Stack, ...]:
    """Stacks of `n_layers` equal layers: `uniform(16, moe=True)`."""
    return (Stack(pattern=(Layer(**layer),), repeats=n_layers),)


MAX_UNROLLED = 64  # layers, each of which is compiled by itself


def unroll(cfg: ModelConfig) -> ModelConfig:
    """Returns the same model with its layers one by one, each with weights of its own, and not scanned in stacks."""
    return dataclasses.replace(cfg, stacks=(Stack(pattern=cfg.layers, repeats=1),))


def is_unrolled_faster(cfg: ModelConfig, platform: str, weights: str) -> bool:
    """Whether inference should unroll the layers, of which `weights` says the dtype or the kind of quantisation.

    On a CPU a scan copies each layer's weights out of their stack in every decoding step. Elsewhere the scan stays, as
    it does for very deep models, which would take long to compile, and for weights that XLA would widen for all layers
    at once: those of fewer bits than float32 without a kernel of ours, as experts have none.
    """
    from vishwamai.ops import few_rows  # with it comes JAX, which a configuration does without

    is_lean = weights == "float32" or (weights in few_rows.DTYPES and not any(layer.moe for layer in cfg.layers))
    return platform == "cpu" and is_lean and cfg.n_layers <= MAX_UNROLLED


def group_layers(layers: tuple[Layer, ...]) -> tuple[Stack, ...]:
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
