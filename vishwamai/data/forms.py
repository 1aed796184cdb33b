"""From a record of a data file to the row that it is: text, prompt and completion, a conversation, or a pair.

The forms and the names of their columns are TRL's; a file with other names is mapped by its `RowFormat`. It reads no
file and knows no tokens: whoever reads the record knows its place, and says it beside what is told here.
"""

import dataclasses
import os
import re
from collections.abc import Mapping, Sequence
from typing import Any, Literal

from vishwamai.data.rows import ChatRow, PairRow, Row
from vishwamai.errors import ConfigError, DataError, VishwamAIError
from vishwamai.text.backend import MAX_CHARACTERS
from vishwamai.text.chat import ChatOptions
from vishwamai.text.messages import check_messages, check_value

AnyRow = Row | ChatRow | PairRow
FORMS = (
    '{"text": …}, {"prompt": …, "completion": …}, {"messages": […]}, or {"chosen": …, "rejected": …} with "prompt" or '
    "without it"
)
SURROGATE = re.compile("[\ud800-\udfff]")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Columns:
    """What the columns of a source are called."""

    text: str = "text"
    prompt: str = "prompt"
    completion: str = "completion"
    messages: str = "messages"
    chosen: str = "chosen"
    rejected: str = "rejected"
    tools: str = "tools"

    def __post_init__(self):
        if twice := [name for name in self.names if self.names.count(name) > 1]:
            raise ConfigError(f"columns has the name {twice[0]!r} twice; each column has a name of its own")

    @property
    def names(self) -> tuple[str, ...]:
        """The columns of a file that are read."""
        return tuple(getattr(self, field.name) for field in dataclasses.fields(self))


@dataclasses.dataclass(frozen=True, kw_only=True)
class RowFormat:
    """How the records of a source are read as rows.

    `chat_template` is Jinja source or the name of one of the tokenizer's own, in place of its default. Of a
    conversation `assistant_turns` takes every turn of the assistant into the loss, or the last. A prompt is in the loss
    unless `completion_only_loss`, and `read_special_tokens` makes control tokens of their text in what is no message.
    """

    columns: Columns = Columns()
    chat_template: str | None = None
    assistant_turns: Literal["all", "last"] = "all"
    completion_only_loss: bool = True
    read_special_tokens: bool = False


PLAIN = RowFormat()


def read_record(record: Mapping[str, Any], form: RowFormat = PLAIN) -> AnyRow:
    """The row that a record is. Columns that `form` does not name are left alone, and so is one that is null.

    Raises `DataError`, in a sentence that names no place, for a record that is of no form or of several, or broken.
    """
    names = dict(zip((field.name for field in dataclasses.fields(Columns)), form.columns.names, strict=True))
    found = {key: value for key, name in names.items() if (value := record.get(name)) is not None}
    tools = found.pop("tools", None)
    match found:
        case {"text": text} if len(found) == 1:
            return _text_row(form, (text, 1.0))
        case {"prompt": prompt, "completion": completion} if len(found) == 2:
            return _answer_row(form, prompt, completion, tools)
        case {"messages": messages} if len(found) == 1:
            return _chat_row(form, messages, tools)
        case {"chosen": chosen, "rejected": rejected} if found.keys() <= {"chosen", "rejected", "prompt"}:
            return _pair_row(form, found.get("prompt"), chosen, rejected, tools)
    for kind in ("text", "messages"):
        if kind in found and len(found) > 1:
            beside = " and ".join(names[key] for key in found if key != kind)
            raise DataError(f"has {names[kind]} beside {beside}; a row is one or the other")
    raise DataError(f"needs {FORMS}{_mapped(names)}")


def _mapped(names: Mapping[str, str]) -> str:
    """In words, what the configuration calls the columns that have other names than ours."""
    other = [f"{key} is {name!r}" for key, name in names.items() if key != name]
    return f"; by the configuration's columns {', '.join(other)}" if other else ""


def _text_row(form: RowFormat, *spans: tuple[Any, float]) -> Row:
    for text, _ in spans:
        if not isinstance(text, str):
            raise DataError(f"holds {type(text).__name__} for a text; a row needs {FORMS}, all of them strings")
        if len(text) > MAX_CHARACTERS:
            raise DataError(
                f"holds a text of {len(text):,} characters, and a tokenizer takes {MAX_CHARACTERS:,}; part it into "
                "several rows"
            )
        if SURROGATE.search(text):
            raise DataError("holds half of a surrogate pair (\\ud800 to \\udfff), which is no character")
    return Row(spans, read_special_tokens=form.read_special_tokens)


def _answer_row(form: RowFormat, prompt: Any, completion: Any, tools: Any) -> Row | ChatRow:
    """A prompt and what answers it: two texts, or two lists of messages."""
    if _is_list(prompt) and _is_list(completion):
        return _chat_row(form, [*prompt, *completion], tools, len(prompt) if form.completion_only_loss else 0)
    return _text_row(form, (prompt, 0.0 if form.completion_only_loss else 1.0), (completion, 1.0))


def _pair_row(form: RowFormat, prompt: Any, chosen: Any, rejected: Any, tools: Any) -> PairRow:
    """Without a prompt it is what both begin with, as in TRL."""
    if prompt is None:
        prompt, chosen, rejected = _split_prompt(chosen, rejected)
    form = dataclasses.replace(form, completion_only_loss=True)
    return PairRow(*(_answer_row(form, prompt, answer, tools) for answer in (chosen, rejected)))


def _split_prompt(chosen: Any, rejected: Any) -> tuple[Any, Any, Any]:
    """(what both begin with, the rest of each); a space before the first difference is the answers'."""
    if isinstance(chosen, str) and isinstance(rejected, str):
        n = len(os.path.commonprefix([chosen, rejected]))
        n -= chosen[:n].endswith(" ")
    elif _is_list(chosen) and _is_list(rejected):
        pairs = zip(chosen, rejected, strict=False)
        n = next((i for i, (a, b) in enumerate(pairs) if a != b), min(len(chosen), len(rejected)))
    else:
        raise DataError("needs chosen and rejected that are both texts or both lists of messages")
    if chosen == rejected:
        raise DataError("has no prompt, and chosen is the same as rejected: what the answers are cannot be told")
    return chosen[:n], chosen[n:], rejected[n:]


def _chat_row(form: RowFormat, messages: Any, tools: Any, n_prompt: int = 0) -> ChatRow:
    """Raises `DataError` for messages that are malformed, or of which none that is in the loss is the assistant's."""
    try:
        checked = check_messages(messages)
        ChatOptions(tools=tools if tools is None else check_value(tools, "tools"))
    except VishwamAIError as error:
        raise DataError(str(error)) from None
    row = ChatRow(checked, tools, form.chat_template, form.assistant_turns, n_prompt)
    if not row.learnt:
        where = " in the completion" if n_prompt else ""
        raise DataError(f"has no message of the assistant{where}, so there is nothing to learn from it")
    return row


def _is_list(value: Any) -> bool:
    return isinstance(value, Sequence) and not isinstance(value, str)
