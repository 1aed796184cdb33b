"""`vishwamai chat` on a terminal: a pseudo-terminal types keys as a person does, and reads what stands there.

Nothing is timed: each step waits for what it must bring about.
"""

import json
import os
import pty
import re
import select
import subprocess
import sys
import time
from pathlib import Path

import pytest

pytestmark = pytest.mark.by_turns

PARROT = str(Path(__file__).parent / "parrot.py")
UP, LEFT, CTRL_C, CTRL_D, ENTER = "\x1b[A", "\x1b[D", "\x03", "\x04", "\r"
PASTE, PASTED = "\x1b[200~", "\x1b[201~"
ESCAPES = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]")
# Runs a file with standard input as the terminal that Ctrl-C comes from.
TAKING_TERMINAL = """
import fcntl, runpy, signal, sys, termios
signal.signal(signal.SIGINT, signal.default_int_handler)  # which a job in the background ignores
fcntl.ioctl(0, termios.TIOCSCTTY, 0)
del sys.argv[0]
runpy.run_path(sys.argv[0], run_name="__main__")
"""
HUNG = 120  # seconds without a word, after which something must have gone wrong


class Terminal:
    """A command on a pseudo-terminal of its own."""

    def __init__(self, state: Path, *argv: str):
        self.screen, self._seen = b"", 0
        self._ours, theirs = pty.openpty()
        env = os.environ | {"XDG_STATE_HOME": str(state), "TERM": "xterm", "INPUTRC": os.devnull}
        ends = dict.fromkeys(("stdin", "stdout", "stderr"), theirs)
        command = [sys.executable, "-c", TAKING_TERMINAL, PARROT, "chat", *argv]
        self._process = subprocess.Popen(command, env=env, start_new_session=True, **ends)
        os.close(theirs)

    def type(self, keys: str) -> None:
        """Presses these keys; Ctrl-C when the command waits, for Python loses it between a prompt and its waiting."""
        state = Path(f"/proc/{self._process.pid}/stat")
        while keys == CTRL_C and state.exists() and state.read_text().rpartition(") ")[2][0] == "R":
            time.sleep(0.001)
        os.write(self._ours, keys.encode())

    def wait_for(self, text: str) -> None:
        """Reads on until this text stands on the screen, after what was waited for before."""
        while (found := self._text().find(text, self._seen)) < 0:
            ready, _, _ = select.select([self._ours], [], [], HUNG)
            assert ready, f"{text!r} never came: {self._text()[self._seen :]!r}"
            self.screen += self._read()
        self._seen = found + len(text)

    def say(self, keys: str, text: str) -> None:
        """Types a line, and waits for this and the next prompt."""
        self.type(keys + ENTER)
        self.wait_for(text)
        self.wait_for("you: ")

    def end(self) -> int:
        """The exit code, when the command has ended."""
        return self._process.wait(HUNG)

    def close(self) -> None:
        """Ends the command, if it goes on."""
        self._process.kill()
        self._process.wait()
        os.close(self._ours)

    def _read(self) -> bytes:
        try:
            return os.read(self._ours, 65536)
        except OSError:  # so Linux says that nobody is at the other end
            raise AssertionError(f"the command has ended: {self._text()[self._seen :]!r}") from None

    def _text(self) -> str:
        return ESCAPES.sub("", self.screen.decode("utf-8", "replace"))


@pytest.fixture
def open_terminal(tmp_path):
    terminals = []

    def open_one(*argv):
        terminals.append(Terminal(tmp_path / "state", *argv))
        return terminals[-1]

    yield open_one
    for terminal in terminals:
        terminal.close()


def test_a_conversation(open_terminal, tmp_path):
    file = tmp_path / "talk.json"
    terminal = open_terminal()
    terminal.wait_for("1,234 parameters, a context of 200 tokens. /help lists the commands")
    terminal.wait_for("you: ")
    terminal.say("hello", "model: 1 hello\r\n")
    terminal.say(UP, "model: 3 hello\r\n")
    terminal.say("wrld" + LEFT * 3 + "o", "model: 5 world\r\n")
    terminal.type("forever" + ENTER)
    terminal.wait_for("model: on on ")
    terminal.type(CTRL_C)
    terminal.wait_for("stopped; what was said so far stays")
    terminal.wait_for("you: ")
    terminal.say("next", "model: 9 next\r\n")
    terminal.say("/sav it", "there is no command /sav; did you mean /save?")
    terminal.say(f"/save {file}", f"10 messages written to {file}")
    messages = json.loads(file.read_text())["messages"]
    assert [m["content"] for m in messages[:6]] == ["hello", "1 hello", "hello", "3 hello", "world", "5 world"]
    assert messages[6] == {"role": "user", "content": "forever"} and set(messages[7]["content"].split()) == {"on"}
    terminal.type(f"/save {file}{ENTER}")
    terminal.wait_for("is there already; write over it? [y/N] ")
    terminal.say("n", "and nothing is written")
    terminal.type(f'"""of two{ENTER}')
    terminal.wait_for("...: ")
    terminal.say('lines"""', "model: 11 of two\r\nlines\r\n")
    terminal.say(f"{PASTE}pasted\rtext{PASTED}", "model: 13 pasted\r\ntext\r\n")
    assert b"\x1b[?2004h" in terminal.screen  # a terminal marks what is pasted where it is asked to


def test_ctrl_c_empties_the_line_and_twice_on_an_empty_one_ends(open_terminal):
    terminal = open_terminal()
    terminal.wait_for("you: ")
    for _ in range(2):
        terminal.type("half a line")
        terminal.wait_for("half a line")
        terminal.type(CTRL_C)
        terminal.wait_for("you: ")
        assert terminal.screen.count(b"Ctrl-C once more ends the chat") == 0
    terminal.type(CTRL_C)
    terminal.wait_for("Ctrl-C once more ends the chat")
    terminal.wait_for("you: ")
    terminal.type("half a line")
    terminal.wait_for("half a line")
    terminal.type(CTRL_C)
    terminal.wait_for("you: ")
    terminal.say("whole", "model: 1 whole\r\n")
    terminal.type(CTRL_C)
    terminal.wait_for("Ctrl-C once more ends the chat")
    terminal.wait_for("you: ")
    terminal.type(CTRL_C)
    assert terminal.end() == 0


def test_the_next_session_has_the_history_of_the_last(open_terminal, tmp_path):
    file = tmp_path / "talk.json"
    first = open_terminal()
    first.wait_for("you: ")
    first.say("one", "model: 1 one\r\n")
    first.say(f"/save {file}", "2 messages written")
    first.type(CTRL_D)
    assert first.end() == 0
    history = tmp_path / "state/vishwamai/chat_history"
    assert history.read_text().splitlines()[-2:] == ["one", f"/save {file}"]
    assert history.stat().st_mode & 0o77 == 0
    second = open_terminal("--no-history")
    second.wait_for("you: ")
    second.say(UP + "two", "model: 1 two\r\n")
    second.type("/exit" + ENTER)
    assert second.end() == 0
    third = open_terminal()
    third.wait_for("you: ")
    third.say(UP + UP, "model: 1 one\r\n")
    third.say(f"/load {file}", "2 messages read")
    third.say("three", "model: 3 three\r\n")
    third.type(CTRL_D)
    assert third.end() == 0
