"""Means over the classes that the split holds.

The usual macro average counts a class that no label has but one prediction calls as a zero, so that a test without
healthy bearings would read 0.75 for a model that is nearly perfect, beside an AUROC that leaves the class out.
"""

from torch import Tensor
from torchmetrics.classification import MulticlassF1Score, MulticlassPrecision, MulticlassRecall


def over_present(values: Tensor, positives: Tensor) -> Tensor:
    """Mean of (K,) values over the classes with labels."""
    return values[positives > 0].mean()


class MacroF1(MulticlassF1Score):
    def __init__(self, n_classes: int) -> None:
        super().__init__(num_classes=n_classes, average="none")

    def compute(self) -> Tensor:
        return over_present(super().compute(), self.tp + self.fn)


class MacroPrecision(MulticlassPrecision):
    def __init__(self, n_classes: int) -> None:
        super().__init__(num_classes=n_classes, average="none")

    def compute(self) -> Tensor:
        return over_present(super().compute(), self.tp + self.fn)


class MacroRecall(MulticlassRecall):
    def __init__(self, n_classes: int) -> None:
        super().__init__(num_classes=n_classes, average="none")

    def compute(self) -> Tensor:
        return over_present(super().compute(), self.tp + self.fn)
