"""The built-in models reason as well as the documents say, on a sample; `make reason-bench` asks everything."""

import itertools
import runpy
from pathlib import Path

import pytest

from vishwamai import VishwamAI
from vishwamai.data import countdown, game24
from vishwamai.reasoning import ChainOfThought, IntegratedReasoning, Local, TreeOfThoughts

pytestmark = pytest.mark.by_turns

ROOT = Path(__file__).parents[2]
RANKED = [" ".join(map(str, state)) for state in game24.held_out_puzzles()[0]]
FIVES = [f"{target} from {' '.join(map(str, state))}" for state, target in countdown.held_out_puzzles()]


@pytest.fixture(scope="module")
def base():
    return Local(VishwamAI.from_pretrained("vishwamai/base"), context=128, rows=512)


def right(solutions) -> int:
    return sum(found.verified is True for found in solutions)


def test_one_pass_of_a_tree_solves_most_of_the_ranked_puzzles(base):
    found = TreeOfThoughts(base, task="game24", temperature=1.0).solve_all(RANKED[:12])
    assert right(found) >= 10
    assert sum(solution.tokens for solution in found) / 12 < 420


def test_rounds_of_a_tree_solve_nearly_all(base):
    found = TreeOfThoughts(base, task="game24", temperature=1.0, rounds=12).solve_all(RANKED[30:42])
    assert right(found) >= 11
    for solution in found:
        assert solution.verified is None or game24.grade(
            tuple(map(int, solution.problem.split())), f"Answer: {solution.answer} = 24", at_once=True
        )


def test_a_tree_is_the_same_at_any_width_and_in_any_company(base):
    """Bit for bit: every thought, its value and its log-probability, with several puzzles in a call and with one."""
    narrow, wide = (
        TreeOfThoughts(
            Local(base.model, context=128, rows=512, width=width), task="game24", temperature=1.0, beam_width=2
        )
        for width in (1, 7)
    )
    both = [grown(found) for found in wide.solve_all(RANKED[:2])]
    assert grown(narrow.solve(RANKED[1])) == both[1]
    assert len({value for *_, value, _ in both[0]}) > 3


def grown(solution) -> list[tuple]:
    return [(t.path, t.text, t.status, t.why, t.tokens, t.value, t.logprob) for t in solution.trace.thoughts]


def test_integrated_reasoning_uses_no_more_than_a_problem_needs(base):
    found = IntegratedReasoning(base, task="game24").solve_all(RANKED[:8])
    assert right(found) >= 7
    assert min(solution.tokens for solution in found) < 150


def test_the_countdown_model_searches_well():
    model = Local(VishwamAI.from_pretrained("vishwamai/countdown"), context=128, rows=512)
    tree = TreeOfThoughts(model, task="countdown", max_depth=4, temperature=1.4, rounds=6).solve_all(FIVES[:4])
    chain = ChainOfThought(model, task="countdown").solve_all(FIVES[:4])
    assert right(tree) >= 3 and right(chain) <= 1


def test_the_values_of_the_base_tell_good_states_from_bad(base):
    """The mean value after good first steps is far above that after bad ones, on puzzles that were never trained on."""
    solver, good, bad = TreeOfThoughts(base, task="game24"), [], []
    for state in game24.held_out_puzzles()[0][:8]:
        for move in countdown.moves(state)[::6]:
            step = "".join(countdown.step_text(move, 24))
            value = solver.estimate_value(" ".join(map(str, state)), [step])
            (good if game24.solvable(move.left) else bad).append(value)
    assert min(len(good), len(bad)) >= 5
    assert sum(good) / len(good) > 0.3 + sum(bad) / len(bad)


def test_best_of_n_is_the_mean_over_all_orders(monkeypatch):
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    bank = runpy.run_path(str(ROOT / "benchmarks/reason.py"))["Bank"]([[True, False, False, True]], [[5, 7, 7, 5]])
    right, tokens = bank.right[0], bank.tokens[0]
    for n in range(1, 5):
        shares, costs = [], []
        for order in itertools.permutations(range(4)):
            drawn = []
            for i in order[:n]:
                drawn.append(i)
                if right[i]:
                    break
            shares.append(any(right[i] for i in drawn))
            costs.append(sum(tokens[i] for i in drawn))
        share, cost = bank.best_of(n)
        assert share == pytest.approx(sum(shares) / len(shares)) and cost == pytest.approx(sum(costs) / len(costs))
