"""Where lines come from, and what of them is kept: without a terminal, readline stood in for by a list of calls.

What real keys do is the matter of `test_chat_terminal.py`.
"""

import io
import sys
from pathlib import Path

import pytest

from vishwamai.cli import line_editor
from vishwamai.cli.line_editor import LineEditor


class Screen(io.StringIO):
    """A stream that says it is a terminal."""

    def isatty(self) -> bool:
        return True


class Readline:
    """Notes what it is asked to do."""

    def __init__(self, buffer: str = ""):
        self.calls, self._buffer = [], buffer

    def get_line_buffer(self) -> str:
        return self._buffer

    def __getattr__(self, name: str):
        return lambda *args: self.calls.append((name, *args))


@pytest.fixture
def typed(monkeypatch, tmp_path):
    """`typed(*lines, readline=…)`: an editor on a terminal where these are typed; the prompts that were shown."""

    def open_editor(*lines, readline=None, **options):
        waiting, prompts = list(lines), []

        def read(prompt=""):
            prompts.append(prompt)
            if not waiting or not isinstance(waiting[0], str):
                raise waiting.pop(0) if waiting else EOFError
            return waiting.pop(0)

        monkeypatch.setattr("builtins.input", read)
        monkeypatch.setattr(sys, "stdin", Screen())
        monkeypatch.setattr(sys, "stdout", Screen())
        monkeypatch.setattr(line_editor, "_readline", lambda: readline)
        return LineEditor(**options), prompts

    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))
    return open_editor


BOLD = "\x1b[1;36myou\x1b[0m: "


def test_colours_have_no_width_for_readline(typed):
    editor, prompts = typed("one", "two", readline=Readline())
    editor.read(BOLD)
    assert prompts == ["\001\x1b[1;36m\002you\001\x1b[0m\002: "]
    editor, prompts = typed("one")  # without readline nobody would take the marks out
    editor.read(BOLD)
    assert prompts == [BOLD]


def test_what_is_typed_is_kept_text_by_text(typed, tmp_path):
    readline, file = Readline(), tmp_path / "vishwamai/chat_history"
    editor, prompts = typed("one", " ", '"""two', 'three""" x', "y", readline=readline)
    assert [editor.read("> ", "+ ") for _ in range(3)] == ["one", " ", "two\nthree"]
    assert prompts == ["> ", "> ", "> ", "+ "]
    assert editor.confirm("sure? ") and not editor.confirm("sure? ")
    kept = [call[1] for call in readline.calls if call[0] == "add_history"]
    assert kept == ["one", "two\nthree"]  # no blanks, and no answers to questions
    assert readline.calls.count(("write_history_file", file)) == 2
    assert readline.calls[0] == ("read_history_file", file) and file.stat().st_mode & 0o777 == 0o600


@pytest.mark.parametrize("obstacle", ["option", "file", "folder"])
def test_a_session_without_a_history(typed, tmp_path, obstacle):
    if obstacle == "file":
        (tmp_path / "vishwamai").write_text("")
    elif obstacle == "folder":
        (tmp_path / "vishwamai/chat_history").mkdir(parents=True)
    readline = Readline()
    editor, _ = typed("one", readline=readline, keeps_history=obstacle != "option")
    assert editor.read() == "one"
    files = [call for call in readline.calls if "file" in call[0]]
    assert files == [] and ("add_history", "one") in readline.calls  # it is there for the up arrow all the same


def test_a_history_that_is_lost_meanwhile_stops_nobody(typed):
    class Full(Readline):
        def write_history_file(self, file):
            raise OSError(28, "No space left on device")

        def read_history_file(self, file):
            raise OSError(22, "Invalid argument")

    editor, _ = typed("one", readline=Full())
    assert editor.read() == "one"


def test_a_relative_state_folder_counts_for_nothing(monkeypatch, tmp_path):
    monkeypatch.setenv("HOME", str(tmp_path))
    for value in ("", "here"):
        monkeypatch.setenv("XDG_STATE_HOME", value)
        assert line_editor._history_file() == tmp_path / ".local/state/vishwamai/chat_history"
    assert not Path("here").exists()


def test_the_end_and_an_interrupt_are_told_apart(typed):
    editor, _ = typed('"""one', readline=Readline())
    assert editor.read() == "one"  # the end of the input ends the text too
    for error in (EOFError, KeyboardInterrupt):
        editor, _ = typed(error(), error())
        assert not editor.confirm("sure? ")
        with pytest.raises(error):
            editor.read()


@pytest.mark.parametrize(("buffer", "is_empty"), [("", True), ("half", False)])
def test_whether_the_line_was_empty(typed, buffer, is_empty):
    assert typed(readline=Readline(buffer))[0].is_empty() == is_empty
    assert typed()[0].is_empty()


@pytest.mark.parametrize("piped", ["stdin", "stdout"])
def test_without_a_terminal_at_both_ends_lines_are_read_plainly(monkeypatch, capsys, piped):
    ends = {name: io.StringIO() if name == piped else Screen() for name in ("stdin", "stdout")}
    ends["stdin"].write("one\ntwo\n")
    ends["stdin"].seek(0)
    for name, stream in ends.items():
        monkeypatch.setattr(sys, name, stream)
    monkeypatch.setattr(line_editor, "_readline", lambda: pytest.fail("readline is for terminals"))
    editor = LineEditor()
    assert not editor.is_interactive and editor.read("you: ") == "one"
    assert ends["stdout"].getvalue() == "" and not editor.confirm("sure? ") and editor.read() == "two"


def test_readline_s_own_history_is_off(monkeypatch):
    """It would keep each line of a longer text apart, and answers to questions."""
    readline = pytest.importorskip("readline")
    calls = []
    for name in ("set_auto_history", "set_history_length", "parse_and_bind"):
        monkeypatch.setattr(readline, name, lambda *args, name=name: calls.append((name, *args)))
    assert line_editor._readline() is readline
    assert ("set_auto_history", False) in calls and ("set_history_length", 1000) in calls
