"""Answers in what a model wrote: found, compared as numbers, and put to the vote. It knows no task and no model.

Answers are one where they are equal, not where their texts look alike: "18" and "$18.00" agree, "18" and "19" do not.
"""

import dataclasses
import math
import re
from collections.abc import Iterator, Sequence
from fractions import Fraction

from vishwamai.errors import InputError

MAX_CHARACTERS = 200  # of what is read as a number
WHOLE = r"(?:[0-9]{1,3}(?:,[0-9]{3})+(?![0-9])|[0-9]+)"
DECIMAL = rf"(?:{WHOLE}(?:\.[0-9]+)?|\.[0-9]+)"
LAST_NUMBER = re.compile(rf"(?:(?<![0-9a-zA-Z)%])[-−])?[$€£]?{DECIMAL}(?:/[0-9]+(?![0-9/]))?%?")
FINAL_MARK = re.compile(r"####(.*)")
MARKED = re.compile(r"^[ \t>*_]*(?:A|(?:[Tt]he )?(?:[Ff]inal )?(?:[Aa]nswer|ANSWER))[ \t*_]*:(.*)$", re.MULTILINE)
INLINE = re.compile(r"\banswer[ \t*_]*(?:is|[:=])[ \t*_]*:?(.*)", re.IGNORECASE)
SENTENCE_END = re.compile(r"[.!?](?=\s|$)")
BOXED = "\\boxed{"

NUMBER = re.compile(
    rf"(?P<sign>[-+]?)\s*(?:(?P<before>[0-9]+)\s+(?=[0-9]+/[0-9]))?(?P<top>{WHOLE}(?:\.[0-9]*)?|\.[0-9]+)"
    rf"(?:\s*/\s*(?P<bottom>{DECIMAL}))?(?P<unit>[^\d=+*^<>{{}}\\²³½¼¾√π∞]*)"
)
NO_UNIT = re.compile(
    r"\s*[-/]?\s*(?:and|or|to|[xyznkie]|pi)\b", re.IGNORECASE
)  # 5 and a half, 3x: not the number alone
SCALES = {"hundred": 100, "thousand": 1000, "million": 10**6, "billion": 10**9}
NAMED = re.compile(r"[a-zA-Z]\w*\s*=\s*(?=\S)")  # x = 18
TYPESET = (
    (re.compile(r"\\[dt]?frac\{(-?[0-9]+)\}\{([0-9]+)\}"), r"\1/\2"),
    (re.compile(r"\\(?:text|mathrm|mbox)\{([^{}]*)\}"), r" \1"),
    (re.compile(r"\\[,!;: ]|\\[()\[\]]|\\?[$€£]|\*\*"), ""),
    (re.compile(r"\^\{?\\circ\}?|°"), ""),
    (re.compile(r"\\%"), "%"),
    (re.compile("[−–]"), "-"),
)


def extract(text: str) -> str | None:
    r"""The answer that a text gives: what stands after `####`; after `A:`, `Answer:` or `The answer is`; in `\boxed{}`.

    The first of these kinds that occurs counts, and of one kind the last. Without any, the last number in the text;
    None where there is none either.
    """
    for found in _marked(text):
        answer = _tidy(found)
        if answer:
            return answer
    numbers = LAST_NUMBER.findall(text)
    return numbers[-1] if numbers else None


def _marked(text: str) -> Iterator[str]:
    """What the marks of each kind point at, the last of its kind."""
    for kind in (FINAL_MARK, MARKED, INLINE):
        found = kind.findall(text)
        if found:
            yield found[-1] if kind is FINAL_MARK else _spoken(found[-1], kind is INLINE)
    yield boxed(text) or ""


def _spoken(text: str, in_prose: bool) -> str:
    """An answer of a line in which "the answer is" may occur again; in prose it ends with its sentence."""
    while again := INLINE.search(text):
        text, in_prose = again[1], True
    return SENTENCE_END.split(text, maxsplit=1)[0] if in_prose else text


def boxed(text: str) -> str | None:
    r"""What stands in the last `\boxed{...}`, with the braces inside it; None where there is none or it never ends."""
    start = text.rfind(BOXED)
    if start < 0:
        return None
    begin, depth = start + len(BOXED), 1
    for i in range(begin, len(text)):
        depth += {"{": 1, "}": -1}.get(text[i], 0)
        if depth == 0:
            return text[begin:i]
    return None


def _tidy(text: str) -> str:
    """An answer without what surrounds it."""
    text = boxed(text) or text
    return text.strip(" \t\r*_`").rstrip(".").rstrip()


