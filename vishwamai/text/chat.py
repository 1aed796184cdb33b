"""Messages to the prompt of a chat model: `render` gives its text, `encode_chat` its ids.

What people typed never becomes a control token. Special tokens (`<|im_end|>`) come from the template alone; other added
tokens that the template itself uses (`<think>`, `<tool_call>`) come from it and from system and assistant messages,
which repeat the model's own words. Where no text gets in the way of that, the ids are those of the rendered text.
It knows no model and does not generate.
"""

import datetime
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from vishwamai.errors import InputError, TokenizerError
from vishwamai.text.marks import AUTHOR, TEMPLATE, USER, Marks
from vishwamai.text.plain import encode_plain
from vishwamai.text.sandbox import render_template
from vishwamai.text.settings import NAMED
from vishwamai.text.tokenizer import MAX_CHARACTERS, VishwamAITokenizer

ROLES = ("system", "developer", "user", "assistant", "tool", "function", "ipython")
AUTHORS = ("system", "developer", "assistant")
MAX_DEPTH = 32

# For tokenizers with role tokens of ours, and in plain words for the rest; both take text or a list of text parts.
_TEXT = """{%- macro text(content) -%}
{%- if content is string %}{{ content }}{% else %}{% for part in content or [] %}{{ part.text }}{% endfor %}{% endif -%}
{%- endmacro -%}
"""
ROLE_TEMPLATE = (
    _TEXT
    + """{%- for message in messages -%}
<|{{ {'developer': 'system', 'function': 'tool', 'ipython': 'tool'}.get(message.role, message.role) }}|>
{{- text(message.content) }}{{ eos_token }}
{%- endfor -%}
{%- if add_generation_prompt %}<|assistant|>{% endif -%}"""
)
PLAIN_TEMPLATE = (
    _TEXT
    + """{{- bos_token }}
{%- for message in messages %}{{ message.role | capitalize }}: {{ text(message.content) ~ '\\n\\n' }}{% endfor %}
{%- if add_generation_prompt %}Assistant:{% endif -%}"""
)


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


def render(
    messages: Sequence[Message],
    template: str,
    *,
    add_generation_prompt: bool = False,
    tools: Sequence[Mapping[str, Any]] | None = None,
    variables: Mapping[str, Any] | None = None,
    now: datetime.datetime | None = None,
) -> str:
    """The prompt's text. `variables` are more names for the template (bos_token, enable_thinking…), `now` its clock.

    Raises `InputError` for messages that are malformed or that the template refuses, `TokenizerError` for a template
    that is broken, forbidden or too dear.
    """
    marks = Marks()
    values = _values(messages, marks, tools, variables)
    return marks.plain(
        render_template(template, {"add_generation_prompt": add_generation_prompt, **values}, marks, now)
    )


def encode_chat(
    tokenizer: VishwamAITokenizer,
    messages: Sequence[Message],
    *,
    add_generation_prompt: bool = True,
    tools: Sequence[Mapping[str, Any]] | None = None,
    template: str | None = None,
    variables: Mapping[str, Any] | None = None,
    now: datetime.datetime | None = None,
) -> list[int]:
    """The prompt's ids: the rendered template's, where no text that a person typed is read as a control token.

    `template` is Jinja source, or the name of one of the tokenizer's templates; None takes its default, or ours where
    it has none. Errors as for `render`.
    """
    source = chat_template(tokenizer, template)
    marks = Marks()
    values = {**_special(tokenizer), "add_generation_prompt": add_generation_prompt}
    values |= _values(messages, marks, tools, variables)
    marked = render_template(source, values, marks, now)
    needed = trust_needed(tokenizer, source)
    return encode_plain(tokenizer.backend, marks.plain(marked), needed, marks.trust(marked))


def chat_template(tokenizer: VishwamAITokenizer, template: str | None = None) -> str:
    """The Jinja source that a chat with this tokenizer uses."""
    named = dict(tokenizer.settings.templates)
    if template is not None:
        return named.get(template, template)
    if "default" in named:
        return named["default"]
    if named:
        raise InputError(f"this tokenizer has several chat templates and no default; choose one of {sorted(named)}")
    has_roles = all(tokenizer.token_to_id(f"<|{role}|>") is not None for role in ("system", "user", "assistant"))
    return ROLE_TEMPLATE if has_roles and tokenizer.eos_token else PLAIN_TEMPLATE


