"""AUROC and average precision with bounded state: two histograms of the scores per class.

The public project kept every score for ever, on the GPU; a curve of fixed probability thresholds is bounded, but loses
the order of scores that are squeezed near 0 and 1, and of those of a model that has barely learned. Here the log-odds
are counted in bins that are even in asinh(x / 0.01): fine around 0, wide far out. Scores in one bin count as ties.

Shapes: n labels, K classes (1 for a binary task).
"""

import math

import torch
from torch import Tensor
from torchmetrics import Metric

BINS, FINE, FAR = 8192, 0.01, 100.0


class Ranking(Metric):
    """Counts positives and negatives of each class by score; the mean is over the classes that have both.

    Args:
        n_classes: K.
    """

    full_state_update = False

    def __init__(self, n_classes: int) -> None:
        super().__init__()
        self.n_classes = n_classes
        for name in ("positives", "negatives"):
            self.add_state(name, torch.zeros(n_classes, BINS, dtype=torch.int64), dist_reduce_fx="sum")

    def update(self, log_odds: Tensor, truth: Tensor) -> None:
        """Scores (n, K) and whether each label is of the class (n, K) bool."""
        reach = math.asinh(FAR / FINE)
        place = torch.asinh(log_odds.double().clamp(-FAR, FAR) / FINE) / reach  # in [-1, 1]
        row = torch.arange(self.n_classes, device=place.device) * BINS
        cell = ((place + 1) / 2 * (BINS - 1)).round().long() + row
        for state, chosen in ((self.positives, truth), (self.negatives, ~truth)):
            state += torch.bincount(cell[chosen], minlength=self.n_classes * BINS).view(self.n_classes, BINS)

    def compute(self) -> Tensor:
        defined = (self.positives.sum(1) > 0) & (self.negatives.sum(1) > 0)
        if not defined.any():
            return torch.tensor(torch.nan)
        return self.per_class(self.positives[defined].double(), self.negatives[defined].double()).mean().float()

    def per_class(self, positives: Tensor, negatives: Tensor) -> Tensor:
        """(classes, bins) twice -> (classes,)."""
        raise NotImplementedError


class AUROC(Ranking):
    """Probability that a positive scores higher than a negative; a tie counts half."""

    def per_class(self, positives: Tensor, negatives: Tensor) -> Tensor:
        below = negatives.cumsum(1) - negatives / 2
        return (positives * below).sum(1) / (positives.sum(1) * negatives.sum(1))


class AveragePrecision(Ranking):
    """Mean precision at the scores of the positives, from the highest down."""

    def per_class(self, positives: Tensor, negatives: Tensor) -> Tensor:
        positives, negatives = positives.flip(1), negatives.flip(1)
        found, called = positives.cumsum(1), (positives + negatives).cumsum(1)
        return (positives * found / called.clamp(min=1)).sum(1) / positives.sum(1)
