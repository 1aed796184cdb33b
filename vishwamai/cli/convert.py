"""`vishwamai convert`: any model that loads, written anew."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from vishwamai.cli.arguments import DTYPES, add_revision, add_verb
from vishwamai.errors import InputError

MIB = 2**20


def add(verbs: Any) -> None:
    """Makes the verb known."""
    verb = add_verb(verbs, "convert", convert, "Write a model as a folder that transformers loads too.")
    verb.add_argument("source", help="built-in name, folder or hub id")
    verb.add_argument("target", help="the folder to write; it must be empty or new")
    add_revision(verb)
    verb.add_argument("--dtype", default="bfloat16", choices=DTYPES, help="of the weights written [%(default)s]")


def convert(args: argparse.Namespace) -> None:
    """`vishwamai convert`: any model that loads, written anew."""
    from vishwamai.api import VishwamAI

    target = Path(args.target)
    if target.exists() and (not target.is_dir() or any(target.iterdir())):
        raise InputError(f"{target} is there already; name a folder that is empty or new")
    model = VishwamAI.from_pretrained(args.source, revision=args.revision, dtype=args.dtype)
    model.save_pretrained(target)
    print(f"{target}: {sum(file.stat().st_size for file in target.iterdir()) / MIB:,.1f} MiB")
