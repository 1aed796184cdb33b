"""`vishwamai train`: a run of the trainer, and a model or an adapter at its end."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from vishwamai.cli.arguments import POSITIVE, add_verb, import_face
from vishwamai.cli.status import Status
from vishwamai.errors import ConfigError


def add(verbs: Any) -> None:
    """Makes the verb known."""
    verb = add_verb(verbs, "train", train, "Train a model as a configuration says.")
    verb.add_argument("config", help="a JSON file, such as configs/train/smoke.json")
    verb.add_argument("overrides", nargs="*", default=[], metavar="a.b=value", help="values to change, by their path")
    verb.add_argument("-o", "--output", help="the run's folder; a run that is in it goes on [runs/CONFIG]")
    verb.add_argument("--max-seconds", type=POSITIVE, help="stop after this long, to go on later")
    verb.add_argument("--allow-changes", action="store_true", help="go on with a run though its values are others now")
    verb.add_argument("--explain", action="store_true", help="print every value and where it came from, and stop")


def train(args: argparse.Namespace) -> int:
    """`vishwamai train`: a run of the trainer, or what it would be; it leaves `model` or `adapter` in its folder.

    The exit code is 130 where a signal stopped it.
    """
    status = Status()
    import_face(status)
    from vishwamai import compile_cache, config
    from vishwamai.parallel import hosts
    from vishwamai.training.config import RunConfig

    run, sources = config.load(RunConfig, args.config, args.overrides)
    if args.explain:
        print(config.explain(run, sources))
        return 0
    hosts.initialize()
    compile_cache.enable()
    folder = Path(args.output or Path("runs") / Path(args.config).stem)
    what, kept = ("model", _model) if run.training.adapter is None else ("adapter", _adapter)
    result = kept(run, folder, status, max_seconds=args.max_seconds, allow_changes=args.allow_changes)
    if hosts.is_first():
        print(f"{_describe(result, run.training.steps)}; the {what} is in {folder / what}")
    return 0 if result.finished or args.max_seconds is not None else 130


def _describe(result: Any, steps: int) -> str:
    """How far a run came, and how it went."""
    state = "finished" if result.finished else "stopped, and the same command goes on,"
    state += " early" if result.early else ""
    losses = {"loss": result.loss, "held-out loss": result.eval_loss}
    parts = [f"{name} {value:.4g}" for name, value in losses.items() if value is not None]
    parts.append(f"{result.tokens:,} tokens in {result.seconds:,.0f} s")
    if result.best is not None:
        parts.append(f"the weights are those of step {result.best:,}, its best")
    if result.skipped:
        parts.append(f"{result.skipped:,} batches were not finite and changed nothing")
    return f"{state} at step {result.step:,} of {steps:,}: {', '.join(parts)}"


def _model(run: Any, folder: Path, status: Status, **options: Any) -> Any:
    from vishwamai.api import VishwamAI
    from vishwamai.training import trainer

    start = None
    if (name := run.training.start) is not None:
        how = {"mesh": run.tpu.sizes() or None, "scan_layers": True, "progress": status}
        found = VishwamAI.from_pretrained(name, dtype="float32", **how)
        if found.config != run.model:
            raise ConfigError(f"model is not that of training.start {name}; describe the same one")
        start = found.weights
    result: Any = trainer.train(run, folder, start=start, progress=status, **options)
    with status("writing the model"):
        VishwamAI(run.model, result.weights, tokenizer=result.tokenizer).save_pretrained(folder / "model")
    return result


def _adapter(run: Any, folder: Path, status: Status, **options: Any) -> Any:
    from vishwamai.api import VishwamAI
    from vishwamai.hf import adapters
    from vishwamai.precision import Precision
    from vishwamai.training import trainer

    name, dtype = run.training.adapter.base, Precision.named(run.optimization.precision).compute
    how = {"mesh": run.tpu.sizes() or None, "scan_layers": True, "progress": status}
    base = VishwamAI.from_pretrained(name, dtype=dtype, **how)
    result: Any = trainer.train(run.with_base_model(base.config), folder, base=base.weights, progress=status, **options)
    with status("writing the adapter"):
        adapters.save_adapter(folder / "adapter", result.weights, base.config, base.model_type, base=name)
    return result
