"""What of a chat a template leaves out, so that it can be refused: a system line, an earlier turn, a tool's call.

The template is asked by rendering it once more, with a character put round each text that nothing else has in it. A
template may drop some of a message (old thoughts, white space, the words beside a call of a tool) and must show
something of each, and of each part of a content. It knows no tokenizer.
"""

import re
from collections.abc import Callable
from typing import Any

from vishwamai.errors import InputError, VishwamAIError
from vishwamai.text.messages import part_type, unused_characters

# What a part has beside its words.
UNREAD = re.compile(r"type|(.*_)?id")
Messages = list[dict[str, Any]]


def check_shown(messages: Messages, render: Callable[[Messages], str]) -> None:
    """Raises `InputError` for the first message that `render` does not show; if that refuses the probe, none is."""
    signs = unused_characters(messages)
    probes = [_probe(message, signs) for message in messages]
    try:
        text = render([probe for probe, _, _ in probes])
    except VishwamAIError:
        return
    for index, (message, parts, calls) in enumerate(probes):
        where = f"messages[{index}], whose role is {message['role']!r}"
        if not all(sign in text for sign in calls):
            raise InputError(
                f"the chat template does not show the tool calls of {where}; give a chat_template that does"
            )
        for kind, sign in parts:
            if sign not in text and not (calls and kind.endswith("text")):
                part = "" if kind == "text" else f"the part of the type {kind!r} in "
                raise InputError(
                    f"the chat template does not show {part}{where}: leave it out, put its text into another message, "
                    "or give a chat_template that shows it"
                )


def _probe(message: dict[str, Any], signs: Any) -> tuple[dict[str, Any], list[tuple[str, str]], list[str]]:
    """(the message with signs round its texts, the type and the sign of each part, those of the functions it calls).

    A part is known by its text, or by all that it holds where it has none. An empty text is no part.
    """
    parts: list[tuple[str, str]] = []
    calls: list[str] = []

    def sign_texts(value: Any, sign: str) -> Any:
        if isinstance(value, dict):
            return {k: v if UNREAD.fullmatch(str(k)) else sign_texts(v, sign) for k, v in value.items()}
        if isinstance(value, list):
            return [sign_texts(item, sign) for item in value]
        if isinstance(value, bool | None) or not str(value).strip():
            return value
        return f"{sign}{value}{sign}"

    def sign_part(part: dict[str, Any]) -> dict[str, Any]:
        has_text = str(part.get("text") or "").strip()
        probe = part | sign_texts({"text": part["text"]} if has_text else part, sign := next(signs))
        if probe != part or part_type(part) != "text":
            parts.append((part_type(part), sign))
        return probe

    def sign_name(name: Any) -> Any:
        probe = sign_texts(name, sign := next(signs))
        if probe != name:
            calls.append(sign)
        return probe

    content = message.get("content")
    if isinstance(content, str):
        content = sign_part({"text": content})["text"]
    elif content is not None:
        content = [sign_part(part) for part in content]
    changes = {} if content is None else {"content": content}
    if isinstance(asked := message.get("tool_calls"), list):
        changes["tool_calls"] = [_signed_call(call, sign_name) for call in asked]
    return {**message, **changes}, parts, calls


def _signed_call(call: Any, sign: Callable[[Any], Any]) -> Any:
    if not isinstance(call, dict):
        return call
    if isinstance(call.get("function"), dict):
        return {**call, "function": _signed_call(call["function"], sign)}
    return {**call, "name": sign(call["name"])} if "name" in call else call
