"""Answers in what a model wrote: found, compared as numbers, and put to the vote. It knows no task and no model.

Answers are one where they are equal, not where their texts look alike: "18" and "$18.00" agree, "18" and "19" do not.
"""

import dataclasses
import math
import re
from collections.abc import Sequence
from fractions import Fraction

from vishwamai.reasoning import numerals

HASHES = re.compile(r"(?<!#)####(?!#)[ \t]*(.*)")
# 18, and not "2. Double it" or "2 Steps to go"
NO_HEADING = re.compile(r"[-−+*_`(\\$€£¥₹. \t]*[0-9](?![0-9]*(?:[.):][ \t]+[^\W\d_]|[ \t]+[A-Z][a-z]))")
ANSWER_LINE = re.compile(
    r"^[ \t>*_#`]*(?:A[ \t*_]*:|(?i:(?:(?:the|my) )?(?:final )?answer)[ \t*_]*(?::|$))[ \t*_]*(.*)$", re.MULTILINE
)
ANSWER_IS = re.compile(r"\banswers?[ \t*_]*(?:(?:is|are|would be|will be|must be)\b|[:=])[ \t*_]*:?", re.IGNORECASE)
SENTENCE_END = re.compile(r"(?<!\b[A-Z])(?<!\b[A-Z][a-z])[.!?](?=\s|$)")
HEDGE = re.compile(
    r"(?i)(?:(?:approx(?:imately|\.)?|about|around|roughly|exactly|just|only|simply|equal to|therefore|thus|so|that|≈|~"
    r"|\\approx)(?:[ :]+|(?=[\d$])))+"
)
REASON = re.compile(
    r"(?i)\s*[,;:(\[—-]*\s*\b(?:because|since|given that|due to|i\.e|rather than|instead of)\b"
    r"|,\s*(?:not|as|which)\b|\s+\((?=[a-z]{2,}[ )]|[^()]*=)"
)
NO_SIDE = re.compile(r"[0-9].*[a-zA-Z]|[a-zA-Z].*[0-9]|[,;]")  # "x + 3", "5, y": not a calculation, nor a name alone
# x = 18, f(3) = 9
NAME = re.compile(r"(?:[Tt]he +)?(?:[a-zA-Z]\w*(?:\([\w,| ]*\)\s*(?==)|\s*)(?:=|∈|\\in\b)\s*)?(?=\S)")


def extract(text: str) -> str | None:
    r"""The answer that a text gives: what stands after `####`; in `\boxed{}`; after `Answer:`; after `the answer is`.

    The first of these kinds that occurs counts, and of one kind the last; a heading (`#### Step 2`) is none. A reason
    after an answer is left out, and so is the calculation before it. Without any mark, the last number in the text;
    None where there is none either.
    """
    for find in (_answer_after_hashes, last_boxed, _answer_line, _answer_sentence):
        answer = _strip_reason(find(text) or "")
        if answer:
            return answer
    return numerals.last_number(text)


def _answer_after_hashes(text: str) -> str | None:
    """What stands after GSM8K's mark: the last number, or the words at the very end."""
    found = list(HASHES.finditer(text))
    numbers = [match[1] for match in found if NO_HEADING.match(match[1])]
    if numbers or not found:
        return numbers[-1] if numbers else None
    is_end = not text[found[-1].end() :].strip() and not ANSWER_LINE.match(found[-1][1])
    return found[-1][1] if is_end else None


def last_boxed(text: str) -> str | None:
    r"""What stands in the last `\boxed{...}`, with the braces inside it; None where there is none or it never ends."""
    _, box, inside = text.rpartition("\\boxed{")
    depth = 1
    for i, character in enumerate(inside if box else ""):
        depth += {"{": 1, "}": -1}.get(character, 0)
        if depth == 0:
            return inside[:i]
    return None


def _answer_line(text: str) -> str | None:
    """What a line that begins with the mark says; where it says nothing, the line after it, if that is the last."""
    found = list(ANSWER_LINE.finditer(text))
    answer = found[-1][1].strip() or text[found[-1].end() :].strip() if found else "\n"
    return None if "\n" in answer else _answer_sentence(answer) or answer


