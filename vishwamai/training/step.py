"""One training step: loss, gradients in as many pieces as memory wants, and the update.

All sums are over the whole batch before they are divided by its tokens, so a batch gives the same gradient however it
is cut into micro-batches or laid over devices. What is trained are a model's weights, or an adapter's pairs beside the
weights of a `base`, which nothing changes. It knows no files and no loop.

A micro-batches, B rows, T positions.
"""

import dataclasses
from functools import lru_cache, partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax.sharding import NamedSharding, PartitionSpec

from vishwamai.config import check_numbers
from vishwamai.errors import ConfigError
from vishwamai.models import transformer
from vishwamai.models.attention import Implementations
from vishwamai.models.config import ModelConfig
from vishwamai.ops import attention, moe
from vishwamai.ops.losses import chunked_cross_entropy
from vishwamai.parallel.sharding import SINGLE, Sharding, abstract, init_sharded
from vishwamai.training.adapter import Adapter, full_weights, trained_specs
from vishwamai.training.optim import Optimizer, clip_gradients, optimizer, schedule
from vishwamai.weights import lora
from vishwamai.weights.spec import pytree

Array = jax.Array
MAX_INT = 2**31 - 1  # steps are counted in int32, and so are the tokens of a batch


@pytree
class TrainState:
    """What a run carries from step to step."""

    weights: transformer.Transformer | lora.Adapter
    opt_state: optax.OptState
    step: Array  # [] int32, batches seen
    skipped: Array  # [] int32, of those, how many were not finite and changed nothing


@dataclasses.dataclass(frozen=True, kw_only=True)
class StepConfig:
    """How a step is computed. `balance_loss` and `z_loss` weigh the routers' load balance and the logits' size."""

    compute: str = "float32"
    accumulate: int = 1
    remat: str = "none"
    loss_chunks: int = 4
    attention: str | None = None
    experts: str | None = None
    z_loss: float = 0.0
    balance_loss: float = 0.01
    router_z_loss: float = 0.0
    adapter: Adapter | None = None

    def __post_init__(self):
        check_computation(self)
        check_numbers(self, "balance_loss", "router_z_loss", "z_loss", least=0)


def check_computation(config, section: str = "") -> None:
    """Raises `ConfigError` where a value is none that a step can be computed with."""
    check_numbers(config, "accumulate", "loss_chunks", least=1, most=MAX_INT, section=section)
    names = {"remat": tuple(transformer.REMAT), "attention": attention.IMPLEMENTATIONS, "experts": moe.IMPLEMENTATIONS}
    for field, known in names.items():
        value = getattr(config, field)
        if value not in known and not (value is None and field != "remat"):
            raise ConfigError(f"{section}{field} {value!r} is not known; use {', '.join(known)}")


class Sums(NamedTuple):
    """What a batch, or a part of it, adds up to."""

    loss: Array  # [] what is differentiated, in parts that add up to the mean
    nll: Array  # []
    correct: Array  # []
    load: Array  # [E] assignments to each expert


def init_state(
    cfg: ModelConfig, o: Optimizer, steps: int, key: Array, sharding: Sharding = SINGLE, adapter: Adapter | None = None
) -> TrainState:
    """A fresh state, its float32 weights and moments laid out by `sharding`."""
    return make_state(init_sharded(trained_specs(cfg, adapter), key, sharding), cfg, o, steps, adapter)


def make_state(weights, cfg: ModelConfig, o: Optimizer, steps: int, adapter: Adapter | None = None) -> TrainState:
    """A fresh state around given weights; the moments are laid out like them."""
    opt_state = _compile_init(o, cfg, adapter, steps)(weights)
    zero = jnp.zeros((), jnp.int32)
    return _lay_out_state(TrainState(weights=weights, opt_state=opt_state, step=zero, skipped=jnp.copy(zero)))


