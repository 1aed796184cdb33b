"""Arguments that several verbs take, and what they become: a model loaded, options of `generate`. It reads no text."""

from __future__ import annotations

import argparse
import gc
import importlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from vishwamai.checks import check_number, check_whole
from vishwamai.cli.status import Status

if TYPE_CHECKING:
    from vishwamai.api import VishwamAI

DEFAULT_MODEL = "vishwamai/base"
DTYPES = ("float32", "bfloat16", "float16")
DTYPE = {"default": "auto", "choices": ("auto", *DTYPES)}
DTYPE |= {"help": "of weights, computation and cache; auto: the checkpoint's own, and float32 for bfloat16 on a CPU"}


@dataclass(frozen=True)
class Number:
    """The `type` of an argument that is a number: whole or not, and over or at least a bound."""

    is_whole: bool
    least: float | None = None
    is_open: bool = False

    def __call__(self, text: str) -> float:
        """The number. Raises what argparse makes a sentence of."""
        try:
            return int(text) if self.is_whole else float(text)
        except ValueError:
            raise argparse.ArgumentTypeError(f"{text!r} is no {'whole ' * self.is_whole}number") from None

    def check(self, name: str, value: float) -> None:
        """Raises `InputError` for a number out of range. Without a bound, whoever takes it knows its range."""
        if self.least is None:
            return
        if self.is_whole:
            check_whole(name, value, int(self.least))
        elif self.is_open:
            check_number(name, value, above=self.least)
        else:
            check_number(name, value, self.least)


WHOLE, REAL = Number(is_whole=True), Number(is_whole=False)
COUNT, LIMIT = Number(is_whole=True, least=1), Number(is_whole=True, least=0)
POSITIVE, NOT_NEGATIVE = Number(is_whole=False, least=0, is_open=True), Number(is_whole=False, least=0)


def add_verb(verbs: Any, name: str, run: Callable[[argparse.Namespace], Any], about: str) -> argparse.ArgumentParser:
    """A parser for one verb (or one task of a verb), which `run` carries out; it may return an exit code."""
    verb = verbs.add_parser(name, help=about, description=about)
    verb.set_defaults(run=run)
    return verb


def add_model(verb: argparse.ArgumentParser) -> None:
    """`--model`."""
    about = "built-in name, folder, GGUF file or hub id [%(default)s]"
    verb.add_argument("-m", "--model", default=DEFAULT_MODEL, help=about)


def add_origin(verb: argparse.ArgumentParser) -> None:
    """Which of the models that a name leads to: `--revision`, `--gguf-file`."""
    verb.add_argument("--revision", help="a commit, branch or tag of a hub repository")
    verb.add_argument("--gguf-file", metavar="FILE", help="one of several GGUF files of a folder or a hub repository")


def origin(args: argparse.Namespace) -> dict[str, Any]:
    """The arguments of `add_origin`, by the names that `from_pretrained` has for them."""
    return {"revision": args.revision, "gguf_file": args.gguf_file}


def add_loading(verb: argparse.ArgumentParser) -> None:
    """How the model is loaded."""
    add_origin(verb)
    add = verb.add_argument
    add("--adapter", metavar="FOLDER", help="a PEFT adapter (folder or hub id) to put on the model")
    add("--dtype", **DTYPE)
    add("--scan-layers", action="store_true", help="compile layers that are alike once: starts sooner, decodes slower")
    add("--quantization", metavar="SCHEME", help="int8, int4, fp8 or int4:64 for the layers' weights, or keep")


def add_sampling(verb: argparse.ArgumentParser) -> None:
    """How the model is loaded and how it draws tokens."""
    add_loading(verb)
    add = verb.add_argument
    add("-n", "--max-new-tokens", type=WHOLE, help="at most this many tokens beyond the prompt")
    add("--sample", action="store_true", help="draw tokens at random; any of the next four does so too")
    add("-t", "--temperature", type=REAL, help="above 1 is bolder, below 1 is safer, 0 takes the likeliest token")
    add("--top-k", type=WHOLE, help="draw from this many of the likeliest tokens; 0 or -1: from all")
    add("--top-p", type=REAL, help="draw from the likeliest tokens that have this much probability together")
    add("--min-p", type=REAL, help="draw from tokens with at least this share of the likeliest one's probability")
    add("--repetition-penalty", type=REAL, help="above 1 makes tokens that have occurred less likely")
    add("--seed", type=WHOLE, default=0, help="any whole number; the same one gives the same text [%(default)s]")
    add("--stop", action="append", metavar="TEXT", help="end before this text; may be given again")


def import_face(status: Status) -> None:
    """Imports the face, with JAX and all, which takes a second or more."""
    with status("starting"):
        gc.disable()  # of so many new objects that stay, looking for those that may go is a tenth of it
        try:
            importlib.import_module("vishwamai.api")
        finally:
            gc.enable()


def load_model(args: argparse.Namespace) -> VishwamAI:
    """The model that was asked for; what it takes long for is shown on a terminal, now and when it is used."""
    status = Status()
    import_face(status)
    from vishwamai.api import VishwamAI

    how = {"dtype": args.dtype, "quantization": args.quantization, "progress": status}
    how |= {"scan_layers": True} if args.scan_layers else {}
    model = VishwamAI.from_pretrained(args.model, **origin(args), **how)
    if args.adapter is not None:
        model.load_adapter(args.adapter)
    return model


def sampling(args: argparse.Namespace) -> dict[str, Any]:
    """The arguments of `generate` that were given; those left out keep their defaults. It loads no model.

    Raises `InputError` for one that is out of range, or that contradicts another.
    """
    import_face(Status())
    from vishwamai.generation.options import parse_options

    names = ("temperature", "top_k", "top_p", "min_p", "repetition_penalty", "stop", "max_new_tokens", "max_length")
    names += ("num_beams",)
    given = {name: value for name in names if (value := getattr(args, name, None)) is not None}
    given |= ({"do_sample": True} if args.sample else {}) | {"seed": args.seed}
    parse_options(given).row_params([[0]])
    return given
