"""The messages of a chat, checked, as chat templates read them: plain dictionaries, lists, texts and numbers.

As in transformers, keys whose value is None are left out, and `reasoning_content`, `thinking` and `reasoning` are names
of one thing. It knows no template and no tokenizer.
"""

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from vishwamai.errors import InputError
from vishwamai.text.backend import check_text

ROLES = ("system", "developer", "user", "assistant", "tool", "function", "ipython")
REASONING = ("reasoning_content", "thinking", "reasoning")
FIELDS = ("role", "content", "name", "tool_calls", "tool_call_id", *REASONING)
MEDIA = ("image", "audio", "video", "file")
MAX_DEPTH = 32


@dataclass(frozen=True)
class ChatMessage:
    """One message: `role` is one of `ROLES`; `content` is a text, or a list of parts like {"type": "text", "text": …}.

    `extra` holds what else a template may read: name, tool_calls, tool_call_id, reasoning_content and the like.
    """

    role: str
    content: str | Sequence[Mapping[str, Any]] | None = None
    extra: Mapping[str, Any] | None = None

    def to_dict(self) -> dict[str, Any]:
        """The message as templates read it."""
        return {"role": self.role, "content": self.content, **(self.extra or {})}


Message = ChatMessage | Mapping[str, Any]


def check_messages(messages: Sequence[Message], other_roles: Collection[str] = ()) -> list[dict[str, Any]]:
    """The messages as new dictionaries. Raises `InputError` saying which one is wrong and how."""
    if isinstance(messages, str | Mapping) or not isinstance(messages, Sequence) or not messages:
        raise InputError('messages must be a list like [{"role": "user", "content": "Hello"}], and not an empty one')
    return [_check_message(message, f"messages[{index}]", other_roles) for index, message in enumerate(messages)]


def _check_message(message: Message, where: str, other_roles: Collection[str]) -> dict[str, Any]:
    values = message.to_dict() if isinstance(message, ChatMessage) else message
    if not isinstance(values, Mapping):
        raise InputError(f"{where} is {type(values).__name__}, not a message with role and content")
    role = values.get("role")
    if not isinstance(role, str) or role not in ROLES and not (role in other_roles and role.isidentifier()):
        raise InputError(f"{where} has the role {role!r:.40}; the roles are {', '.join(ROLES)}")
    content = values.get("content")
    if content is None and not values.get("tool_calls"):
        raise InputError(f"{where} has no content")
    if content is not None and not isinstance(content, str | list | tuple):
        raise InputError(f"{where}.content is {type(content).__name__}; it is a text or a list of parts")
    for index, part in enumerate(() if isinstance(content, str | None) else content):
        _check_part(part, f"{where}.content[{index}]")
    checked = {
        check_value(str(key), where): check_value(v, f"{where}.{key}") for key, v in values.items() if v is not None
    }
    reasoning = next((checked[name] for name in REASONING if name in checked), None)
    return checked if reasoning is None else {"thinking": reasoning, **checked, "reasoning_content": reasoning}


def _check_part(part: Any, where: str) -> None:
    if not isinstance(part, Mapping):
        raise InputError(f'{where} is {type(part).__name__}; a part is like {{"type": "text", "text": "Hello"}}')
    kind = part_type(part)
    if any(medium in kind for medium in MEDIA):
        raise InputError(f"{where} is of the type {kind!r}, and these models read text alone; leave it out")


def part_type(part: Mapping[str, Any]) -> str:
    """The type of a part of a content, or what stands for it where none is given."""
    return str(part.get("type") or next((key for key in part if key != "text"), "text"))


def check_value(value: Any, where: str, depth: int = 0) -> Any:
    """A new value of the same texts, numbers, lists and mappings. Raises `InputError` for anything else."""
    if depth > MAX_DEPTH:
        raise InputError(f"{where} is nested deeper than {MAX_DEPTH} levels")
    if isinstance(value, str):
        check_text(value, where)
        return str.__str__(value)
    if isinstance(value, Mapping):
        pairs = ((check_value(k, where, depth + 1), check_value(v, where, depth + 1)) for k, v in value.items())
        return dict(pairs)
    if isinstance(value, list | tuple):
        return [check_value(item, where, depth + 1) for item in value]
    if value is None or isinstance(value, bool | int | float):
        return value
    raise InputError(f"{where} holds {type(value).__name__}; a message is made of texts, numbers, lists and mappings")


def change_texts(value: Any, change: Callable[[str], str], *, keys: bool = True) -> Any:
    """The same value with each text in it changed, that of keys too unless `keys` is False."""
    if isinstance(value, str):
        return change(value)
    if isinstance(value, dict):
        names = {key: change_texts(key, change) if keys else key for key in value}
        return {names[key]: change_texts(item, change, keys=keys) for key, item in value.items()}
    return [change_texts(item, change, keys=keys) for item in value] if isinstance(value, list) else value


def unused_characters(value: Any) -> Iterator[str]:
    """Private characters that stand in no text of the value."""
    used: set[str] = set()
    change_texts(value, lambda text: used.update(text) or text)
    return (chr(code) for code in range(0x100000, 0x10FFFE) if chr(code) not in used)


def text_parts(message: Mapping[str, Any]) -> list[str]:
    """The texts in a message's content."""
    content = message.get("content")
    if isinstance(content, list):
        return [part["text"] for part in content if isinstance(part.get("text"), str)]
    return [content] if isinstance(content, str) else []
