"""The data sets of the package reasoning-gym as tasks: its questions, and its own judges of the answers.

It knows no data set by name: whatever has length, entries and `score_answer` will do. The package is an extra,
`vishwamai[gym]`, and is imported by `gym` alone.
"""

from typing import Any, Protocol

from vishwamai.errors import BackendError, DataError, InputError
from vishwamai.reasoning.task import call_safely
from vishwamai.reasoning.tasks.text import FreeText


class Dataset(Protocol):
    """A data set as reasoning-gym makes them. An entry has `question`, `answer` and `metadata`."""

    def __len__(self) -> int: ...

    def __getitem__(self, i: int) -> dict[str, Any]: ...

    def score_answer(self, answer: str | None, entry: dict[str, Any]) -> float:
        """How right an answer is, 0 to 1."""
        ...


class Gym(FreeText):
    """A data set's questions, asked as free text with the `options` of `FreeText`.

    An answer is right where the data set scores it at `threshold` or higher; where its judge raises, nobody can tell.
    Answers of several lines need an empty line as `separator`. Some judges evaluate an answer as code (that of
    `countdown` has SymPy do it): run those where a model's words can do no harm. Raises `InputError` for what is no
    such data set.
    """

    name = "gym"

    def __init__(self, dataset: Dataset, *, threshold: float = 1.0, **options: Any):
        super().__init__(**options)
        missing = [name for name in ("__len__", "__getitem__", "score_answer") if not hasattr(dataset, name)]
        if missing:
            raise InputError(
                f"{type(dataset).__name__} has no {', '.join(missing)}; give what reasoning_gym.create_dataset returns"
            )
        if not 0 < threshold <= 1:
            raise InputError(f"threshold is {threshold!r}; scores are 0 to 1, so it must be above 0 and at most 1")
        self.dataset, self.threshold = dataset, threshold
        self._entries: dict[str, dict[str, Any]] = {}
        self._seen = 0

    def problems(self, n: int) -> list[str]:
        """The questions of the first `n` entries. Raises `InputError` where there are not so many."""
        if not 0 <= n <= len(self.dataset):
            raise InputError(
                f"{n} problems were asked for, and the data set has {len(self.dataset)}; make it with a larger size"
            )
        return [self._question(i) for i in range(n)]

    def check(self, problem: str, answer: str) -> bool | None:
        """Whether the score reaches the threshold; None for a question not in the data set and a score not in 0..1."""
        entry = self._entry(problem.strip())
        if entry is None:
            return None
        score, _ = call_safely(lambda: float(self.dataset.score_answer(answer=answer, entry=entry)))
        return score >= self.threshold if score is not None and 0 <= score <= 1 else None

    def _entry(self, question: str) -> dict[str, Any] | None:
        """The first entry with this question. Entries are made when they are looked at, so no more than needed are."""
        while question not in self._entries and self._seen < len(self.dataset):
            self._question(self._seen)
        return self._entries.get(question)

    def _question(self, i: int) -> str:
        entry = self.dataset[i]
        question = entry.get("question") if isinstance(entry, dict) else None
        if not isinstance(question, str):
            raise DataError(f"entry {i} of the data set is {entry!r:.80}; it must have a text under 'question'")
        self._entries.setdefault(question.strip(), entry)
        self._seen = max(self._seen, i + 1)
        return question


def gym(name: str, *, size: int = 100, seed: int = 0, **config: Any) -> Gym:
    """The task of a data set by its name in reasoning-gym, such as "countdown"; `config` is the data set's own.

    `Gym(reasoning_gym.create_dataset(...), ...)` is the same with other prompts or another threshold.
    Raises `BackendError` without the package, `InputError` for a name or a configuration that it refuses.
    """
    try:
        import reasoning_gym  # pyright: ignore[reportMissingImports]
    except ImportError as error:
        raise BackendError(
            f'the package reasoning-gym cannot be imported ({error}); run: pip install "vishwamai[gym]"'
        ) from None
    try:
        dataset = reasoning_gym.create_dataset(name, seed=seed, size=size, **config)
    except (ValueError, TypeError, AssertionError) as error:
        raise InputError(f"reasoning-gym has no data set {name!r} with these settings: {error}") from None
    return Gym(dataset)
