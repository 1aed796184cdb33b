"""A model whose words are given: for tests, for replaying a recorded search, and for trying a task without weights."""

import re
from collections.abc import Callable, Mapping, Sequence

from vishwamai.errors import BackendError
from vishwamai.generation.sampling import SamplingParams
from vishwamai.reasoning.model import Completion, Prompt, Usage, join_prompt

Line = str | Completion
Script = Mapping[str, Sequence[Line]] | Callable[[str, int], Sequence[Line]]
Scores = Mapping[tuple[str, str], float] | Callable[[str, str], float]


class Scripted:
    """`script` gives a prompt's continuations, in order: a mapping, or a function of (prompt, how many).

    Texts are cut at the first stop text and at `max_tokens`, and count a token for each word; a `Completion` is given
    as it is. `scores` gives log-probabilities. Raises `BackendError` for a prompt that it has too little to say to.
    `asked` holds the prompts of each call, `n`, `seeds` and `sampling` how they were asked for (empty and None where
    continuations were scored).
    """

    def __init__(self, script: Script, scores: Scores | None = None, identity: str = "scripted"):
        self.script, self.scores, self.identity, self.usage = script, scores or {}, identity, Usage()
        self.asked: list[list[str]] = []
        self.n: list[list[int]] = []
        self.seeds: list[list[int]] = []
        self.sampling: list[SamplingParams | None] = []

    def generate(
        self,
        prompts: Sequence[Prompt],
        n: Sequence[int],
        sampling: SamplingParams,
        seeds: Sequence[int],
        *,
        deadline: float | None = None,
    ) -> list[list[Completion]]:
        """Returns the next lines of the script."""
        texts = [join_prompt(prompt) for prompt in prompts]
        self._record(texts, n, list(n), list(seeds), sampling)
        rows = []
        for text, many in zip(texts, n, strict=True):
            lines = self.script(text, many) if callable(self.script) else self.script.get(text, ())
            if len(lines) < many:
                raise BackendError(f"the script has {len(lines)} of {many} continuations of {text[-60:]!r}")
            rows.append([_completion(line, sampling) for line in lines[:many]])
        self.usage.completion_tokens += sum(completion.tokens for row in rows for completion in row)
        return rows

    def score(
        self, prompts: Sequence[Prompt], continuations: Sequence[Sequence[str]], *, deadline: float | None = None
    ) -> list[list[float]]:
        """Returns the given log-probabilities."""
        texts = [join_prompt(prompt) for prompt in prompts]
        self._record(texts, [len(own) for own in continuations], [], [], None)
        return [[self._score(text, c) for c in own] for text, own in zip(texts, continuations, strict=True)]

    def _record(
        self, texts: list[str], rows: Sequence[int], n: list[int], seeds: list[int], sampling: SamplingParams | None
    ) -> None:
        self.asked.append(texts)
        self.n.append(n)
        self.seeds.append(seeds)
        self.sampling.append(sampling)
        words = [len(text.split()) for text in texts]
        self.usage.calls += 1
        self.usage.device_calls += 1
        self.usage.prompt_tokens += sum(many * count for many, count in zip(rows, words, strict=True))
        self.usage.prefill_tokens += sum(words)

    def _score(self, text: str, continuation: str) -> float:
        if callable(self.scores):
            return self.scores(text, continuation)
        if (text, continuation) not in self.scores:
            raise BackendError(f"the script has no score of {continuation!r} after {text[-60:]!r}")
        return self.scores[text, continuation]


def _completion(line: Line, sampling: SamplingParams) -> Completion:
    if isinstance(line, Completion):
        return line
    text = line[: min((at for stop in sampling.stop if (at := line.find(stop)) >= 0), default=len(line))]
    words = list(re.finditer(r"\S+", text))
    most = sampling.max_tokens
    if most is not None and len(words) > most:
        return Completion(text=text[: words[most - 1].end()], tokens=most, finish_reason="length")
    return Completion(text=text, tokens=max(len(words), 1))
