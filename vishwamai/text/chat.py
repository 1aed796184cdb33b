"""Messages to the prompt of a chat model: `render` gives its text, `encode_chat` its ids.

What people typed never becomes a control token. Special tokens (`<|im_end|>`) come from the template alone; other added
tokens that the template itself uses (`<think>`, `<tool_call>`) come from it and from system and assistant messages,
which repeat the model's own words. Where no text gets in the way of that, the ids are those of the rendered text.
It knows no model and does not generate.
"""

import datetime
import itertools
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from typing import Any, Protocol

from tokenizers import Tokenizer

from vishwamai.errors import InputError, VishwamAIError, suggestion
from vishwamai.text.marks import AUTHOR, TEMPLATE, USER, Marks
from vishwamai.text.messages import (
    FIELDS,
    REASONING,
    Message,
    change_texts,
    check_messages,
    check_value,
    text_parts,
    unused_characters,
)
from vishwamai.text.plain import Span, encode_spans
from vishwamai.text.sandbox import Run, render_template, template_facts
from vishwamai.text.settings import NAMED, Settings
from vishwamai.text.shown import check_shown
from vishwamai.text.templates import choose_template

UNFOLLOWED = "the chat template does with the messages what cannot be followed: give another chat_template"
AUTHORS = ("system", "developer", "assistant")


class ChatTokenizer(Protocol):
    """What a chat needs of a tokenizer."""

    backend: Tokenizer
    settings: Settings
    control_ids: frozenset[int]


@dataclass(frozen=True, kw_only=True)
class ChatOptions:
    """What a chat is rendered with beside its messages, by the names of transformers.

    `chat_template` is Jinja source, or the name of one of the tokenizer's templates; None takes "tool_use" where tools
    are given and there is one, else the default one, or ours where the tokenizer has none. The prompt asks for a new
    message, unless `add_generation_prompt` is False; with `continue_final_message` (True, or the name of a field of the
    message) it ends where the last message does. `variables` are more names for the template, `now` is its clock.
    """

    tools: Sequence[Mapping[str, Any]] | None = None
    documents: Sequence[Mapping[str, Any]] | None = None
    chat_template: str | None = None
    add_generation_prompt: bool | None = None
    continue_final_message: bool | str = False
    variables: Mapping[str, Any] | None = None
    now: datetime.datetime | None = None

    def __post_init__(self):
        if not isinstance(self.add_generation_prompt, bool | None):
            raise InputError(f"add_generation_prompt is {self.add_generation_prompt!r:.40}; it is True or False")
        if not isinstance(self.continue_final_message, bool | str | None):
            raise InputError(
                f"continue_final_message is {self.continue_final_message!r:.40}; it is True, False or a field's name"
            )
        if self.continue_final_message and self.add_generation_prompt:
            raise InputError(
                "continue_final_message goes on with the last message and add_generation_prompt begins a new one: "
                "leave one of them out"
            )
        for name in ("tools", "documents"):
            items = getattr(self, name)
            if items is not None and not (
                isinstance(items, list | tuple) and all(isinstance(i, Mapping) for i in items)
            ):
                raise InputError(f"{name} is {items!r:.80}; it is a list of mappings")
        for name in {"messages", *(known.name for known in fields(self))} & set(self.variables or ()):
            raise InputError(f"variables has {name!r}, which has an argument of its own")


def chat_options(given: Mapping[str, Any]) -> ChatOptions:
    """The options of a call. Raises `InputError` for one that there is not, with the name that was likely meant."""
    names = [known.name for known in fields(ChatOptions)]
    for name in given:
        if name not in names:
            raise InputError(f"a chat has no argument {name!r}; {suggestion(name, names)}")
    return ChatOptions(**given)


