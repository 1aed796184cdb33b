"""What a person types, line by line: with arrow keys and a history on a terminal, plainly where it is piped in.

Editing and history are those of Python's `readline`, where it has one. It knows no model.
"""

from __future__ import annotations

import contextlib
import os
import re
import sys
from pathlib import Path
from types import ModuleType

from vishwamai.cli.texts import check_utf8, standard_input

HISTORY_LENGTH = 1000
QUOTES = '"""'  # before and after a text of several lines
ESCAPE = re.compile(r"\x1b\[[0-9;]*m")


class LineEditor:
    """Reads from standard input; what is typed on a terminal is kept for the up arrow, in later sessions too."""

    def __init__(self, *, keeps_history: bool = True):
        """Raises `InputError` where there is no standard input."""
        self.is_interactive = standard_input().isatty() and sys.stdout.isatty()
        self._readline = _readline() if self.is_interactive else None
        self._file: Path | None = None
        if self._readline is not None and keeps_history and (file := _history_file()) is not None:
            self._file = file
            with contextlib.suppress(OSError):  # of another version of readline
                self._readline.read_history_file(file)

    def read(self, prompt: str = "", more: str = "") -> str:
        '''The next line, or a text between two `"""`, of whose later lines `more` is the prompt; it may have colours.

        Raises `EOFError` at the end, `KeyboardInterrupt` for Ctrl-C, `UnicodeDecodeError` for bytes that are no text.
        '''
        text = self._line(prompt)
        if text.lstrip().startswith(QUOTES):
            text = self._rest(text.lstrip().removeprefix(QUOTES), more)
        self._keep(text)
        return text

    def confirm(self, question: str) -> bool:
        """Whether a person says yes; False where nobody can be asked."""
        try:
            return self.is_interactive and self._line(question).strip().lower() in ("y", "yes")
        except (EOFError, KeyboardInterrupt):
            print()
            return False

    def is_empty(self) -> bool:
        """Whether nothing stood on the line that Ctrl-C left; True where nobody can know."""
        return self._readline is None or not self._readline.get_line_buffer()

    def _line(self, prompt: str) -> str:
        if not self.is_interactive:
            return check_utf8(input())
        return check_utf8(input(ESCAPE.sub("\001\\g<0>\002", prompt) if self._readline is not None else prompt))

    def _rest(self, text: str, more: str) -> str:
        """A text whose first line is here, up to the quotes that end it, or the end of what is piped in."""
        with contextlib.suppress(EOFError):
            while QUOTES not in text:
                text += "\n" + self._line(more)
        return text.partition(QUOTES)[0]

    def _keep(self, text: str) -> None:
        if self._readline is None or not text.strip():
            return
        self._readline.add_history(text)
        if self._file is not None:
            with contextlib.suppress(OSError):
                self._readline.write_history_file(self._file)


def _readline() -> ModuleType | None:
    """Python's readline, set up; None where this platform has none, and the terminal edits as it can."""
    try:
        import readline
    except ImportError:
        return None
    readline.set_auto_history(False)
    readline.set_history_length(HISTORY_LENGTH)
    readline.parse_and_bind("set enable-bracketed-paste on")  # what is pasted is one text, its line ends included
    return readline


def _history_file() -> Path | None:
    """The file of earlier sessions, which nobody else may read; None where there can be none."""
    home = Path(os.environ.get("XDG_STATE_HOME") or "")
    file = (home if home.is_absolute() else Path("~/.local/state").expanduser()) / "vishwamai" / "chat_history"
    try:
        file.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        file.touch(mode=0o600)
        return file if file.is_file() and os.access(file, os.R_OK | os.W_OK) else None
    except OSError:
        return None
