"""What of a chat a template leaves out, so that it can be refused: a system line, an earlier turn, a tool's call.

The template is asked by rendering it once more, with a character put round each text that nothing else has in it. A
template may drop a part of a message (old thoughts, white space, the words beside a call of a tool) and must show
something of each. It knows no tokenizer.
"""

from collections.abc import Callable, Sequence
from typing import Any

from vishwamai.errors import InputError, VishwamAIError
from vishwamai.text.messages import unused_characters

Messages = list[dict[str, Any]]


def check_shown(messages: Messages, render: Callable[[Messages], str]) -> None:
    """Raises `InputError` for the first message that `render` does not show; if that refuses the probe, none is."""
    signs = unused_characters(messages)
    probes = [_probe(message, signs) for message in messages]
    try:
        text = render([probe for probe, _, _ in probes])
    except VishwamAIError:
        return
    for index, (message, texts, calls) in enumerate(probes):
        where = f"messages[{index}], whose role is {message['role']!r}"
        if not _are_in(calls, text):
            raise InputError(
                f"the chat template does not show the tool calls of {where}; give a chat_template that does"
            )
        if not calls and not _are_in(texts, text):
            raise InputError(
                f"the chat template does not show {where}: leave it out, put its text into another message, or give a "
                "chat_template that shows it"
            )


def _probe(message: dict[str, Any], signs: Any) -> tuple[dict[str, Any], list[str], list[str]]:
    """(the message with signs round its texts, the signs of its content, those of the functions it calls)."""
    texts: list[str] = []
    calls: list[str] = []

    def signed(text: Any, found: list[str]) -> Any:
        if not isinstance(text, str) or not text.strip():
            return text
        found.append(next(signs))
        return f"{found[-1]}{text}{found[-1]}"

    content = message.get("content")
    if isinstance(content, list):
        content = [{**part, "text": signed(part["text"], texts)} if "text" in part else part for part in content]
    changes = {"content": signed(content, texts)} if content is not None else {}
    if isinstance(asked := message.get("tool_calls"), list):
        changes["tool_calls"] = [_signed_call(call, lambda name: signed(name, calls)) for call in asked]
    return {**message, **changes}, texts, calls


def _signed_call(call: Any, signed: Callable[[Any], Any]) -> Any:
    if not isinstance(call, dict):
        return call
    if isinstance(call.get("function"), dict):
        return {**call, "function": _signed_call(call["function"], signed)}
    return {**call, "name": signed(call["name"])} if "name" in call else call


def _are_in(signs: Sequence[str], text: str) -> bool:
    return all(sign in text for sign in signs)
