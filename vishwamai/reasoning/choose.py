"""Selects the answer of several chains, and says how sure it is. It knows no model and no task.

Votes are for answers that are equal by `answers.canonical`. A chain that was refined votes once, by its best attempt.
"""

import dataclasses
import math
from collections.abc import Sequence

from vishwamai.errors import InputError
from vishwamai.reasoning.answers import equal, vote

CHOICES = ("vote", "best")
WEIGHTS = ("count", "logprob", "verifier")
VERIFIED_WEIGHT = {True: 1.0, None: 0.5, False: 0.0}


@dataclasses.dataclass(frozen=True)
class Chain:
    """A chain of thought, and its answer, if it has one; `verified` is the verdict of the task's check on that.

    Sample i has the path (i,), and an attempt to refine a chain that chain's path and 0. `logprob` is the sum over the
    tokens in nats; `seconds` are since the start.
    """

    path: tuple[int, ...]
    text: str = ""
    answer: str | None = None
    verified: bool | None = None
    tokens: int = 0
    logprob: float = 0.0
    seconds: float = 0.0
    prompt: tuple[str, ...] = ()  # what the text follows

    @property
    def rank(self) -> float:
        """What the answer is worth by the task's check alone; -1 without an answer."""
        return -1.0 if self.answer is None else VERIFIED_WEIGHT[self.verified]


def best_attempts(chains: Sequence[Chain]) -> list[Chain]:
    """Returns the best of each sampled chain and the attempts to refine it: the highest in rank, of equals the last."""
    best: dict[int, Chain] = {}
    for chain in chains:
        sample = chain.path[0]
        if sample not in best or chain.rank >= best[sample].rank:
            best[sample] = chain
    return list(best.values())


def select_answer(chains: Sequence[Chain], choose: str, weights: str) -> tuple[Chain | None, float | None]:
    """Returns the chain whose answer is submitted, and the share of all chains' weight that agrees with it.

    With "best", only the chains of the highest rank have a vote: those with a right answer, or else those that nobody
    can check, or else the refuted ones. Where the task's checker knows, its word replaces the share.
    """
    attempts = best_attempts(chains)
    if len(attempts) < 2:
        only = attempts[0] if attempts else None
        return only, None if only is None or only.verified is None else float(only.verified)
    highest = max(chain.rank for chain in attempts)
    voters = attempts if choose == "vote" else [chain for chain in attempts if chain.rank == highest]
    groups = vote([chain.answer for chain in voters], _vote_weights(voters, weights))
    if not groups:
        return attempts[0], 0.0
    best = voters[groups[0].members[0]]
    if choose == "best" and best.verified is not None:
        return best, float(best.verified)
    all_weights = _vote_weights(attempts, weights)
    agree = [
        weight
        for chain, weight in zip(attempts, all_weights, strict=True)
        if chain.answer is not None and equal(chain.answer, groups[0].answer)
    ]
    return best, sum(agree) / (sum(all_weights) or 1.0)


def is_decided(chains: Sequence[Chain], remaining: int, choose: str, weights: str) -> bool:
    """Whether so many more chains could not change the answer.

    With "best", that is where one is right, and where no program can tell, like a vote: where the lead is greater than
    what remains. Weights other than counts are known only when all chains are.
    """
    attempts = best_attempts(chains)
    if choose == "best" and any(chain.verified is not None for chain in attempts if chain.answer is not None):
        return any(chain.verified for chain in attempts)
    if weights != "count":
        return False
    votes = [len(group.members) for group in vote([chain.answer for chain in attempts])] + [0, 0]
    return votes[0] - votes[1] > remaining


def _vote_weights(chains: Sequence[Chain], weights: str) -> list[float]:
    """Returns the weight of each chain's vote.

    A log-probability counts as the mean over the chain's tokens: chains are sampled in proportion to the sum already.
    """
    if weights == "logprob":
        means = [chain.logprob / max(chain.tokens, 1) for chain in chains]
        if not all(mean < math.inf for mean in means):
            raise InputError(f"the log-probabilities {[chain.logprob for chain in chains]} must be numbers")
        best = max(means, default=0.0)
        parts = [1.0 if mean == best else math.exp(mean - best) for mean in means]  # -inf may be the best
        return [part / math.fsum(parts) for part in parts]
    if weights == "verifier":
        return [VERIFIED_WEIGHT[chain.verified] for chain in chains]
    return [1.0] * len(chains)
