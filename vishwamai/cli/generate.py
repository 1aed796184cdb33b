"""`vishwamai generate`: continues one text."""

from __future__ import annotations

import argparse
import sys
from typing import Any

from vishwamai.cli.arguments import WHOLE, add_model, add_sampling, add_verb, load_model, sampling
from vishwamai.cli.texts import read_text


def add(verbs: Any) -> None:
    """Makes the verb known."""
    verb = add_verb(verbs, "generate", generate, "Continue a text, printing it as it is made.")
    verb.add_argument("prompt", help="the text to continue; - reads it from standard input")
    add_model(verb)
    add_sampling(verb)
    verb.add_argument("--max-length", type=WHOLE, help="at most this many tokens, the prompt counted")
    verb.add_argument("--num-beams", type=WHOLE, help="search with this many beams; nothing is streamed")
    verb.add_argument("--stats", action="store_true", help="tell tokens, time and compilations on standard error")


def generate(args: argparse.Namespace) -> None:
    """`vishwamai generate`: the completion on standard output, without the prompt."""
    options, prompt = sampling(args), read_text(args.prompt)
    model: Any = load_model(args)
    if (args.num_beams or model.generation_config.num_beams or 1) == 1:
        stats = _stream(model.stream(prompt, **options))
    else:
        made = model.generate([prompt], return_dict=True, **options)
        stats = made.stats
        print(made.texts[0])
    if stats and stats.prompt_tokens + stats.generated_tokens >= (context := model.config.max_length):
        print(f"vishwamai: cut: the model's context of {context} tokens is full", file=sys.stderr)
    if args.stats:
        pace = f"{stats.generated_tokens} tokens, {stats.tokens_per_second:,.0f} a second"
        compiled = f"{stats.compiles} programs compiled in {stats.compile_seconds:.1f} s"
        print(f"{pace}; {compiled}; {model.dtype_note}; {model.layers_note}", file=sys.stderr)


def _stream(chunks: Any) -> Any:
    """Prints chunks as they come and a line end; returns the stats of the last one."""
    stats = None
    for chunk in chunks:
        print(chunk.text, end="", flush=True)
        stats = chunk.stats or stats
    print(flush=True)
    return stats
