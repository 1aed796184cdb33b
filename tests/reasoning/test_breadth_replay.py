"""Breadth-first search against the definition of the published algorithm, on searches whose words are given.

Yao et al. 2023 (arXiv:2305.10601), algorithm 1: S_0 = {x}; S'_t = {[s, z]} for s of S_{t-1} and z of its k proposals;
S_t = the b of S'_t that are worth most. Here of equal ones the first, a state once, and wrong steps never.
"""

import random

import pytest

from vishwamai.reasoning.proposals import proposed, sampled
from vishwamai.reasoning.scripted import Scripted
from vishwamai.reasoning.tree import TreeOfThoughts
from vishwamai.reasoning.values import program

CASES = 300
RANK = {"right": 0, "maybe": 1, "refuted": 2}


def by_definition(k, b, depth, even, proposals, value):
    """The frontiers [S_0, S_1, ...] that are gone on from, all S_t, and the answer, with lists and nothing else."""
    frontier, seen, frontiers, kept, answers = ["start"], {"start"}, [], [], []
    for _ in range(depth):
        frontiers.append(frontier)
        new = []
        for i, s in enumerate(frontier):
            each, over = (k * b // len(frontier), k * b % len(frontier)) if even else (k, 0)
            for z in proposals(s)[: each + 1 if i < over else each]:
                if z == "wrong way" or z in seen:
                    continue
                seen.add(z)
                kind = z.split()[0] if " " in z else ""
                if kind:
                    hope = value(s) if s != "start" and kind == "maybe" else 0
                    answers.append((RANK[kind], -hope, len(answers), z))
                else:
                    new.append(z)
        if answers and min(answers)[0] == 0:
            break
        order = sorted(range(len(new)), key=lambda i: (-value(new[i]), i))
        frontier = [new[i] for i in order[:b]]
        kept.append(frontier)
        if not frontier:
            break
    return frontiers, kept, min(answers)[3] if answers else None


def kept_in(trace, level):
    return {t.state for t in trace.thoughts if len(t.path) == level and t.status in ("kept", "expanded")}


@pytest.mark.parametrize("how", ["proposed", "sampled"])
@pytest.mark.parametrize("even", [False, True])
def test_the_states_of_every_level_are_those_of_the_algorithm(how, even, land):
    found = {"frontiers": 0, "answers": 0, "repeats": 0, "wrong": 0, "cut": 0}
    for case in range(CASES):
        rng = random.Random(case)
        k, b, depth = rng.randint(1, 5), rng.randint(1, 5), rng.randint(1, 4)
        task = land(seed=case)
        proposals = proposed(task.question, 0.7) if how == "proposed" else sampled(0.7)
        solver = TreeOfThoughts(
            task.model, k, depth, b, task=task, even=even, proposals=proposals, values=program(task.worth)
        )
        made = solver.solve("x")
        frontiers, kept, answer = by_definition(
            k, b, depth, even, lambda s, task=task: task.roads("x", s), lambda s, task=task: task.worth("x", s)
        )
        assert task.visited() == frontiers, case
        assert [kept_in(made.trace, level) for level in range(1, len(kept) + 1)] == [set(s) for s in kept], case
        assert (made.answer, made.stopped, made.calls) == (answer, None, len(frontiers)), case
        statuses = [thought.status for thought in made.trace.thoughts]
        found["frontiers"] += len(frontiers)
        found["answers"] += answer is not None
        for name, status in (("repeats", "repeat"), ("wrong", "wrong"), ("cut", "pruned")):
            found[name] += status in statuses
    assert found["frontiers"] > 2 * CASES and min(found.values()) > CASES // 10  # what is to be tried does occur


BY_HAND = {
    "the better of two": ({"start": ["a", "b"], "a": ["c"], "b": ["d"]}, {"a": 0.2, "b": 0.9}, [["start"], ["b"]]),
    "of equals the first": ({"start": ["a", "b"], "a": ["c"], "b": ["d"]}, {"a": 0.5, "b": 0.5}, [["start"], ["a"]]),
    "better in the sixth decimal": ({"start": ["a", "b"], "b": ["d"]}, {"a": 0.5, "b": 0.500001}, [["start"], ["b"]]),
    "a state twice is one": ({"start": ["a", "a"], "a": ["start", "a", "b"]}, {"a": 0.5, "b": 1}, [["start"], ["a"]]),
    "nothing to go on from": ({"start": ["wrong way"]}, {}, [["start"]]),
}


@pytest.mark.parametrize("name", BY_HAND)
def test_two_levels_by_hand(name, land):
    roads, worth, visited = BY_HAND[name]
    task = land(roads, {"c": 0, "d": 0} | worth)
    TreeOfThoughts(task.model, 2, 2, 1, task=task, values=program(task.worth), even=False).solve("x")
    assert task.visited() == visited


LISTED = {
    (): "10 - 4 = 6, left 6 9 13 yes\n13 - 9 = 4, left 4 4 10 yes\n"
    "4 + 9 = 14, left 10 13 14 no\n4 + 9 = 13, left 10 13 13 no",
    ("10 - 4 = 6, left 6 9 13 yes",): "13 - 9 = 4, left 4 6 yes\n13 - 6 = 7, left 7 9 no",
    ("13 - 9 = 4, left 4 4 10 yes",): "10 - 4 = 6, left 4 6 yes\n4 + 4 = 8, left 8 10 no",
    ("10 - 4 = 6, left 6 9 13 yes", "13 - 9 = 4, left 4 6 yes"): "4 * 6 = 24 yes\n4 + 6 = 10 no",
    ("13 - 9 = 4, left 4 4 10 yes", "4 + 4 = 8, left 8 10 yes"):  # what is gone on from is not taken back
    "8 + 10 = 18 no",
}


def test_a_game_of_24_by_hand():
    model = Scripted(
        {
            "".join(["Make 24 from 4 9 10 13.\n", *(f" {s.strip()}\n" for s in p), "Next:\n"]): [t]
            for p, t in LISTED.items()
        }
    )
    worth = {(6, 9, 13): 0.9, (4, 4, 10): 0.9, (10, 13, 13): 0.1, (4, 6): 1.0, (7, 9): 0.0, (8, 10): 0.2}
    solver = TreeOfThoughts(
        model, 4, 3, 2, task="game24", even=False,
        proposals=proposed("Next:\n", 0.0), values=program(lambda problem, state: worth[state]),
    )  # fmt: skip
    made = solver.solve("4 9 10 13")
    assert (made.answer, made.verified, made.calls) == ("( 10 - 4 ) * ( 13 - 9 )", True, 3)
    assert [step.text for step in made.steps] == [LISTED[p].split("\n")[0] for p in [(), *list(LISTED)[1:4:2]]]
    statuses = {".".join(map(str, t.path)): t.status for t in made.trace.thoughts}
    assert statuses == {
        "": "expanded", "0": "expanded", "1": "expanded", "2": "wrong", "3": "pruned",
        "0.0": "expanded", "0.1": "pruned", "1.0": "repeat", "1.1": "expanded",
        "0.0.0": "answer", "0.0.1": "refuted", "1.1.0": "refuted",
    }  # fmt: skip
    assert next(t.why for t in made.trace.thoughts if t.status == "repeat") == "0.0"
