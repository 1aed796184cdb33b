"""What all ways of solving share: many problems in one budget, and a search that ends early with what it has."""

from collections.abc import Callable, Mapping, Sequence

from vishwamai.reasoning.budget import Budget, BudgetExhausted
from vishwamai.reasoning.drive import FAILURES, Search, run
from vishwamai.reasoning.model import Model
from vishwamai.reasoning.solution import Solution, failed_solution


def solve_all(
    model: Model,
    problems: Sequence[str],
    search: Callable[[str, Budget], Search[Solution]],
    method: str,
    budget: Budget | None = None,
    each: Mapping[str, float] | None = None,
) -> list[Solution]:
    """Runs a search for each problem, in step, in one budget; `each` has the limits of every problem.

    A problem whose search fails has a solution that says so, without an answer.
    """
    shared = Budget() if budget is None else budget
    searches = [search(problem, shared.sub_budget(**(each or {}))) for problem in problems]
    return run(model, searches, lambda i, error: failed_solution(problems[i], method, error))


def run_until_stopped(
    search: Search[None], budget: Budget, notes: list[str], has_results: Callable[[], bool]
) -> Search[str | None]:
    """Runs a search to its end, or until a limit or a failing model ends it. Returns what ended it early, or None.

    A failure after the time is up counts as the time's end, and is noted. Another is raised where there are no results.
    """
    try:
        yield from search
    except BudgetExhausted as error:
        return error.limit
    except FAILURES as error:
        is_late = budget.remaining("seconds") <= 0  # a model that gives nothing in time fails
        if not is_late and not has_results():
            raise
        if not is_late:
            return str(error)
        notes.append(str(error))
        return "seconds"
    return None
