"""Which of several chains is submitted, and how sure that is. It knows no model and no task.

Votes are among answers that are equal (`answers.canonical`). A chain that was refined votes once, by its best attempt.
"""

import dataclasses
from collections.abc import Sequence

from vishwamai.reasoning.answers import Group, canonical, from_logprobs, vote

CHOICES = ("vote", "best")
WEIGHTS = ("count", "logprob", "verifier")
RANK = {True: 2, None: 1, False: 0}


@dataclasses.dataclass(frozen=True)
class Chain:
    """One chain: its place, what was written, its answer, the task's word on it, its tokens, and when it was made.

    The place of drawn chain i is (i,), that of an attempt to mend a chain its place and 0. Seconds are since the start.
    """

    path: tuple[int, ...]
    text: str
    answer: str | None
    verified: bool | None
    tokens: int
    logprob: float
    seconds: float = 0.0


def latest_attempts(chains: Sequence[Chain]) -> list[Chain]:
    """The chain that stands for each drawn one: a right attempt, else the latest with an answer that is not refuted."""
    lines: dict[int, Chain] = {}
    for chain in chains:
        before = lines.get(chain.path[0])
        if before is None or _worth(chain) >= _worth(before):
            lines[chain.path[0]] = chain
    return list(lines.values())


def _worth(chain: Chain) -> int:
    return -1 if chain.answer is None else RANK[chain.verified]


def select_answer(chains: Sequence[Chain], choose: str, weights: str) -> tuple[Chain | None, float | None]:
    """The chain whose answer is submitted, and the share of all chains' weight that is for it.

    With "best", those that a program calls right stand before those that it says nothing of, and refuted ones come
    last; how sure it is, is then the program's word where there is one.
    """
    lines = latest_attempts(chains)
    if len(lines) < 2:
        only = lines[0] if lines else None
        return only, None if only is None or only.verified is None else float(only.verified)
    highest = max(map(_worth, lines))
    electable = lines if choose == "vote" else [chain for chain in lines if _worth(chain) == highest]
    groups = vote([chain.answer for chain in electable], _weights(electable, weights))
    if not groups:
        return lines[0], 0.0
    best = electable[groups[0].members[0]]
    if choose == "best" and best.verified is not None:
        return best, float(best.verified)
    return best, _share(groups[0], lines, weights)


def _share(group: Group, lines: Sequence[Chain], weights: str) -> float:
    """A group's part of all weight, that of chains without an answer too."""
    own = _weights(lines, weights)
    agree = [w for w, chain in zip(own, lines, strict=True) if _same(chain.answer, group.answer)]
    return sum(agree) / (sum(own) or 1.0)


def _same(answer: str | None, other: str) -> bool:
    return answer is not None and canonical(answer) == canonical(other)


def is_decided(chains: Sequence[Chain], left: int, choose: str, weights: str) -> bool:
    """Whether `left` more chains could not change the answer.

    With "best", that is where one is right, and where no program can tell, like a vote: where the lead is greater than
    what is left. Weights other than counts are known when all chains are.
    """
    lines = latest_attempts(chains)
    if choose == "best" and any(chain.verified is not None for chain in lines if chain.answer is not None):
        return any(chain.verified for chain in lines)
    if weights != "count":
        return False
    votes = [len(group.members) for group in vote([chain.answer for chain in lines])] + [0, 0]
    return votes[0] - votes[1] > left


def _weights(chains: Sequence[Chain], weights: str) -> list[float]:
    if weights == "logprob":  # of the mean, for what is drawn is there in proportion to its probability already
        return from_logprobs([chain.logprob for chain in chains], [max(chain.tokens, 1) for chain in chains])
    if weights == "verifier":
        return [RANK[chain.verified] / 2 for chain in chains]
    return [1.0] * len(chains)
