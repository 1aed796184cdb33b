"""`vishwamai chat`: what is asked of the model, turn by turn, and what is printed."""

from vishwamai import VishwamAI
from vishwamai.api import Chunk
from vishwamai.cli import main

from .conftest import type_in


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
