"""`vishwamai chat` of lines that are piped in: what is asked of the model, turn by turn, and what is printed."""

import io
import json
import signal
import sys

import pytest

from vishwamai import VishwamAI
from vishwamai.cli import chat, main
from vishwamai.errors import InputError
from vishwamai.text.settings import Settings

from .conftest import refused, type_in
from .parrot import Parrot


@pytest.fixture
def talk(capsys, monkeypatch):
    """`talk(lines, *argv, model=…)`: (what the model was asked each time, standard output, standard error)."""

    def run(lines: str, *argv: str, model: Parrot | None = None):
        model = model or Parrot()
        monkeypatch.setattr(chat, "load_model", lambda args: model)
        type_in(monkeypatch, lines.encode())
        exit_code = main(["chat", *argv])
        asked = [[content for _, content in messages] for messages in model.asked]
        out, err = capsys.readouterr()
        assert exit_code == int("vishwamai: " in err)  # something was refused
        return asked, out, err

    return run


def test_a_chat_remembers_until_it_is_reset(talk):
    asked, out, err = talk("one\n two \n/reset\n\n  \nthree\n/exit\nfour\n", "--system", "be kind")
    first = ["be kind", "one"]
    assert asked == [first, [*first, "2 one", "two"], ["be kind", "three"]]
    assert out == "2 one\n4 two\n2 three\n"  # replies alone, each with a line end
    assert err == "the conversation begins anew\n"


def test_what_the_model_says_is_printed_as_it_is(talk):
    said = ":smile: [red]\t" + "a word " * 20 + "\x1b[1m"
    _, out, _ = talk(f"x{said}x\n")
    assert out == f"1 x{said}x\n"


def test_a_text_of_several_lines_stands_between_quotes(talk):
    asked, out, _ = talk('"""one\n  two\n"""\n"""three""" and no more\n"""four\nfive')
    assert [messages[-1] for messages in asked] == ["one\n  two", "three", "four\nfive"]
    assert out.startswith("1 one\n  two\n")


def test_a_message_too_long_is_left_out_and_the_chat_goes_on(talk):
    asked, out, err = talk("one\n" + "x" * 60 + "\ntwo\n", model=Parrot(context=64))
    assert asked == [["one"], ["one", "1 one", "two"]]
    assert "the conversation and this message have 75 tokens, and the model's context of 64 must hold" in err
    assert "the message is left out. /reset begins anew, and /save FILE keeps what was said" in err
    assert err.count("\n") == 1 and out == "1 one\n3 two\n"


def test_a_reply_that_is_cut_says_why(talk):
    _, out, err = talk("one\n", model=Parrot(reason="length", tokens=8))
    assert out == "1 one\n" and err == "cut after 8 tokens; -n 16 would allow more\n"
    _, _, err = talk("one\n", model=Parrot(reason="length", tokens=8, context=9))
    assert err.startswith("cut: the model's context of 9 tokens is full; /save FILE keeps what was said")


def strict(template: str) -> Parrot:
    """A model with this template."""
    model = Parrot()
    model.tokenizer = type(model.tokenizer)(model.tokenizer.backend, Settings(templates=(("default", template),)))
    return model


LAST_MESSAGE = "{{ messages[-1].content }}"
NO_SYSTEM = "{% if messages[0].role == 'system' %}{{ raise_exception('no system role') }}{% endif %}" + LAST_MESSAGE


@pytest.mark.parametrize(
    ("template", "says"), [(NO_SYSTEM, "no system role"), (LAST_MESSAGE, "does not show messages[0]")]
)
def test_a_system_line_that_the_template_does_not_show_ends_the_chat_before_it_begins(
    capsys, monkeypatch, template, says
):
    monkeypatch.setattr(chat, "load_model", lambda args: strict(template))
    type_in(monkeypatch, b"one\n")
    error = refused(capsys, "chat", "--system", "be kind")
    assert "--system: " in error and says in error


def test_a_template_of_the_last_message_alone_has_no_second_turn(talk):
    asked, _, err = talk("one\ntwo\n/reset\nthree\n", model=strict(LAST_MESSAGE))
    assert asked == [["one"], ["three"]]
    assert "does not show messages[0]" in err and "the message is left out. /reset begins anew" in err


def test_a_message_that_the_template_refuses_is_left_out(talk):
    template = "{% for m in messages %}{% if 'bad' in m.content %}{{ raise_exception('not that') }}{% endif %}"
    asked, _, err = talk("one\nbad\ntwo\n", model=strict(template + "{{ m.content }}{% endfor %}"))
    assert asked == [["one"], ["one", "1 one", "two"]]
    assert "not that; the message is left out" in err and err.count("\n") == 1


# Commands


@pytest.mark.parametrize(
    ("line", "says"),
    [
        ("/rest", "there is no command /rest; did you mean /reset?"),
        ("/zzz x", "there is no command /zzz; there are /help, /reset, /save FILE, /load FILE, /exit. A message that"),
        ("/etc/passwd is what?", "A message that begins with / needs a space before it"),
        ("/save", "/save needs a file: /save FILE"),
        ("/load ", "/load needs a file: /load FILE"),
        ("/reset now", "/reset takes nothing after it"),
        ("/exit now", "/exit takes nothing after it"),
        ("/save {tmp}/x.json", "nothing was said yet"),
        ("/load {tmp}/x.json", "x.json: cannot be read"),
    ],
)
def test_a_command_that_is_wrong_is_not_sent(talk, tmp_path, line, says):
    asked, out, err = talk(line.format(tmp=tmp_path) + "\n")
    assert asked == [] and out == "" and says in err and err.count("\n") == 1 and list(tmp_path.iterdir()) == []


