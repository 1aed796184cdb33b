"""Early stopping: a run ends when its held-out loss has been no better for a while. It knows no step and no loop."""

import dataclasses


@dataclasses.dataclass
class EarlyStopping:
    """The least held-out loss of a run, and how many evaluations in a row were no better by more than `threshold`.

    With `patience` None it only watches.
    """

    patience: int | None = None
    threshold: float = 0.0
    least: float | None = None
    in_a_row: int = 0

    def see(self, loss: float | None) -> bool:
        """Takes note of an evaluation (None: it gave no loss); returns whether it is the best so far."""
        if loss is None:
            return False
        is_better = self.least is None or self.least - loss > self.threshold
        is_best = self.least is None or loss < self.least
        self.in_a_row = 0 if is_better else self.in_a_row + 1
        self.least = loss if is_best else self.least
        return is_best

    @property
    def is_over(self) -> bool:
        """Whether the run is to end."""
        return self.patience is not None and self.in_a_row >= self.patience

    @property
    def state(self) -> dict:
        """What a checkpoint keeps of it, as JSON."""
        return {"least": self.least, "in_a_row": self.in_a_row}

    def restore(self, state: dict) -> None:
        """Goes on from a checkpoint's `state`."""
        self.least, self.in_a_row = state["least"], state["in_a_row"]