@dataclass(frozen=True)
class Chat:
    """A template and what it is rendered with: messages, what people gave beside them, and the template's own names.

    `continued` is the field of the last message with whose text the prompt ends, or "".
    """

    source: str
    messages: list[dict[str, Any]]
    given: Mapping[str, Any]
    own: Mapping[str, Any]
    continued: str
    now: datetime.datetime

    def render(
        self,
        spans: tuple[str, str] = ("", ""),
        run: Run = lambda operation: operation(),
        mark: Callable[[str, int, int], str] | None = None,
        mark_keys: bool = True,
    ) -> str:
        """The prompt's text, by a `Sandbox` with these spans and this run.

        `mark` changes each text that people wrote, given how far they are trusted and the number of their message (from
        1 on; 0 for what is no message), and keys within a message too if `mark_keys`; the text then goes on to its end.
        """
        change = mark or (lambda text, trust, number: text)

        def mark_value(value: Any, trust: int, number: int = 0) -> Any:
            return change_texts(value, lambda text: change(text, trust, number), keys=mark_keys)

        def mark_message(message: dict[str, Any], number: int) -> dict[str, Any]:
            trust = AUTHOR if message["role"] in AUTHORS else USER
            kept = FIELDS if mark_keys else message
            names = {name: name if name in kept else change(name, trust, number) for name in message}
            return {names[name]: v if name == "role" else mark_value(v, trust, number) for name, v in message.items()}

        # Variables count as typed by a person, as those that a server is sent would be.
        given = {name: mark_value(value, AUTHOR if name == "tools" else USER) for name, value in self.given.items()}
        messages, end = [*self.messages], ""
        if self.continued:
            end = next(unused_characters(messages))
            messages[-1], last = _append_end(messages[-1], self.continued, f"{end} ")
        values = {**self.own, **given, "messages": list(map(mark_message, messages, itertools.count(1)))}
        text = render_template(self.source, values, self.now, spans, run)
        if mark or not end:
            return text
        before, _, after = text.rpartition(end)
        if last.strip() not in before:
            raise InputError("the chat template does not show the whole of the last message, which is to be continued")
        return before if after.startswith(" ") else before.rstrip()

    def render_whole(self, messages: list[dict[str, Any]]) -> str:
        """The text of the same chat with these messages, and nothing to be continued."""
        return replace(self, messages=messages, continued="").render()


def _append_end(message: dict[str, Any], name: str, end: str) -> tuple[dict[str, Any], str]:
    """(the message with the text of that name longer by `end`, the text)."""
    value = message.get(name)
    if isinstance(value, str):
        same = REASONING if name in REASONING else (name,)
        return message | {other: value + end for other in same if message.get(other) == value}, value
    parts = value if isinstance(value, list) else []
    places = [i for i, part in enumerate(parts) if isinstance(part, dict) and isinstance(part.get("text"), str)]
    if not places:
        raise InputError(f"continue_final_message finds no text in the {name} of the last message")
    last = parts[places[-1]]
    return message | {name: [{**p, "text": p["text"] + end} if p is last else p for p in parts]}, last["text"]


def make_chat(source: str, messages: Sequence[Message], options: ChatOptions, own: Mapping[str, Any]) -> Chat:
    """A chat of checked messages and variables; `own` are the names that the tokenizer gives the template."""
    given = {**(options.variables or {}), "tools": options.tools, "documents": options.documents}
    begins, continued = options.add_generation_prompt, options.continue_final_message
    return Chat(
        source,
        check_messages(messages, template_facts(source).texts),
        {name: check_value(value, name) for name, value in given.items()},
        {**own, "add_generation_prompt": not continued if begins is None else begins},
        "content" if continued is True else continued or "",
        options.now or datetime.datetime.now(),  # one time for all its renders
    )


def render(messages: Sequence[Message], template: str, **given: Any) -> str:
    """The text that a template makes of messages, whatever it leaves out. `given` are fields of `ChatOptions`.

    Raises `InputError` for messages that are malformed or that the template refuses, `TokenizerError` for a template
    that is broken, forbidden or too dear.
    """
    return make_chat(template, messages, chat_options({"add_generation_prompt": False, **given}), {}).render()


def encode_chat(tokenizer: ChatTokenizer, messages: Sequence[Message], **given: Any) -> list[int]:
    """The prompt's ids: the rendered template's, where no text that a person typed is read as a control token.

    `given` are fields of `ChatOptions`. Errors as for `render`, and `InputError` for what the template does not show.
    """
    return encode(tokenizer, chat_of(tokenizer, messages, **given))[0]


