"""Where in a chat's prompt each answer of the assistant begins and ends, found by rendering parts of the chat.

An answer is what a model has to write for itself: it begins where the prompt for it would end, and it ends with the
token by which turns of the assistant end. Both are read off renders of the chat's beginnings: one that asks for the
answer, one that ends with it, and one where a message follows. A template may show the messages of a beginning in
another way than those of the whole (it drops old thoughts, or puts the system's line before the last question), so
renders are laid side by side from the last character on that somebody wrote before. Where that does not fit the
template is refused. It knows no tokens but the places of control tokens.
"""

import itertools
import os
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

from vishwamai.errors import InputError, VishwamAIError
from vishwamai.text.chat import UNFOLLOWED, Chat
from vishwamai.text.marks import Marks
from vishwamai.text.plain import Span

TEMPLATE = -1
ADVICE = "give a chat_template that marks the assistant's words by {% generation %}"


@dataclass(frozen=True)
class Shown:
    """A prompt's text, and for each character the number of its message (from 1 on), 0 or `TEMPLATE`."""

    text: str
    authors: Sequence[int]

    def last_before(self, place: int) -> tuple[int, int]:
        """(the place after the last character before `place` that is of a message, the number of that message)."""
        found = next((i for i in range(place - 1, -1, -1) if self.authors[i] > 0), -1)
        return found + 1, self.authors[found] if found >= 0 else 0

    def next_after(self, place: int) -> int:
        """The place of the first character from `place` on that is of a message, or the text's end."""
        return next((i for i in range(place, len(self.text)) if self.authors[i] > 0), len(self.text))


def find_turns(chat: Chat, indexes: Collection[int], controls: Sequence[Span], tokens: Collection[str]) -> list[Span]:
    """The spans of those messages of the assistant in the chat's prompt.

    `controls` are the spans of its control tokens, `tokens` the texts of all that there are. Raises `InputError` for a
    message whose span cannot be told.
    """
    whole = _show(chat)
    return [
        (_find_start(chat, whole, index, controls), _find_end(chat, whole, index, controls, tuple(tokens)))
        for index in indexes
    ]


def _show(chat: Chat) -> Shown:
    """The prompt with the author of each of its characters; white space, quotes and backslashes are the template's."""
    marks = Marks({}, inherits=True)
    text = chat.render(run=marks.run_first)
    marked = chat.render(run=marks.run_again, mark=lambda words, _, number: marks.mark(words, number), mark_keys=False)
    if marks.plain(marked) != text:
        raise InputError(UNFOLLOWED)
    return Shown(text, marks.trust(marked, TEMPLATE))


def _part(chat: Chat, messages: list[dict[str, Any]], *, asks: bool = False) -> Chat:
    """The chat of other messages, which asks for an answer or not."""
    return replace(chat, messages=messages, own={**chat.own, "add_generation_prompt": asks})


def _first_word(whole: Shown, index: int) -> int:
    """The place of a message's first character."""
    try:
        return whole.authors.index(index + 1)
    except ValueError:
        raise InputError(
            f"nothing of messages[{index}] is a word in the prompt, so there is nothing to learn from it"
        ) from None


def _last_word(whole: Shown, index: int, tail: str, controls: Sequence[Span]) -> int:
    """The place after the last character of a message in its own turn, which ends with `tail` where it ends the chat.

    Words of a call may be said again in the next turn, as the name of the tool that answers.
    """
    own = [i + 1 for i, author in enumerate(whole.authors) if author == index + 1]
    begins = {begin for begin, _ in controls}
    for end, after in itertools.pairwise(own):
        closed = range(end, end + len(tail))
        if after > closed.stop and whole.text.startswith(tail, end) and not begins.isdisjoint(closed):
            return end
    return own[-1]


