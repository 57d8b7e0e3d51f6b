"""The metric that is watched: whether a validation was the best, and whether it is time to stop."""

import math
from typing import Any


class Watch:
    """Remembers the best value in ``best``, which a training keeps in its checkpoints.

    Args:
        monitor: key of the validation.
        mode: min or max, what is better.
        patience: validations without a better value before the training stops; None for never.
        begin: epoch from which on it counts, from 1: before the last task has begun no checkpoint can be the result.
        best: what is known so far: ``value``, ``waited``, ``early_stop``.
    """

    def __init__(self, monitor: str, mode: str, patience: int | None, begin: int, best: dict[str, Any]) -> None:
        self.monitor, self.mode, self.patience, self.begin, self.best = monitor, mode, patience, begin, best

    def judge(self, values: dict[str, float], epoch: int) -> bool:
        """Whether the validation of that epoch, from 1, was the best so far."""
        if epoch < self.begin:
            return False
        value, best = values[self.monitor], self.best["value"]
        if not math.isfinite(value):
            return False
        better = best is None or (value < best if self.mode == "min" else value > best)
        if better:
            self.best["value"], self.best["waited"] = value, 0
            return True
        self.best["waited"] += 1
        if self.patience is not None and self.best["waited"] >= self.patience:
            self.best["early_stop"] = f"{self.monitor} no better for {self.patience} validations"
        return False
