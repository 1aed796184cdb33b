"""`vishwamai chat`: a conversation in the terminal."""

from __future__ import annotations

import argparse
import sys
from typing import Any

from vishwamai.cli.arguments import add_model, add_sampling, add_verb, load, sampling
from vishwamai.cli.texts import not_utf8, standard_input, whole
from vishwamai.errors import InputError, TokenizerError


def add(verbs: Any) -> None:
    """Makes the verb known."""
    verb = add_verb(verbs, "chat", chat, "Talk with a model; /reset forgets what was said, /exit ends.")
    add_model(verb)
    add_sampling(verb)
    verb.add_argument("--system", help="what the model is told first")


def chat(args: argparse.Namespace) -> None:
    """`vishwamai chat`: a conversation in the terminal."""
    from rich.console import Console

    options = _checked(sampling(args))
    console, model = Console(highlight=False), load(args)
    first = [{"role": "system", "content": args.system}] if args.system else []
    messages = list(first)
    while (said := _ask(console)) is not None:
        if said == "/reset":
            messages = list(first)
        elif said:
            asked = [*messages, {"role": "user", "content": said}]
            try:
                chunks = model.stream(asked, **options)
            except (InputError, TokenizerError) as error:
                print(f"vishwamai: {error}; this message is left out, and /reset begins anew", file=sys.stderr)
                continue
            messages = [*asked, {"role": "assistant", "content": _answer(console, chunks)}]


def _checked(given: dict[str, Any]) -> dict[str, Any]:
    """The same options. A wrong one is refused before the first message: in a turn it would cost each message."""
    from vishwamai.generation.options import options, params

    params([[0]], options(given), {})
    return given


def _ask(console: Any) -> str | None:
    """What the user types; None where they end the conversation."""
    standard_input()
    try:
        said = console.input("[bold cyan]you[/]: ").strip()
        return None if said in ("/exit", "/quit") else whole(said)
    except EOFError:
        return None
    except UnicodeDecodeError as error:
        raise not_utf8("standard input", error) from None


def _answer(console: Any, chunks: Any) -> str:
    """The reply, printed as it comes and as it is: Rich would turn `:smile:` into a picture and wrap lines."""
    console.print("[bold green]model[/]:", end=" ")
    texts = []
    for chunk in chunks:
        print(chunk.text, end="", flush=True)
        texts.append(chunk.text)
    print(flush=True)
    return "".join(texts)
