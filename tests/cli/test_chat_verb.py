"""`vishwamai chat`: what is asked of the model, turn by turn, and what is printed."""

import io

import pytest

from vishwamai import VishwamAI
from vishwamai.cli import main
from vishwamai.outputs import Chunk

from .conftest import refused, type_in


def test_a_chat_remembers_until_it_is_reset(capsys, monkeypatch, folder):
    asked = []

    def stream(self, messages, **options):
        asked.append([message["content"] for message in messages])
        yield Chunk("fine [b]", [1], [0.0], "stop")

    monkeypatch.setattr(VishwamAI, "stream", stream)
    type_in(monkeypatch, b"one\ntwo\n/reset\n\nthree\n/exit\nfour\n")
    assert main(["chat", "-m", str(folder), "--system", "be kind"]) == 0
    first = ["be kind", "one"]
    assert asked == [first, [*first, "fine [b]", "two"], ["be kind", "three"]]
    assert capsys.readouterr().out.count("fine [b]") == 3


@pytest.fixture
def replies(monkeypatch):
    """`replies(text)`: a model that says this, always; the list of what it is asked comes back."""

    def reply(text):
        asked = []

        def stream(self, messages, **options):
            asked.append([message["content"] for message in messages])
            return iter([Chunk(text, [1], [0.0], "stop")])

        monkeypatch.setattr(VishwamAI, "stream", stream)
        return asked

    return reply


def test_what_the_model_says_is_printed_as_it_is(capsys, monkeypatch, folder, replies):
    said = ":smile: [red]\t" + "a word " * 40 + "\x1b[1m"
    replies(said)
    type_in(monkeypatch, b"one\n")
    assert main(["chat", "-m", str(folder)]) == 0
    assert f"model: {said}\n" in capsys.readouterr().out


def test_a_message_too_long_is_left_out_and_the_chat_goes_on(capsys, monkeypatch, folder):
    asked, real = [], VishwamAI.stream

    def stream(self, messages, **options):
        asked.append([message["content"] for message in messages])
        real(self, messages, **options)
        return iter([Chunk("yes", [1], [0.0], "stop")])

    monkeypatch.setattr(VishwamAI, "stream", stream)
    type_in(monkeypatch, b"one\n" + b"x" * 70 + b"\ntwo\n")
    assert main(["chat", "-m", str(folder)]) == 0
    assert asked == [["one"], ["one", "yes", "x" * 70], ["one", "yes", "two"]]
    out, err = capsys.readouterr()
    assert "the model's context is 64; this message is left out" in err and err.count("\n") == 1
    assert out.count("model: yes\n") == 2


@pytest.mark.parametrize("option", [["--top-p", "1.5"], ["-n", "0"], ["--stop", ""]])
def test_a_wrong_option_is_refused_before_the_first_message(capsys, monkeypatch, folder, option):
    type_in(monkeypatch, b"one\n")
    assert "must be" in refused(capsys, "chat", "-m", str(folder), *option)


def test_typed_bytes_that_are_no_text(capsys, monkeypatch, folder, replies):
    replies("yes")
    type_in(monkeypatch, b"\xffone\n")
    assert main(["chat", "-m", str(folder)]) == 2
    assert "standard input is not UTF-8 (byte 0 is 0xff)" in capsys.readouterr().err


def test_typed_bytes_that_are_no_text_in_the_c_locale(capsys, monkeypatch, folder, replies):
    replies("yes")
    monkeypatch.setattr(
        "sys.stdin", io.TextIOWrapper(io.BytesIO(b"ab\xff"), encoding="utf-8", errors="surrogateescape")
    )
    assert main(["chat", "-m", str(folder)]) == 2
    assert "standard input is not UTF-8 (byte 2 is 0xff)" in capsys.readouterr().err


def test_a_chat_without_an_input(capsys, monkeypatch, folder):
    monkeypatch.setattr("sys.stdin", None)
    assert "standard input is closed" in refused(capsys, "chat", "-m", str(folder))