@lru_cache(maxsize=16)
def _compile_init(o: Optimizer, cfg: ModelConfig, adapter: Adapter | None, steps: int):
    return jax.jit(optimizer(o, trained_specs(cfg, adapter), steps).init)


def loss_sums(weights, batch, totals, cfg: ModelConfig, s: StepConfig, sharding: Sharding, base=None) -> Sums:
    """The sums of a batch (or of a part of it), the loss divided by `totals` = (loss weights, tokens) of the whole."""
    tokens, targets, target_weights, segments, positions = (sharding.constrain(a, "batch", "seq") for a in batch)
    w = full_weights(weights, base, s.compute)
    x, routers = transformer.hidden_states(
        w, tokens, cfg, positions_BT=positions, segments_BT=segments, sharding=sharding, dtype=s.compute,
        remat=s.remat, implementations=Implementations(s.attention, s.experts),
    )  # fmt: skip
    head = transformer.lm_head(w, sharding)
    project = partial(transformer.apply_lm_head, cfg=cfg)
    loss, sums = chunked_cross_entropy(x, head, project, targets, target_weights, z_loss=s.z_loss, chunks=s.loss_chunks)
    n_weights, n_tokens = totals
    n_routed = n_tokens * max(sum(layer.moe for layer in cfg.layers), 1)
    loss /= n_weights
    loss += (s.balance_loss * routers.balance + s.router_z_loss * routers.z) / n_routed
    return Sums(loss=loss, nll=sums.nll, correct=sums.correct, load=routers.load)


def compute_gradients(
    weights, batch, cfg: ModelConfig, s: StepConfig, sharding: Sharding = SINGLE, base=None
) -> tuple[Sums, object]:
    """(sums, gradients) of a batch, computed `s.accumulate` rows' parts at a time."""
    totals = jnp.maximum(jnp.sum(batch[2]), 1e-6), jnp.maximum(jnp.sum((batch[3] > 0).astype(jnp.float32)), 1.0)

    def part(weights, batch):
        sums = loss_sums(weights, batch, totals, cfg, s, sharding, base)
        return sums.loss, sums

    grad = jax.grad(part, has_aux=True)
    if s.accumulate == 1:
        grads, sums = grad(weights, batch)
        return sums, grads

    def add(total, batch):
        grads, sums = grad(weights, batch)
        return jax.tree.map(jnp.add, total, (sums, grads)), None

    parts = jax.tree.map(lambda a: a.reshape(s.accumulate, -1, *a.shape[1:]), tuple(batch))
    zero = jax.tree.map(
        jnp.zeros_like, jax.eval_shape(lambda: grad(weights, jax.tree.map(lambda a: a[0], parts))[::-1])
    )
    (sums, grads), _ = jax.lax.scan(add, zero, parts)
    return sums, grads


def train_step(
    state: TrainState, batch, cfg: ModelConfig, o: Optimizer, s: StepConfig, steps: int, sharding=SINGLE, base=None
):
    """(state after the batch, metrics).

    A batch whose loss or gradient is not finite, or after which a weight or a moment would not be, changes nothing but
    the counts. The learning rate follows the batches seen, skipped ones too, so the schedule reaches its end.
    """
    sums, grads = compute_gradients(state.weights, batch, cfg, s, sharding, base)
    norm = optax.tree.norm(grads)
    rule = optimizer(o, trained_specs(cfg, s.adapter), steps)

    def update():
        updates, opt_state = rule.update(
            clip_gradients(grads, norm, o.clip_norm), state.opt_state, state.weights, step=state.step
        )
        return optax.apply_updates(state.weights, updates), opt_state

    # The weights are made twice, once only to look at them: an update that is taken is then made in the state's own
    # memory. Moments after a finite gradient are finite where those before it are.
    finite = jnp.isfinite(sums.loss) & jnp.isfinite(norm) & _all_finite((update()[0], state.opt_state))
    weights, opt_state = jax.lax.cond(finite, update, lambda: (state.weights, state.opt_state))
    bad = (~finite).astype(jnp.int32)
    new = TrainState(weights=weights, opt_state=opt_state, step=state.step + 1, skipped=state.skipped + bad)
    return new, metrics(sums, batch, norm, schedule(o, steps)(state.step), new.skipped)


