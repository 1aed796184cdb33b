"""Which tokens of a chat's prompt are the assistant's, for training on conversations.

A template says so itself by `{% generation %}`. Of another one, an answer is where the prompt changes when that answer
is replaced, with the control token after it, by which it ends. What stands before any answer is no part of it.
"""

import os
import re
from collections.abc import Collection, Sequence
from dataclasses import replace
from typing import Any

from vishwamai.errors import InputError, VishwamAIError
from vishwamai.text.chat import Chat, ChatTokenizer, chat_of, encode
from vishwamai.text.messages import Message, unused_characters
from vishwamai.text.plain import Span

GENERATION = re.compile(r"{%[-+]?\s*generation\s*[-+]?%}")


def encode_training_chat(
    tokenizer: ChatTokenizer, messages: Sequence[Message], **given: Any
) -> tuple[list[int], list[int]]:
    """(the ids of a whole conversation, 1 for each that is the assistant's and 0 for the rest).

    `given` are fields of `ChatOptions`. Raises what `encode_chat` raises, and `InputError` where the assistant's tokens
    cannot be found.
    """
    return encode_with_mask(tokenizer, chat_of(tokenizer, messages, **{"add_generation_prompt": False, **given}))


def encode_with_mask(tokenizer: ChatTokenizer, chat: Chat) -> tuple[list[int], list[int]]:
    """(the ids of a chat's prompt, the mask of those that are the assistant's)."""
    ids, where, text = encode(tokenizer, chat)
    if GENERATION.search(chat.source):
        spans = _generation_spans(chat, text)
    else:
        controls = [span for i, span in zip(ids, where, strict=True) if i in tokenizer.control_ids]
        answers = [index for index, message in enumerate(chat.messages) if message["role"] == "assistant"]
        spans = [_extend_to_end(_content_span(chat, text, index), text, controls) for index in answers]
    return ids, [int(any(begin < e and b < end for b, e in spans)) for begin, end in where]


def _generation_spans(chat: Chat, text: str) -> list[Span]:
    """The spans of what `{% generation %}` gave."""
    signs = unused_characters(chat.messages)
    first, last = next(signs), next(signs)
    begins, spans, size = [], [], 0
    for piece in re.split(f"([{first}{last}])", chat.render(spans=(first, last))):
        if piece == first:
            begins.append(size)
        elif piece == last:
            spans.append((begins.pop(), size))
        else:
            size += len(piece)
    return spans


def _content_span(chat: Chat, text: str, index: int) -> Span:
    """Where the text changes when the message of that index has another content, and nothing but that."""
    message = {"role": chat.messages[index]["role"], "content": next(unused_characters(chat.messages))}
    messages = [message if i == index else other for i, other in enumerate(chat.messages)]
    try:
        changed = replace(chat, messages=messages).render()
    except VishwamAIError as error:
        raise InputError(
            f"the words of messages[{index}] cannot be found in the prompt, for with another content {error}; "
            "give a chat_template that marks them by {% generation %}"
        ) from None
    start = len(os.path.commonprefix([text, changed]))
    rest = len(os.path.commonprefix([text[start:][::-1], changed[start:][::-1]]))
    return start, len(text) - rest


def _extend_to_end(span: Span, text: str, controls: Collection[Span]) -> Span:
    """The span with the control token that follows it, if nothing but white space is between."""
    start, end = span
    after = next(((b, e) for b, e in controls if b >= end), (end, end))
    return (start, end) if text[end : after[0]].strip() else (start, after[1])
