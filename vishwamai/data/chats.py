"""Rows and problems as chats: messages with the text of role tokens, as `text.templates.ROLE_TEMPLATE` writes them.

Only replies are in the loss. It knows no tokens and renders no template.
"""

import random
from collections.abc import Sequence
from dataclasses import dataclass
from types import ModuleType

from vishwamai.data.rows import Problem, Row

EOS = "<|eos|>"
Spans = tuple[tuple[str, float], ...]
Reply = str | Spans
PLAIN_SYSTEM = "You are a helpful assistant."


def chat_spans(messages: Sequence[tuple[str, Reply]]) -> Spans:
    """(role, text) messages as the spans of a row: replies with their end have weight 1, all else 0.

    A reply may be spans with weights of its own. The end of the last one is left out: whoever encodes the row adds it.
    """
    spans, before = [], ""
    for role, text in messages:
        before += f"<|{role}|>"
        if role != "assistant":
            before += f"{text}{EOS}"
            continue
        parts = ((text, 1.0),) if isinstance(text, str) else text
        spans += [(before, 0.0), *parts, (EOS, 1.0)]
        before = ""
    return tuple(spans[:-1])


@dataclass(frozen=True)
class AsChat:
    """The rows and problems of another corpus as chats of one question, with a plain system line now and then."""

    corpus: ModuleType

    def row(self, rng: random.Random, split: str = "train") -> Row:
        """A row of the corpus; its weights are kept."""
        found = self.corpus.row(rng, split)
        (first, weight), *rest = found.text_spans[1:]
        system = [("system", PLAIN_SYSTEM)] if rng.random() < 0.2 else []
        asked, _ = chat_spans([*system, ("user", found.prompt), ("assistant", "")])
        return Row((asked, (first.removeprefix("\n "), weight), *rest))

    def held_out(self) -> list[Problem]:
        """The problems of the corpus."""
        return [self._problem(problem) for problem in self.corpus.held_out()]

    def _problem(self, problem: Problem) -> Problem:
        [(prompt, _), _] = chat_spans([("user", problem.prompt), ("assistant", "")])
        return Problem(prompt, problem.grade, f"{problem.kind}_chat", problem.answer.removeprefix("\n "))
