"""Reads the responses of an OpenAI-compatible endpoint: texts, ends, tokens and log-probabilities.

Both shapes of log-probabilities are read, whichever API they came by. A response that lacks what it must have raises
`KeyError`, `TypeError`, `ValueError` or the like.
"""

import dataclasses
import itertools
from typing import Any

from vishwamai.generation.sampling import SamplingParams
from vishwamai.http_client import RequestError
from vishwamai.reasoning.model import Completion

Step = tuple[str, float, dict[str, float]]  # a token, its log-probability, those of the likeliest tokens there


def completions(response: Any, n: int, sampling: SamplingParams) -> list[Completion]:
    """The completions of a response, in the order of their indices, at most `n` and at least one."""
    choices = sorted(response["choices"], key=lambda choice: choice.get("index", 0))[:n]
    if not choices:
        raise ValueError("no choices")
    found = [_completion(choice, sampling) for choice in choices]
    total, k = read_usage(response, "completion_tokens"), len(found)
    if total is None or total == sum(completion.tokens for completion in found):
        return found
    # The server counts those of all choices together, so without each one's tokens they are shared out.
    return [dataclasses.replace(c, tokens=total * (i + 1) // k - total * i // k) for i, c in enumerate(found)]


def read_usage(response: Any, name: str) -> int | None:
    """A figure of the server's `usage`, or None where it gives none."""
    found = (response.get("usage") or {}).get(name)
    return found if isinstance(found, int) and found >= 0 else None


def _completion(choice: Any, sampling: SamplingParams) -> Completion:
    text = (choice["message"]["content"] or "") if "message" in choice else choice["text"]
    reason = "length" if choice.get("finish_reason") == "length" else "stop"
    stops = [at for at in map(text.find, sampling.stop) if at >= 0]  # some servers leave the stop text there
    if stops:
        text, reason = text[: min(stops)], "stop"
    found = steps(choice)
    tokens = len(found) or max(len(text.split()), 1)
    if sampling.logprobs is None:
        return Completion(text=text, tokens=tokens, finish_reason=reason)
    if text and not found:
        raise RequestError("gives no log-probabilities", "set logprobs to None, or use an endpoint that gives them")
    logprob = float(sum(logprob for _, logprob, _ in found))
    likeliest = tuple(likeliest for _, _, likeliest in found)
    return Completion(text=text, tokens=tokens, logprob=logprob, finish_reason=reason, likeliest=likeliest)


def steps(choice: Any) -> list[Step]:
    """The tokens of a choice; none where it has no log-probabilities."""
    found = choice.get("logprobs")
    if not found:
        return []
    if "content" in found:  # a chat's
        return [
            (step["token"], step["logprob"], {top["token"]: top["logprob"] for top in step.get("top_logprobs") or ()})
            for step in found["content"] or ()
        ]
    tops = [dict(top or {}) for top in found.get("top_logprobs") or [None] * len(found["tokens"])]
    return list(zip(found["tokens"], found["token_logprobs"], tops, strict=True))


def logprob_after(prompt: str, text: str, choice: Any) -> float | None:
    """The log-probability in nats of what comes after `prompt` in the echoed `text`; None where it was not echoed.

    A token that spans the prompt's end counts too, or " yes" after "Answer: " would be no token at all. The tokens' own
    texts say where each begins, for a server may count one that is before all text, such as <s>, in its offsets. Where
    a character has several tokens they do not: then the offsets hold, if the last token begins or ends with the text.
    """
    found = choice.get("logprobs") or {}
    tokens = found.get("tokens") or []
    first = "".join(tokens).find(text)
    bounds = list(itertools.accumulate(map(len, tokens), initial=-first))
    if first < 0:
        offsets = found.get("text_offset") if choice["text"].startswith(text) else None
        if not offsets or len(offsets) != len(tokens):
            return None
        bounds = [*offsets, offsets[-1] + len(tokens[-1])]
        if len(text) not in bounds[-2:]:
            return None
    spans = zip(itertools.pairwise(bounds), found["token_logprobs"], strict=True)
    logprobs = [x for (begin, end), x in spans if len(prompt) < max(end, begin + 1) and begin < len(text)]
    if None in logprobs:
        raise RequestError("gives no log-probability of a text's first token", "score after a prompt that is not empty")
    return float(sum(logprobs))
