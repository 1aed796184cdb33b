"""One training row: pieces of text, each with the weight that its tokens have in the loss, or a conversation.

Every generated corpus yields `Row`s; the trainer turns them into tokens and weights with `encode_row`. A prompt has
weight 0, so that a model learns to answer and not to ask. Pieces are tokenised one by one: a token never crosses
from one weight to another. This file does not know what a row is about, how rows are packed, or any model.
"""

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from vishwamai.errors import DataError, VishwamAIError
from vishwamai.text.assistant import encode_training_chat
from vishwamai.text.messages import text_parts


@dataclass(frozen=True)
class Row:
    """Text in pieces, `(text, weight)` each; the row's text is all of them joined, and it ends with the end token."""

    text_spans: tuple[tuple[str, float], ...]

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

    `messages` and `tools` are as `text.chat.encode_chat` takes them; `where` is its file and line, for errors.
    """

    messages: Sequence[Mapping[str, Any]]
    tools: Sequence[Mapping[str, Any]] | None = None
    where: str = ""

    @property
    def text(self) -> str:
        """The conversation as one string, the same for equal conversations."""
        return json.dumps([self.messages, self.tools], sort_keys=True)

    @property
    def text_spans(self) -> tuple[tuple[str, float], ...]:
        """The text of each message, for a tokenizer to be trained on."""
        return tuple((text, 1.0) for message in self.messages for text in text_parts(message))


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


def encode_row(tokenizer: Any, row: Row | ChatRow) -> tuple[list[int], list[float]]:
    """Tokens of a row and their weights in the loss; the end token closes it, with the last piece's weight.

    No beginning token is added: prompts of these corpora are encoded with `add_special_tokens=False` too. A
    conversation has the tokens that its template gives it and no others. Raises `DataError` for one that the
    template does not take.
    """
    if isinstance(row, ChatRow):
        try:
            ids, mask = encode_training_chat(tokenizer, row.messages, tools=row.tools)
        except VishwamAIError as error:
            raise DataError(f"{row.where}: {error}") from None
        return ids, [float(weight) for weight in mask]
    tokens: list[int] = []
    weights: list[float] = []
    for text, weight in row.text_spans:
        piece = tokenizer.encode(text, add_special_tokens=False)
        tokens += piece
        weights += [weight] * len(piece)
    if tokenizer.eos_token_id is not None:
        tokens.append(tokenizer.eos_token_id)
        weights.append(row.text_spans[-1][1])
    return tokens, weights
