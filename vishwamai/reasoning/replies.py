"""Reads the answers of an OpenAI-compatible endpoint: texts, ends, tokens and log-probabilities.

Both shapes of log-probabilities are read, whichever API they came by. An answer that lacks what it must have raises
the errors of reading it (`KeyError`, `TypeError`, `ValueError`, ...); the caller knows them for a broken answer.
"""

import dataclasses
import itertools
from collections.abc import Sequence
from typing import Any

from vishwamai.generation.sampling import SamplingParams
from vishwamai.reasoning.endpoint import EndpointError
from vishwamai.reasoning.model import Completion

Step = tuple[str, float, dict[str, float]]  # a token, its log-probability, those of the likeliest tokens there


def completions(answer: Any, many: int, sampling: SamplingParams) -> list[Completion]:
    """The completions of an answer, in the order of their indices, at most `many` and at least one."""
    choices = sorted(answer["choices"], key=lambda choice: choice.get("index", 0))[:many]
    if not choices:
        raise ValueError("no choices")
    made = [_completion(choice, sampling) for choice in choices]
    told = count(answer, "completion_tokens")
    if told is None or told == sum(c.tokens for c in made):
        return made
    # The server counts those of all choices together, so without each one's tokens they are shared out.
    k = len(made)
    return [dataclasses.replace(c, tokens=told * (i + 1) // k - told * i // k) for i, c in enumerate(made)]


def count(answer: Any, name: str) -> int | None:
    """A figure of the server's `usage`, or None where it gives none."""
    found = (answer.get("usage") or {}).get(name)
    return found if isinstance(found, int) and found >= 0 else None


def _completion(choice: Any, sampling: SamplingParams) -> Completion:
    text = (choice["message"]["content"] or "") if "message" in choice else choice["text"]
    reason = "length" if choice.get("finish_reason") == "length" else "stop"
    ends = [at for at in map(text.find, sampling.stop) if at >= 0]  # some servers leave the stop text there
    if ends:
        text, reason = text[: min(ends)], "stop"
    found = steps(choice)
    tokens = len(found) or max(len(text.split()), 1)
    if sampling.logprobs is None:
        return Completion(text=text, tokens=tokens, finish_reason=reason)
    if text and not found:
        raise EndpointError("gives no log-probabilities", "set logprobs to None, or use an endpoint that gives them")
    logprob = float(sum(logprob for _, logprob, _ in found))
    likeliest = tuple(likeliest for _, _, likeliest in found)
    return Completion(text=text, tokens=tokens, logprob=logprob, finish_reason=reason, likeliest=likeliest)


def steps(choice: Any) -> list[Step]:
    """The tokens of a choice; none where it has no log-probabilities."""
    found = choice.get("logprobs")
    if not found:
        return []
    if "content" in found:
        return [
            (step["token"], step["logprob"], {top["token"]: top["logprob"] for top in step.get("top_logprobs") or ()})
            for step in found["content"] or ()
        ]
    tops = found.get("top_logprobs") or [None] * len(found["tokens"])
    return [
        (token, logprob, dict(top or {}))
        for token, logprob, top in zip(found["tokens"], found["token_logprobs"], tops, strict=True)
    ]


def logprob_after(prompt: str, text: str, choice: Any) -> float | None:
    """The log-probability in nats of what comes after `prompt` in the echoed `text`; None where it was not echoed.

    Summed are the tokens that reach beyond the prompt and begin within the text: one that spans the prompt's end is
    among them, or " yes" after "Answer: " would be no token at all.
    """
    found = choice.get("logprobs") or {}
    tokens = found.get("tokens") or []
    offsets = found.get("text_offset") or [] if choice["text"].startswith(text) else []
    begins = _begins(tokens, offsets, text)
    if begins is None:
        return None
    ends = [*begins[1:], begins[-1] + len(tokens[-1])]
    places = zip(begins, ends, found["token_logprobs"], strict=True)
    wanted = [logprob for begin, end, logprob in places if len(prompt) < max(end, begin + 1) and begin < len(text)]
    if None in wanted:
        raise EndpointError(
            "gives no log-probability of a text's first token", "score after a prompt that is not empty"
        )
    return float(sum(wanted))


def _begins(tokens: Sequence[str], offsets: Sequence[int], text: str) -> Sequence[int] | None:
    """Where in `text` each token begins.

    The tokens' own texts say so, for a server may count a token that is before all text, such as <s>, in its offsets.
    They do not where a character has several tokens: then the offsets hold, if the text ends where the last token
    begins (it is not the text's) or ends.
    """
    at = "".join(tokens).find(text)
    if at >= 0:
        return [begin - at for begin in itertools.accumulate(map(len, tokens), initial=0)][:-1]
    if len(offsets) == len(tokens) > 0 and len(text) in (offsets[-1], offsets[-1] + len(tokens[-1])):
        return offsets
    return None
