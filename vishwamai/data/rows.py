"""What a row of training data is: text in pieces with weights, a conversation, or a pair of which one is preferred.

`encode_row` and `encode_pair` make tokens of rows and say what each weighs in the loss. A prompt has weight 0, so that
a model learns to answer and not to ask. Pieces are tokenised one by one: a token never crosses from one weight to
another. This file does not know what a row is about, where it is read from, how rows are packed, or any model.
"""

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

from vishwamai.errors import DataError, VishwamAIError
from vishwamai.text.assistant import encode_training_chat
from vishwamai.text.messages import text_parts
from vishwamai.text.roles import ids_around

Turns = Literal["all", "last"]


class Encoded(NamedTuple):
    """The tokens of a row, and the weight that each has in the loss."""

    tokens: list[int]
    weights: list[float]


class EncodedPair(NamedTuple):
    """Two answers to one prompt; the prompt's tokens begin both, at weight 0."""

    chosen: Encoded
    rejected: Encoded


@dataclass(frozen=True)
class Row:
    """Text in pieces, `(text, weight)` each; the row's text is all of them joined, and it ends with the end token.

    The text of a control token (`<|eos|>`) stays text, unless `read_special_tokens`; what the tokenizer puts before a
    text (a start token) stands before it, unless `add_special_tokens` is False.
    """

    text_spans: tuple[tuple[str, float], ...]
    read_special_tokens: bool = False
    add_special_tokens: bool = True

    @property
    def text(self) -> str:
        """The whole row as one string."""
        return "".join(text for text, _ in self.text_spans)

    @property
    def prompt(self) -> str:
        """The first piece: what a person types. Rows of the corpora in this room all begin with it, at weight 0."""
        return self.text_spans[0][0]

    @property
    def completion(self) -> str:
        """Everything after the prompt."""
        return "".join(text for text, _ in self.text_spans[1:])


@dataclass(frozen=True)
class ChatRow:
    """A conversation, for the tokenizer's own chat template; what the assistant says in it is in the loss.

    `messages`, `tools` and `chat_template` are as `text.chat.encode_chat` takes them. The first `n_prompt` messages are
    not in the loss, and of the rest `turns` takes every message of the assistant, or the last. `where` opens errors.
    """

    messages: Sequence[Mapping[str, Any]]
    tools: Sequence[Mapping[str, Any]] | None = None
    chat_template: str | None = None
    turns: Turns = "all"
    n_prompt: int = 0
    where: str = ""

    @property
    def text(self) -> str:
        """The conversation as one string, the same for equal conversations."""
        return json.dumps([self.messages, self.tools], sort_keys=True)

    @property
    def text_spans(self) -> tuple[tuple[str, float], ...]:
        """The text of each message, for a tokenizer to be trained on."""
        return tuple((text, 1.0) for message in self.messages for text in text_parts(message))

    @property
    def learnt(self) -> list[int]:
        """The indexes of the messages that are in the loss."""
        said = [i for i, message in enumerate(self.messages) if message["role"] == "assistant" and i >= self.n_prompt]
        return said[-1:] if self.turns == "last" else said


@dataclass(frozen=True)
class PairRow:
    """Two answers to one prompt, of which the first is preferred, for a DPO loss; both rows begin with the prompt."""

    chosen: Row | ChatRow
    rejected: Row | ChatRow

    @property
    def text(self) -> str:
        """Both as one string, the same for equal pairs."""
        return json.dumps([self.chosen.text, self.rejected.text])

    @property
    def text_spans(self) -> tuple[tuple[str, float], ...]:
        """The text of both, for a tokenizer to be trained on."""
        return self.chosen.text_spans + self.rejected.text_spans


@dataclass(frozen=True)
class Problem:
    """A held-out question with its judge.

    `grade` takes the completion alone (without prompt and end token) and says whether it is right; it never raises.
    `answer` is one completion that it accepts. `kind` names the corpus and, after a dot, the way of asking.
    """

    prompt: str
    grade: Callable[[str], bool]
    kind: str
    answer: str


def encode_row(tokenizer: Any, row: Row | ChatRow | PairRow) -> Encoded:
    """The tokens of a row and their weights in the loss; the end token closes a text, with the last piece's weight.

    A conversation has the tokens that its template gives it and no others. Raises `DataError` for a conversation that
    the template does not take, or of which the assistant's part cannot be found, and for a pair.
    """
    if isinstance(row, PairRow):
        raise DataError("is a pair of which one is preferred, and this run's loss takes one answer")
    if isinstance(row, ChatRow):
        return _encode_chat(tokenizer, row)
    tokens: list[int] = []
    weights: list[float] = []
    for text, weight in row.text_spans:
        piece = tokenizer.encode(text, add_special_tokens=False, allow_special=row.read_special_tokens)
        tokens += piece
        weights += [weight] * len(piece)
    before = list(ids_around(tokenizer)[0]) if row.add_special_tokens else []
    if before and tokens[: len(before)] != before:
        tokens, weights = [*before, *tokens], [*[0.0] * len(before), *weights]
    if (end := tokenizer.eos_token_id) is not None and (not row.read_special_tokens or tokens[-1:] != [end]):
        tokens.append(end)
        weights.append(row.text_spans[-1][1])
    return Encoded(tokens, weights)


def encode_pair(tokenizer: Any, row: PairRow) -> EncodedPair:
    """The tokens and weights of both answers of a pair, each with its prompt. Errors as for `encode_row`."""
    return EncodedPair(encode_row(tokenizer, row.chosen), encode_row(tokenizer, row.rejected))


def _encode_chat(tokenizer: Any, row: ChatRow) -> Encoded:
    try:
        ids, mask = encode_training_chat(
            tokenizer, row.messages, row.learnt, tools=row.tools, chat_template=row.chat_template
        )
    except VishwamAIError as error:
        raise DataError(f"{row.where}: {error}" if row.where else str(error)) from None
    return Encoded(ids, [float(weight) for weight in mask])
