"""`vishwamai quantize`: a folder written anew with the projections of its layers in fewer bits."""

from __future__ import annotations

from typing import Any

from vishwamai.cli.arguments import add_verb
from vishwamai.cli.convert import add_folders, convert


def add(verbs: Any) -> None:
    """Makes the verb known: a conversion that quantises on the way."""
    verb = add_verb(verbs, "quantize", convert, "Write a model with weights of 8 or 4 bits, as compressed-tensors.")
    add_folders(verb)
    about = "int8, int4, fp8, or with the inputs that share a scale, int4:64 [%(default)s]"
    verb.add_argument("--to", dest="quantization", default="int8", metavar="SCHEME", help=about)
    verb.set_defaults(family=None, kind=None)
