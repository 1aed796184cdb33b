"""`vishwamai chat`: a conversation in the terminal."""

from __future__ import annotations

import argparse
from typing import Any

from vishwamai.cli.arguments import add_model, add_sampling, add_verb, load, sampling


def add(verbs: Any) -> None:
    """Makes the verb known."""
    verb = add_verb(verbs, "chat", chat, "Talk with a model; /reset forgets what was said, /exit ends.")
    add_model(verb)
    add_sampling(verb)
    verb.add_argument("--system", help="what the model is told first")


def chat(args: argparse.Namespace) -> None:
    """`vishwamai chat`: a conversation in the terminal."""
    from rich.console import Console

    console, model, options = Console(highlight=False), load(args), sampling(args)
    first = [{"role": "system", "content": args.system}] if args.system else []
    messages = list(first)
    while (said := _ask(console)) is not None:
        if said == "/reset":
            messages = list(first)
        elif said:
            messages.append({"role": "user", "content": said})
            messages.append({"role": "assistant", "content": _answer(console, model.stream(messages, **options))})


def _ask(console: Any) -> str | None:
    """What the user types; None where they end the conversation."""
    try:
        said = console.input("[bold cyan]you[/]: ").strip()
    except EOFError:
        return None
    return None if said in ("/exit", "/quit") else said


def _answer(console: Any, chunks: Any) -> str:
    console.print("[bold green]model[/]:", end=" ")
    texts = []
    for chunk in chunks:
        console.print(chunk.text, end="", markup=False)
        texts.append(chunk.text)
    console.print()
    return "".join(texts)
