"""The text of new tokens as it becomes complete, given what stood before them, up to a stop text. It knows no model."""

from collections.abc import Sequence

from vishwamai.text.stream import Detokenizer, StopMatcher
from vishwamai.text.tokenizer import VishwamAITokenizer


class Continuation:
    """One row's new text. What `push` gave, joined, is the text of all tokens, without special tokens.

    A stop text is looked for in that text, and one that has the text of a special token in it among these tokens too.
    """

    def __init__(self, tokenizer: VishwamAITokenizer, prompt: Sequence[int], stop: Sequence[str] = ()):
        special = {index: str(tokenizer.id_to_token(index)) for index in tokenizer.special_ids}
        self._detokenizer = Detokenizer(tokenizer, context=prompt)
        self._matcher = StopMatcher(stop, special.values())
        self._special = special if self._matcher.sees_hidden else {}

    @property
    def stopped(self) -> bool:
        """Whether a stop text is complete, were these all of the tokens."""
        return self._matcher.completes(self._detokenizer.pending())

    def push(self, tokens: Sequence[int], *, last: bool = False) -> str:
        """The text that these tokens complete and that is no part of a stop text; if they are the last, all of it."""
        text, start = "", 0
        for place in [i for i, token in enumerate(tokens) if token in self._special]:
            plain = self._detokenizer.push(tokens[start:place]) + self._detokenizer.end_run()
            text += self._matcher.push(plain) + self._matcher.push(self._special[tokens[place]], hidden=True)
            start = place + 1
        text += self._matcher.push(self._detokenizer.push(tokens[start:]))
        if last:
            text += self._matcher.push(self._detokenizer.finish()) + self._matcher.finish()
        return text
