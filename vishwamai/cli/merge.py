"""`vishwamai merge`: an adapter made part of the model that it was trained on, written as a folder of its own."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from vishwamai.cli.arguments import DTYPES, add_origin, add_verb, import_face, origin
from vishwamai.cli.status import Status
from vishwamai.errors import InputError


def add(verbs: Any) -> None:
    """Makes the verb known."""
    verb = add_verb(verbs, "merge", merge, "Merge a PEFT adapter (LoRA) into its base model, and write that.")
    verb.add_argument("adapter", help="the adapter: a folder or a hub id")
    verb.add_argument("target", help="the folder to write; it must be empty or new")
    verb.add_argument("-m", "--model", help="the base model [the one that the adapter names]")
    add_origin(verb)
    verb.add_argument("--dtype", choices=DTYPES, help="of the weights written [as the base stores them]")


def merge(args: argparse.Namespace) -> None:
    """`vishwamai merge`: base and adapter are added in float32, and written in the base's dtype with its tokenizer."""
    status = Status()
    import_face(status)
    from vishwamai.api import VishwamAI
    from vishwamai.gguf.source import open_source
    from vishwamai.hf import adapter_config, convert, weights
    from vishwamai.hub import resolve

    adapter, target = resolve(args.adapter, part="adapter"), Path(args.target)
    name = args.model or adapter_config.base_model_name(adapter)
    if name is None:
        raise InputError(f"{args.adapter} does not name its base model; give it with --model")
    base = open_source(name, **origin(args))
    convert.check_target(base.path, target)
    dtype = args.dtype or weights.stored_dtype(base, base.pretrained)
    dtype = dtype if dtype in DTYPES else "float32"  # fewer bits would round what was added
    model = VishwamAI.from_pretrained(base.path, dtype="float32", progress=status)
    model.load_adapter(adapter)
    model.merge_adapter()
    with status("writing"):
        model.save_pretrained(target, dtype=dtype)
    print(f"{target}: {name} with {args.adapter} merged into it, {model.model_type}, {dtype}")
