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
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from vishwamai.config import check_numbers
from vishwamai.errors import ConfigError
from vishwamai.models import transformer
from vishwamai.models.attention import Implementations
from vishwamai.models.config import ModelConfig
from vishwamai.ops import attention, moe
from vishwamai.ops.losses import chunked_cross_entropy
from vishwamai.parallel.sharding import SINGLE, Sharding, abstract, init_sharded
from vishwamai.training import rules
from vishwamai.training.adapter import Adapter, full_weights, trained_specs
from vishwamai.training.optim import Optimizer, clip_gradients, schedule
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
    ema: transformer.Transformer | lora.Adapter | None = None  # the trained weights' average, with `ema_decay`


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
    opt_state, ema = _compile_init(o, cfg, adapter, steps)(weights)
    zero = jnp.zeros((), jnp.int32)
    state = TrainState(weights=weights, opt_state=opt_state, step=zero, skipped=jnp.copy(zero), ema=ema)
    one = jax.tree.leaves(weights)[0].sharding
    if not isinstance(one, NamedSharding):
        return state
    frozen = rules.frozen_mask(o, trained_specs(cfg, adapter))
    return jax.tree.map(jax.device_put, state, _state_shardings(state, frozen, one.mesh))


@lru_cache(maxsize=16)
def _compile_init(o: Optimizer, cfg: ModelConfig, adapter: Adapter | None, steps: int):
    specs = trained_specs(cfg, adapter)
    rule, frozen = rules.optimizer(o, specs, steps), rules.frozen_mask(o, specs)

    def init(weights):
        trained = rules.drop_frozen(weights, frozen)
        return rule.init(trained), None if o.ema_decay is None else jax.tree.map(jnp.copy, trained)

    return jax.jit(init)


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
    specs = trained_specs(cfg, s.adapter)
    rule, frozen = rules.optimizer(o, specs, steps), rules.frozen_mask(o, specs)
    grads, trained = rules.drop_frozen(grads, frozen), rules.drop_frozen(state.weights, frozen)
    norm = optax.tree.norm(grads)

    def update():
        return rule.update(clip_gradients(grads, norm, o.clip_norm), state.opt_state, trained, step=state.step)

    # The weights are made twice, once only to look at them: an update that is taken is then made in the state's own
    # memory. Muon's, which is dear to make, is kept instead. Moments after a finite gradient are finite where those
    # before it are.
    kept = update()[0]
    finite = jnp.isfinite(sums.loss) & jnp.isfinite(norm)
    finite &= _all_finite((optax.apply_updates(trained, kept), state.opt_state))

    def take():
        updates, opt_state = update()
        new = optax.apply_updates(trained, kept if o.optimizer == "muon" else updates)
        return new, opt_state, rules.advance_ema(o, state.ema, new, state.step)

    new, opt_state, ema = jax.lax.cond(finite, take, lambda: (trained, state.opt_state, state.ema))
    after = TrainState(
        weights=rules.restore_frozen(new, state.weights), opt_state=opt_state, step=state.step + 1,
        skipped=state.skipped + (~finite).astype(jnp.int32), ema=ema,
    )  # fmt: skip
    if sharding.mesh is not None:
        like = dataclasses.replace(after, weights=abstract(specs, sharding))
        layout = _state_shardings(like, frozen, sharding.mesh)
        after = jax.tree.map(jax.lax.with_sharding_constraint, after, layout)
    return after, metrics(sums, batch, norm, schedule(o, steps)(state.step), after.skipped)


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


def evaluated_weights(state: TrainState, cfg: ModelConfig, o: Optimizer, adapter: Adapter | None = None):
    """The weights to evaluate and to export: their average where the optimiser keeps one, those of the state else."""
    frozen = rules.frozen_mask(o, trained_specs(cfg, adapter))
    trained = rules.averaged_weights(o, state.opt_state, rules.drop_frozen(state.weights, frozen))
    return rules.restore_frozen(trained if state.ema is None else state.ema, state.weights)


def _state_shardings(state: TrainState, frozen, mesh: Mesh) -> TrainState:
    """The sharding of each array of a state: the weights' own, and of what the optimiser keeps for a weight the
    weight's where it has its shape, and every device else. XLA would leave fresh zeros anywhere.

    For a weight a rule may keep an array of its shape, several of others (Adafactor's rows and columns) or none.
    """
    trained, everywhere = rules.drop_frozen(state.weights, frozen), NamedSharding(mesh, PartitionSpec())
    treedef = jax.tree.structure(trained)

    def is_for_weights(x) -> bool:
        """Whether `x` has something, or nothing, in the place of each weight."""
        try:
            treedef.flatten_up_to(x)
        except ValueError:
            return False
        return True

    def sharding_of(x):
        if not is_for_weights(x):
            return everywhere
        return jax.tree.map(
            lambda w, kept: jax.tree.map(lambda a: w.sharding if a.shape == w.shape else everywhere, kept), trained, x
        )

    layout = jax.tree.map(sharding_of, state, is_leaf=is_for_weights)
    return dataclasses.replace(layout, weights=jax.tree.map(lambda w: w.sharding, state.weights))


def abstract_state(cfg: ModelConfig, o: Optimizer, steps: int, sharding: Sharding) -> TrainState:
    """The state without values, for ahead-of-time compilation."""
    weights = abstract(transformer.specs(cfg), sharding)
    opt_state, ema = jax.eval_shape(_compile_init(o, cfg, None, steps), weights)
    scalar = jax.ShapeDtypeStruct((), jnp.int32)
    state = TrainState(weights=weights, opt_state=opt_state, step=scalar, skipped=scalar, ema=ema)
    if sharding.mesh is None:
        return state
    layout = _state_shardings(state, rules.frozen_mask(o, transformer.specs(cfg)), sharding.mesh)
    return jax.tree.map(lambda x, where: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=where), state, layout)
