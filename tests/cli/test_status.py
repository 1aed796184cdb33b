"""The line that says what takes long: on a terminal (a real one, of two ends) after two seconds, elsewhere never."""

import contextlib
import dataclasses
import os
import re
import sys
import termios
import threading

import pytest

from vishwamai import VishwamAI
from vishwamai.cli import main, status
from vishwamai.cli.status import Status

ESCAPE = re.compile(rb"\x1b\[[?\d;]*[A-Za-z]")


class Terminal:
    """A terminal of 24 lines of 80 columns: `file` writes to it, `written` is what came, `screen` what it shows."""

    def __init__(self):
        self._screen, terminal = os.openpty()
        termios.tcsetwinsize(self._screen, (24, 80))
        self.file = open(terminal, "w", encoding="utf-8", buffering=1)
        self._bytes = bytearray()
        self._reader = threading.Thread(target=self._read)
        self._reader.start()

    def _read(self) -> None:
        with contextlib.suppress(OSError):  # the other end is closed
            while part := os.read(self._screen, 4096):
                self._bytes += part

    def written(self) -> bytes:
        """All that was written, once it is closed."""
        self.file.close()
        self._reader.join()
        os.close(self._screen)
        return bytes(self._bytes)


def screen(written: bytes) -> list[str]:
    """The lines that stand there in the end. Knows of control codes what a drawn line needs, and refuses others."""
    lines, row, column = [""], 0, 0
    for part in re.findall(rb"\x1b\[[?\d;]*[A-Za-z]|[\r\n]|[^\x1b\r\n]+", written):
        if part == b"\r":
            column = 0
        elif part == b"\n":
            row += 1
            lines += [""] * (row == len(lines))
        elif part == b"\x1b[2K":
            lines[row] = ""
        elif part == b"\x1b[1A":
            row -= 1
        elif not part.startswith(b"\x1b"):
            text = part.decode()
            lines[row] = lines[row][:column].ljust(column) + text + lines[row][column + len(text) :]
            column += len(text)
        else:
            assert re.fullmatch(rb"\x1b\[([\d;]*m|\?25[lh])", part), part
    assert written.count(b"\x1b[?25l") == written.count(b"\x1b[?25h")  # the cursor is seen again
    return [line.rstrip() for line in lines]


@pytest.fixture
def attach(monkeypatch):
    """`attach("stderr")`: a `Terminal` that this stream leads to. (A stream set by a fixture is set back by pytest.)"""
    made = []

    def attached(*streams: str) -> Terminal:
        made.append(Terminal())
        monkeypatch.setenv("TERM", "xterm")
        for stream in streams:
            monkeypatch.setattr(sys, stream, made[-1].file)
        return made[-1]

    yield attached
    for terminal in made:
        if not terminal.file.closed:
            terminal.written()


@pytest.fixture
def timers(monkeypatch):
    """The timers that were started; none of them fires by itself."""
    started = []

    class Timer:
        def __init__(self, seconds, run, arguments):
            self.seconds, self.fire, self.is_cancelled = seconds, lambda: run(*arguments), False

        def start(self):
            started.append(self)

        def cancel(self):
            self.is_cancelled = True

    monkeypatch.setattr(status.threading, "Timer", Timer)
    return started


def drawn(written: bytes) -> str:
    return ESCAPE.sub(b"", written).decode()


def test_a_stage_is_drawn_after_two_seconds_and_leaves_nothing(attach, timers):
    terminal = attach("stderr")
    now = [100.0]
    shown = Status(clock=lambda: now[0])
    with shown("compiling decode"):
        [timer] = timers
        now[0] = 112.4
        timer.fire()
    written = terminal.written()
    assert timer.seconds == 2
    assert re.search(r"[-\\|/] compiling decode, 12 s", drawn(written))
    assert screen(written) == ["", ""]


def test_a_quick_stage_is_not_drawn(attach, timers):
    terminal = attach("stderr")
    shown = Status()
    with shown("one"):
        pass
    with shown("two"):
        timers[0].fire()  # too late to be cancelled, and not for this stage
    assert [timer.is_cancelled for timer in timers] == [True, True]
    assert terminal.written() == b""


