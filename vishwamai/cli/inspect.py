"""`vishwamai inspect`: what a model is, what it needs, and what of it is not supported; no weight is read."""

from __future__ import annotations

import argparse
import dataclasses
import json
from typing import TYPE_CHECKING, Any

from vishwamai.cli.arguments import COUNT, DEFAULT_MODEL, add_origin, add_verb, import_face, origin
from vishwamai.cli.status import Status

if TYPE_CHECKING:
    from rich.table import Table

    from vishwamai.hf.inspection import Inspection

MIB = 2**20
SHOWN = 30  # problems; --json has all


def add(verbs: Any) -> None:
    """Makes the verb known."""
    verb = add_verb(
        verbs, "inspect", inspect, "Tell what a model is and needs and what is not supported, and load none."
    )
    about = "name, folder, GGUF file, hub id or .json [%(default)s]"
    verb.add_argument("model", nargs="?", default=DEFAULT_MODEL, help=about)
    add_origin(verb)
    verb.add_argument("--batch", type=COUNT, default=1, help="rows in the cache that is counted [%(default)s]")
    verb.add_argument("--length", type=COUNT, help="positions in that cache [the model's longest]")
    verb.add_argument("--json", action="store_true", help="print the same as JSON")
    verb.add_argument("--verify", action="store_true", help="compare the files with the folder's certificate instead")


def inspect(args: argparse.Namespace) -> int:
    """`vishwamai inspect`: switches, parameters, memory and what is not supported; 2 where something is not."""
    if args.verify:
        return _verify(args)
    found = _inspect(args)
    if args.json:
        print(json.dumps({"model": args.model} | dataclasses.asdict(found), indent=2))
    else:
        _show(args.model, found)
    return 2 if found.problems else 0


def _inspect(args: argparse.Namespace) -> Inspection:
    import_face(Status())
    from vishwamai.api import read_config
    from vishwamai.gguf.source import open_source
    from vishwamai.hf import inspection

    asked = {"batch": args.batch, "length": args.length}
    if args.model.endswith(".json"):
        return inspection.inspect_model(read_config(args.model), **asked)
    return inspection.inspect_checkpoint(open_source(args.model, **origin(args), part="config"), **asked)


def _verify(args: argparse.Namespace) -> int:
    """Whether the files are those that the certificate states: 0, or 2 and what differs."""
    from vishwamai.hf import certificate
    from vishwamai.hub import resolve

    differences = certificate.changed_files(resolve(args.model, revision=args.revision, part="config"))
    if args.json:
        print(json.dumps({"model": args.model, "differences": differences}, indent=2))
    else:
        print("\n".join(differences) or f"{args.model}: every file is as {certificate.FILE} states")
    return 2 if differences else 0


def _show(name: str, found: Inspection) -> None:
    from rich.console import Console
    from rich.markup import escape

    console = Console(highlight=False)
    console.print(f"[bold]{escape(name)}[/]  {escape(found.model_type)}")
    if found.partial:
        console.print("counted without the attributes that are not supported")
    if found.switches:
        console.print(_switches(found), _parameters(found), _memory(found))
    console.print("there are no weights to look at" if found.stored is None else _stored(found))
    for line in found.notes:
        console.print(escape(line))
    console.print(_problems(found) if found.problems else "nothing that it has is unsupported")


def _table(title: str, *columns: str, right: bool = True) -> Table:
    from rich.table import Table

    table = Table(title=title, title_justify="left")
    for i, column in enumerate(columns):
        table.add_column(column, justify="right" if i and right else "left", overflow="fold")
    return table


def _switches(found: Inspection) -> Table:
    table = _table("what it is", "field", "value")
    for field, value in found.switches.items():
        fields = ", ".join(f"{k}={v}" for k, v in value.items()) if isinstance(value, dict) else str(value)
        table.add_row(field, f"{value:,}" if type(value) is int else fields)
    for stack in found.layers:
        table.add_row("layers", stack)
    return table


def _parameters(found: Inspection) -> Table:
    table = _table("parameters", "part", "count")
    for part, count in found.parameters.items():
        table.add_row(part, f"{count:,}")
    return table


def _memory(found: Inspection) -> Table:
    formats = list(found.memory["weights"])
    table = _table("memory in MiB", "what", *formats)
    for what, sizes in found.memory.items():
        table.add_row(what, *(f"{sizes[name] / MIB:,.2f}" if name in sizes else "" for name in formats))
    return table


def _stored(found: Inspection) -> Table:
    table = _table("stored", "dtype", "tensors", "numbers", "MiB")
    for row in found.stored or ():
        table.add_row(row.dtype, f"{row.tensors:,}", f"{row.numbers:,}", f"{row.size / MIB:,.2f}")
    return table


def _problems(found: Inspection) -> Table:
    from rich.markup import escape

    table = _table("not supported", "attribute or tensor", "value", "why", right=False)
    for problem in found.problems[:SHOWN]:
        table.add_row(*map(escape, (problem.name, problem.value, problem.why)))
    if (more := len(found.problems) - SHOWN) > 0:
        table.add_row(f"and {more:,} more", "", "--json lists them")
    return table
