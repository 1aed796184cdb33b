"""The command `vishwamai`: one verb each, one file a verb, for generating, chatting, training, converting and the rest.

Each file has `add(verbs)`, which says what can be typed, and the function that does it: a few lines over the package's
own functions, which import what they need when they run, so that `--help` costs nothing. What the user can put right
(`VishwamAIError`) ends as one sentence and exit code 2, never a traceback. It knows no arrays.
"""

from __future__ import annotations

import argparse
import atexit
import gc
import io
import os
import sys
import warnings
from collections.abc import Sequence
from importlib import metadata
from typing import Any

from vishwamai.cli import cache, chat, convert, generate, inspect, merge, quantize, reason, score, tokenizer, train
from vishwamai.cli.arguments import Number
from vishwamai.errors import VishwamAIError, suggestion
from vishwamai.host_memory import keep_freed_memory

VERBS = (generate, chat, score, reason, train, tokenizer, convert, quantize, merge, inspect, cache)


def main(argv: Sequence[str] | None = None) -> int:
    """Runs one command and returns its exit code: 0, 2 for bad input, 130 when interrupted."""
    _print_in_any_encoding()
    atexit.register(gc.freeze)  # or Python looks through all of JAX once more as it ends, a tenth of a short command
    try:
        args = _parse(argv)
        with warnings.catch_warnings():
            warnings.showwarning = _warn
            if argv is None and args.run is train.train:  # the process is this command's alone
                keep_freed_memory()
            return args.run(args) or 0
    except VishwamAIError as error:
        return _refuse(str(error))
    except ModuleNotFoundError as error:
        if (error.name or "vishwamai").startswith("vishwamai"):
            raise
        return _refuse(f"the package {error.name} is missing; pip install 'vishwamai[train]'")
    except (MemoryError, RuntimeError) as error:
        if not _out_of_memory(error):
            raise
        return _refuse("there is not enough memory; ask for fewer beams or tokens, or train smaller batches or rows")
    except KeyboardInterrupt:
        print(file=sys.stderr)
        return 130
    except BrokenPipeError:  # whoever read our output has gone; Python would complain again when it closes stdout
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except OSError as error:  # a full disk, a file where a folder should be
        if error.filename is None:
            raise
        return _refuse(f"{error.filename}: {error.strerror}; check the path")


def _print_in_any_encoding() -> None:
    """From now on, a character that a terminal's encoding does not have is written as an escape, `\\u2713`."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")


def _out_of_memory(error: Exception) -> bool:
    """Whether Python, NumPy or XLA got no memory. XLA has no class for it, and its status differs by platform."""
    return isinstance(error, MemoryError) or "RESOURCE_EXHAUSTED" in str(error) or "Out of memory" in str(error)


def _warn(message: Warning | str, *where: Any, **rest: Any) -> None:
    """Shows a warning as a sentence, without the place in our code that it came from."""
    print(f"vishwamai: warning: {message}", file=sys.stderr)


def _refuse(sentence: str) -> int:
    print(f"vishwamai: error: {sentence}", file=sys.stderr)
    return 2


def parser() -> argparse.ArgumentParser:
    """The parser of the whole command line."""
    top = argparse.ArgumentParser(prog="vishwamai", description="Language models in JAX, on TPU, GPU and CPU.")
    top.add_argument("--version", action="version", version=f"vishwamai {metadata.version('vishwamai')}")
    verbs = top.add_subparsers(title="verbs", metavar="VERB", required=True)
    for verb in VERBS:
        verb.add(verbs)
    return top


def _parse(argv: Sequence[str] | None) -> argparse.Namespace:
    """The arguments. argparse takes `a.b=value` in one place only; people write them between options too."""
    top, argv = parser(), sys.argv[1:] if argv is None else list(argv)
    verb = _verb(top, argv)
    args, rest = top.parse_known_args(argv)
    if unknown := next((word for word in rest if word.startswith("-")), None):
        name = unknown.partition("=")[0]
        verb.error(f"there is no option {name}; {suggestion(name, _options(verb))}")
    if rest and not hasattr(args, "overrides"):
        verb.error(f"nothing is known to do with: {' '.join(rest)}")
    args.overrides = [*getattr(args, "overrides", []), *rest]
    for action in verb._actions:
        if isinstance(action.type, Number) and (value := getattr(args, action.dest)) is not None:
            action.type.check(max(action.option_strings, key=len), value)
    return args


def _verb(parser: argparse.ArgumentParser, words: Sequence[str]) -> argparse.ArgumentParser:
    """The parser of the verb, or the task of a verb, that these words begin with. Ends where there is no such one."""
    verbs = next((action for action in parser._actions if isinstance(action, argparse._SubParsersAction)), None)
    if verbs is None or not words or words[0].startswith("-"):
        return parser
    if words[0] not in verbs.choices:
        parser.error(f"there is no {str(verbs.metavar).lower()} {words[0]!r}; {suggestion(words[0], verbs.choices)}")
    return _verb(verbs.choices[words[0]], words[1:])


def _options(verb: argparse.ArgumentParser) -> list[str]:
    return [name for action in verb._actions for name in action.option_strings if name.startswith("--")]
