"""`vishwamai score`: how likely a model finds texts."""

from __future__ import annotations

import argparse
import json
from typing import Any

from vishwamai.cli.arguments import add_loading, add_model, add_verb, load_model
from vishwamai.cli.texts import read_lines, read_text
from vishwamai.errors import InputError

SHOWN = 60  # characters of a text; --json has all


def add(verbs: Any) -> None:
    """Makes the verb known."""
    verb = add_verb(verbs, "score", score, "Tell how likely a model finds texts: log-likelihood and perplexity.")
    verb.add_argument("texts", nargs="*", metavar="TEXT", help="a text; - reads one from standard input")
    verb.add_argument(
        "-f", "--file", action="append", default=[], help="a UTF-8 file that is a text; may be given again"
    )
    verb.add_argument("--lines", action="store_true", help="each line of a --file is a text of its own")
    add_model(verb)
    add_loading(verb)
    verb.add_argument("--json", action="store_true", help="print a line of JSON for each text")


def score(args: argparse.Namespace) -> None:
    """`vishwamai score`: a line for each text, in nats; its first token has nothing before it and is not counted."""
    if args.lines and not args.file:
        raise InputError("--lines is about the files of --file, and none is given")
    texts = [read_text(text) for text in args.texts]
    for file in args.file:
        lines = list(read_lines([file]))
        texts += [line.rstrip("\r\n") for line in lines if line.strip()] if args.lines else ["".join(lines)]
    if not texts:
        raise InputError("there is no text to score; give one as an argument, - for standard input, or --file")
    found = load_model(args).score(texts)
    for text, one in zip(texts, found, strict=True):
        if args.json:
            tokens = {"tokens": len(one.tokens), "scored": len(one.logprobs)}
            figures = {"sum": one.sum, "per_token": one.per_token, "perplexity": one.perplexity}
            print(json.dumps({"text": text} | figures | tokens))
        elif one.per_token is None:
            print(f"one token, which has nothing before it: {_shorten(text)}")
        else:
            figures = f"{one.sum:.3f} nats, {one.per_token:.4f} a token, perplexity {one.perplexity:.3f}"
            print(f"{figures}, {len(one.logprobs)} tokens: {_shorten(text)}")


def _shorten(text: str) -> str:
    return repr(text if len(text) <= SHOWN else text[: SHOWN - 3] + "...")
