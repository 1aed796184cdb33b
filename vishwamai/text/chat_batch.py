"""Chats as a tokenizer gives them: `apply_chat_template`, by the arguments of Hugging Face's tokenizers."""

from collections.abc import Sequence
from typing import Any, Protocol

from vishwamai.errors import InputError, suggestion
from vishwamai.text.assistant import encode_with_mask
from vishwamai.text.batch import Padding, Side, length_limits, make_batch
from vishwamai.text.chat import ChatTokenizer, chat_of, encode, split_chat


class PaddingTokenizer(ChatTokenizer, Protocol):
    """What a batch of chats needs of a tokenizer."""

    pad_token_id: int | None


def apply_chat_template(
    tokenizer: PaddingTokenizer,
    conversation: Sequence[Any],
    *,
    tokenize: bool = True,
    padding: Padding = False,
    truncation: bool | str = False,
    max_length: int | None = None,
    padding_side: Side | None = None,
    return_tensors: str | None = None,
    return_dict: bool = True,
    return_assistant_tokens_mask: bool = False,
    **given: Any,
) -> Any:
    """The prompt of a conversation, or of a list of several, as a `BatchEncoding`.

    Its ids alone come without `return_dict`, and the text without `tokenize`: there, what people typed looks like the
    template's own control tokens, so do not encode it. `given` are fields of `ChatOptions` and variables of the
    template; no reply is asked for unless `add_generation_prompt` is True. What is over `max_length` is cut at the end.
    With `return_assistant_tokens_mask` there are `assistant_masks` too, for training. Raises what `encode_chat` raises.
    """
    chat, rest, names = split_chat(tokenizer, {"add_generation_prompt": False, **given}, ())
    for name in rest:
        raise InputError(
            f"the chat template reads no variable {name!r}, and a chat has no such argument: leave it out, or give a "
            f"chat_template that does; {suggestion(name, names)}"
        )
    if chat.get("continue_final_message") and return_assistant_tokens_mask:
        raise InputError(
            "return_assistant_tokens_mask is for whole conversations and continue_final_message for a part"
        )
    one = not (isinstance(conversation, list | tuple) and conversation and isinstance(conversation[0], list | tuple))
    chats = [chat_of(tokenizer, messages, **chat) for messages in ([conversation] if one else conversation)]
    if not tokenize:
        texts = [chat.render() for chat in chats]
        return texts[0] if one else texts
    limit, cut = length_limits(padding, truncation, max_length, tokenizer.settings.max_length)
    encoded = [(encode_with_mask if return_assistant_tokens_mask else encode)(tokenizer, chat)[:2] for chat in chats]
    rows, masks = ([row[:cut] for row in rows] for rows in zip(*encoded, strict=True))
    batch = make_batch(
        rows,
        padding,
        limit,
        padding_side or tokenizer.settings.padding_side or "right",
        tokenizer.pad_token_id,
        return_tensors,
        assistant=masks if return_assistant_tokens_mask else None,
    )
    batch = batch.first() if one and return_tensors is None else batch
    return batch if return_dict else batch.input_ids
