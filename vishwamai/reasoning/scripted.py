"""A model whose words are given: for tests, for replaying a recorded search, and for trying a task without weights."""

import re
from collections.abc import Callable, Mapping, Sequence

from vishwamai.errors import BackendError
from vishwamai.generation.sampling import SamplingParams
from vishwamai.reasoning.model import Completion, Prompt, Usage, join_prompt

Said = str | Completion
Script = Mapping[str, Sequence[Said]] | Callable[[str, int], Sequence[Said]]
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
        """The next lines of the script."""
        texts = self._note(prompts, n, seeds, sampling)
        said = [self._lines(text, many) for text, many in zip(texts, n, strict=True)]
        made = [[_completion(line, sampling) for line in lines] for lines in said]
        self.usage.completion_tokens += sum(c.tokens for row in made for c in row)
        return made

    def score(
        self, prompts: Sequence[Prompt], continuations: Sequence[Sequence[str]], *, deadline: float | None = None
    ) -> list[list[float]]:
        """The given log-probabilities."""
        texts = self._note(prompts, [len(own) for own in continuations])
        return [[self._score(text, c) for c in asked] for text, asked in zip(texts, continuations, strict=True)]

    def _note(
        self,
        prompts: Sequence[Prompt],
        rows: Sequence[int],
        seeds: Sequence[int] = (),
        how: SamplingParams | None = None,
    ) -> list[str]:
        texts = [join_prompt(prompt) for prompt in prompts]
        self.asked.append(texts)
        self.n.append(list(rows) if how is not None else [])
        self.seeds.append(list(seeds))
        self.sampling.append(how)
        words = [len(text.split()) for text in texts]
        self.usage.calls += 1
        self.usage.device_calls += 1
        self.usage.prompt_tokens += sum(many * count for many, count in zip(rows, words, strict=True))
        self.usage.prefill_tokens += sum(words)
        return texts

    def _lines(self, text: str, many: int) -> list[Said]:
        said = self.script(text, many) if callable(self.script) else self.script.get(text, ())
        if len(said) < many:
            raise BackendError(f"the script has {len(said)} of {many} continuations of {text[-60:]!r}")
        return list(said[:many])

    def _score(self, text: str, continuation: str) -> float:
        if callable(self.scores):
            return self.scores(text, continuation)
        if (text, continuation) not in self.scores:
            raise BackendError(f"the script has no score of {continuation!r} after {text[-60:]!r}")
        return self.scores[text, continuation]


def _completion(said: Said, sampling: SamplingParams) -> Completion:
    if isinstance(said, Completion):
        return said
    ends = [at for at in (said.find(stop) for stop in sampling.stop) if at >= 0]
    words = said[: min(ends, default=len(said))]
    tokens = max(len(words.split()), 1)
    most = sampling.max_tokens
    if most is not None and tokens > most:
        end = list(re.finditer(r"\S+", words))[most - 1].end()
        return Completion(text=words[:end], tokens=most, finish_reason="length")
    return Completion(text=words, tokens=tokens)
