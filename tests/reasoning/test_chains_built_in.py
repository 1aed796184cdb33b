"""Chains and integrated reasoning on the built-in model, judged by Python's own arithmetic."""

import re

import pytest

from vishwamai import VishwamAI
from vishwamai.data import word_problems
from vishwamai.reasoning.chain import ChainOfThought
from vishwamai.reasoning.hybrid import IntegratedReasoning
from vishwamai.reasoning.local import Local

pytestmark = pytest.mark.by_turns

PUZZLES = ["4 9 10 13", "1 4 8 8"]


def makes_24(puzzle: str, answer: str) -> bool:
    assert re.fullmatch(r"[0-9 ()+*/-]+", answer)
    return sorted(re.findall(r"\d+", answer)) == sorted(puzzle.split()) and abs(eval(answer) - 24) < 1e-9


def test_two_puzzles_and_two_word_problems():
    model = Local(VishwamAI.from_pretrained("vishwamai/base"), context=160, rows=64)
    problems = word_problems.held_out()[:2]
    chains = ChainOfThought(model, task="word_problems", samples=2, weights="logprob")
    for problem, found in zip(problems, chains.solve_all([p.prompt for p in problems]), strict=True):
        assert found.answer and found.verified is problem.grade(f"Answer: {found.answer}")
        assert all(step.valid is not None for step in found.steps)
        assert all(thought.logprob < 0 for thought in found.trace.thoughts)
    made = model.usage.completion_tokens
    solver = IntegratedReasoning(model, task="game24", samples=2)
    many = solver.solve_all(PUZZLES, "hybrid", each={"tokens": 800})
    assert sum(found.tokens for found in many) == model.usage.completion_tokens - made
    for puzzle, found in zip(PUZZLES, many, strict=True):
        assert found.verified is makes_24(puzzle, found.answer or "0") and found.tokens <= 800 and found.stages