def _find_start(chat: Chat, whole: Shown, index: int, controls: Sequence[Span]) -> int:
    """Where the prompt for the answer would end, or as far as what is shown before the answer goes with it."""
    first = _first_word(whole, index)
    before, author = whole.last_before(first)
    gap = whole.text[before:first]
    with _explained(f"the prompt that asks for messages[{index}]"):
        plain = _part(chat, chat.messages[:index], asks=True).render()
        if before <= len(plain) <= first and whole.text.startswith(plain):
            return len(plain)
        asked, closed = (_tail(_part(chat, chat.messages[:index], asks=asks), author) for asks in (True, False))
    fits = len(os.path.commonprefix([asked, gap]))
    fits = next((begin - before for begin, end in controls if begin < before + fits < end), fits)
    if fits < len(asked) and fits <= len(os.path.commonprefix([asked, closed])):
        raise InputError(
            f"the chat template puts {gap!r:.80} before messages[{index}], and {asked!r:.80} where it asks for it, so "
            f"where the answer begins cannot be told; {ADVICE}"
        )
    return before + fits


@contextmanager
def _explained(what: str) -> Iterator[None]:
    """Says of an error which part of the chat cannot be rendered."""
    try:
        yield
    except VishwamAIError as error:
        raise InputError(f"{what} cannot be made, for {error}; {ADVICE}") from None


def _tail(part: Chat, author: int) -> str:
    """What follows the last character of the messages, which must be of that author."""
    shown = _show(part)
    place, last = shown.last_before(len(shown.text))
    if last != author:
        raise InputError("it does not end with the message that should be the last")
    return shown.text[place:]


def _find_end(chat: Chat, whole: Shown, index: int, controls: Sequence[Span], tokens: tuple[str, ...]) -> int:
    """After the token that ends the turn; where none does, after the last that is no white space.

    What the template shows after an answer both where the chat ends with it and where it goes on is the turn's own. A
    turn that ends the chat may have another token for it (`<|return|>`) than one that does not.
    """
    messages = chat.messages
    is_last = index == len(messages) - 1
    closing = whole.text[whole.last_before(len(whole.text))[0] :] if is_last else _closing(chat, whole, index)
    last = _last_word(whole, index, closing, controls)
    if {*whole.authors[_first_word(whole, index) : last]} - {TEMPLATE, 0, index + 1}:
        raise InputError(f"the chat template puts words of others between those of messages[{index}]; {ADVICE}")
    shown = whole.text[last : whole.next_after(last)]
    other = _going_on(chat) if is_last else closing
    common = shown if other is None else os.path.commonprefix([shown, other])
    if ends := [end for begin, end in controls if last <= begin and end <= last + len(common)]:
        return ends[-1]
    begin, end = next((span for span in controls if span[0] >= last), (len(whole.text), 0))
    if begin <= last + len(common) and other is not None and other.startswith(tokens, begin - last):
        return end
    common = common[: begin - last]
    if closing and not common:
        raise InputError(
            f"the chat template puts {shown!r:.80} after messages[{index}] and {other!r:.80} in a shorter or longer "
            f"chat, so where the answer ends cannot be told; {ADVICE}"
        )
    return last + len(common.rstrip())


def _closing(chat: Chat, whole: Shown, index: int) -> str:
    """What follows the answer where the chat ends with it."""
    part = _part(chat, chat.messages[: index + 1])
    with _explained(f"the chat that ends with messages[{index}]"):
        if whole.text.startswith(plain := part.render()):
            place, author = whole.last_before(len(plain))
            if author == index + 1:
                return plain[place:]
        return _tail(part, index + 1)


def _going_on(chat: Chat) -> str | None:
    """What follows the chat's last message where a question follows that; None where the template takes none."""
    number = len(chat.messages) + 1
    try:
        more = _show(_part(chat, [*chat.messages, {"role": "user", "content": "x"}]))
    except VishwamAIError:
        return None
    if number not in more.authors:
        return None
    next_one = more.authors.index(number)
    place, author = more.last_before(next_one)
    return more.text[place:next_one] if author == number - 1 else None