def split_chat(
    tokenizer: ChatTokenizer, given: Mapping[str, Any], others: Collection[str]
) -> tuple[dict[str, Any], dict[str, Any], Collection[str]]:
    """(what of these arguments is for `encode_chat`, the rest, all that could be for it).

    That is the fields of `ChatOptions`, and the variables of the template which are not among `others`.
    """
    names = {known.name for known in fields(ChatOptions)}
    chat = {name: value for name, value in given.items() if name in names}
    reads = template_facts(_source(tokenizer, ChatOptions(**chat))).variables - {*names, *others, "messages"}
    variables = {name: value for name, value in given.items() if name in reads}
    rest = {name: value for name, value in given.items() if name not in {*chat, *variables}}
    return {**chat, "variables": {**(chat.get("variables") or {}), **variables}}, rest, {*names, *reads}


def chat_of(tokenizer: ChatTokenizer, messages: Sequence[Message], **given: Any) -> Chat:
    """A chat that the template can show; `given` are fields of `ChatOptions`. Raises `InputError` where it cannot."""
    options, settings = chat_options(given), tokenizer.settings
    source = _source(tokenizer, options)
    own = {name: getattr(settings, name) for name in NAMED if getattr(settings, name)} | dict(settings.model_tokens)
    _check_read(options, {*template_facts(source).variables, *own})
    chat = _flatten_parts(make_chat(source, messages, options, own))
    check_shown(chat.messages, chat.render_whole)
    return chat


def _source(tokenizer: ChatTokenizer, options: ChatOptions) -> str:
    def has_token(token: str) -> bool:
        return tokenizer.backend.token_to_id(token) is not None

    return choose_template(tokenizer.settings, has_token, options.chat_template, has_tools=options.tools is not None)


def _check_read(options: ChatOptions, variables: Collection[str]) -> None:
    """Raises `InputError` for what a template that reads these variables would leave out."""
    for name in ("tools", "documents"):
        if getattr(options, name) and name not in variables:
            raise InputError(
                f"the chat template does not read {name}: leave them out, or give a chat_template that does"
            )
    for name in options.variables or ():
        if name not in variables:
            raise InputError(f"the chat template reads no variable {name!r}; {suggestion(name, variables)}")


def _flatten_parts(chat: Chat) -> Chat:
    """The same chat, with one text in place of a list of parts if the template shows none, or the list as it stands."""
    lists = [message["content"] for message in chat.messages if isinstance(message.get("content"), list)]
    if not lists or any(set(part) != {"type", "text"} for parts in lists for part in parts):
        return chat
    try:
        chat.render()
        check_shown(chat.messages, chat.render_whole)
        return chat
    except VishwamAIError:
        pass  # It may show the texts.
    joined = [m if "content" not in m else m | {"content": "\n".join(text_parts(m))} for m in chat.messages]
    return replace(chat, messages=joined)


def encode(tokenizer: ChatTokenizer, chat: Chat) -> tuple[list[int], list[Span], str]:
    """(ids, the characters of each, the text) of a chat's prompt."""
    backend, texts = tokenizer.backend, template_facts(chat.source).texts
    needed = needed_trust(tokenizer, texts)
    marks = Marks({str(backend.id_to_token(i)): need for i, need in needed.items()}, texts)
    text = chat.render(run=marks.run_first)
    marked = chat.render(run=marks.run_again, mark=lambda words, trust, _: marks.mark(words, trust))
    if not marks.plain(marked).startswith(text):
        raise InputError(UNFOLLOWED)
    return *encode_spans(backend, text, needed, marks.trust(marked)), text


def needed_trust(tokenizer: ChatTokenizer, texts: Collection[str]) -> dict[int, int]:
    """The trust that a text needs to become each control token: the special ones, and those in a template's texts."""
    output, added = "\0".join(texts), tokenizer.backend.get_added_tokens_decoder().items()
    words = ((index, token.content.strip()) for index, token in added)
    used = (index for index, word in words if word in output and not word.replace("_", "").isalnum() and word)
    return {**dict.fromkeys(used, AUTHOR), **dict.fromkeys(tokenizer.control_ids, TEMPLATE)}