def canonical(answer: str) -> Fraction | str:
    r"""What an answer is compared by: its exact number where it is one number, else its text, casefolded.

    "1,000", "$18.00", "1/2", "1 1/2", ".5", "x = 3" and "\frac{1}{2}" are numbers. Units after a number do not count,
    and a percent sign is a unit: "50%" is 50 and not 0.5, for where a percentage is asked for, 50 is the answer. A
    word of size does count: "2 million" is 2000000. Nothing is rounded: "0.33" is not "1/3".
    """
    text = answer.strip()
    for pattern, plain in TYPESET:
        text = pattern.sub(plain, text)
    text = NAMED.sub("", text.strip(), count=1) if NAMED.match(text.strip()) else text.strip()
    number = _number(text)
    if number is not None:
        return number
    text = " ".join(text.casefold().split()).strip("\"'`“”‘’").rstrip(".,;:!?")
    return text[1:-1] if re.fullmatch(r"\(\w+\)", text) else text


def _number(text: str) -> Fraction | None:
    match = NUMBER.fullmatch(text) if len(text) <= MAX_CHARACTERS else None
    if match is None or NO_UNIT.match(match["unit"]):
        return None
    bottom = Fraction((match["bottom"] or "1").replace(",", ""))
    if bottom == 0:
        return None
    value = Fraction(match["top"].replace(",", "")) / bottom + int(match["before"] or 0)
    words = match["unit"].split()
    value *= SCALES.get(words[0].casefold().rstrip(".,"), 1) if words else 1
    return -value if match["sign"] == "-" else value


def equal(a: str, b: str) -> bool:
    """Whether two answers are the same, by `canonical`."""
    return canonical(a) == canonical(b)


@dataclasses.dataclass(frozen=True)
class Group:
    """Answers that are equal: as the first of them is written, their weight, its share of all, and their places."""

    answer: str
    weight: float
    share: float
    members: tuple[int, ...]


def vote(answers: Sequence[str | None], weights: Sequence[float] | None = None) -> list[Group]:
    """Equal answers as groups, the heaviest first, of equal weight the one that came first.

    An answer weighs 1, or its weight: of `from_logprobs`, or a verifier's score. None has no vote. Raises `InputError`
    for weights that are not as many as the answers, negative or not finite.
    """
    weights = [1.0] * len(answers) if weights is None else weights
    if len(weights) != len(answers):
        raise InputError(f"there are {len(answers)} answers and {len(weights)} weights; give each answer one")
    if not all(math.isfinite(weight) and weight >= 0 for weight in weights):
        raise InputError(f"the weights {list(weights)} must be finite and 0 or more; make scores positive first")
    members: dict[Fraction | str, list[int]] = {}
    for i, answer in enumerate(answers):
        if answer is not None:
            members.setdefault(canonical(answer), []).append(i)
    sums = [math.fsum(weights[i] for i in group) for group in members.values()]
    total = math.fsum(sums) or 1.0
    groups = [
        Group(str(answers[group[0]]), weight, weight / total, tuple(group))
        for group, weight in zip(members.values(), sums, strict=True)
    ]
    return sorted(groups, key=lambda group: -group.weight)


def from_logprobs(logprobs: Sequence[float], tokens: Sequence[int] | None = None) -> list[float]:
    """Weights of chains by their log-probabilities in nats: the softmax, which sums to 1.

    With `tokens`, the lengths, of the mean over a chain's tokens: long and short chains are on a par. Without, of the
    sum: a chain weighs in proportion to its probability, and a long one hardly at all. That is right for chains that
    were searched for; chains drawn at random occur in proportion to their probability already. Where no chain has any
    probability all weigh the same. Raises `InputError` for a log-probability that is no number or above every bound,
    and for lengths that are not as many or not positive.
    """
    if any(math.isnan(logprob) or logprob == math.inf for logprob in logprobs):
        raise InputError(f"the log-probabilities {list(logprobs)} must be numbers")
    if tokens is not None:
        if len(tokens) != len(logprobs) or any(count < 1 for count in tokens):
            raise InputError(f"the lengths {list(tokens)} must be 1 or more, one for each log-probability")
        logprobs = [logprob / count for logprob, count in zip(logprobs, tokens, strict=True)]
    best = max(logprobs, default=0.0)
    if best == -math.inf:
        return [1 / len(logprobs)] * len(logprobs)
    parts = [math.exp(logprob - best) for logprob in logprobs]
    return [part / math.fsum(parts) for part in parts]
