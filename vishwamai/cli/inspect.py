"""`vishwamai inspect`: what a model is and what it needs, by its configuration alone."""

from __future__ import annotations

import argparse
import dataclasses
from typing import TYPE_CHECKING, Any

from vishwamai.cli.arguments import DEFAULT_MODEL, add_verb
from vishwamai.errors import InputError

if TYPE_CHECKING:
    from rich.table import Table

    from vishwamai.models.config import ModelConfig

MIB = 2**20


def add(verbs: Any) -> None:
    """Makes the verb known."""
    verb = add_verb(verbs, "inspect", inspect, "Tell what a model is and needs, from its configuration alone.")
    verb.add_argument("model", nargs="?", default=DEFAULT_MODEL, help="name, folder, hub id or .json [%(default)s]")
    verb.add_argument("--batch", type=int, default=1, help="rows in the cache that is counted [%(default)s]")
    verb.add_argument("--length", type=int, help="positions in that cache [the model's longest]")


def inspect(args: argparse.Namespace) -> None:
    """`vishwamai inspect`: switches, parameters and memory."""
    from rich.console import Console
    from rich.markup import escape

    (family, cfg), console = _described(args.model), Console(highlight=False)
    length = cfg.max_length if args.length is None else args.length
    if args.batch < 1 or length < 1:
        raise InputError(f"a cache of {args.batch} rows of {length} positions: both must be 1 or more")
    console.print(f"[bold]{escape(args.model)}[/]  {family}")
    console.print(_switches(cfg), _parameters(cfg), _memory(cfg, args.batch, length))


def _described(name: str) -> tuple[str, ModelConfig]:
    """The family and the model in a folder or a model's JSON; no weights are read."""
    from vishwamai.api import read_config
    from vishwamai.hf.config import read
    from vishwamai.hub import resolve

    if name.endswith(".json"):
        return "a configuration", read_config(name)
    found = read(resolve(name, part="config"))
    return found.model_type, found.model


def _table(title: str, *columns: str) -> Table:
    from rich.table import Table

    table = Table(title=title, title_justify="left")
    for i, column in enumerate(columns):
        table.add_column(column, justify="right" if i else "left")
    return table


def _switches(cfg: ModelConfig) -> Table:
    """Every field that is not at its default, layers in words."""
    table = _table("what it is", "field", "value")
    for field in dataclasses.fields(cfg):
        value = getattr(cfg, field.name)
        if field.name != "stacks" and value != field.default:
            table.add_row(field.name, f"{value:,}" if type(value) is int else str(value))
    for stack in cfg.stacks:
        kinds = [f"{layer.window or 'full'}{' experts' if layer.moe else ''}" for layer in stack.pattern]
        table.add_row("layers", f"{stack.repeats} x ({', '.join(kinds)})")
    return table


def _parameters(cfg: ModelConfig) -> Table:
    """Parameters by part, from the specs."""
    import math

    from vishwamai.models import cost, transformer
    from vishwamai.weights import spec

    parts: dict[str, int] = {}
    for path, param in spec.named(transformer.specs(cfg)):
        part = ".".join(path.split(".")[3:4]) or path
        parts[part] = parts.get(part, 0) + math.prod(param.shape)
    table = _table("parameters", "part", "count")
    for part, count in parts.items():
        table.add_row(part, f"{count:,}")
    table.add_row("total", f"{cost.parameters(cfg).total:,}")
    table.add_row("active for a token", f"{cost.parameters(cfg).active:,}")
    return table


def _memory(cfg: ModelConfig, batch: int, length: int) -> Table:
    from vishwamai.models import cost

    total = cost.parameters(cfg).total
    table = _table("memory in MiB", "what", "float32", "bfloat16")
    cache = [cost.cache_bytes(cfg, batch, length, size) / MIB for size in (4, 2)]
    table.add_row("weights", f"{4 * total / MIB:,.2f}", f"{2 * total / MIB:,.2f}")
    table.add_row(f"cache, {batch} x {length:,}", *(f"{size:,.2f}" for size in cache))
    table.add_row("weights, gradients and AdamW's moments", f"{16 * total / MIB:,.2f}", "")
    return table
