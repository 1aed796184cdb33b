"""Which chat template a tokenizer's chats use, and ours for the tokenizers that come without one."""

from collections.abc import Callable

from vishwamai.errors import InputError
from vishwamai.text.settings import Settings

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


def choose_template(
    settings: Settings, has_token: Callable[[str], bool], chat_template: str | None = None, *, has_tools: bool = False
) -> str:
    """The Jinja source for a chat. `chat_template` is one, or the name of one of the tokenizer's own.

    None takes "tool_use" where the chat has tools and there is one, else "default", else ours. Raises `InputError`
    where there are several and none of these.
    """
    named = dict(settings.templates)
    if chat_template is not None:
        if chat_template not in named and "{" not in chat_template:
            raise InputError(f"there is no chat template {chat_template!r:.80}; there are {sorted(named)}")
        return named.get(chat_template, chat_template)
    if has_tools and "tool_use" in named:
        return named["tool_use"]
    if "default" in named:
        return named["default"]
    if named:
        raise InputError(f"this tokenizer has no default chat template; choose one of {sorted(named)}")
    has_roles = all(has_token(f"<|{role}|>") for role in ("system", "user", "assistant"))
    return ROLE_TEMPLATE if has_roles and settings.eos_token else PLAIN_TEMPLATE
