"""Arguments that several verbs take, and what they become: a model loaded, options of `generate`. It reads no text."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from vishwamai.cli.status import Status

if TYPE_CHECKING:
    from vishwamai.api import VishwamAI

DEFAULT_MODEL = "vishwamai/base"
DTYPES = ("float32", "bfloat16", "float16")
DTYPE = {"default": "auto", "choices": ("auto", *DTYPES)}
DTYPE |= {"help": "of weights, computation and cache; auto: the checkpoint's, float32 on a CPU [%(default)s]"}


def add_verb(verbs: Any, name: str, run: Callable[[argparse.Namespace], Any], about: str) -> argparse.ArgumentParser:
    """A parser for one verb (or one task of a verb), which `run` carries out; it may return an exit code."""
    verb = verbs.add_parser(name, help=about, description=about)
    verb.set_defaults(run=run)
    return verb


def add_model(verb: argparse.ArgumentParser) -> None:
    """`--model`."""
    verb.add_argument("-m", "--model", default=DEFAULT_MODEL, help="built-in name, folder or hub id [%(default)s]")


def add_revision(verb: argparse.ArgumentParser) -> None:
    """`--revision`."""
    verb.add_argument("--revision", help="a commit, branch or tag of a hub repository")


def add_sampling(verb: argparse.ArgumentParser) -> None:
    """How the model is loaded and how it draws tokens."""
    add_revision(verb)
    add = verb.add_argument
    add("--adapter", metavar="FOLDER", help="a PEFT adapter (folder or hub id) to put on the model")
    add("--dtype", **DTYPE)
    add("--quantization", metavar="SCHEME", help="int8, int4, fp8 or int4:64 for the layers' weights, or keep")
    add("-n", "--max-new-tokens", type=int, help="at most this many tokens beyond the prompt")
    add("--sample", action="store_true", help="draw tokens at random; any of the next four does so too")
    add("-t", "--temperature", type=float, help="above 1 is bolder, below 1 is safer")
    add("--top-k", type=int, help="draw from this many of the likeliest tokens")
    add("--top-p", type=float, help="draw from the likeliest tokens that have this much probability together")
    add("--min-p", type=float, help="draw from tokens with at least this share of the likeliest one's probability")
    add("--repetition-penalty", type=float, help="above 1 makes tokens that have occurred less likely")
    add("--seed", type=int, default=0, help="the same seed gives the same text [%(default)s]")
    add("--stop", action="append", metavar="TEXT", help="end before this text; may be given again")


def load(args: argparse.Namespace) -> VishwamAI:
    """The model that was asked for; what it takes long for is shown on a terminal, now and when it is used."""
    status = Status()
    with status("starting"):
        from vishwamai.api import VishwamAI
    how = {"dtype": args.dtype, "quantization": args.quantization, "progress": status}
    model = VishwamAI.from_pretrained(args.model, revision=args.revision, **how)
    if args.adapter is not None:
        model.load_adapter(args.adapter)
    return model


def sampling(args: argparse.Namespace) -> dict[str, Any]:
    """The arguments of `generate` that were given; those left out keep their defaults. It loads no model.

    Raises `InputError` for one that is out of range, or that contradicts another.
    """
    from vishwamai.generation.options import options, params

    names = ("temperature", "top_k", "top_p", "min_p", "repetition_penalty", "stop", "max_new_tokens", "max_length")
    names += ("num_beams",)
    given = {name: value for name in names if (value := getattr(args, name, None)) is not None}
    given |= ({"do_sample": True} if args.sample else {}) | {"seed": args.seed}
    params([[0]], options(given))
    return given