def _answer_sentence(text: str) -> str | None:
    """What a sentence says the answer is."""
    found = list(ANSWER_IS.finditer(text))
    if not found:
        return None
    line = text[found[-1].end() :].lstrip().split("\n", 1)[0]
    return SENTENCE_END.split(HEDGE.sub("", line.lstrip(" *_")), maxsplit=1)[0]


def _strip_reason(text: str) -> str:
    """An answer without what surrounds it, its reason, or the calculation that leads to it."""
    text = (last_boxed(text) or text).strip(" \t\r*_`").rstrip(".").rstrip()
    if len(text) > numerals.MAX_CHARACTERS or isinstance(canonical(text), Fraction):
        return text
    hedge = HEDGE.match(text)
    short = REASON.split(text[hedge.end() if hedge else 0 :], maxsplit=1)[0]
    *before, after = short.split("=")
    short = short if any(map(NO_SIDE.search, before)) else after
    return short.strip(" \t*_`,;").rstrip(".") or text


def canonical(answer: str) -> Fraction | str:
    r"""What an answer is compared by: its exact number where it is one number, else its text, casefolded.

    "1,000", "$18.00", "1 1/2", "x = 3", "\frac{1}{2}", "2^3", "seven" are numbers. Units after a number do not count,
    and a percent sign is a unit: "50%" is 50, as where a percentage is asked for; "2 million" is 2000000. Nothing is
    rounded: "0.33" is not "1/3". Of tuples, intervals and lists the items are compared so, and of sets in any order.
    """
    if len(answer) > numerals.MAX_CHARACTERS:
        return " ".join(answer.casefold().split())
    text = NAME.sub("", numerals.plain_text(answer).replace("**", " ").strip(), count=1)
    number = numerals.parse_number(text)
    return number if number is not None else _canonical_items(text) or _canonical_words(text)


def _canonical_items(text: str) -> str | None:
    """A tuple, an interval, a set or a bare list by its items; None for what is none of them."""
    is_enclosed = text[:1] in "([{" and text[-1:] in ")]}"
    for begin, end in ((text[:1], text[-1:]), ("", "")) if is_enclosed else (("", ""),):
        items = _split_items(text[len(begin) : len(text) - len(end)])
        if len(items) > 1 and all(items):
            parts = [str(canonical(item)) for item in items]
            return begin + ", ".join(sorted(set(parts)) if begin + end == "{}" else parts) + end
    return None


def _split_items(text: str) -> list[str]:
    """A text at the commas outside its brackets; nothing where the brackets do not match."""
    items, depth = [""], 0
    for character in text:
        depth += (character in "([{") - (character in ")]}")
        if depth < 0:
            return []
        if character == "," and depth == 0:
            items.append("")
        else:
            items[-1] += character
    return [item.strip() for item in items]


def _canonical_words(text: str) -> str:
    """A text in one case, with single spaces, none around an operator, without quotes and the end of a sentence."""
    text = " ".join(text.replace("$", "").casefold().split()).strip("\"'`“”‘’").rstrip(".,;:!?")
    text = re.sub(r" ?([-+*/^=<>|:±]|<=|>=) ?", r"\1", re.sub(r"\binfinity\b", "inf", text))
    text = re.sub(r"(?<=[0-9)])[ *]+(?=sqrt|pi\b|[a-z]\b|\()", "", text).removeprefix("+")
    return text[1:-1] if re.fullmatch(r"\(\w+\)", text) else text


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

    An answer weighs 1, or its weight, 0 or more. None has no vote.
    """
    weights = [1.0] * len(answers) if weights is None else weights
    members: dict[Fraction | str, list[int]] = {}
    for i, answer in enumerate(answers):
        if answer is not None:
            members.setdefault(canonical(answer), []).append(i)
    total = math.fsum(weights[i] for group in members.values() for i in group) or 1.0
    groups = []
    for places in members.values():
        weight = math.fsum(weights[i] for i in places)
        groups.append(Group(str(answers[places[0]]), weight, weight / total, tuple(places)))
    return sorted(groups, key=lambda group: -group.weight)