def _all_finite(tree) -> Array:
    return jnp.stack([jnp.all(jnp.isfinite(x)) for x in jax.tree.leaves(tree)]).all()


def metrics(sums: Sums, batch, norm, learning_rate, skipped) -> dict[str, Array]:
    """Scalars of one step; `loss` is the mean negative log-likelihood of a target, in nats."""
    weight = jnp.maximum(jnp.sum(batch[2]), 1e-6)
    found = {
        "loss": sums.nll / weight,
        "accuracy": sums.correct / weight,
        "grad_norm": norm,
        "learning_rate": jnp.asarray(learning_rate, jnp.float32),
        "tokens": jnp.sum((batch[3] > 0).astype(jnp.int32)),
        "skipped": skipped,
    }
    if sums.load.size:
        found["expert_load"] = jnp.max(sums.load) / jnp.maximum(jnp.mean(sums.load), 1e-6)
    return found


@lru_cache(maxsize=16)  # a second run of the same settings compiles nothing
def compiled_step(cfg: ModelConfig, o: Optimizer, s: StepConfig, steps: int, sharding: Sharding = SINGLE):
    """`train_step(state, batch, base=base)` compiled, the state's memory used again."""
    fixed = dict(cfg=cfg, o=o, s=s, steps=steps, sharding=sharding)
    return jax.jit(partial(train_step, **fixed), donate_argnums=0)


def evaluate_sums(
    weights, batch, cfg: ModelConfig, s: StepConfig, sharding: Sharding = SINGLE, base=None
) -> tuple[Array, Array, Array]:
    """(negative log-likelihood, right predictions, weight) of a batch, as sums."""
    totals = jnp.ones(()), jnp.ones(())
    sums = loss_sums(weights, batch, totals, cfg, s, sharding, base)
    return sums.nll, sums.correct, jnp.sum(batch[2])


@lru_cache(maxsize=16)
def compiled_evaluation(cfg: ModelConfig, s: StepConfig, sharding: Sharding = SINGLE):
    """`evaluate_sums(weights, batch, base=base)` compiled."""
    return jax.jit(partial(evaluate_sums, cfg=cfg, s=s, sharding=sharding))


def _lay_out_state(state: TrainState) -> TrainState:
    """The moments where their weights are, and the counts on every device; XLA would leave fresh zeros anywhere."""
    treedef, one = jax.tree.structure(state.weights), jax.tree.leaves(state.weights)[0].sharding
    if not isinstance(one, NamedSharding):
        return state
    everywhere = NamedSharding(one.mesh, PartitionSpec())

    def like_weights(x) -> bool:
        return jax.tree.structure(x) == treedef

    def put(x):
        if not like_weights(x):
            return jax.device_put(x, everywhere)
        return jax.tree.map(lambda a, w: jax.device_put(a, w.sharding), x, state.weights)

    return jax.tree.map(put, state, is_leaf=like_weights)


def abstract_state(cfg: ModelConfig, o: Optimizer, steps: int, sharding: Sharding) -> TrainState:
    """The state without values, for ahead-of-time compilation."""
    specs = transformer.specs(cfg)
    weights = abstract(specs, sharding)
    scalar = jax.ShapeDtypeStruct((), jnp.int32, sharding=sharding.named())
    shapes = jax.eval_shape(optimizer(o, specs, steps).init, weights)
    treedef = jax.tree.structure(weights)
    opt_state = jax.tree.map(
        lambda x: weights if jax.tree.structure(x) == treedef else scalar,
        shapes, is_leaf=lambda x: jax.tree.structure(x) == treedef,
    )  # fmt: skip
    return TrainState(weights=weights, opt_state=opt_state, step=scalar, skipped=scalar)
