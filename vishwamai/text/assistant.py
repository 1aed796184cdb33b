"""Which tokens of a chat's prompt are the assistant's, for training on conversations.

A template says so itself by `{% generation %}`; of another one the answers are found by `text.turns`. In training a
token that the assistant does not write bears no loss, whatever a template marks: no prompt for the answer, and no white
space after the token that ends it.
"""

import os
import re
from collections.abc import Collection, Sequence
from dataclasses import replace
from typing import Any

from vishwamai.errors import InputError
from vishwamai.text.chat import Chat, ChatTokenizer, chat_of, encode
from vishwamai.text.messages import Message, unused_characters
from vishwamai.text.plain import Span
from vishwamai.text.turns import find_turns

GENERATION = re.compile(r"{%[-+]?\s*generation\s*[-+]?%}")


def encode_training_chat(
    tokenizer: ChatTokenizer, messages: Sequence[Message], learnt: Collection[int] | None = None, **given: Any
) -> tuple[list[int], list[int]]:
    """(the ids of a whole conversation, 1 for each that is to be learnt and 0 for the rest).

    `learnt` are the indexes of the assistant's messages that are to be learnt, None for all of them; `given` are fields
    of `ChatOptions`. Raises what `encode_chat` raises, and `InputError` where the assistant's tokens cannot be found.
    """
    chat = chat_of(tokenizer, messages, **{"add_generation_prompt": False, **given})
    ids, where, text, controls = _encode(tokenizer, chat)
    said = _answers(chat)
    chosen = said if learnt is None else [index for index in said if index in learnt]
    if not GENERATION.search(chat.source):
        return ids, _mask(where, _turns(tokenizer, chat, chosen, controls))
    spans = _generation_spans(chat, text)
    if chosen != said:
        if len(spans) != len(said):
            raise InputError(
                f"the chat template marks {len(spans)} parts by {{% generation %}} and the assistant has {len(said)} "
                "messages, so the marks of one of them cannot be told; learn from every turn"
            )
        spans = [span for index, span in zip(said, spans, strict=True) if index in chosen]
    return ids, _mask(where, _trim(chat, text, spans, controls))


def encode_with_mask(tokenizer: ChatTokenizer, chat: Chat) -> tuple[list[int], list[int]]:
    """(the ids of a chat's prompt, the mask of those that are the assistant's), as transformers gives them.

    Its masks of a template without `{% generation %}` are empty; here they are those of the answers.
    """
    ids, where, text, controls = _encode(tokenizer, chat)
    if GENERATION.search(chat.source):
        return ids, _mask(where, _generation_spans(chat, text))
    return ids, _mask(where, _turns(tokenizer, chat, _answers(chat), controls))


def _encode(tokenizer: ChatTokenizer, chat: Chat) -> tuple[list[int], list[Span], str, list[Span]]:
    """(ids, the characters of each, the text, those of its control tokens)."""
    ids, where, text = encode(tokenizer, chat)
    return ids, where, text, [span for i, span in zip(ids, where, strict=True) if i in tokenizer.control_ids]


def _answers(chat: Chat) -> list[int]:
    return [index for index, message in enumerate(chat.messages) if message["role"] == "assistant"]


def _turns(tokenizer: ChatTokenizer, chat: Chat, indexes: Collection[int], controls: list[Span]) -> list[Span]:
    tokens = [str(tokenizer.backend.id_to_token(index)) for index in tokenizer.control_ids]
    return find_turns(chat, indexes, controls, tokens)


def _mask(where: Sequence[Span], spans: Collection[Span]) -> list[int]:
    """1 for each token of which a character is in a span."""
    inside = bytearray(max((end for _, end in [*where, *spans]), default=0) + 1)
    for begin, end in spans:
        inside[begin:end] = b"\1" * (end - begin)
    return [int(1 in inside[begin : max(end, begin + 1)]) for begin, end in where]


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


def _trim(chat: Chat, text: str, spans: list[Span], controls: list[Span]) -> list[Span]:
    """The spans without the prompt for an answer at their beginning, and white space after the end token at their end.

    SmolLM3's template marks both.
    """
    asking = replace(chat, own={**chat.own, "add_generation_prompt": True}).render()
    prompt = asking[len(os.path.commonprefix([asking, text])) :]
    return [_trim_span(text, span, prompt, controls) for span in spans]


def _trim_span(text: str, span: Span, prompt: str, controls: list[Span]) -> Span:
    start, end = span
    common = start + len(os.path.commonprefix([prompt, text[start:end]]))
    if any(start <= b and e <= common for b, e in controls):
        start = common
    last = max((e for b, e in controls if start <= b and e <= end), default=end)
    return start, end if text[last:end].strip() else last
