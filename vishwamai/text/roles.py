"""What a token is for, beside being text: what puts it into prompts. It changes nothing and knows no model."""

import functools

from vishwamai.text.tokenizer import VishwamAITokenizer


@functools.lru_cache(maxsize=16)
def ids_around(tokenizer: VishwamAITokenizer) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """(the ids that the tokenizer itself puts before a text, those that it puts after it)."""
    ids = tokenizer.encode("a", allow_special=False)
    plain = tokenizer.encode("a", add_special_tokens=False)
    start = next((i for i in range(len(ids)) if ids[i : i + len(plain)] == plain), 0)
    return tuple(ids[:start]), tuple(ids[start + len(plain) :])


def count_around(tokenizer: VishwamAITokenizer, index: int) -> tuple[int, int]:
    """How many times the tokenizer itself puts this token before a text, and how many times after it."""
    before, after = ids_around(tokenizer)
    return before.count(index), after.count(index)


def role_of(tokenizer: VishwamAITokenizer, index: int) -> str:
    """In words, why this token may stand at an end of a prompt; "" where nothing puts it there."""
    if index in tokenizer.eos_token_ids:
        return "an end token"
    if index == tokenizer.bos_token_id:
        return "the start token"
    if any(count_around(tokenizer, index)):
        return "put round texts by the tokenizer"
    token = tokenizer.id_to_token(index)
    return "in the chat template" if token and token in (tokenizer.chat_template or "") else ""
