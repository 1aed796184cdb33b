"""The text of new tokens as it becomes complete, given what stood before them, up to a stop text. It knows no model."""

from collections.abc import Sequence

from vishwamai.text.stream import Detokenizer, StopMatcher
from vishwamai.text.tokenizer import VishwamAITokenizer


class Continuation:
    """One row's new text. What `push` gave, joined, is the text of all tokens, without special tokens."""

    def __init__(self, tokenizer: VishwamAITokenizer, prompt: Sequence[int], stop: Sequence[str] = ()):
        self._detokenizer, self._matcher = Detokenizer(tokenizer, context=prompt), StopMatcher(stop)

    @property
    def stopped(self) -> bool:
        """Whether a stop text is complete, were these all of the tokens."""
        return self._matcher.completes(self._detokenizer.pending())

    def push(self, tokens: Sequence[int], *, last: bool = False) -> str:
        """The text that these tokens complete and that is no part of a stop text; if they are the last, all of it."""
        text = self._matcher.push(self._detokenizer.push(tokens))
        if last:
            text += self._matcher.push(self._detokenizer.finish()) + self._matcher.finish()
        return text