def test_the_innermost_stage_is_shown_with_its_bytes(attach, timers):
    terminal = attach("stderr")
    shown = Status(clock=lambda: 0.0)
    with shown("outer"), shown("loading the weights") as report:
        report(1_200_000_000, 3_400_000_000)
        [timer] = timers
        timer.fire()
    written = terminal.written()
    assert "loading the weights, 1.2 GB of 3.4 GB, 0 s" in drawn(written) and "outer" not in drawn(written)


def test_a_stage_that_fails_leaves_nothing(attach, timers):
    terminal = attach("stderr")
    with pytest.raises(KeyboardInterrupt), Status()("loading"):
        timers[0].fire()
        raise KeyboardInterrupt
    assert screen(terminal.written()) == ["", ""]


def test_nothing_is_drawn_in_a_pipe(capfd, timers, monkeypatch):
    monkeypatch.setenv("FORCE_COLOR", "1")  # by which Rich takes a pipe for a terminal
    monkeypatch.setattr(status, "AFTER", 0)
    with Status()("loading"):
        pass
    assert capfd.readouterr() == ("", "") and timers == []


def test_nothing_is_drawn_without_standard_error(monkeypatch):
    monkeypatch.setattr(status, "AFTER", 0)
    monkeypatch.setattr(sys, "stderr", None)
    with Status()("loading"):
        pass


def test_generating_shows_its_stages_and_leaves_the_text_alone(attach, monkeypatch, folder):
    """Standard output leads to the same terminal: what stands there in the end is the text."""
    want = VishwamAI.from_pretrained(folder).complete("hi", max_new_tokens=8)[0]
    monkeypatch.setattr(status, "AFTER", 0)
    terminal = attach("stderr", "stdout")
    assert main(["generate", "hi", "-m", str(folder), "-n", "8"]) == 0
    written = terminal.written()
    stages = ["starting", "loading the weights", "reading the prompt", "compiling prefill", "compiling decode"]
    places = [drawn(written).index(stage) for stage in stages]
    assert places == sorted(places)
    text = want.replace("\n", "\r\n").encode() + b"\r\n"
    assert written.endswith(text)
    assert screen(written.removesuffix(text))[-1] == ""


REASON = ["reason", "Is it so?", "--task", "text", "--method", "direct", "--max-tokens", "1", "-m"]


@pytest.mark.parametrize(
    ("words", "stages"),
    [
        (["convert", "MODEL", "COPY"], ["starting", "converting, ", "comparing logits"]),
        (["quantize", "MODEL", "COPY", "--certificate", "hashes"], ["starting", "converting, ", "hashing"]),
        ([*REASON, "MODEL"], ["starting", "loading the weights", "thinking about 'Is it so?'"]),
    ],
)
def test_every_verb_shows_what_it_does_on_a_terminal_and_nothing_in_a_pipe(
    words, stages, attach, capfd, monkeypatch, folder, tmp_path
):
    monkeypatch.setattr(status, "AFTER", 0)
    model = VishwamAI.from_pretrained(folder)
    longer = VishwamAI(dataclasses.replace(model.config, max_length=128), model.weights, tokenizer=model.tokenizer)
    longer.save_pretrained(tmp_path / "model")
    here = {"MODEL": str(tmp_path / "model"), "COPY": str(tmp_path / "copy")}
    assert main([here.get(word, word) for word in words]) in (0, 1)
    out, err = capfd.readouterr()
    assert err == "" and "\x1b" not in out
    here["COPY"] += "-again"
    terminal = attach("stderr")
    assert main([here.get(word, word) for word in words]) in (0, 1)
    written = terminal.written()
    places = [drawn(written).index(stage) for stage in stages]
    assert places == sorted(places)
    assert screen(written)[-1] == ""


def test_generating_into_a_pipe_shows_nothing(capfd, monkeypatch, folder):
    monkeypatch.setattr(status, "AFTER", 0)
    assert main(["generate", "hi", "-m", str(folder), "-n", "8"]) == 0
    assert capfd.readouterr().err == ""