def trust_needed(tokenizer: VishwamAITokenizer, template: str) -> dict[int, int]:
    """The trust that a text needs to become each control token: the special ones, and those that the template uses."""
    added = tokenizer.backend.get_added_tokens_decoder().items()
    used = (index for index, token in added if token.content.strip() and token.content.strip() in template)
    return {**dict.fromkeys(used, AUTHOR), **dict.fromkeys(tokenizer.control_ids, TEMPLATE)}


def _special(tokenizer: VishwamAITokenizer) -> dict[str, str]:
    """The tokenizer's tokens by the names that templates know them by."""
    return {name: getattr(tokenizer.settings, name) for name in NAMED if getattr(tokenizer.settings, name)}


def _values(
    messages: Sequence[Message],
    marks: Marks,
    tools: Sequence[Mapping[str, Any]] | None,
    variables: Mapping[str, Any] | None,
) -> dict[str, Any]:
    """What the template reads, each string marked. Variables count as typed by a person, as a server's would be."""
    values = {name: _marked(value, marks, USER, f"variables[{name!r}]") for name, value in (variables or {}).items()}
    listed = None if tools is None else [_marked(dict(tool), marks, AUTHOR, "tools") for tool in tools]
    return {**values, "messages": _checked(messages, marks), "tools": listed}


def _checked(messages: Sequence[Message], marks: Marks) -> list[dict[str, Any]]:
    """The messages as dictionaries of marked strings. Raises `InputError` saying which message is wrong and how."""
    if isinstance(messages, (str, Mapping)) or not isinstance(messages, Sequence) or not messages:
        raise InputError('messages must be a list like [{"role": "user", "content": "Hello"}], and not an empty one')
    checked = [_checked_message(message, marks, f"messages[{index}]") for index, message in enumerate(messages)]
    return checked


def _checked_message(message: Message, marks: Marks, where: str) -> dict[str, Any]:
    values = message.to_dict() if isinstance(message, ChatMessage) else message
    if not isinstance(values, Mapping):
        raise InputError(f"{where} is {type(values).__name__}, not a message with role and content")
    role = values.get("role")
    if role not in ROLES:
        raise InputError(f"{where} has the role {role!r:.40}; the roles are {', '.join(ROLES)}")
    content = values.get("content")
    if content is None and not values.get("tool_calls"):
        raise InputError(f"{where} has no content")
    if content is not None and not isinstance(content, (str, list, tuple)):
        raise InputError(f"{where}.content is {type(content).__name__}; it is a text or a list of parts")
    trust = AUTHOR if role in AUTHORS else USER
    rest = {str(key): _marked(value, marks, trust, f"{where}.{key}") for key, value in values.items() if key != "role"}
    return {"role": role, **rest}


def _marked(value: Any, marks: Marks, trust: int, where: str, depth: int = 0) -> Any:
    """The same value with each string in it marked, keys too."""
    if depth > MAX_DEPTH:
        raise InputError(f"{where} is nested deeper than {MAX_DEPTH} levels")
    if isinstance(value, str):
        return marks.mark(_sound(value, where), trust)
    if isinstance(value, Mapping):
        items = [(marks.mark(_sound(str(key), where), trust), item) for key, item in value.items()]
        return {key: _marked(item, marks, trust, where, depth + 1) for key, item in items}
    if isinstance(value, (list, tuple)):
        return [_marked(item, marks, trust, where, depth + 1) for item in value]
    if value is None or isinstance(value, (bool, int, float)):
        return value
    raise InputError(f"{where} holds {type(value).__name__}; a message is made of texts, numbers, lists and mappings")


def _sound(text: str, where: str) -> str:
    if len(text) > MAX_CHARACTERS:
        raise InputError(f"{where} has {len(text):,} characters, over {MAX_CHARACTERS:,}")
    try:
        text.encode("utf-8")
    except UnicodeEncodeError as error:
        raise TokenizerError(f"{where} has a lone surrogate at character {error.start}: it is not UTF-8") from None
    return text
