"""`vishwamai chat`: a conversation in the terminal, or of lines that are piped in."""

from __future__ import annotations

import argparse
import difflib
import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

from vishwamai.cli.arguments import add_model, add_sampling, add_verb, load_model, sampling
from vishwamai.cli.conversation import Conversation
from vishwamai.cli.line_editor import LineEditor
from vishwamai.cli.texts import utf8_error
from vishwamai.errors import InputError, VishwamAIError

COMMANDS = {
    "/help": "list the commands",
    "/reset": "forget what was said and begin anew",
    "/save FILE": 'write the conversation as JSON, {"messages": [...]}',
    "/load FILE": "go on with a conversation that was saved",
    "/exit": "end; so does Ctrl-D",
}
KEYS = """The arrow keys edit the line and bring back earlier ones. Ctrl-C ends a reply, or empties the line.
A message of several lines stands between \"\"\" and \"\"\"; a pasted one is a single message as it is.
A message that begins with / needs a space before it."""


def add(verbs: Any) -> None:
    """Makes the verb known."""
    verb = add_verb(verbs, "chat", chat, "Talk with a model; /help lists what can be typed beside messages.")
    add_model(verb)
    add_sampling(verb)
    verb.add_argument("--system", metavar="TEXT", help="what the model is told first")
    verb.add_argument("--no-history", action="store_true", help="keep nothing that is typed for the next session")


def chat(args: argparse.Namespace) -> int:
    """`vishwamai chat`: a conversation in the terminal. The exit code is 1 where a piped line was refused."""
    options, exit_code = sampling(args), 0
    editor = LineEditor(keeps_history=not args.no_history)
    conversation = Conversation(load_model(args), args.system)
    if editor.is_interactive:
        model = conversation.model
        size = f"{model.n_parameters:,} parameters, a context of {model.config.max_length:,} tokens"
        note(f"{args.model}: {size}. /help lists the commands, Ctrl-D ends.")
    while (text := _read_line(editor)) not in (None, "/exit", "/quit"):
        try:
            if text.startswith("/") and "\n" not in text:
                _run_command(text, conversation, editor)
            elif text.strip():
                _reply(conversation, text.strip(), options, is_interactive=editor.is_interactive)
        except VishwamAIError as error:
            print(f"vishwamai: {error}", file=sys.stderr)
            exit_code = 0 if editor.is_interactive else 1
    return exit_code


def note(text: str) -> None:
    """Tells the person something that is no part of the conversation, on standard error."""
    from rich.console import Console

    Console(stderr=True, highlight=False).print(text, style="dim", markup=False, soft_wrap=True)


def _read_line(editor: LineEditor) -> str | None:
    """What was typed next; None at the end: Ctrl-D, or Ctrl-C twice on an empty line."""
    prompt, more = (_colour(text) for text in ("[bold cyan]you[/]: ", "[bold cyan]...[/]: "))
    is_warned = False
    while True:
        try:
            return editor.read(prompt, more).rstrip()
        except EOFError:
            if editor.is_interactive:
                print()
            return None
        except KeyboardInterrupt:
            if not editor.is_interactive:
                raise
            print()
            if editor.is_empty() and is_warned:
                return None
            if editor.is_empty():
                note("Ctrl-C once more ends the chat, as Ctrl-D and /exit do")
                is_warned = True
        except UnicodeDecodeError as error:
            if not editor.is_interactive:
                raise utf8_error("standard input", error) from None
            print(f"vishwamai: {utf8_error('the line', error)}; it is left out", file=sys.stderr)


def _colour(markup: str) -> str:
    """A text as this terminal shows it."""
    from rich.console import Console

    console = Console(highlight=False)
    with console.capture() as captured:
        console.print(markup, end="")
    return captured.get()


def _run_command(line: str, conversation: Conversation, editor: LineEditor) -> None:
    """Carries out a command. Raises `InputError` for one that there is not, and for an argument too few or too many."""
    word, _, argument = (part.strip() for part in line.partition(" "))
    [usage] = [usage for usage in COMMANDS if usage.split()[0] == word] or [None]
    if usage is None:
        close = difflib.get_close_matches(word, [usage.split()[0] for usage in COMMANDS], n=1)
        hint = f"did you mean {close[0]}?" if close else f"there are {', '.join(COMMANDS)}."
        raise InputError(f"there is no command {word}; {hint} A message that begins with / needs a space before it")
    if bool(argument) != (" " in usage):
        raise InputError(f"{word} needs a file: {usage}" if not argument else f"{word} takes nothing after it")
    if word == "/help":
        note("\n".join([*(f"{usage:<12}{about}" for usage, about in COMMANDS.items()), KEYS]))
    elif word == "/reset":
        conversation.reset()
        note("the conversation begins anew")
    elif word == "/load":
        path = Path(argument).expanduser()
        conversation.load(path)
        note(f"{len(conversation.messages)} messages read from {path}; the next one follows them")
    elif word == "/save":
        path = Path(argument).expanduser()
        if path.exists() and not editor.confirm(f"{path} is there already; write over it? [y/N] "):
            raise InputError(f"{path} is there already, and nothing is written; give another name")
        conversation.save(path)
        note(f"{len(conversation.messages)} messages written to {path}")


def _reply(conversation: Conversation, text: str, options: dict[str, Any], *, is_interactive: bool) -> None:
    """Prints the reply as it comes and as it is: Rich would turn `:smile:` into a picture and wrap lines."""
    label, chunk = _colour("[bold green]model[/]: ") if is_interactive else "", None
    n_messages = len(conversation.messages)
    with _catch_interrupts(is_interactive) as is_interrupted, closing(conversation.reply(text, **options)) as chunks:
        for chunk in chunks:
            print(label, chunk.text, sep="", end="", flush=True)
            label = ""
            if is_interrupted():
                break
    print(flush=True)
    if chunk is not None and chunk.finish_reason == "length":
        note(_note_cut(chunk.stats, conversation.model.config.max_length))
    elif chunk is None or chunk.finish_reason is None:
        is_kept = len(conversation.messages) > n_messages
        note(f"stopped; {'what was said so far stays' if is_kept else 'the message is left out, nothing was said'}")


def _note_cut(stats: Any, context: int) -> str:
    if stats.prompt_tokens + stats.generated_tokens < context:
        return f"cut after {stats.generated_tokens} tokens; -n {2 * stats.generated_tokens} would allow more"
    return f"cut: the model's context of {context} tokens is full; /save FILE keeps what was said, /reset begins anew"


@contextmanager
def _catch_interrupts(is_interactive: bool) -> Iterator[Callable[[], bool]]:
    """Whether Ctrl-C was pressed within, and need not end the program; once more, and what runs is left at once."""
    if not is_interactive:
        yield lambda: False
        return
    presses: list[int] = []

    def press(number: int, frame: Any) -> None:
        presses.append(number)
        if len(presses) > 1:
            raise KeyboardInterrupt

    before = signal.signal(signal.SIGINT, press)
    try:
        yield lambda: bool(presses)
    except KeyboardInterrupt:
        pass
    finally:
        signal.signal(signal.SIGINT, before)