def test_a_message_may_begin_with_a_slash(talk):
    asked, _, _ = talk(' /etc/passwd is what?\n"""/a\nb"""\n')
    assert [messages[-1] for messages in asked] == ["/etc/passwd is what?", "/a\nb"]


def test_help_names_every_command(talk):
    _, out, err = talk("/help\n")
    assert out == "" and all(usage in err and about in err for usage, about in chat.COMMANDS.items())
    assert '"""' in err


def test_saved_and_loaded(talk, tmp_path):
    file = tmp_path / "talk é.json"
    _, _, err = talk(f"hé\n/save {file}\n", "--system", "be kind")
    assert err == f"3 messages written to {file}\n" and list(tmp_path.iterdir()) == [file]
    raw = file.read_bytes()
    roles = ["system", "user", "assistant"]
    assert [m["role"] for m in json.loads(raw)["messages"]] == roles and raw.count(b"\n") == 1 and "hé".encode() in raw
    asked, _, err = talk(f"lost\n/load {file}\nmore\n/save {file}\n/reset\nnew\n")
    assert asked[1:] == [["be kind", "hé", "2 hé", "more"], ["new"]]
    assert f"3 messages read from {file}" in err and f"{file} is there already, and nothing is written" in err
    assert file.read_bytes() == raw


@pytest.mark.parametrize(
    ("content", "says"),
    [
        ("[]", "holds a list where an object"),
        ('{"messages": []}', "not an empty one"),
        ('{"messages": [{"role": "user"}]}', "messages[0] has no content"),
        ('{"messages": [{"role": "user", "content": "x"}], "tools": []}', "has messages, tools; a conversation is"),
        ('{"messages": [{"role": "user", "content": "a", "content": "b"}]}', "content"),
        ('{"messages": [', "is not JSON"),
        ('{"messages": []}\n{"messages": []}\n', "has more than one conversation, and /load reads a file with one"),
    ],
)
def test_a_file_that_is_no_conversation_changes_nothing(talk, tmp_path, content, says):
    file = tmp_path / "talk.json"
    file.write_text(content)
    asked, _, err = talk(f"one\n/load {file}\ntwo\n")
    assert asked[1] == ["one", "1 one", "two"]
    assert str(file) in err and says in err and err.count("\n") == 1


def test_a_file_that_cannot_be_written(talk, tmp_path):
    _, _, err = talk(f"one\n/save {tmp_path}/no/talk.json\n")
    assert "no/talk.json: cannot be written (No such file or directory); give another name" in err


# The model itself, and what ends the program


def test_only_new_tokens_are_read(capsys, monkeypatch, folder):
    last, stream = [], VishwamAI.stream

    def spy(self, messages, **options):
        for chunk in stream(self, messages, **options):
            yield chunk
        last.append(chunk.stats)

    monkeypatch.setattr(VishwamAI, "stream", spy)
    type_in(monkeypatch, b"one\ntwo\n/reset\none\n")
    assert main(["chat", "-m", str(folder), "-n", "2"]) == 0
    first, second, third = last
    assert first.cached_tokens == 0 and second.cached_tokens >= first.prompt_tokens
    assert third.cached_tokens == first.prompt_tokens - 1  # all but the token whose logits are needed


@pytest.mark.parametrize("option", [["--top-p", "1.5"], ["-n", "0"], ["--stop", ""]])
def test_a_wrong_option_is_refused_before_the_first_message(capsys, monkeypatch, option):
    type_in(monkeypatch, b"one\n")
    assert "must be" in refused(capsys, "chat", *option)


@pytest.mark.parametrize("errors", ["strict", "surrogateescape"])  # the second is what the C locale has Python do
def test_typed_bytes_that_are_no_text(capsys, monkeypatch, errors):
    monkeypatch.setattr(chat, "load_model", lambda args: Parrot())
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(b"ab\xff"), encoding="utf-8", errors=errors))
    assert main(["chat"]) == 2
    assert "standard input is not UTF-8 (byte 2 is 0xff)" in capsys.readouterr().err


def test_a_chat_without_an_input(capsys, monkeypatch):
    monkeypatch.setattr("sys.stdin", None)
    assert "standard input is closed" in refused(capsys, "chat")


def test_ctrl_c_is_noted_once_and_leaves_at_once_the_second_time():
    before = signal.getsignal(signal.SIGINT)
    steps = []
    with chat._catch_interrupts(True) as is_interrupted:
        steps.append(is_interrupted())
        signal.raise_signal(signal.SIGINT)
        steps.append(is_interrupted())
        signal.raise_signal(signal.SIGINT)
        steps.append("never")
    assert steps == [False, True] and signal.getsignal(signal.SIGINT) is before
    with pytest.raises(InputError), chat._catch_interrupts(True):
        raise InputError("other errors pass")
    assert signal.getsignal(signal.SIGINT) is before


def test_ctrl_c_ends_a_chat_that_is_piped_in():
    before = signal.signal(signal.SIGINT, signal.default_int_handler)  # which a job in the background ignores
    with pytest.raises(KeyboardInterrupt), chat._catch_interrupts(False):
        signal.raise_signal(signal.SIGINT)
    signal.signal(signal.SIGINT, before)
