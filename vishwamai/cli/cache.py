"""`vishwamai cache`: the compiled programs that are kept for the next command, shown or thrown away."""

from __future__ import annotations

import argparse
from typing import Any

from vishwamai import compile_cache
from vishwamai.cli.arguments import add_verb
from vishwamai.errors import InputError

MIB = 2**20
ABOUT = "Show the compiled programs that are kept for the next command, or clear them. (Models: see `hf cache`.)"


def add(verbs: Any) -> None:
    """Makes the verb known."""
    verb = add_verb(verbs, "cache", cache, ABOUT)
    verb.add_argument("task", nargs="?", default="show", choices=("show", "clear"), help="[%(default)s]")


def cache(args: argparse.Namespace) -> None:
    """`vishwamai cache`: where, how many, how large; `clear` removes them all."""
    where, variable = compile_cache.folder()
    if where is None:
        return print(f"compiled programs are not kept: {variable} is off")
    if args.task == "clear":
        if variable == compile_cache.OF_JAX:
            raise InputError(
                f"{variable} names {where}, where other programs may keep theirs; remove what you like there"
            )
        found, done = compile_cache.clear(where), "removed "
    else:
        found, done = compile_cache.entries(where), ""
    size = sum(entry.size for entry in found) / MIB
    limit = "" if done or variable == compile_cache.OF_JAX else f" of at most {compile_cache.MOST_BYTES / MIB:,.0f}"
    by = f" ({variable})" if variable else ""
    print(f"{where}{by}: {done}{len(found):,} compiled programs, {size:,.1f}{limit} MiB")
